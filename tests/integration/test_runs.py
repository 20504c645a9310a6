"""Whole runs of the command with real Ray, MLflow and databases: what goes well, what fails, and what is killed."""

import json
import signal
import sqlite3
from pathlib import Path

import pytest
from integration.runs import TOY, history, run, said, start, wait_for, weights

from vltune.ledger import Ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def write_search(folder: Path, *, rows: str, trials: int) -> Path:
    """A person's search file whose family lies in the same file."""
    head, _, _ = TOY.read_text().partition("SEARCH = Search(")
    table = f'{{"base": BASE, {rows}}}'
    tail = f"""BASE = {{"learning_rate": 0.01, "width": 4, "epochs": 3}}

SEARCH = Search(
    name="toy", family=Toy, define=define, objective="val_loss", num_trials={trials}, rows={table}, base_row="base"
)
"""
    path = folder / "my_search.py"
    path.write_text(head + tail)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run of a person's own family: some trials go well, one fails at once, one is not finite, one's worker dies."""
    folder = tmp_path_factory.mktemp("finished")
    rows = (
        '"same": dict(BASE), "broken": BASE | {"fails": "error"}, "not finite": BASE | {"fails": "nan"}, '
        f'"killed": BASE | {{"fails": "killed:{folder / "killed"}"}}, "again": dict(BASE), '
    )
    search = write_search(folder, rows=rows, trials=7)
    code, out = run("search", search, "--concurrent", 2, "--json", cwd=folder)
    return folder, code, out


def test_states_and_exit_code(finished: tuple[Path, int, str]) -> None:
    folder, code, out = finished
    assert code == 5, said(folder)
    document = json.loads(out)
    assert document["trials"] == {"finished": 5, "failed": 2}
    failed = {row["name"]: row["remark"] for row in document["table"]["rows"] if row["state"] == "failed"}
    assert "the toy is broken" in failed["broken"]
    assert "not finite" in failed["not finite"]
    assert "Traceback" not in said(folder)


def test_a_trial_is_the_same_in_a_fresh_and_in_a_used_session(finished: tuple[Path, int, str]) -> None:
    storage = finished[0] / "runs"
    rows = {trial.row: trial.uid for trial in Ledger.of(storage).trials("toy")}
    for other in ("same", "again"):
        assert history(storage, rows[other]) == history(storage, rows["base"])
        assert weights(storage, rows[other]) == weights(storage, rows["base"])


def test_a_killed_worker_costs_no_trial(finished: tuple[Path, int, str]) -> None:
    storage = finished[0] / "runs"
    trials = {trial.row: trial for trial in Ledger.of(storage).trials("toy")}
    assert trials["killed"].attempts == 2
    assert trials["base"].attempts == 1
    assert history(storage, trials["killed"].uid) == history(storage, trials["base"].uid)
    assert weights(storage, trials["killed"].uid) == weights(storage, trials["base"].uid)


def test_mlflow_has_one_run_for_each_trial(finished: tuple[Path, int, str]) -> None:
    storage = finished[0] / "runs"
    with sqlite3.connect(storage / "mlflow.db") as database:
        uids = [uid for (uid,) in database.execute("SELECT value FROM tags WHERE key = 'trial_uid'")]
        states = dict(
            database.execute(
                "SELECT t.value, r.status FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid WHERE t.key = 'trial_uid'"
            )
        )
    trials = Ledger.of(storage).trials("toy")
    assert sorted(uids) == sorted(trial.uid for trial in trials)
    assert {states[t.uid] for t in trials if t.state == "finished"} == {"FINISHED"}
    assert {states[t.uid] for t in trials if t.state == "failed"} == {"FAILED"}
    assert Ledger.of(storage).backlog("toy") == 0


def test_rerun_gives_the_same_numbers(finished: tuple[Path, int, str]) -> None:
    folder = finished[0]
    uid = next(t.uid for t in Ledger.of(folder / "runs").trials("toy") if t.row == "base")
    code, out = run("rerun", uid, "--json", cwd=folder)
    assert code == 0, said(folder)
    again = json.loads(out)["best"]["uid"]
    assert again != uid
    assert history(folder / "runs", again) == history(folder / "runs", uid)
    assert weights(folder / "runs", again) == weights(folder / "runs", uid)


@pytest.mark.proof
def test_resume_after_two_kills_of_the_driver(tmp_path: Path) -> None:
    """Killed when one trial is done, one has a committed epoch, one has none; then again during an evaluation."""
    rows = (
        '"quick": BASE | {"epochs": 1}, "slow": BASE | {"epochs": 8, "epoch_seconds": 3.0}, '
        f'"later": BASE | {{"epoch_seconds": 9.0, "evaluate_seconds": 3.0, "evaluating": "{tmp_path / "mark"}"}}, '
    )
    search = write_search(tmp_path, rows=rows, trials=4)
    storage = tmp_path / "runs"
    driver = start("search", search, "--concurrent", 2, cwd=tmp_path)

    def states() -> dict[str, tuple[str, int]]:
        ledger = Ledger.of(storage)
        trials = ledger.trials("toy") if ledger.searches() else []
        return {t.row: (t.state, len(ledger.epochs(t.uid))) for t in trials}

    def is_time() -> bool:
        now = states()
        done = now.get("quick", ("", 0))[0] == "finished"
        slow, later = now.get("slow", ("", 0)), now.get("later", ("", 9))
        return done and slow[0] == "running" and slow[1] >= 1 and later == ("running", 0)

    wait_for(is_time, driver=driver, what="one trial is done, one has an epoch, one has none")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = states()
    assert before["slow"][0] == before["later"][0] == "running"

    driver = start("resume", "toy", cwd=tmp_path)
    wait_for((tmp_path / "mark").exists, driver=driver, what="an evaluation of epoch 2")
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    code, _ = run("resume", "toy", cwd=tmp_path)
    assert code == 0, said(tmp_path)
    ledger = Ledger.of(storage)
    trials = {trial.row: trial for trial in ledger.trials("toy")}
    assert {trial.state for trial in trials.values()} == {"finished"}
    assert trials["quick"].attempts == trials["base"].attempts == 1, "a finished trial was trained again"
    assert trials["later"].attempts == 3
    with sqlite3.connect(storage / "mlflow.db") as database:
        uids = [uid for (uid,) in database.execute("SELECT value FROM tags WHERE key = 'trial_uid'")]
    assert sorted(uids) == sorted(trial.uid for trial in trials.values())

    other = tmp_path / "undisturbed"
    code, _ = run("search", search, "--concurrent", 2, "--storage", other, cwd=tmp_path)
    assert code == 0
    for trial in Ledger.of(other).trials("toy"):
        mine = trials[trial.row].uid
        assert history(storage, mine) == history(other, trial.uid), trial.row
        assert weights(storage, mine) == weights(other, trial.uid), trial.row


@pytest.mark.proof
def test_ctrl_c_stop_and_a_second_driver(tmp_path: Path) -> None:
    search = write_search(tmp_path, rows='"long": BASE | {"epochs": 60, "epoch_seconds": 1.0},', trials=2)
    storage = tmp_path / "runs"
    driver = start("search", search, "--concurrent", 1, cwd=tmp_path)
    wait_for(lambda: _epochs(storage, "long") >= 2, driver=driver, what="two epochs of the long trial")
    code, out = run("resume", "toy", cwd=tmp_path)
    assert (code, out) == (2, ""), "a second driver was let in"
    assert "is being driven by another process" in said(tmp_path)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert "vltune resume toy" in said(tmp_path)
    code, out = run("status", "toy", "--json", cwd=tmp_path)
    assert json.loads(out)["state"] == "interrupted"

    heard = _epochs(storage, "long")
    driver = start("resume", "toy", cwd=tmp_path)
    wait_for(lambda: _epochs(storage, "long") > heard + 1, driver=driver, what="more epochs")
    code, _ = run("stop", "toy", cwd=tmp_path)
    assert code == 0
    assert driver.wait(60) == 130
    code, _ = run("stop", "toy", cwd=tmp_path)
    assert code == 2, "nothing is left to stop"


@pytest.mark.proof
def test_workers_that_hang_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLTUNE_PATIENCE_SECONDS", "6")
    long = '"epochs": 4, "epoch_seconds": 4.0'  # steps of two seconds: ticks enough to know what is usual
    rows = f'"hangs": BASE | {{{long}, "fails": "hangs:{tmp_path / "mark"}"}}, "runs": BASE | {{{long}}},'
    search = write_search(tmp_path, rows=rows, trials=3)
    code, _ = run("search", search, "--concurrent", 2, cwd=tmp_path, timeout=500)
    assert code == 0, said(tmp_path)
    trials = {trial.row: trial for trial in Ledger.of(tmp_path / "runs").trials("toy")}
    assert (trials["hangs"].attempts, trials["runs"].attempts) == (2, 1)
    assert history(tmp_path / "runs", trials["hangs"].uid) == history(tmp_path / "runs", trials["runs"].uid)


@pytest.mark.proof
def test_two_workers_give_the_curve_of_one(tmp_path: Path) -> None:
    """Through Ray Train, on captions of unequal length, at equal batch_size, without BatchNorm and dropout."""
    settings = ["cnn_batch_norm=false", "dropout=0", "epochs=3", "train_pictures=100", "batch_size=25"]
    for workers in (1, 2):
        arguments = ["--row", "LSTM with attention", "--set", *settings, "--workers", workers, "--threads", 1]
        code, _ = run("train", "quickstart", *arguments, "--name", f"w{workers}", cwd=tmp_path)
        assert code == 0, said(tmp_path)
    one, two = (history(tmp_path / "runs", f"w{workers}-000") for workers in (1, 2))
    for alone, shared in zip(one, two, strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
        assert shared["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-4)
        assert {"train_loss_rank_0", "train_loss_rank_1"} <= shared.keys()


def _epochs(storage: Path, row: str) -> int:
    ledger = Ledger.of(storage)
    trials = ledger.trials("toy") if ledger.searches() else []
    return next((len(ledger.epochs(t.uid)) for t in trials if t.row == row), 0)
