"""The ledger on SQLite: names, the lease, events in order, and two processes at once."""

import multiprocessing
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess as Process
from pathlib import Path
from typing import Any

import pytest

from vltune import ledger as module
from vltune.contract import EpochReport
from vltune.errors import BadInput, Busy, NotFound, Unreachable
from vltune.ledger import LEASE_SECONDS, Ledger
from vltune.ledger_records import SearchRecord


@pytest.fixture(autouse=True)
def _default_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLTUNE_LEDGER", raising=False)


def record(name: str = "run", **changes: Any) -> SearchRecord:
    fields: dict[str, Any] = {
        "search": "quickstart",
        "space": "quickstart",
        "source": "SEARCH = …",
        "question": "Which?",
        "objective": "cider",
        "direction": "max",
        "num_trials": 4,
        "sampler": "tpe",
        "pruner": "none",
        "seed": 0,
        "pins": {"epochs": 2},
        "data": "scenes",
        "data_hash": "ab",
        "family": "captioning",
        "metrics": {"cider": "max"},
        "rows": {"base": {"x": 1}},
        "columns": ("cider",),
        "notes": ("ä note",),
        "uid": "u1",
    }
    return SearchRecord(name=name, **fields | changes)


def report(epoch: int, *, at: float = 0.0, **changes: Any) -> EpochReport:
    fields: dict[str, Any] = {"metrics": {"cider": 0.1 * epoch}, "time": at or 1e9 + epoch, "last": False, "best": True}
    fields |= {"notes": ("n",)} | changes
    return EpochReport(epoch, **fields)


def started(folder: Path, *, trials: int = 1) -> Ledger:
    ledger = Ledger.of(folder)
    ledger.create_search(record())
    for number in range(trials):
        ledger.add_trial("run", number, row="base" if number == 0 else "", config={"x": number}, searched=["x"])
    return ledger


def fork(work: Callable[..., None], *given: Any) -> Process:
    """Another process, without the seconds that a new interpreter takes."""
    process = multiprocessing.get_context("fork").Process(target=work, args=given, daemon=True)
    process.start()
    return process


def report_much(folder: Path, number: int) -> None:
    ledger, uid = Ledger.of(folder), f"run-00{number}"
    for n in range(1, 41):
        assert ledger.record_epoch(uid, report(n))
        ledger.start_attempt(uid, time=time.time())
        ledger.add_summary(f"summary-{number}", {})
        ledger.mark_sent("run", n)


def die_in_a_transaction(folder: Path) -> None:
    ledger = Ledger.of(folder)
    ledger._add_event = lambda *a, **k: os._exit(9)
    ledger.end_trial("run-000", "finished")


def drive(folder: Path, said: Connection) -> None:
    try:
        Ledger.of(folder).acquire("run")
    except Busy:
        said.send("busy")
    else:
        said.send("mine")
        time.sleep(99)


# -- searches and trials


def test_search_comes_back_as_it_was_put_in(tmp_path: Path) -> None:
    before = time.time()
    Ledger.of(tmp_path).create_search(record())
    found = Ledger.of(tmp_path).search("run")
    assert before <= found.created <= time.time()
    assert found == record(created=found.created)
    changed = Ledger.of(tmp_path).change("run", num_trials=9, threads=2)
    assert changed == Ledger.of(tmp_path).search("run") == record(created=found.created, num_trials=9, threads=2)


def test_objectives_have_their_directions(tmp_path: Path) -> None:
    Ledger.of(tmp_path).create_search(record(further_objectives=("parameters", "latency_ms"), epochs=7))
    found = Ledger.of(tmp_path).search("run")
    assert (found.further_objectives, found.epochs) == (("parameters", "latency_ms"), 7)
    assert list(found.directions.items()) == [("cider", "max"), ("parameters", "min"), ("latency_ms", "min")]


def test_a_search_keeps_its_identity(tmp_path: Path) -> None:
    launched = {key: value for key, value in vars(record(created=12.5)).items() if key != "uid"}
    put = SearchRecord(**launched)
    assert put.uid != SearchRecord(**launched).uid
    Ledger.of(tmp_path).create_search(put)
    assert Ledger.of(tmp_path).search("run") == put
    assert Ledger.of(tmp_path).change("run", num_trials=9).uid == put.uid


