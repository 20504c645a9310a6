"""What a run came to, gathered from the ledger: where it stands, what is best, and what to be careful with."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vltune.checkpoints import RECORDS
from vltune.columns import read_records
from vltune.compare import COMPETING, improvement
from vltune.contract import Direction, EpochReport, Family, RunRow, is_better
from vltune.exhibition import sameness
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord, TrialRecord
from vltune.seeds import configuration_of, fold
from vltune.statistics import SIGNIFICANT, interval
from vltune.summary import best_report, best_trial, checkpoint_folder, rows_of, trial_folder

FEW_SAMPLES = 200
"""Validation samples below which a report warns of wide intervals."""
MANY_TRIALS = 5
"""Trials from which on the best of them is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """One run as far as it has come."""

    record: SearchRecord
    trials: Sequence[TrialRecord]
    epochs: Mapping[str, Sequence[EpochReport]]
    """Uid -> what the trial reported."""
    times: Mapping[str, tuple[float, float]]
    """Uid -> when it was started and last heard of, seconds since 1970; of trials that were started."""
    rows: Sequence[RunRow]
    """Every trial that was configured."""
    state: str
    """``finished``, ``running``, or ``interrupted``: nobody drives it, and it has not ended."""
    best: TrialRecord | None
    """The best trial that has ended with a checkpoint, which promotion would take; None: there is none."""
    checkpoint: Path | None
    """Its best checkpoint, where that is still there."""
    tested: Mapping[str, float]
    """Its metrics on the test split, if that was read."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """Metric -> what it says, for people who do not know it."""
    sameness: str = ""
    """How few different captions the best model wrote, where they are few."""

    @property
    def counts(self) -> Counter[str]:
        """State -> trials."""
        return Counter(self.state_of(trial) for trial in self.trials)

    @property
    def seconds(self) -> float:
        """From the first start to the last word, pauses included."""
        if not self.times:
            return 0.0
        return max(last for _, last in self.times.values()) - min(first for first, _ in self.times.values())

    @property
    def folded(self) -> list[RunRow]:
        """Seeds of one configuration as one row."""
        return fold(self.rows)

    def row(self, trial: TrialRecord | None) -> RunRow | None:
        """The row of a trial, or that of its configuration over all its seeds."""
        own = next((row for row in self.rows if trial is not None and row.uid == trial.uid), None)
        if own is None or own.state != "finished" or "seed" not in own.config:
            return own
        same = configuration_of(own)
        return next((r for r in self.folded if len(r.seeds) > 1 and configuration_of(r) == same), own)

    @property
    def promotable(self) -> bool:
        """Whether the best trial has a model: captions that another program wrote have none."""
        row = self.row(self.best)
        return row is not None and "parameters" in row.metrics

    @property
    def confirmable(self) -> bool:
        """Whether the best configurations can be trained again with new seeds: not a population's, which are
        schedules, nor what has not finished.
        """
        finished = self.best is not None and self.best.state == "finished"
        return finished and self.promotable and self.record.population is None

    @property
    def base(self) -> RunRow | None:
        """The base row, if it has a value."""
        named = [r for r in self.folded if self.record.base_row and r.name == self.record.base_row]
        return next((row for row in named if math.isfinite(row.metrics.get(self.record.objective, math.nan))), None)

    def state_of(self, trial: TrialRecord) -> str:
        """A trial's state; what nobody drives does not run."""
        return "interrupted" if trial.state == "running" and self.state == "interrupted" else trial.state

    def trial(self, uid: str) -> TrialRecord:
        """A trial by its uid."""
        return next(trial for trial in self.trials if trial.uid == uid)

    def first_seen(self, row: str) -> TrialRecord | None:
        """The first trial of a named row that has ended."""
        return next((t for t in self.trials if row and t.row == row and t.state in ("finished", "pruned")), None)

    def best_of_groups(self) -> dict[str, TrialRecord]:
        """Value of ``group_by`` -> the best trial that has it, the best of them first."""
        field, objective, found = self.record.group_by, self.record.objective, {}
        for row in self.rows if field else ():
            value, group = row.metrics.get(objective, math.nan), str(row.config.get(field))
            rival = found.get(group)
            old = rival.metrics.get(objective, math.nan) if rival else math.nan
            if row.state in COMPETING and math.isfinite(value) and is_better(value, old, self.record.direction):
                found[group] = row
        order = ranked([*found.values()], objective, self.record.direction)
        return {str(row.config.get(field)): self.trial(row.uid) for row in order}


