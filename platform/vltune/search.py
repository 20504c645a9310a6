"""The driver of a search: asks the study, lets Ray Tune run trials in slots, writes what they say to the ledger."""

import contextlib
import importlib.metadata
import logging
import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from vltune import cluster
from vltune.contract import BadInput, Direction, EpochReport, Search
from vltune.ledger import ENDED, Event, Ledger, SearchRecord, TrialRecord
from vltune.sender import SearchRun, Sender
from vltune.space import resolve
from vltune.study import Study
from vltune.summary import best_report, checkpoint_folder, trial_folder, write_summary
from vltune.tracking import Tracker

_log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 10
"""So many configurations in a row that cannot even be made, or fail before their first epoch, end the search."""


class Display(Protocol):
    """What is told of a running search."""

    def say(self, text: str) -> None:
        """A line about what happens."""
        ...

    def start(
        self, total_trials: int, *, objective: str, direction: Direction, finished: int = 0, best: float = math.nan
    ) -> None:
        """The search begins, or goes on; some trials ended before."""
        ...

    def trial_started(self, uid: str, row: str, parameters: Mapping[str, Any], epochs: int) -> None:
        """A trial begins, or goes on."""
        ...

    def epoch(self, uid: str, report: EpochReport) -> None:
        """An epoch ended."""
        ...

    def trial_ended(self, uid: str, state: str, error: str) -> None:
        """A trial ended."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Interrupted(Exception):
    """The search was stopped from outside; it can be resumed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a search is to be run; None lets the cluster's room decide."""

    storage: Path
    address: str | None = None
    concurrent: int | None = None
    workers: int = 1
    gpus_per_worker: float | None = None
    threads: int | None = None
    isolate: bool = False


def versions() -> dict[str, str]:
    """What a trial's numbers depend on."""
    packages = ("vltune", "torch", "torchvision", "ray", "optuna", "tokenizers", "pycocoevalcap")
    return {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}


