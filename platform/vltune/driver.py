"""The driver of a search: asks the study, gives trials to Ray Tune's slots, writes what they say to the ledger.

One class, though it is long: all its methods read and change the same few facts, which trials wait, run and have ended.
"""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vltune import cluster
from vltune.conclusion import conclude
from vltune.configuration import TrialConfig
from vltune.contract import EpochReport, Search
from vltune.display import Display
from vltune.errors import BadInput, Unreachable
from vltune.events import LedgerEvents
from vltune.generations import Generations, free_spent
from vltune.grid import MOST_POINTS, grid_points
from vltune.illustrations import FOLDER
from vltune.ledger import Ledger
from vltune.ledger_records import ENDED, SearchRecord, TrialRecord
from vltune.library import PromotedModels
from vltune.population import Step
from vltune.replicas import complete, configuration_number, configurations, enter_seeds, outcome, values_of
from vltune.sender import SearchRun, Sender
from vltune.space import resolve
from vltune.stopping import SIGNALS
from vltune.study import Study
from vltune.summary import trial_folder
from vltune.tracking import Tracker

FAILURES_IN_A_ROW = 10
"""So many configurations in a row that cannot even be made, or fail before their first epoch, end the search."""


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
    in_process: bool = False
    """Runs trials in this process, without Ray: for those that run no model."""


_HERE = cluster.Shares(concurrent=1, workers=1, threads=1, cpus_per_worker=1.0, gpus_per_worker=0.0)
"""What trials in this process have."""


@dataclass(frozen=True)
class Room:
    """A cluster that is up: how it is shared, and a file in the storage that all its nodes have to see."""

    shares: cluster.Shares
    mark: Path