_ENGINE_WORDS = {
    "parameters": "How many numbers the model has learned: a measure of its size.",
    "trainable_parameters": "How many numbers of the model were trained.",
    "training_seconds": "How long training took.",
    "samples_seen": "How many training samples the trial has seen, repeats included.",
    "latency_ms": "Milliseconds that the model needs for one sample alone.",
    "peak_memory_mb": "The most memory that training took.",
}


def gather(
    ledger: Ledger, run: str, storage: Path, *, family: type[Family] | None = None, ended: bool = False
) -> Findings:
    """What a run came to so far.

    Args:
        ledger: where the run is.
        run: its name.
        storage: folder of the runs.
        family: the run's, for what its metrics mean; None: not known.
        ended: whether the run has come to its end, whatever the ledger says as yet.

    Raises:
        NotFound: there is no such run.
    """
    record, trials = ledger.search(run), ledger.trials(run)
    explained = {**_ENGINE_WORDS, **(family.explained if family is not None else {})}
    best = best_trial(ledger, run) if any(_has_best(ledger, trial) for trial in trials) else None
    report = best_report(ledger.epochs(best.uid)) if best else None
    folder = checkpoint_folder(storage, best, report) if best and report and report.checkpoint else None
    file = trial_folder(storage, best) / "test_scores.json" if best else None
    state = "finished" if ended else record.state
    if state in ("running", "stopping"):
        state = "interrupted" if ledger.driver(run) is None else "running"
    return Findings(
        record=record,
        trials=trials,
        epochs={trial.uid: ledger.epochs(trial.uid) for trial in trials},
        times={t.uid: times for t in trials if (times := ledger.times(t.uid))[0]},
        rows=rows_of(ledger, run, storage=storage),
        state=state,
        best=best,
        checkpoint=folder if folder and folder.is_dir() else None,
        tested=json.loads(file.read_text())["metrics"] if file and file.is_file() else {},
        explained=explained,
        sameness=sameness(read_records(folder / RECORDS)) if folder and (folder / RECORDS).is_file() else "",
    )


def _has_best(ledger: Ledger, trial: TrialRecord) -> bool:
    return trial.state in ("finished", "pruned") and best_report(ledger.epochs(trial.uid)) is not None


@dataclass(frozen=True)
class Verdict:
    """How the best row stands to the base row."""

    value: float
    bounds: tuple[float, float] | None
    """95 % bootstrap interval over samples; None: not known."""
    deviation: float | None
    """Over seeds; None: one seed."""
    samples: int
    base: float
    """NaN: there is no base row, or it is the best itself."""
    percent: float | None
    p: float | None
    """Of the difference to the base row, corrected for the number of rows in the run's table; None: not known."""

    @property
    def significant(self) -> bool | None:
        """Whether the difference is; None: not known."""
        return None if self.p is None else self.p < SIGNIFICANT


def verdict(found: Findings, *, p: float | None) -> Verdict | None:
    """What is to be said of the best row's objective; None while there is none.

    Args:
        found: the run.
        p: the p-value that the run's own table has for it, corrected for the number of its rows; None: it has none.
    """
    row, base, metric = found.row(found.best), found.base, found.record.objective
    if row is None or metric not in row.metrics:
        return None
    other = base if base is not None and base.uid != row.uid else None
    resampled = row.resampled
    values = resampled.values.get(metric) if resampled else None
    return Verdict(
        value=row.metrics[metric],
        bounds=interval(values) if values is not None else None,
        deviation=row.deviations.get(metric),
        samples=resampled.samples if resampled else 0,
        base=other.metrics[metric] if other else math.nan,
        percent=improvement(row.metrics[metric], other.metrics[metric], found.record.direction) if other else None,
        p=p if other else None,
    )


