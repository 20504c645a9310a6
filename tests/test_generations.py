"""A population driven through the ledger, with slots that only pretend to train: stopped anywhere, it ends the same."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import Line, LineConfig

from vltune import search as searching
from vltune import tuning
from vltune.cli import main
from vltune.cluster import Shares
from vltune.contract import EpochReport, Population, Search, fingerprint
from vltune.driver import Options, Room
from vltune.errors import BadInput
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord

SIZE, EPOCHS = 3, 5
"""Three generations; the last has one epoch alone."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the driver's memory is left."""


class Quiet:
    """Hears everything, and neither shows nor sends it."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: 0 if name == "backlog" else True

    refused = ()


class Slots:
    """Slots in which epochs end in a random order, each with numbers that follow from the trial alone."""

    def __init__(self, *, seed: int, count: int, messages: int | None, fails: str = "") -> None:
        self.random, self.count, self.messages, self.fails = np.random.default_rng(seed), count, messages, fails
        self.waited = 0

    def __call__(self, conductor: tuning.Conductor, **_: Any) -> None:
        busy: list[dict[str, Any]] = []
        heard, over = 0, False
        while True:
            while len(busy) < self.count and not over:
                if conductor.waits():
                    self.waited += 1
                    break
                trial = conductor.next_trial()
                over = trial is None
                busy += [trial] if trial else []
            if not busy:
                assert over, "all slots wait for each other"
                return
            trial = busy[int(self.random.integers(len(busy)))]
            if not conductor.hear(trial["uid"], self._message(trial)):
                busy.remove(trial)
            heard += 1
            if heard == self.messages:
                raise Killed

    def _message(self, trial: dict[str, Any]) -> dict[str, Any]:
        config, folder = trial["config"], Path(trial["folder"])
        if trial["uid"] == self.fails:
            return {"kind": "failed", "error": "it broke"}
        begin = {"": 0}.get(config["start_from"])
        if begin is None:
            begin = json.loads((folder.parent / config["start_from"] / "state.json").read_text())["epoch"]
        epoch = max(trial["known_epoch"], begin) + 1
        trial["known_epoch"] = epoch
        value = (
            int(fingerprint([config["learning_rate"], config["dropout"], epoch, trial["record"]["row"]])[:6], 16)
            / 16**6
        )
        name = f"epoch-{epoch:04d}.00000000"
        (folder / "checkpoints" / name).mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_text(json.dumps({"epoch": epoch}))
        metrics = {"val_loss": value, "score": -value, "parameters": 7.0}
        last = epoch == (config["until_epoch"] or config["epochs"])
        report = EpochReport(
            epoch=epoch, metrics=metrics, time=0.0, last=last, best=epoch == begin + 1, checkpoint=name
        )
        return {"kind": "epoch", "report": dataclasses.asdict(report)}


def define(trial: Any) -> LineConfig:
    """A rate and a dropout."""
    rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    return LineConfig(epochs=EPOCHS, learning_rate=rate, dropout=trial.suggest_float("dropout", 0.0, 0.5))


ROWS: dict[str, dict[str, Any]] = {"base": {"learning_rate": 0.01, "dropout": 0.1}}
POPULATION = Population(size=SIZE, segment_epochs=2, perturbed={"learning_rate": (1e-4, 1.0), "dropout": (0.0, 0.6)})
SEARCH = Search(
    name="line",
    family=Line,
    define=define,
    objective="val_loss",
    num_trials=3 * SIZE,
    rows=ROWS,
    base_row="base",
    sampler="tpe",
    population=POPULATION,
)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage in which nothing reaches Ray or MLflow."""

    @contextlib.contextmanager
    def room(*_: Any) -> Iterator[Any]:
        shares = Shares(concurrent=1, workers=1, threads=1, cpus_per_worker=1, gpus_per_worker=0)
        yield Room(shares, tmp_path / "mark")

    monkeypatch.delenv("VLTUNE_LEDGER", raising=False)
    monkeypatch.setattr(searching, "_cluster", room)
    monkeypatch.setattr("vltune.driver.Sender", lambda *_, **__: Quiet())
    monkeypatch.setattr("vltune.conclusion.write_summary", lambda *_, **__: {})
    return tmp_path


def record(search: Search, **changes: Any) -> SearchRecord:
    fields: dict[str, Any] = {
        "name": "line",
        "search": "line",
        "space": "line",
        "source": "",
        "question": "",
        "objective": "val_loss",
        "direction": "min",
        "num_trials": search.num_trials,
        "sampler": search.sampler,
        "pruner": "none",
        "seed": 3,
        "pins": {},
        "data": "x",
        "data_hash": "0" * 64,
        "family": "line",
        "metrics": dict(Line.metrics),
        "rows": dict(search.rows),
        "population": dataclasses.asdict(search.population) if search.population else None,
    }
    return SearchRecord(**fields | changes)


