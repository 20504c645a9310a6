"""The driver with several objectives and with a grid, and what comes of it; trials are played, not trained."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.families import Line, LineConfig
from trainables.parts.scenes import write_scenes
from vltune import search as searching
from vltune.cli import main
from vltune.cluster import Shares
from vltune.contract import EpochReport, Search
from vltune.driver import Driver, Options
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.progress import Progress
from vltune.summary import best_trial, table, write_summary

Measured = dict[str, float]


def define(trial: Any) -> LineConfig:
    return LineConfig(
        batch_size=trial.suggest_categorical("batch_size", (1, 2, 4, 8)),
        dropout=trial.suggest_float("dropout", 0.0, 0.4, step=0.2),
        measure_latency=True,
    )


SEARCH = Search(
    name="line",
    family=Line,
    define=define,
    objective="score",
    num_trials=20,
    rows={"base": {"batch_size": 4, "dropout": 0.0}},
    base_row="base",
)


class Quiet(Progress):
    """A display that remembers what was said, and shows nothing."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO())
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def _default_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "VLTUNE_LEDGER"):
        monkeypatch.delenv(name, raising=False)


def launch(storage: Path, search: Search = SEARCH, **changes: Any) -> SearchRecord:
    """Enters a search into the ledger, as the command does."""
    record = SearchRecord(
        name="run",
        search="line",
        space="line",
        source="",
        question="",
        objective=search.objective,
        direction=search.direction,
        further_objectives=search.further_objectives,
        num_trials=search.num_trials,
        sampler=search.sampler,
        pruner=search.pruner,
        seed=0,
        pins={},
        data="",
        data_hash="",
        family="line",
        metrics=dict(Line.metrics),
        rows={name: dict(row) for name, row in search.rows.items()},
        base_row=search.base_row,
        epochs=2,
    )
    record = dataclasses.replace(record, **changes)
    Ledger.of(storage).create_search(record)
    return record


def play(storage: Path, search: Search, measure: Callable[[Any, int], Measured], *, most: int = 99) -> Quiet:
    """Drives the run on for so many trials; each has two epochs with the metrics that ``measure`` gives."""
    ledger, display = Ledger.of(storage), Quiet()
    driver = Driver(search, ledger, ledger.search("run"), options=Options(storage=storage), display=display)
    driver.shares = Shares(concurrent=1, workers=1, threads=1, cpus_per_worker=1, gpus_per_worker=0.0)
    for _ in range(most):
        if not driver.has_work():
            break
        trial = driver.next_trial()
        assert trial is not None
        best = -math.inf
        for epoch in (1, 2):
            metrics = {"val_loss": 1.0, "score": 0.0, "parameters": 1} | measure(trial["config"], epoch)
            report = EpochReport(
                epoch=epoch, metrics=metrics, time=1.0, last=epoch == 2, best=metrics["score"] > best, checkpoint="x"
            )
            best = max(best, metrics["score"])
            if not driver.hear(trial["uid"], {"kind": "epoch", "report": dataclasses.asdict(report)}):
                break
    return display


def told(storage: Path) -> list[tuple[str, Any]]:
    """What Optuna knows of each trial."""
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{storage}/ledger.db")
    return [(trial.state.name, trial.values) for trial in study.get_trials()]


def sizes(config: Any, epoch: int) -> Measured:
    """Better in the first epoch and slower in the second, larger with the batch size."""
    size = config["batch_size"]
    return {"score": size - 5.0 * epoch - config["dropout"], "parameters": 100 * size, "latency_ms": 10.0 * epoch}


AIMS = dataclasses.replace(SEARCH, further_objectives=("parameters", "latency_ms"), sampler="nsga2", num_trials=10)


def test_values_are_those_of_the_best_epoch_by_the_first_objective(tmp_path: Path) -> None:
    launch(tmp_path, AIMS)
    play(tmp_path, AIMS, sizes, most=4)
    play(tmp_path, AIMS, sizes)  # in another process
    trials = Ledger.of(tmp_path).trials("run")
    assert len(trials) == 10
    expected = [
        ("COMPLETE", [t.config["batch_size"] - 5.0 - t.config["dropout"], 100.0 * t.config["batch_size"], 10.0])
        for t in trials
    ]
    assert told(tmp_path) == expected


def test_trial_that_lacks_a_value_teaches_nothing_but_stays(tmp_path: Path) -> None:
    launch(tmp_path, AIMS, num_trials=3)
    play(tmp_path, AIMS, lambda config, epoch: {**sizes(config, epoch), "latency_ms": math.nan})
    assert {state for state, _ in told(tmp_path)} == {"FAIL"}
    made = table(Ledger.of(tmp_path), ["run"])
    assert {row.state for row in made.rows} == {"finished"}
    assert made.column("front") == [False] * 3