class Driver:
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
            directions=tuple(record.directions.values()),
            sampler=record.sampler,
            pruner=record.pruner,
            seed=record.seed,
            num_trials=record.num_trials,
            epochs=record.epochs,
        )
        self.library = PromotedModels(options.storage, known=record.sources)
        self.generations = Generations(ledger, record) if record.population else None
        self.unfinished: list[TrialRecord] = []
        self.running: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self.ended: set[str] = set()
        self.shown: set[str] = set()
        self.undrawn: dict[str, Path] = {}
        self.failures = 0
        self.cause: BaseException | None = None
        self.sender = Sender(
            Tracker(options.storage),
            LedgerEvents(ledger, record, self.folder),
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
        if self.generations is not None:
            return bool(self.unfinished or self.generations.due())
        return bool(self.unfinished or self.study.has_rows() or self._room())

    def run(self, room: Room | None) -> None:
        """Trains what is left to train, then sums up."""
        self.sender.start()
        try:
            if room is not None:
                self._train(room.shares, lambda: self._tune(room))
            elif self.options.in_process and self.has_work():
                self._train(_HERE, self._run_here)
            self._note_illustrations()
            generations, say = self.generations, self.display.say
            conclude(self.ledger, self.record, self.search, self.options.storage, generations=generations, say=say)
        finally:
            with SIGNALS.undisturbed():
                self._flush()

    def _train(self, shares: cluster.Shares, work: Callable[[], None]) -> None:
        self.shares = shares
        self.record = self.ledger.change(
            self.record.name,
            concurrent=shares.concurrent,
            threads=shares.threads,
            gpus_per_worker=shares.gpus_per_worker,
        )
        trials = self.ledger.trials(self.record.name)
        self.display.start(
            max(self.record.num_trials * self.record.seeds, len(trials)),
            objective=self.record.objective,
            direction=self.record.direction,
            finished=sum(trial.state in ENDED for trial in trials),
            best=self._best(trials),
        )
        try:
            work()
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

    def _reconcile(self) -> None:
        """Makes ledger and study agree after a kill, and finds the trials that are to go on."""
        complete(self.ledger, self.record)
        trials = self.ledger.trials(self.record.name)
        numbers = [configuration_number(self.record, trial) for trial in trials]
        self.study.drop_unknown(numbers)
        entered = {trial.row for trial in trials}
        self.study.add_rows({name: row for name, row in self.record.rows.items() if name not in entered})
        if self.record.sampler == "grid" and self.record.num_trials > len(self.record.rows):
            self._add_grid(numbers)
        for number, trial in zip(numbers, trials, strict=True):
            suggested = self.generations is None or not trial.config.get("start_from")
            if suggested:
                self.numbers[trial.uid] = number
            epochs = self.ledger.epochs(trial.uid)
            if trial.state == "pruned":
                self.undrawn[trial.uid] = trial_folder(self.options.storage, trial) / FOLDER
            if trial.state not in ENDED and epochs and epochs[-1].last:  # the kill came before its end was noted
                self._end(trial.uid, "finished")
            elif trial.state not in ENDED and not trial.config:  # likewise
                self._end(trial.uid, "failed", error="its configuration was not possible")
            elif not suggested:
                self.unfinished += [] if trial.state in ENDED else [trial]
            elif trial.state in ENDED:
                self._tell(number)
            else:
                self.study.reopen(number)
                verdicts = [self._falls_behind(trial.uid, report) for report in epochs]
                if verdicts and verdicts[-1]:  # this, too, was decided before the kill
                    self._end(trial.uid, "pruned")
                else:
                    self.unfinished.append(trial)
        self._note_illustrations()
        self.undrawn.clear()  # whoever was to draw the others was killed

    def _add_grid(self, known: Sequence[int]) -> None:
        """Hands the grid to the study, and says how large it is: rows are counted beside it, never repeated."""
        points = grid_points(self.search, pins=self.record.pins, rows=self.record.rows)
        whole, wanted = len(self.record.rows) + len(points), self.record.num_trials
        size = f"{len(points)} points{' or more' if len(points) == MOST_POINTS else ''}"
        beside = f" beside {len(self.record.rows)} named" if self.record.rows else ""
        left = f"; {whole - wanted} of them are left out: --trials {whole} takes all" if whole > wanted else ""
        self.display.say(f"the grid has {size}{beside}{left}")
        self.study.add_points(points, known=known)
        if whole < wanted:
            self.record = self.ledger.change(self.record.name, num_trials=whole)

    def _run_here(self) -> None:
        from vltune.in_process import run_trials_here

        cache = self.options.storage.absolute() / "cache"
        self.folder.mkdir(parents=True, exist_ok=True)
        run_trials_here(self, family=self.search.family, cache=cache, threads=self.shares.threads)

    # -- Tune's side

    def _tune(self, room: Room) -> None:
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

    def waits(self) -> bool:
        """Whether a free slot has nothing to train until a trial that runs now has ended."""
        if self.unfinished or not self.running or self.cause is not None:
            return False
        if self.generations is not None:
            return len(self.ledger.trials(self.record.name)) < self.record.num_trials
        followed = {row.get("start_from") for row in self.record.rows.values()}
        return not followed.isdisjoint(self.running.values())

    def next_trial(self) -> dict[str, Any] | None:
        """What a free slot trains next: what was left unfinished, then named rows, then what the sampler suggests."""
        if self.generations is not None:
            self._open_generation(self.generations)
        if self.unfinished:
            return self._assign(self.unfinished.pop(0))
        while self.generations is None and self.cause is None and (self.study.has_rows() or self._room()):
            if (added := self._ask()) is not None:
                return self._assign(added)
        return None

    def _ask(self, step: Step | None = None) -> TrialRecord | None:
        """Enters what the study suggests next, as a whole trial or as the first segment of one; None if it failed."""
        trial, row = self.study.ask(len(self.ledger.trials(self.record.name)) if step else None)
        name = row or (step.name if step else "")
        try:
            resolved = resolve(
                self.search,
                trial,
                row=self.record.rows[row] if row else None,
                pins=self.record.pins,
                defaults={"data": self.record.data, "data_hash": self.record.data_hash, "seed": self.record.seed},
                sources=self.library,
            )
            config = self._after_its_row(resolved.config, row)
            config = replace(config, until_epoch=step.until_epoch) if step else config
        except (BadInput, Unreachable) as error:
            added = self._enter(trial.number * self.record.seeds, name, config={})
            self.numbers[added.uid] = trial.number
            self.shown.add(added.uid)
            self._end(added.uid, "failed", error=str(error))
            return None
        searched = tuple(resolved.searched)
        number = trial.number * self.record.seeds
        added = self._enter(number, name, config=config.fields(), searched=searched, notes=resolved.notes)
        others = enter_seeds(self.ledger, self.record, added)
        self.numbers |= {seed.uid: trial.number for seed in (added, *others)}
        self.unfinished += others
        return added

    def _after_its_row(self, config: TrialConfig, row: str) -> TrialConfig:
        """A row of a replay names the row that it goes on from: here it gets that one's uid."""
        name = self.record.rows[row].get("start_from", "") if row else ""
        if name not in self.record.rows:
            if config.start_from:
                raise BadInput(f"start_from={config.start_from}: populations and `vltune rerun` alone fill that in.")
            return config
        before = next((trial for trial in self.ledger.trials(self.record.name) if trial.row == name), None)
        if before is None or before.state != "finished":
            state = "not there yet" if before is None else before.state
            raise BadInput(f"start_from={name}: that segment is {state}, there is nothing to go on from.")
        return replace(config, start_from=before.uid)

    def _open_generation(self, generations: Generations) -> None:
        """Enters the next generation when one has ended, and what a kill kept from being entered."""
        try:
            while self.cause is None and (steps := generations.due()):
                # All before any is trained: what results arrive first must not decide what the sampler knows.
                entered = [self._ask(step) if step.parent is None else self._succeed(step) for step in steps]
                self.unfinished += [trial for trial in entered if trial is not None]
        except BadInput as error:
            self.cause = error

    def _succeed(self, step: Step) -> TrialRecord | None:
        """Enters a segment that goes on from another; None if its values are not possible together."""
        assert step.parent is not None, "the first generation is asked for"
        trials = {trial.uid: trial for trial in self.ledger.trials(self.record.name)}
        searched = tuple(dict.fromkeys((*trials[step.parent.uid].searched, *step.changes)))
        notes = (step.note,) if step.note else ()
        number = max(trial.number for trial in trials.values()) + 1
        added = self._enter(number, step.name, config=step.config(), searched=searched, notes=notes)
        try:
            self.search.family.Config.from_fields(added.config)
        except BadInput as error:
            self._end(added.uid, "failed", error=str(error))
            return None
        return added

    def _room(self) -> bool:
        return len(configurations(self.ledger, self.record)) < self.record.num_trials

    def _enter(
        self,
        number: int,
        row: str,
        *,
        config: dict[str, Any],
        searched: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> TrialRecord:
        return self.ledger.add_trial(
            self.record.name,
            number,
            row=row,
            config=config,
            searched=searched,
            notes=notes,
            state="waiting" if self.generations else "running",
        )

    def _assign(self, trial: TrialRecord) -> dict[str, Any]:
        self.ledger.start_attempt(trial.uid, time=time.time())
        searched = {key: trial.config[key] for key in trial.searched}
        self.shown.add(trial.uid)
        self.running[trial.uid] = trial.row
        until = trial.config.get("until_epoch") or trial.config.get("epochs", 0)
        self.display.trial_started(trial.uid, self.record.title(trial), searched, until)
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
        self._note_illustrations()
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
        prune = self._falls_behind(uid, report)
        if report.last or prune:
            self._end(uid, "finished" if report.last else "pruned")
        return not (report.last or prune)

    def _note_illustrations(self) -> None:
        """Tells MLflow of the figures of pruned trials: their workers draw them after hearing that they are pruned."""
        for uid in [uid for uid, folder in self.undrawn.items() if folder.is_dir()]:
            self.ledger.note_illustrations(uid)
            del self.undrawn[uid]

    def _falls_behind(self, uid: str, report: EpochReport) -> bool:
        """Tells the study of an epoch; whether the trial should stop. Of several seeds it hears the end alone."""
        if uid not in self.numbers or self.record.seeds > 1:
            return False
        return self.study.report(self.numbers[uid], report.epoch, report.metrics[self.record.objective])

    def _tell(self, number: int) -> None:
        """Tells the study what came of a configuration, once all its seeds have ended."""
        found = outcome(self.ledger, self.record, configurations(self.ledger, self.record)[number])
        if found is not None:
            self.study.tell(number, *found)

    def lost(self, uid: str) -> None:
        """A slot died more often than Tune would have it."""
        self._end(uid, "failed", error="its slot died three times; its last words are in Ray's log files")

    def _end(self, uid: str, state: str, error: str = "") -> None:
        if uid in self.ended:
            return
        self.ended.add(uid)
        self.running.pop(uid, None)
        self.ledger.end_trial(uid, state, error=error)
        if state == "pruned":
            self.undrawn[uid] = trial_folder(self.options.storage, self.ledger.trial(uid)) / FOLDER
        if uid in self.numbers:  # the study knows nothing of later segments
            self._tell(self.numbers[uid])
        if self.ledger.trial(uid).config.get("start_from"):
            free_spent(self.ledger, self.record, self.options.storage)
        if uid in self.shown:
            self.display.trial_ended(uid, state, error)
        early = state == "failed" and not self.ledger.epochs(uid)
        self.failures = self.failures + 1 if early else 0
        if self.failures >= FAILURES_IN_A_ROW:
            self.cause = BadInput(f"{self.failures} trials in a row failed before their first epoch; the last: {error}")

    def _best(self, trials: Sequence[TrialRecord]) -> float:
        pick = max if self.record.direction == "max" else min
        values = (values_of(self.ledger, self.record.directions, trial)[0] for trial in trials)
        return pick(filter(math.isfinite, values), default=math.nan)


def _ship_by_value(search: Search) -> None:
    """A family that a person's own file defines cannot be imported by workers: they get its code."""
    import ray.cloudpickle

    for owner in {search.define.__module__, search.family.__module__}:
        if owner.startswith("vltune_search_"):
            ray.cloudpickle.register_pickle_by_value(sys.modules[owner])
