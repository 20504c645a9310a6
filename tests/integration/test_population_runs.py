"""Population-based training with real Ray and databases: killed, resumed and trained again, it ends the same."""

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from integration.runs import TOY, history, run, said, start, wait_for, weights

from vltune.ledger import Ledger
from vltune.ledger_records import ENDED, TrialRecord

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2400)]

SIZE = 3
PATIENCE = 800
"""Seconds for a whole run: many processes are started, on a machine that may be busy."""


def write_search(folder: Path) -> Path:
    """A person's search file: three members, three generations of two epochs."""
    head, _, _ = TOY.read_text().partition("def define(")
    tail = f"""
from vltune.contract import Population


def define(trial):
    \"\"\"A rate and a dropout.\"\"\"
    rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    dropout = trial.suggest_float("dropout", 0.05, 0.5)
    return ToyConfig(epochs=6, batch_size=8, learning_rate=rate, dropout=dropout, epoch_seconds=1.0)


SEARCH = Search(
    name="toy", family=Toy, define=define, objective="val_loss", num_trials={3 * SIZE}, sampler="random",
    rows={{"base": {{"learning_rate": 0.01, "dropout": 0.1}}}}, base_row="base",
    population=Population(
        size={SIZE}, segment_epochs=2, perturbed={{"learning_rate": (1e-4, 1.0), "dropout": (0.01, 0.6)}}
    ),
)
"""
    path = folder / "my_search.py"
    path.write_text(head + tail)
    return path


def told(storage: Path, name: str = "toy") -> list[Any]:
    """What was decided, and all that came of it: numbers and hashes of weights."""
    fields = ("start_from", "until_epoch", "learning_rate", "dropout")
    return [
        (
            t.row,
            t.state,
            {key: t.config[key] for key in fields},
            t.notes,
            history(storage, t.uid),
            weights(storage, t.uid),
        )
        for t in Ledger.of(storage).trials(name)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A population of three in two slots, of which one waits for the third member."""
    folder = tmp_path_factory.mktemp("population")
    code, out = run("search", write_search(folder), "--concurrent", 2, "--json", cwd=folder, timeout=PATIENCE)
    assert code == 0, said(folder)
    return folder, json.loads(out)


def test_each_generation_trains_every_member(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    assert document["trials"] == {"finished": 3 * SIZE}
    trials = Ledger.of(folder / "runs").trials("toy")
    assert {trial.attempts for trial in trials} == {1}
    for number, trial in enumerate(trials):
        epochs = [report.epoch for report in Ledger.of(folder / "runs").epochs(trial.uid)]
        last = 2 * (number // SIZE + 1)
        assert epochs == [last - 1, last]
        kept = list((folder / "runs" / "toy" / "trials" / trial.uid / "checkpoints").iterdir())
        assert len(kept) == 1, "the best one alone stays when nobody goes on from the last"


def test_the_schedule_is_told(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    written = json.loads((folder / "runs" / "toy" / "comparison" / "schedule.json").read_text())["segments"]
    assert written == document["schedule"]
    assert [entry["epochs"] for entry in written] == [[1, 2], [3, 4], [5, 6]]
    with sqlite3.connect(folder / "runs" / "mlflow.db") as database:
        notes = [text for (text,) in database.execute("SELECT value FROM tags WHERE key = 'mlflow.note.content'")]
    table = (folder / "runs" / "toy" / "comparison" / "schedule.md").read_text().strip()
    assert any(table in note for note in notes)


@pytest.mark.proof
def test_the_best_schedule_trains_again_to_the_same_weights(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, document = finished
    storage, line = folder / "runs", [entry["uid"] for entry in document["schedule"]]
    code, out = run("rerun", line[-1], "--json", cwd=folder, timeout=PATIENCE)
    assert code == 0, said(folder)
    name = json.loads(out)["run"]
    again = [trial.uid for trial in Ledger.of(storage).trials(name)]
    assert [history(storage, uid) for uid in again] == [history(storage, uid) for uid in line]
    assert [weights(storage, uid) for uid in again] == [weights(storage, uid) for uid in line]


@pytest.mark.proof
def test_a_driver_killed_in_and_between_generations_finds_the_same_schedule(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    search, storage = write_search(tmp_path), tmp_path / "runs"

    def trials() -> list[tuple[TrialRecord, int]]:
        ledger = Ledger.of(storage)
        found = ledger.trials("toy") if ledger.searches() else []
        return [(trial, len(ledger.epochs(trial.uid))) for trial in found]

    def between() -> bool:
        now = trials()
        first, second = now[:SIZE], now[SIZE:]
        return (
            len(first) == SIZE and all(t.state in ENDED for t, _ in first) and not any(epochs for _, epochs in second)
        )

    def inside() -> bool:
        second = trials()[SIZE : 2 * SIZE]
        ended = sum(trial.state in ENDED for trial, _ in second)
        return 0 < ended < SIZE and any(trial.state == "running" and epochs == 1 for trial, epochs in second)

    driver = start("search", search, "--concurrent", 1, cwd=tmp_path)
    for condition, what in ((between, "the first generation has ended"), (inside, "half of the second has ended")):
        wait_for(condition, driver=driver, what=what, timeout=PATIENCE)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert condition(), "the kill came too late"
        driver = start("resume", "toy", cwd=tmp_path)
    assert driver.wait(PATIENCE) == 0, said(tmp_path)
    assert max(trial.attempts for trial, _ in trials()) == 2
    assert told(storage) == told(finished[0] / "runs")