def test_summary_has_the_front(tmp_path: Path) -> None:
    launch(tmp_path, AIMS)
    play(tmp_path, AIMS, sizes)
    ledger = Ledger.of(tmp_path)
    made = table(ledger, ["run"])
    found = [t.config for t in (ledger.trial(row.uid) for row in made.rows)]
    # of each size, those with the least dropout
    least = {c["batch_size"]: min(d["dropout"] for d in found if d["batch_size"] == c["batch_size"]) for c in found}
    assert made.column("front") == [c["dropout"] == least[c["batch_size"]] for c in found]
    assert best_trial(ledger, "run").uid == made.rows[0].uid
    payload = write_summary(ledger, "run", tmp_path)
    assert (tmp_path / "run" / "comparison" / "pareto.png").stat().st_size > 5000
    assert "Objective: `score, parameters, latency_ms`" in payload["note"]
    assert "◆" in (tmp_path / "run" / "comparison" / "table.md").read_text()


GRID = dataclasses.replace(SEARCH, sampler="grid")
WHOLE = [(size, dropout) for size in (1, 2, 4, 8) for dropout in (0.0, 0.2, 0.4)]


def tried(storage: Path) -> list[tuple[int, float]]:
    return [(t.config["batch_size"], t.config["dropout"]) for t in Ledger.of(storage).trials("run")]


def test_grid_runs_each_point_once_and_ends(tmp_path: Path) -> None:
    launch(tmp_path, GRID)
    display = play(tmp_path, GRID, sizes, most=5)
    assert display.said == ["the grid has 11 points beside 1 named"]
    assert Ledger.of(tmp_path).search("run").num_trials == 12
    for _ in range(2):
        play(tmp_path, GRID, sizes)
        assert tried(tmp_path) == [(4, 0.0), *(point for point in WHOLE if point != (4, 0.0))]


def test_number_of_trials_cuts_a_grid_off_and_may_be_raised(tmp_path: Path) -> None:
    launch(tmp_path, GRID, num_trials=4)
    display = play(tmp_path, GRID, sizes)
    assert display.said == ["the grid has 11 points beside 1 named; 8 of them are left out: --trials 12 takes all"]
    assert tried(tmp_path) == [(4, 0.0), *WHOLE[:3]]
    Ledger.of(tmp_path).change("run", num_trials=12)
    play(tmp_path, GRID, sizes)
    assert sorted(tried(tmp_path)) == WHOLE


def test_several_objectives_over_a_grid(tmp_path: Path) -> None:
    search = dataclasses.replace(GRID, further_objectives=("parameters",))
    launch(tmp_path, search)
    play(tmp_path, search, sizes)
    made = table(Ledger.of(tmp_path), ["run"])
    front = {p for p, is_on in zip(made.column("parameters"), made.column("front"), strict=True) if is_on}
    assert front == {100, 200, 400, 800}
    assert sum(map(bool, made.column("front"))) == 4


def test_command_changes_the_objectives_of_any_search_and_resume_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(str(tmp_path / "data"), pictures=24, picture_size=32)
    driven: list[tuple[Search, SearchRecord]] = []

    def enter(search: Search, ledger: Ledger, record: SearchRecord, *, fresh: bool, **_: Any) -> None:
        driven.append((search, record))
        if fresh:
            ledger.create_search(record)

    monkeypatch.setattr(searching, "run", enter)
    options = ("--storage", str(tmp_path / "runs"))
    objectives = ("--objectives", "val_loss,parameters", "--sampler", "nsga2")
    assert main(["search", "quickstart", *options, "--data", str(tmp_path / "data"), *objectives, "--trials", "4"]) == 0
    assert "the search's own pruner successive_halving is off" in capsys.readouterr().err
    assert main(["resume", "quickstart", *options]) == 0
    for search, record in driven:
        assert (search.objective, search.further_objectives) == ("val_loss", ("parameters",))
        assert (search.sampler, search.pruner) == (record.sampler, record.pruner) == ("nsga2", "none")
        assert list(record.directions.items()) == [("val_loss", "min"), ("parameters", "min")]
        assert record.epochs == 6
    capsys.readouterr()
    main(["status", "quickstart", *options, "--json"])
    assert json.loads(capsys.readouterr().out)["further_objectives"] == ["parameters"]
