"""What MLflow hears of the ledger's events: of epochs, and of figures that came after a trial's end."""

import dataclasses
import io
import time
from pathlib import Path

import pytest
from test_ledger import record, report

from tests.families import Line
from tests.test_search_objectives import SEARCH, launch
from vltune.cluster import Shares
from vltune.driver import Driver, Options
from vltune.events import LedgerEvents
from vltune.illustrations import FOLDER, MISSING
from vltune.ledger import Ledger
from vltune.progress import Progress


@pytest.fixture(autouse=True)
def _default_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "VLTUNE_LEDGER"):
        monkeypatch.delenv(name, raising=False)


def started(storage: Path) -> Ledger:
    """A run with two trials of one epoch each, neither of which has ended."""
    ledger = Ledger.of(storage)
    ledger.create_search(record(objective="score", direction="max", metrics=dict(Line.metrics), family="line", rows={}))
    for number in range(2):
        trial = ledger.add_trial("run", number, row=f"r{number}", config={"dropout": 0.1}, searched=())
        ledger.start_attempt(trial.uid, time=1.0)
        metrics = {"score": 1.0, "val_loss": 1.0}
        ledger.record_epoch(trial.uid, report(1, metrics=metrics, resources=[{"time": 2.0, "step": 0, "cpu": 50.0}]))
    return ledger


def events(ledger: Ledger, storage: Path) -> LedgerEvents:
    return LedgerEvents(ledger, ledger.search("run"), storage / "run")


def test_an_epoch_has_its_samples_and_one_of_an_older_version_none(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    told = [event.payload for event in events(ledger, tmp_path).pending(0, 99) if event.kind == "epoch"]
    assert [payload["resources"] for payload in told] == [[{"time": 2.0, "step": 0, "cpu": 50.0}]] * 2
    older = {key: value for key, value in dataclasses.asdict(report(2)).items() if key != "resources"}
    with ledger._engine.begin() as connection:
        ledger._add_event(connection, "run", "run-000", "epoch", 2, 3.0, older)
    assert ledger.epochs("run-000")[-1].resources == ()
    assert events(ledger, tmp_path).pending(0, 99)[-1].payload["resources"] == ()


def test_figures_that_come_after_the_end_are_told_once_and_make_no_trial_longer(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    ledger.note_illustrations("run-000")
    assert "illustrated" not in [event.kind for event in ledger.pending("run", after=0, limit=99)], "it has not ended"
    ledger.end_trial("run-000", "pruned")
    folder = tmp_path / "run" / "trials" / "run-000" / FOLDER
    folder.mkdir(parents=True)
    (folder / MISSING).write_text("no figure bad: ValueError: it is bad")
    times = ledger.times("run-000")
    time.sleep(0.01)
    ledger.note_illustrations("run-000")
    ledger.note_illustrations("run-000")
    ended, *late = [
        event for event in events(ledger, tmp_path).pending(0, 99) if event.kind in ("ended", "illustrated")
    ]
    (late,) = late
    assert late.time == ended.time
    assert ledger.times("run-000") == times
    assert {key: late.payload[key] for key in ("state", "best_epoch", "best")} == {
        key: ended.payload[key] for key in ("state", "best_epoch", "best")
    }
    assert late.payload["illustrations"] == str(folder)
    assert late.payload["note"].endswith("no figure bad: ValueError: it is bad")


def test_the_driver_looks_for_figures_of_pruned_trials_whenever_it_hears_something(tmp_path: Path) -> None:
    launch(tmp_path)
    ledger = Ledger.of(tmp_path)

    def driver() -> Driver:
        display = Progress(file=io.StringIO())
        made = Driver(SEARCH, ledger, ledger.search("run"), options=Options(storage=tmp_path), display=display)
        made.shares = Shares(concurrent=1, workers=1, threads=1, cpus_per_worker=1, gpus_per_worker=0.0)
        return made

    def illustrated() -> list[str]:
        return [event.uid for event in ledger.pending("run", after=0, limit=99) if event.kind == "illustrated"]

    def draw(uid: str) -> None:
        (tmp_path / "run" / "trials" / uid / FOLDER).mkdir(parents=True)

    first = driver()
    one, two = (trial["uid"] for trial in (first.next_trial(), first.next_trial()) if trial)
    first._end(one, "pruned")
    first.hear(two, {"kind": "restarted"})
    assert illustrated() == []
    draw(one)
    first.hear(two, {"kind": "restarted"})
    assert illustrated() == [one]
    first._end(two, "pruned")
    draw(two)  # and then the driver is killed
    assert driver().undrawn == {}
    assert illustrated() == [one, two]
