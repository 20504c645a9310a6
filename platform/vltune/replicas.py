"""The seeds of a configuration in the ledger: which trials they are, and what they come to together."""

import math
import statistics
from collections.abc import Mapping, Sequence

from vltune.ledger import Ledger
from vltune.ledger_records import ENDED, SearchRecord, TrialRecord
from vltune.summary import best_report


def configuration_number(record: SearchRecord, trial: TrialRecord) -> int:
    """The number that the study knows a trial's configuration by."""
    return trial.number // record.seeds


def configurations(ledger: Ledger, record: SearchRecord) -> dict[int, list[TrialRecord]]:
    """The trials of each configuration, in the order of their seeds."""
    found: dict[int, list[TrialRecord]] = {}
    for trial in ledger.trials(record.name):
        found.setdefault(configuration_number(record, trial), []).append(trial)
    return found


def complete(ledger: Ledger, record: SearchRecord) -> None:
    """Enters the seeds that a kill kept from being entered."""
    for trials in configurations(ledger, record).values():
        if trials[0].config:
            enter_seeds(ledger, record, trials[0], known=trials)


def enter_seeds(
    ledger: Ledger, record: SearchRecord, first: TrialRecord, *, known: Sequence[TrialRecord] = ()
) -> list[TrialRecord]:
    """Enters the other seeds of a configuration beside its first, but those that are there."""
    there = {trial.number for trial in known}
    return [
        ledger.add_trial(
            record.name,
            first.number + place,
            row=first.row,
            config={**first.config, "seed": first.config["seed"] + place},
            searched=first.searched,
            notes=first.notes,
            state="waiting",
        )
        for place in range(1, record.seeds)
        if first.number + place not in there
    ]


def outcome(ledger: Ledger, record: SearchRecord, trials: Sequence[TrialRecord]) -> tuple[str, list[float]] | None:
    """How a configuration ended, and the mean of each objective over the seeds that finished; None before the end.

    With one seed, that is the trial's own state and values.

    Args:
        ledger: where the run is.
        record: of the run.
        trials: all seeds of the configuration.
    """
    if any(trial.state not in ENDED for trial in trials):
        return None
    finished = [trial for trial in trials if trial.state == "finished"]
    counted = finished or trials[:1]
    values = [values_of(ledger, record.directions, trial) for trial in counted]
    return counted[0].state, [statistics.fmean(of_seeds) for of_seeds in zip(*values, strict=True)]


def values_of(ledger: Ledger, objectives: Mapping[str, object], trial: TrialRecord) -> list[float]:
    """All objectives at a trial's best epoch by the first one; what was not measured is not a number."""
    best = best_report(ledger.epochs(trial.uid))
    return [best.metrics.get(name, math.nan) if best else math.nan for name in objectives]