def cautions(found: Findings, said: Verdict | None) -> list[str]:
    """What a reader has to bear in mind, the most important first; plain sentences."""
    record, counts, lines = found.record, found.counts, []
    competing = [row for row in found.folded if row.state in COMPETING and row.metrics]
    if said is not None and said.significant is False:
        lines.append(
            "The difference between the best row and the base row is not significant (n.s.): on other pictures of the "
            "same kind it could be the other way round."
        )
    if said is not None and said.p is not None and said.deviation is not None:
        lines.append(
            f"The p-value tells of other pictures, not of other seeds: those differ by ±{said.deviation:.2g}, which is "
            "not in it."
        )
    if found.sameness:
        lines.append(
            f"The best model wrote {found.sameness}: what it says has little to do with what is on them, whatever its "
            "score."
        )
    if said is not None and not record.confirms and len(competing) >= MANY_TRIALS:
        again = f" Train the best again with seeds that they were not chosen by: `vltune confirm {record.name}`."
        lines.append(
            f"The best of {len(competing)} configurations is also the luckiest of them, so its value is too good by a "
            f"little.{again if found.confirmable else ''}"
        )
    if found.promotable and said is not None and said.deviation is None and record.seeds == 1 and not record.confirms:
        lines.append("Each configuration was trained with one seed: how much another seed would change is not known.")
    if said is not None and 0 < said.samples < FEW_SAMPLES:
        lines.append(
            f"The validation split has only {said.samples} samples: intervals are wide, and small differences cannot "
            "be told apart."
        )
    if said is not None and said.bounds is None:
        lines.append(_unsure_words(record.objective, said))
    if found.promotable and not found.tested:
        lines.append(
            "Nobody has read the test split yet: all numbers are of the validation split, which also chose the best "
            "epoch of each trial. Promotion reads the test split, once."
        )
    elif found.best is not None and said is not None and record.objective in found.tested:
        lines.append(_test_words(found))
    if found.best is not None and found.best.state == "pruned":
        lines.append("No trial has finished: the best one was stopped early by the pruner, and its value is not final.")
    for state, words in (
        ("failed", "failed, with the reasons in the table"),
        ("stopped", "stopped before their end: their values are not final"),
    ):
        if counts[state]:
            lines.append(f"{counts[state]} of {len(found.trials)} trials {words}.")
    if counts["pruned"]:
        lines.append(
            f"Of {len(found.trials)} trials {counts['pruned']} "
            + ("was pruned" if counts["pruned"] == 1 else "were pruned")
            + " (stopped early because others were better): such values are not final."
        )
    if record.further_objectives:
        lines.append(
            f"The search had {1 + len(record.further_objectives)} objectives. There is no single best trial then: what "
            f"is called the best here is best in {record.objective}; the front shows what else one could choose."
        )
    return lines


def _unsure_words(objective: str, said: Verdict) -> str:
    """Why there is no interval. A mean over seeds needs all their checkpoints, and has its deviation without them."""
    if said.samples:
        why = f"{objective} cannot be resampled"
    else:
        why = "its checkpoint is gone" if said.deviation is None else "the checkpoint of one of its seeds is gone"
    if said.deviation is None:
        return f"How sure the best value is, is not known: {why}."
    return f"How much other samples would change the best value, is not known: {why}."


def _test_words(found: Findings) -> str:
    """The trial that was tested beside its own value, whatever its other seeds have."""
    assert found.best is not None, "what was tested is the best trial"
    objective, value = found.record.objective, found.tested[found.record.objective]
    chosen = next(row.metrics[objective] for row in found.rows if row.uid == found.best.uid)
    worse = is_better(chosen, value, found.record.direction)
    how = "worse" if worse else "no worse"
    return (
        f"On the test split, which was read once, the best trial's {objective} is {value:.4g}: {how} than the "
        f"{chosen:.4g} of the validation split, by which it was chosen."
    )


def ranked(rows: Sequence[RunRow], objective: str, direction: Direction) -> list[RunRow]:
    """Rows with a finite objective, the best first."""
    known = [row for row in rows if math.isfinite(row.metrics.get(objective, math.nan))]
    return sorted(known, key=lambda row: row.metrics[objective], reverse=direction == "max")


def plain(value: Any) -> str:
    """A field's value as people read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