def go_on(storage: Path, slots: Slots, monkeypatch: pytest.MonkeyPatch, *, fresh: SearchRecord | None = None) -> bool:
    """Drives the run until it ends or is killed; returns whether it ended."""
    monkeypatch.setattr(tuning, "run_trials", slots)
    ledger = Ledger.of(storage)
    found = fresh or ledger.search("line")
    try:
        options = Options(storage=storage)
        searching.run(SEARCH, ledger, found, options=options, display=Quiet(), fresh=fresh is not None)
    except Killed:
        return False
    return True


def told(storage: Path) -> list[Any]:
    """All that a run decided, and the numbers that came of it."""
    ledger = Ledger.of(storage)
    return [
        (t.uid, t.row, t.state, t.config, t.searched, t.notes, [e.metrics for e in ledger.epochs(t.uid)])
        for t in ledger.trials("line")
    ]


def kept(storage: Path) -> set[int]:
    folders = (storage / "line" / "trials").glob("*/checkpoints")
    return {len(list(folder.iterdir())) for folder in folders}


def test_slots_and_kills_change_nothing(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, many, killed = storage / "alone", storage / "many", storage / "killed"
    undisturbed = Slots(seed=0, count=1, messages=None)
    assert go_on(alone, undisturbed, monkeypatch, fresh=record(SEARCH))
    assert undisturbed.waited == 0, "one slot has always something to do"
    wide = Slots(seed=1, count=3, messages=None)
    assert go_on(many, wide, monkeypatch, fresh=record(SEARCH))
    assert wide.waited
    begun, starts = record(SEARCH), 1
    while not go_on(killed, Slots(seed=starts, count=3, messages=1), monkeypatch, fresh=begun):
        begun, starts = None, starts + 1
    assert starts > 3 * SIZE, "it was killed after each message"
    assert told(alone) == told(many) == told(killed)
    rows = [row for _, row, *_ in told(alone)]
    assert rows == ["base", "m02.g1", "m03.g1", *(f"m0{m}.g{g}" for g in (2, 3) for m in (1, 2, 3))]
    assert [config["until_epoch"] for _, _, _, config, *_ in told(alone)] == [2] * 3 + [4] * 3 + [5] * 3
    schedules = {(folder / "line" / "comparison" / "schedule.json").read_text() for folder in (alone, many, killed)}
    assert len(schedules) == 1
    assert kept(alone) == kept(many) == kept(killed) == {1}, "of each segment the best checkpoint stays"


def test_members_are_compared_by_the_end_of_their_segment(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    differ = False
    for seed in range(4):
        folder = storage / str(seed)
        assert go_on(folder, Slots(seed=0, count=1, messages=None), monkeypatch, fresh=record(SEARCH, seed=seed))
        trials = told(folder)
        losses = [[epoch["val_loss"] for epoch in epochs] for *_, epochs in trials[:SIZE]]
        copied = [bool(notes) for *_, notes, _ in trials[SIZE : 2 * SIZE]]
        ends = [last for _, last in losses]
        assert copied == [end == max(ends) for end in ends]
        best = [min(epochs) for epochs in losses]
        differ |= copied != [value == max(best) for value in best]
    assert differ, "the best epochs would have chosen the same"


def test_a_kill_while_a_generation_is_entered_changes_nothing(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = storage / "whole", storage / "killed"
    assert go_on(whole, Slots(seed=0, count=2, messages=None), monkeypatch, fresh=record(SEARCH))
    add, tries = Ledger.add_trial, dict[str, int]()

    def die(self: Ledger, search: str, number: int, **values: Any) -> Any:
        tries[values["row"]] = tries.get(values["row"], 0) + 1
        if tries[values["row"]] == 1:
            raise Killed  # Optuna was asked, the ledger knows nothing
        add(self, search, number, **values)
        raise Killed

    monkeypatch.setattr(Ledger, "add_trial", die)
    begun = record(SEARCH)
    for start in range(100):
        if go_on(killed, Slots(seed=start, count=2, messages=None), monkeypatch, fresh=begun):
            break
        begun = None
    assert set(tries.values()) == {2}

    def decided(folder: Path) -> list[Any]:  # numbers that were asked in vain are not used again
        uids = {uid: number for number, (uid, *_) in enumerate(told(folder))}
        return [
            (row, {**config, "start_from": uids.get(config["start_from"])}, notes, numbers)
            for _, row, _, config, _, notes, numbers in told(folder)
        ]

    assert decided(killed) == decided(whole)


def test_a_member_that_fails_is_replaced_and_its_copies_go_on(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert go_on(storage, Slots(seed=0, count=2, messages=None, fails="line-002"), monkeypatch, fresh=record(SEARCH))
    states = [state for _, _, state, *_ in told(storage)]
    assert states == ["finished"] * 2 + ["failed"] + ["finished"] * 6
    _, row, _, config, searched, notes, _ = told(storage)[SIZE + 2]
    assert row == "m03.g2"
    assert config["start_from"] != "line-002"
    assert searched == ("learning_rate", "dropout")
    assert notes[0].startswith("copy of ")


def test_when_all_fail_the_search_ends_with_one_line(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class AllFail(Slots):
        def _message(self, trial: dict[str, Any]) -> dict[str, Any]:
            return {"kind": "failed", "error": "it broke"}

    for fresh in (record(SEARCH), None):
        with pytest.raises(BadInput, match="all 3 members of generation 1 failed"):
            go_on(storage, AllFail(seed=0, count=2, messages=None), monkeypatch, fresh=fresh)
    assert len(told(storage)) == SIZE


def test_a_line_of_segments_is_trained_again_in_order(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "segment 1": {"learning_rate": 0.01, "start_from": "", "until_epoch": 2},
        "segment 2": {"learning_rate": 0.02, "start_from": "segment 1", "until_epoch": 4},
        "segment 3": {"learning_rate": 0.03, "start_from": "segment 2", "until_epoch": 5},
    }
    line = dataclasses.replace(SEARCH, rows=rows, num_trials=3, population=None, base_row="")
    slots = Slots(seed=0, count=2, messages=None)
    assert go_on(storage, slots, monkeypatch, fresh=record(line, pins={"dropout": 0.1}))
    assert slots.waited, "a second slot must not begin what is not ready"
    assert [(row, state, config["start_from"]) for _, row, state, config, *_ in told(storage)] == [
        ("segment 1", "finished", ""),
        ("segment 2", "finished", "line-000"),
        ("segment 3", "finished", "line-001"),
    ]
    other = storage / "fails"
    go_on(
        other,
        Slots(seed=0, count=1, messages=None, fails="line-001"),
        monkeypatch,
        fresh=record(line, pins={"dropout": 0.1}),
    )
    assert [state for _, _, state, *_ in told(other)] == ["finished", "failed", "failed"]
    assert "segment 2: that segment is failed" in Ledger.of(other).trial("line-002").error


# --- the commands


@pytest.fixture
def command(storage: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``vltune`` on a person's own population, in slots that pretend; returns the exit code."""
    (storage / "own.py").write_text(
        "from families import Line\n"
        "from test_generations import POPULATION, ROWS, define as original\n"
        "from vltune.contract import Search\n"
        "def define(trial):\n"
        "    return original(trial)\n"
        "SEARCH = Search(name='line', family=Line, define=define, objective='val_loss', num_trials=9, rows=ROWS,\n"
        "                base_row='base', sampler='random', population=POPULATION)\n"
    )
    (storage / "data").mkdir()
    for name in ("MLFLOW_TRACKING_URI", "VLTUNE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(storage)
    monkeypatch.setattr(tuning, "run_trials", Slots(seed=0, count=2, messages=None))

    def run(name: str, *arguments: object) -> int:
        return main([name, *map(str, arguments), "--storage", str(storage / "runs")])

    return run


def test_a_segment_is_trained_again_with_all_that_led_to_it(command: Callable[..., int], storage: Path) -> None:
    assert command("search", "own.py", "--data", "data") == 0
    ledger = Ledger.of(storage / "runs")
    found = json.loads((storage / "runs" / "line" / "comparison" / "schedule.json").read_text())["segments"]
    last = found[-1]["uid"]
    assert command("rerun", last) == 0
    again = [trial.config for trial in ledger.trials(f"{last}-again")]
    line = [ledger.trial(entry["uid"]).config for entry in found]
    assert [config["start_from"] for config in again] == ["", f"{last}-again-000", f"{last}-again-001"]
    assert [{**config, "start_from": ""} for config in again] == [{**config, "start_from": ""} for config in line]
    assert command("rerun", f"{last}-again-001") == 0
    half = [trial.config for trial in ledger.trials(f"{last}-again-2")]
    assert [config["until_epoch"] for config in half] == [2, 4], "a replay can be replayed, up to any of its segments"
    assert command("rerun", "line-000") == 0
    assert [trial.config for trial in ledger.trials("line-000-again")] == [ledger.trial("line-000").config]


def test_what_a_person_sets_shapes_the_population(command: Callable[..., int], storage: Path) -> None:
    assert command("search", "own.py", "--data", "data", "--set", "dropout=0.2", "epochs=4") == 0
    trials = Ledger.of(storage / "runs").trials("line")
    assert len(trials) == 2 * SIZE
    assert {trial.config["dropout"] for trial in trials} == {0.2}
    assert len({trial.config["learning_rate"] for trial in trials}) > SIZE, "what is left is perturbed"
    assert Ledger.of(storage / "runs").search("line").num_trials == 2 * SIZE


def test_one_configuration_trains_without_a_population(command: Callable[..., int], storage: Path) -> None:
    assert command("train", "own.py", "--data", "data", "--name", "alone") == 0
    (trial,) = Ledger.of(storage / "runs").trials("alone")
    assert (trial.row, trial.config["until_epoch"]) == ("base", 0)


def test_a_number_of_trials_is_refused(
    command: Callable[..., int], storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("search", "own.py", "--data", "data", "--trials", 5) == 2
    assert command("search", "own.py", "--data", "data") == 0
    assert command("resume", "line", "--trials", 50) == 2
    said = capsys.readouterr().err
    assert said.count("--trials cannot be said of a population") == 2