def test_names_are_unique(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    with pytest.raises(BadInput, match=r"there is a run 'run' already.*`vltune resume run`"):
        ledger.create_search(record(num_trials=99))
    assert ledger.search("run").num_trials == 4
    ledger.create_search(record("other"))
    assert [r.name for r in ledger.searches()] == ["run", "other"]


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    ledger = Ledger.of(tmp_path)
    with pytest.raises(NotFound, match="there is no run 'rum' here: none was started yet"):
        ledger.search("rum")
    with pytest.raises(NotFound, match="there is no trial 'x' here: none was run yet"):
        ledger.trial("x")
    started(tmp_path)
    with pytest.raises(NotFound, match="did you mean 'run'"):
        ledger.search("rum")
    with pytest.raises(NotFound, match="did you mean 'run-000'"):
        ledger.trial("run-00")


def test_trials_have_their_uids_and_come_in_order(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    ledger.add_trial("run", 12, row="", config={"x": "ä", "y": None}, searched=["x"], notes=["short"])
    ledger.add_trial("run", 3, row="", config={}, searched=[])
    assert [t.uid for t in ledger.trials("run")] == ["run-000", "run-003", "run-012"]
    found = ledger.trial("run-012")
    assert (found.config, found.searched, found.notes) == ({"x": "ä", "y": None}, ("x",), ("short",))
    assert (found.state, found.attempts, found.row) == ("running", 0, "")
    assert ledger.trials("nothing") == []


def test_database_is_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        started(tmp_path / "runs")
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "runs").iterdir()}
    assert "ledger.db" in modes
    assert set(modes.values()) == {0o600}


def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    writer = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE vltune_trial SET state = 'failed'")
    begin = time.monotonic()
    assert ledger.trial("run-000").state == "running"
    assert time.monotonic() - begin < 5
    writer.execute("ROLLBACK")
    writer.close()


def test_database_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        Ledger(f"sqlite:///{tmp_path}/missing/ledger.db")
    monkeypatch.setenv("VLTUNE_LEDGER", f"sqlite:///{tmp_path}/team.db")
    started(tmp_path / "runs")
    assert (tmp_path / "team.db").exists()
    assert not (tmp_path / "runs").exists()


# -- events


