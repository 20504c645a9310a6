"""Several seeds of each configuration through the driver, in slots that only pretend to train."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest
from families import Line, LineConfig

from tests.test_generations import Killed, Slots, record, storage
from vltune import search as searching
from vltune import tuning
from vltune.contract import EpochReport, Search, fingerprint
from vltune.driver import Options
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.summary import best_trial, table

__all__ = ["storage"]  # a fixture

SEEDS, EPOCHS = 3, 2


class Seeded(Slots):
    """Numbers that follow from the configuration and its seed."""

    def _message(self, trial: dict[str, Any]) -> dict[str, Any]:
        config, epoch = trial["config"], max(trial["known_epoch"], 0) + 1
        trial["known_epoch"] = epoch
        if trial["uid"] == self.fails:
            return {"kind": "failed", "error": "it broke"}
        value = int(fingerprint([config["learning_rate"], config["seed"], epoch])[:6], 16) / 16**6
        metrics = {"val_loss": value, "score": -value, "parameters": 7.0}
        report = EpochReport(epoch=epoch, metrics=metrics, time=0.0, last=epoch == EPOCHS, best=epoch == 1)
        return {"kind": "epoch", "report": dataclasses.asdict(report)}


def define(trial: Any) -> LineConfig:
    """A rate and a dropout."""
    rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    return LineConfig(epochs=EPOCHS, learning_rate=rate, dropout=trial.suggest_float("dropout", 0.0, 0.5))


ROWS = {"base": {"learning_rate": 0.01, "dropout": 0.1}, "broken": {"learning_rate": -1.0, "dropout": 0.1}}
SEARCH = Search(name="line", family=Line, define=define, objective="val_loss", num_trials=6, rows=ROWS)


def go_on(storage: Path, slots: Slots, monkeypatch: pytest.MonkeyPatch, *, fresh: SearchRecord | None = None) -> bool:
    """Drives the run until it ends or is killed; returns whether it ended."""
    monkeypatch.setattr(tuning, "run_trials", slots)
    ledger = Ledger.of(storage)
    found = fresh or ledger.search("line")
    try:
        options = Options(storage=storage)
        searching.run(SEARCH, ledger, found, options=options, display=Quietly(), fresh=fresh is not None)
    except Killed:
        return False
    return True


class Quietly:
    """Hears the titles of trials."""

    titles: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    def trial_started(self, uid: str, row: str, *_: Any) -> None:
        self.titles.append(row)


def decided(storage: Path) -> list[Any]:
    ledger = Ledger.of(storage)
    return [
        (t.uid, t.row, t.state, t.config, [report.metrics for report in ledger.epochs(t.uid)])
        for t in ledger.trials("line")
    ]


def told(storage: Path) -> dict[int, tuple[str, float | None]]:
    """What Optuna was told of each configuration."""
    study = optuna.load_study(study_name="line", storage=Ledger.of(storage).url)
    return {t.number: (t.state.name, t.value if t.state.name == "COMPLETE" else None) for t in study.trials}


def test_the_sampler_hears_the_mean_over_seeds(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert go_on(storage, Seeded(seed=0, count=2, messages=None), monkeypatch, fresh=record(SEARCH, seeds=SEEDS))
    trials = Ledger.of(storage).trials("line")
    configurations: dict[int, list[Any]] = {}
    for trial in trials:
        configurations.setdefault(trial.number // SEEDS, []).append(trial)
    assert len(configurations) == 6
    for number, seeds in configurations.items():
        if seeds[0].row == "broken":
            assert [t.state for t in seeds] == ["failed"], "what cannot be configured has no seeds"
            assert told(storage)[number] == ("FAIL", None)
            continue
        assert [t.config["seed"] for t in seeds] == [3, 4, 5]
        assert len({fingerprint({**t.config, "seed": 0}) for t in seeds}) == 1
        values = [Ledger.of(storage).epochs(t.uid)[0].metrics["val_loss"] for t in seeds]
        assert told(storage)[number] == ("COMPLETE", pytest.approx(statistics.fmean(values)))
    study = optuna.load_study(study_name="line", storage=Ledger.of(storage).url)
    assert not any(trial.intermediate_values for trial in study.trials), "whose would they be?"
    assert {"base, seed 3", "base, seed 4", "base, seed 5"} <= set(Quietly.titles)
    shown = table(Ledger.of(storage), ["line"])
    assert shown.column("seeds") == [3] * 5


def test_the_best_is_the_best_seed_of_the_best_mean(storage: Path) -> None:
    ledger = Ledger.of(storage)
    ledger.create_search(record(SEARCH, seeds=2))
    for number, value in enumerate((0.1, 0.9, 0.4, 0.3)):
        trial = ledger.add_trial("line", number, row="", config={"seed": number % 2}, searched=())
        told = {"val_loss": value, "parameters": 1.0}
        ledger.record_epoch(trial.uid, EpochReport(epoch=1, metrics=told, time=0.0, last=True, best=True))
        ledger.end_trial(trial.uid, "finished")
    assert best_trial(ledger, "line").uid == "line-003", "a single seed may be lucky"


def test_kills_change_nothing(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = storage / "whole", storage / "killed"
    assert go_on(whole, Seeded(seed=0, count=1, messages=None), monkeypatch, fresh=record(SEARCH, seeds=SEEDS))
    begun, starts = record(SEARCH, seeds=SEEDS), 1
    while not go_on(killed, Seeded(seed=starts, count=1, messages=1), monkeypatch, fresh=begun):
        begun, starts = None, starts + 1
    assert starts > 5 * SEEDS, "it was killed after each message"
    assert decided(killed) == decided(whole)
    assert told(killed) == told(whole)


def test_a_kill_while_seeds_are_entered_changes_nothing(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = storage / "whole", storage / "killed"
    assert go_on(whole, Seeded(seed=0, count=1, messages=None), monkeypatch, fresh=record(SEARCH, seeds=SEEDS))
    add = Ledger.add_trial

    def die(self: Ledger, search: str, number: int, **values: Any) -> Any:
        add(self, search, number, **values)
        raise Killed

    monkeypatch.setattr(Ledger, "add_trial", die)
    begun = record(SEARCH, seeds=SEEDS)
    for _ in range(60):
        if go_on(killed, Seeded(seed=0, count=1, messages=None), monkeypatch, fresh=begun):
            break
        begun = None
    assert decided(killed) == decided(whole)
    assert told(killed) == told(whole)


def test_of_a_seed_that_failed_the_others_count(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Seeded(seed=0, count=2, messages=None, fails="line-001")
    assert go_on(storage, slots, monkeypatch, fresh=record(SEARCH, seeds=SEEDS))
    ledger = Ledger.of(storage)
    values = [ledger.epochs(f"line-00{number}")[0].metrics["val_loss"] for number in (0, 2)]
    assert told(storage)[0] == ("COMPLETE", pytest.approx(statistics.fmean(values)))
    shown = table(ledger, ["line"])
    rows = dict(zip([row.uid for row in shown.rows], shown.column("seeds"), strict=True))
    assert (rows["line-000"], rows["line-001"]) == (2, 1)
