"""How sure the numbers of a table are: intervals over samples, deviations over seeds, p-values, and what they mean."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vltune.contract import Direction, RunRow
from vltune.statistics import CONFIDENCE, SIGNIFICANT, holm, interval, p_value


@dataclass(frozen=True)
class Spread:
    """How sure a number is; None where that is not known."""

    interval: tuple[float, float] | None = None
    """Bootstrap interval over the samples of the split."""
    deviation: float | None = None
    """Standard deviation over the seeds whose mean the number is."""


def spreads_of(rows: Sequence[RunRow], metrics: Iterable[str]) -> dict[tuple[int, str], Spread]:
    """(number of the row, metric) -> how sure it is, of all of which something is known."""
    found = {}
    for metric in metrics:
        for index, row in enumerate(rows):
            values = row.resampled.values.get(metric) if row.resampled is not None and metric in row.metrics else None
            spread = Spread(None if values is None else interval(values), row.deviations.get(metric))
            if spread != Spread():
                found[index, metric] = spread
    return found


def improvements_of(rows: Sequence[RunRow], base: RunRow, metric: str, direction: Direction) -> dict[int, Spread]:
    """Number of the row -> the interval of the per cent by which it is better than the base row."""
    found, value = {}, base.metrics[metric]
    for index, row in enumerate(rows):
        differences = _differences(row, base, metric)
        bounds = interval(differences) if differences is not None and value else None
        if bounds is not None:
            low, high = (100 * bound / abs(value) * (1 if direction == "max" else -1) for bound in bounds)
            found[index] = Spread((min(low, high), max(low, high)))
    return found


def _differences(row: RunRow, base: RunRow, metric: str) -> np.ndarray | None:
    """How much more of a metric the row has than the base row, on resamples; None where they are not comparable."""
    mine, theirs = row.resampled, base.resampled
    if row.uid == base.uid or metric not in row.metrics or mine is None or theirs is None or mine.drawn != theirs.drawn:
        return None
    if metric not in mine.values or metric not in theirs.values:
        return None
    return mine.values[metric] - theirs.values[metric]


def p_values_of(rows: Sequence[RunRow], base: RunRow, metric: str) -> dict[str, float]:
    """Uid -> p-value of the row's difference to the base row, corrected for the number of rows.

    Only rows whose samples are the very ones of the base row have one.
    """
    found: dict[str, float] = {}
    for row in rows:
        differences = _differences(row, base, metric)
        if differences is not None:
            found[row.uid] = p_value(row.metrics[metric] - base.metrics[metric], differences)
    return dict(zip(found, holm([*found.values()]), strict=True))


def notes_on(
    rows: Sequence[RunRow],
    spreads: Mapping[tuple[int, str], Spread],
    shown: Sequence[str],
    *,
    drawn_with: Mapping[str, str],
) -> list[str]:
    """What a reader has to know of intervals and deviations, a line each.

    Args:
        rows: of the table.
        spreads: of its numbers.
        shown: the metrics whose columns show them.
        drawn_with: metric -> what stays as it is while samples are drawn.
    """
    notes = []
    of_shown = [spread for (_, metric), spread in spreads.items() if metric in shown]
    sizes = sorted({row.resampled.samples for row in rows if row.resampled is not None})
    if any(spread.interval and spread.deviation is None for spread in of_shown):
        among = " or ".join(f"{size:,}" for size in sizes)
        fixed: dict[str, list[str]] = {}
        for metric in (metric for metric in shown if metric in drawn_with):
            fixed.setdefault(drawn_with[metric], []).append(metric)
        said = "".join(f"; {', '.join(metrics)}: {text}" for text, metrics in fixed.items())
        notes.append(f"[…]: {100 * CONFIDENCE:.0f} % bootstrap interval over {among} samples{said}.")
    if any(spread.deviation is not None for spread in of_shown):
        notes.append("±: standard deviation over the seeds whose mean a row shows, not over samples.")
    if shown:
        notes += _without(rows, spreads, shown)
    return notes


def note_on_p_values(p_values: Mapping[str, float], *, metric: str, base: str) -> str:
    """What the p-values of a table are."""
    return (
        f"p: of the difference in {metric} to {base}, paired bootstrap over samples, corrected for {len(p_values)} "
        f"row{'s' if len(p_values) > 1 else ''} (Holm); n.s.: not significant, p ≥ {SIGNIFICANT:.2g}."
    )


def _without(rows: Sequence[RunRow], spreads: Mapping[tuple[int, str], Spread], shown: Sequence[str]) -> list[str]:
    """Why numbers have no interval."""
    trials = [(index, row) for index, row in enumerate(rows) if any(metric in row.metrics for metric in shown)]
    gone = [row.name or row.uid for _, row in trials if row.resampled is None]
    if trials and len(gone) == len(trials):
        return ["No intervals: no checkpoint that they come from is left."]
    notes = [f"No interval: the checkpoint of {', '.join(gone)} is gone."] if gone else []
    kept = [index for index, row in trials if row.resampled is not None]
    return notes + [
        f"{metric} has no interval: it is made of the whole split, not of its samples."
        for metric in shown
        if kept and not any((index, metric) in spreads and spreads[index, metric].interval for index in kept)
    ]