def test_epoch_that_is_told_twice_is_kept_once(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    assert ledger.record_epoch("run-000", report(1))
    assert ledger.record_epoch("run-000", report(2))
    assert not ledger.record_epoch("run-000", report(1, metrics={"cider": 99.0}))
    assert [(e.epoch, e.metrics["cider"]) for e in ledger.epochs("run-000")] == [(1, 0.1), (2, 0.2)]
    assert ledger.epochs("run-000")[0] == report(1, notes=["n"], resources=[])


def test_trial_ends_once(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    ledger.end_trial("run-000", "failed", error="no memory")
    ledger.end_trial("run-000", "finished")
    assert (ledger.trial("run-000").state, ledger.trial("run-000").error) == ("failed", "no memory")
    events = ledger.pending("run", after=0, limit=9)
    assert [(e.kind, e.payload) for e in events] == [("ended", {"state": "failed", "error": "no memory"})]
    with pytest.raises(AssertionError):
        ledger.end_trial("run-000", "running")


def test_attempts_are_counted(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    assert [ledger.start_attempt("run-000", time=100.0 + n) for n in range(3)] == [1, 2, 3]
    assert ledger.trial("run-000").attempts == 3
    assert ledger.times("run-000") == (100.0, 102.0)


def test_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = started(tmp_path)
    ledger.start_attempt("run-000", time=5000.0)
    for epoch, at in ((1, 4000.0), (2, 9000.0), (3, 10.0)):
        ledger.record_epoch("run-000", report(epoch, at=at))
    monkeypatch.setattr(module.time, "time", lambda: 1.0)
    ledger.end_trial("run-000", "finished")
    events = ledger.pending("run", after=0, limit=9)
    assert [e.kind for e in events] == ["started", "epoch", "epoch", "epoch", "ended"]
    assert [e.time for e in events] == [5000.0, 4000.0, 9000.0, 10.0, 1.0]
    assert [e.epoch for e in ledger.epochs("run-000")] == [1, 2, 3]


def test_what_was_sent_does_not_wait_any_more(tmp_path: Path) -> None:
    ledger = started(tmp_path, trials=2)
    ledger.create_search(record("other"))
    ledger.add_trial("other", 0, row="", config={}, searched=[])
    for uid in ("run-000", "other-000", "run-001"):
        for epoch in (1, 2):
            ledger.record_epoch(uid, report(epoch))
    assert ledger.backlog("run") == 4
    first = ledger.pending("run", after=ledger.sent("run"), limit=3)
    assert [(e.uid, e.payload["epoch"]) for e in first] == [("run-000", 1), ("run-000", 2), ("run-001", 1)]
    ledger.mark_sent("run", first[-1].sequence)
    ledger = Ledger.of(tmp_path)
    assert [e.uid for e in ledger.pending("run", after=ledger.sent("run"), limit=9)] == ["run-001"]
    assert (ledger.backlog("run"), ledger.backlog("other"), ledger.sent("other")) == (1, 2, 0)


def test_search_that_went_on_has_two_summaries(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    for number in (1, 2):
        ledger.add_summary("run", {"number": number})
    assert [e.payload["number"] for e in ledger.pending("run", after=0, limit=9)] == [1, 2]


def test_two_processes_write_at_the_same_time(tmp_path: Path) -> None:
    ledger = started(tmp_path, trials=2)
    for process in [fork(report_much, tmp_path, number) for number in (0, 1)]:
        process.join(120)
        assert process.exitcode == 0
    events = ledger.pending("run", after=0, limit=999)
    assert len(events) == 160
    for number in (0, 1):
        mine = [e.payload["epoch"] for e in events if e.uid == f"run-00{number}" and e.kind == "epoch"]
        assert mine == list(range(1, 41))
        assert ledger.trial(f"run-00{number}").attempts == 40


def test_kill_in_a_transaction_leaves_all_or_nothing(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    process = fork(die_in_a_transaction, tmp_path)
    process.join(60)
    assert process.exitcode == 9
    assert ledger.trial("run-000").state == "running"
    ledger.end_trial("run-000", "failed")
    assert ledger.backlog("run") == 1


# -- the lease


def test_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    heard, said = multiprocessing.Pipe(duplex=False)
    driver = fork(drive, tmp_path, said)
    assert driver.pid is not None
    try:
        assert heard.recv() == "mine"
        assert (ledger.driver("run") or "").startswith(f"{socket.gethostname()}:{driver.pid}:")
        with pytest.raises(Busy, match=f"is being driven by another process .*:{driver.pid}:.*: stop it first"):
            ledger.acquire("run")
        assert not ledger.beat("run")
        ledger.release("run")  # not its own: nothing happens
        assert ledger.driver("run") is not None
    finally:
        driver.kill()
    os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
    assert ledger.driver("run") is None, "it is dead, though nobody has asked for its exit status"
    driver.join()
    assert ledger.driver("run") is None
    ledger.acquire("run")
    assert ledger.driver("run") == ledger.holder
    assert ledger.beat("run")


def test_lease_is_its_holders(tmp_path: Path) -> None:
    first, second = started(tmp_path), Ledger.of(tmp_path)
    assert first.driver("run") is None
    first.acquire("run")
    first.acquire("run")
    with pytest.raises(Busy):
        second.acquire("run")
    first.release("run")
    second.acquire("run")
    assert not first.beat("run")


def test_number_of_a_process_that_was_given_again_holds_nothing(tmp_path: Path) -> None:
    ledger, gone = started(tmp_path), Ledger.of(tmp_path)
    gone.holder = f"{socket.gethostname()}:{os.getpid()}:1.deadbeef"  # our number, another start
    gone.acquire("run")
    assert ledger.driver("run") is None
    ledger.acquire("run")


def test_driver_on_another_machine_lives_as_long_as_it_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, far = started(tmp_path), Ledger.of(tmp_path)
    far.holder = "far.example:1:5.deadbeef"
    far.acquire("run")
    with pytest.raises(Busy, match=r"far\.example:1"):
        ledger.acquire("run")
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + LEASE_SECONDS - 1)
    with pytest.raises(Busy):
        ledger.acquire("run")
    assert far.beat("run")
    monkeypatch.setattr(module.time, "time", lambda: now + 2 * LEASE_SECONDS - 3)
    with pytest.raises(Busy):
        ledger.acquire("run")
    monkeypatch.setattr(module.time, "time", lambda: now + 2 * LEASE_SECONDS + 1)
    ledger.acquire("run")
    assert not far.beat("run")


def test_one_of_many_drivers_that_come_at_once_gets_the_lease(tmp_path: Path) -> None:
    started(tmp_path)
    heard, said = multiprocessing.Pipe(duplex=False)
    many = [fork(drive, tmp_path, said) for _ in range(4)]
    try:
        assert sorted(heard.recv() for _ in many) == ["busy", "busy", "busy", "mine"]
    finally:
        for process in many:
            process.kill()
            process.join()


def test_state_is_seen_by_others(tmp_path: Path) -> None:
    ledger = started(tmp_path)
    Ledger.of(tmp_path).set_state("run", "stopping")
    assert ledger.state("run") == ledger.search("run").state == "stopping"