def run_name(ledger: Ledger, wanted: str) -> str:
    """The search's own name if it is free, else the first free one of ``name-2``, ``name-3`` and so on."""
    taken = {record.name for record in ledger.searches()}
    return next(n for n in (wanted, *(f"{wanted}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def run(
    search: Search, ledger: Ledger, record: SearchRecord, *, options: Options, display: Display, fresh: bool
) -> None:
    """Runs a search to its end, or goes on with one.

    Args:
        search: the space.
        ledger: where everything is written.
        record: the search's record; entered into the ledger when ``fresh``.
        options: where and how.
        display: what a person sees.
        fresh: whether the search is new.

    Raises:
        BadInput: the name is taken, the run is being driven by somebody else, or the cluster has no such room.
        Unreachable: the cluster or the ledger does not answer.
        Interrupted: it was stopped; ``vltune resume`` goes on.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stoppable())
        room = None
        if fresh:  # entered only when there is room for it
            room = stack.enter_context(_cluster(options, display))
            ledger.create_search(record)
        ledger.acquire(record.name)
        try:
            ledger.set_state(record.name, "running")
            with _leased(ledger, record.name):
                driver = _Driver(search, ledger, record, options=options, display=display)
                if room is None and driver.has_work():
                    room = stack.enter_context(_cluster(options, display))
                driver.run(room)
            ledger.set_state(record.name, "finished")
        except BaseException as error:
            if ledger.beat(record.name):  # else another process has the run by now
                ledger.set_state(record.name, "interrupted")
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(record.name) from None
            raise
        finally:
            ledger.release(record.name)


@dataclass(frozen=True)
class _Room:
    """A cluster that is up: how it is shared, and a file in the storage that all its nodes have to see."""

    shares: cluster.Shares
    mark: Path


@contextmanager
def _cluster(options: Options, display: Display) -> Iterator[_Room]:
    """Ray, with room for the search and a storage that all its nodes see."""
    display.say("starting Ray" if options.address is None else f"joining Ray at {options.address}")
    cluster.start(options.address)
    try:
        cluster.check_shared(options.storage)
        shares = cluster.share(
            concurrent=options.concurrent,
            workers=options.workers,
            gpus_per_worker=options.gpus_per_worker,
            threads=options.threads,
            joined=options.address is not None,
            say=display.say,
        )
        with cluster.shared_mark(options.storage) as mark:  # nodes that come later look for it
            yield _Room(shares, mark)
    finally:
        with SIGNALS.undisturbed():
            cluster.stop()


class _Signals:
    """Ctrl-C, SIGTERM and ``vltune stop`` end a search in good order; a second one ends the process at once."""

    def __init__(self) -> None:
        self.count, self.tidying = 0, 0

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            os._exit(130)
        if not self.tidying:
            raise KeyboardInterrupt

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What is done in here is done to its end."""
        self.tidying += 1
        try:
            yield
        finally:
            self.tidying -= 1


SIGNALS = _Signals()


@contextmanager
def _stoppable() -> Iterator[None]:
    SIGNALS.count = 0
    before = {number: signal.signal(number, SIGNALS) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _leased(ledger: Ledger, name: str) -> Iterator[None]:
    """Renews the lease meanwhile, and looks whether somebody wants the search to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(2):
            try:
                if not ledger.beat(name) or ledger.state(name) == "stopping":
                    os.kill(os.getpid(), signal.SIGINT)
                    return
            except Exception as error:  # noqa: BLE001 (a busy database must not end the search)
                _log.warning("the lease could not be renewed: %s", error)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _Driver:
    """One search from its first question to its summary."""

    def __init__(
        self,
        search: Search,
        ledger: Ledger,
        record: SearchRecord,
        *,
        options: Options,
        display: Display,
    ) -> None:
        self.search, self.ledger, self.record, self.display, self.options = search, ledger, record, display, options
        self.folder = options.storage.absolute() / record.name
        self.study = Study(
            ledger.url,
            record.name,
            direction=record.direction,
            sampler=record.sampler,
            pruner=record.pruner,
            seed=record.seed,
            num_trials=record.num_trials,
        )
        self.unfinished: list[TrialRecord] = []
        self.numbers: dict[str, int] = {}
        self.ended: set[str] = set()
        self.shown: set[str] = set()
        self.failures = 0
        self.cause: BaseException | None = None
        self.sender = Sender(
            Tracker(options.storage),
            _Source(ledger, record, self.folder),
            search=SearchRun(
                run_name=record.name,
                search=record.search,
                source_text=record.source,
                question=record.question,
                objective=record.objective,
                uid=record.uid,
                tags={"data": record.data, "data_hash": record.data_hash},
                start_time=record.created or None,
            ),
            after=ledger.sent(record.name),
        )
        self._reconcile()

    def has_work(self) -> bool:
        """Whether there is something left to train."""
        return bool(self.unfinished or self.study.has_rows() or self._room())

    def run(self, room: _Room | None) -> None:
        """Trains what is left to train, then sums up."""
        self.sender.start()
        try:
            if room is not None:
                self._train(room)
            self._sum_up()
        finally:
            with SIGNALS.undisturbed():
                self._flush()

    def _train(self, room: _Room) -> None:
        shares = self.shares = room.shares
        self.record = self.ledger.change(
            self.record.name,
            concurrent=shares.concurrent,
            threads=shares.threads,
            gpus_per_worker=shares.gpus_per_worker,
        )
        trials = self.ledger.trials(self.record.name)
        self.display.start(
            max(self.record.num_trials, len(trials)),
            objective=self.record.objective,
            direction=self.record.direction,
            finished=sum(trial.state in ENDED for trial in trials),
            best=self._best(trials),
        )
        try:
            self._tune(room)
        finally:
            self.display.close()
        if self.cause is not None:
            raise self.cause

    def _flush(self) -> None:
        for _ in range(60):  # not long once somebody wants to go
            if self.sender.flush(timeout=5 if SIGNALS.count else 1) or SIGNALS.count:
                break
        if self.sender.backlog():
            self.display.say(
                f"MLflow has not taken {self.sender.backlog()} rows yet ({self.sender.trouble or 'slow'}); "
                f"they wait in the ledger: `vltune resume {self.record.name}` sends them."
            )
        for _, reason in self.sender.refused:
            self.display.say(f"MLflow refused a row: {reason}")
        self.sender.stop()

    def _sum_up(self) -> None:
        """Writes tables and plots, and hands them to the sender."""
        if any(self.ledger.epochs(trial.uid) for trial in self.ledger.trials(self.record.name)):
            payload = write_summary(self.ledger, self.record.name, self.options.storage)
            self.ledger.add_summary(self.record.name, payload)

    def _reconcile(self) -> None:
        """Makes ledger and study agree after a kill, and finds the trials that are to go on."""
        trials = self.ledger.trials(self.record.name)
        self.study.drop_unknown([trial.number for trial in trials])
        entered = {trial.row for trial in trials}
        self.study.add_rows({name: row for name, row in self.record.rows.items() if name not in entered})
        for trial in trials:
            self.numbers[trial.uid] = trial.number
            epochs = self.ledger.epochs(trial.uid)
            if trial.state not in ENDED and epochs and epochs[-1].last:  # the kill came before its end was noted
                self._end(trial.uid, "finished")
            elif trial.state in ENDED:
                self.study.tell(trial.number, trial.state, self._value(trial.uid))
            else:
                self.study.reopen(trial.number)
                prune = False
                for report in epochs:
                    value = report.metrics[self.record.objective]
                    prune = self.study.report(trial.number, report.epoch, value)
                if prune:  # this, too, was decided before the kill
                    self._end(trial.uid, "pruned")
                else:
                    self.unfinished.append(trial)

    # -- Tune's side

    def _tune(self, room: _Room) -> None:
        from vltune.tuning import run_trials

        _ship_by_value(self.search)
        storage = self.options.storage.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / ".ray", ignore_errors=True)  # of a driver that was killed
        # Ray says some things on standard output, which is kept for results.
        with (self.folder / "ray.log").open("a") as log, contextlib.redirect_stdout(log):
            run_trials(
                self,
                family=self.search.family,
                shares=room.shares,
                mark=room.mark,
                cache=storage / "cache",
                scratch=self.folder / ".ray",
                isolate=self.options.isolate,
            )

    def next_trial(self) -> dict[str, Any] | None:
        """What a free slot trains next: what was left unfinished, then named rows, then what the sampler suggests."""
        if self.unfinished:
            return self._assign(self.unfinished.pop(0))
        while self.cause is None and (self.study.has_rows() or self._room()):
            trial, row = self.study.ask()
            try:
                resolved = resolve(
                    self.search,
                    trial,
                    row=self.record.rows[row] if row else None,
                    pins=self.record.pins,
                    defaults={"data": self.record.data, "data_hash": self.record.data_hash, "seed": self.record.seed},
                    sources=True,
                )
            except BadInput as error:
                added = self._enter(trial.number, row, config={})
                self.shown.add(added.uid)
                self._end(added.uid, "failed", error=str(error))
                continue
            return self._assign(
                self._enter(
                    trial.number,
                    row,
                    config=resolved.config.fields(),
                    searched=tuple(resolved.searched),
                    notes=resolved.notes,
                )
            )
        return None

    def _room(self) -> bool:
        return len(self.ledger.trials(self.record.name)) < self.record.num_trials

    def _enter(
        self,
        number: int,
        row: str,
        *,
        config: dict[str, Any],
        searched: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> TrialRecord:
        added = self.ledger.add_trial(self.record.name, number, row=row, config=config, searched=searched, notes=notes)
        self.numbers[added.uid] = number
        return added

    def _assign(self, trial: TrialRecord) -> dict[str, Any]:
        self.ledger.start_attempt(trial.uid, time=time.time())
        searched = {key: trial.config[key] for key in trial.searched}
        self.shown.add(trial.uid)
        self.display.trial_started(trial.uid, trial.row, searched, trial.config.get("epochs", 0))
        epochs = self.ledger.epochs(trial.uid)
        return {
            "uid": trial.uid,
            "config": trial.config,
            "folder": str(trial_folder(self.options.storage, trial)),
            "known_epoch": epochs[-1].epoch if epochs else -1,
            "record": {
                "uid": trial.uid,
                "run": trial.search,
                "row": trial.row,
                "searched": list(trial.searched),
                "workers": self.shares.workers,
                "threads": self.shares.threads,
                "gpus_per_worker": self.shares.gpus_per_worker,
                "notes": list(trial.notes),
                "versions": self.record.versions,
            },
        }

    def hear(self, uid: str, message: dict[str, Any]) -> bool:
        """Takes in what a trial says; returns whether it goes on."""
        if message["kind"] == "restarted":
            attempt = self.ledger.start_attempt(uid, time=time.time())
            self.display.say(f"{uid}: its workers died; attempt {attempt} goes on from the last committed epoch")
            return True
        if message["kind"] == "failed":
            self._end(uid, "failed", error=message["error"])
            return False
        if uid in self.ended:  # Tune shows the last result twice where a trial was stopped
            return False
        report = EpochReport(**message["report"])
        if self.ledger.record_epoch(uid, report):
            self.display.epoch(uid, report)
        prune = self.study.report(self.numbers[uid], report.epoch, report.metrics[self.record.objective])
        if report.last or prune:
            self._end(uid, "finished" if report.last else "pruned")
        return not (report.last or prune)

    def lost(self, uid: str) -> None:
        """A slot died more often than Tune would have it."""
        self._end(uid, "failed", error="its slot died three times; its last words are in Ray's log files")

    def _end(self, uid: str, state: str, error: str = "") -> None:
        if uid in self.ended:
            return
        self.ended.add(uid)
        self.ledger.end_trial(uid, state, error=error)
        self.study.tell(self.numbers[uid], state, self._value(uid))
        if uid in self.shown:
            self.display.trial_ended(uid, state, error)
        early = state == "failed" and not self.ledger.epochs(uid)
        self.failures = self.failures + 1 if early else 0
        if self.failures >= FAILURES_IN_A_ROW:
            self.cause = BadInput(f"{self.failures} trials in a row failed before their first epoch; the last: {error}")

    def _best(self, trials: Sequence[TrialRecord]) -> float:
        pick = max if self.record.direction == "max" else min
        return pick((v for v in (self._value(t.uid) for t in trials) if math.isfinite(v)), default=math.nan)

    def _value(self, uid: str) -> float:
        best = best_report(self.ledger.epochs(uid))
        return best.metrics[self.record.objective] if best else float("nan")


def _ship_by_value(search: Search) -> None:
    """A family that a person's own file defines cannot be imported by workers: they get its code."""
    import ray.cloudpickle

    for owner in {search.define.__module__, search.family.__module__}:
        if owner.startswith("vltune_search_"):
            ray.cloudpickle.register_pickle_by_value(sys.modules[owner])


class _Source:
    """The ledger's events, with what MLflow is to be told of each."""

    def __init__(self, ledger: Ledger, record: SearchRecord, folder: Path) -> None:
        self.ledger, self.record, self.folder = ledger, record, folder

    def pending(self, after: int, limit: int) -> list[Event]:
        """The next events after a sequence number."""
        events = self.ledger.pending(self.record.name, after=after, limit=limit)
        return [replace(event, payload=self._payload(event.uid, event.kind, event.payload)) for event in events]

    def mark_sent(self, sequence: int) -> None:
        """Remembers that MLflow has everything up to here."""
        self.ledger.mark_sent(self.record.name, sequence)

    def _payload(self, uid: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        if kind == "summary":
            return payload
        if kind == "epoch":
            return {"epoch": payload["epoch"], "metrics": payload["metrics"]}
        trial = self.ledger.trial(uid)
        if kind == "started":
            shared = {key: str(value) for key, value in self.record.versions.items()}
            return {
                "params": trial.config,
                "searched": list(trial.searched),
                "name": trial.row or uid,
                "number": trial.number,
                "tags": {"vltune.row": trial.row, "vltune.attempt": str(payload["attempt"]), **shared},
            }
        best = best_report(self.ledger.epochs(uid))
        if best is None:
            return payload
        checkpoint = checkpoint_folder(self.folder.parent, trial, best)
        samples = checkpoint / "samples"
        return {
            **payload,
            "note": "\n".join(best.notes),
            "best_epoch": best.epoch,
            "best": dict(best.metrics),
            **({"checkpoint": str(checkpoint)} if checkpoint.is_dir() else {}),
            **({"samples": str(samples)} if samples.is_dir() else {}),
        }
