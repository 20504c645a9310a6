"""Trials at the same budget: what each had reached when it had trained for so long, or seen so many samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from vltune.contract import Direction, EpochReport, is_better
from vltune.forms import amount, duration

_SECONDS = "training_seconds"


@dataclass(frozen=True)
class Budget:
    """What each trial may have spent."""

    metric: str
    """``training_seconds`` or ``samples_seen``: what is spent, counted from a trial's beginning."""
    most: float
    """Above 0."""

    def text(self, spent: float) -> str:
        """An amount of what is spent, in words."""
        return duration(spent) if self.metric == _SECONDS else f"{amount(round(spent))} samples"

    def note(self) -> str:
        """What the table says of it."""
        beside = "; evaluation is not counted" if self.metric == _SECONDS else ""
        whole = f"{self.text(self.most)} of training" if self.metric == _SECONDS else self.text(self.most)
        return f"Same budget: of each trial the best epoch among those that had ended within {whole}{beside}."


@dataclass(frozen=True)
class Reached:
    """How far a trial came within a budget."""

    epochs: Sequence[EpochReport]
    """The epochs that ended within it."""
    best: EpochReport | None
    remark: str
    """What the table must say of the trial, if it has not spent all; else empty."""


def reached(
    epochs: Sequence[EpochReport],
    budget: Budget,
    *,
    objective: str,
    direction: Direction,
    before: float = 0.0,
    ended: bool = True,
) -> Reached:
    """What a trial had reached within a budget.

    Args:
        epochs: all that it has reported, in order.
        budget: what it may have spent.
        objective: the metric that chooses the best epoch.
        direction: which way that is better.
        before: what was spent before its first epoch, by the trials that it goes on from.
        ended: whether no more epochs come.
    """
    if any(budget.metric not in report.metrics for report in epochs):
        return Reached((), None, f"{budget.metric} was not recorded")
    spent = [before + report.metrics[budget.metric] for report in epochs]
    within = [report for report, so_far in zip(epochs, spent, strict=True) if so_far <= budget.most]
    best: EpochReport | None = None
    for report in within:
        if best is None or is_better(report.metrics[objective], best.metrics[objective], direction):
            best = report
    remark = ""
    if epochs and not within:
        remark = f"its first epoch ended at {budget.text(spent[0])}, beyond the budget"
    elif len(within) == len(epochs) and (not epochs or spent[-1] < budget.most):
        how = "ended at" if ended else "has come to"
        remark = f"{how} {budget.text(spent[-1] if spent else before)}, within the budget"
    return Reached(within, best, remark)
