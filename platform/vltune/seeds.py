"""Several seeds of one configuration as one row: means, deviations, and what resamples say of the mean."""

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from vltune.contract import Resampled, RunRow, fingerprint


def configuration_of(row: RunRow) -> str:
    """Names what rows that differ in nothing but their seed share."""
    config = {key: value for key, value in row.config.items() if key not in ("seed", "data")}  # the data has a hash
    return fingerprint([row.name, config])


def fold(rows: Sequence[RunRow], *, apart: Collection[str] = ()) -> list[RunRow]:
    """Rows in their order, where those that differ in their seed alone stand as their mean at the first one's place.

    Only what has finished is folded: a seed that failed, or goes on, stands by itself. Rows of equal seeds are repeats,
    which tell nothing about seeds, and are left as they are.

    Args:
        rows: of one run or of several.
        apart: runs whose seeds are not mixed with those of others.
    """
    groups: dict[tuple[str, str], list[RunRow]] = {}
    for row in rows:
        if row.state == "finished" and "seed" in row.config:
            groups.setdefault((configuration_of(row), row.run if row.run in apart else ""), []).append(row)
    mean_of: dict[str, RunRow] = {}
    for group in groups.values():
        if 1 < len(group) == len({row.config["seed"] for row in group}):
            mean_of |= {row.uid: _mean(group) for row in group}
    seen: set[str] = set()
    folded = []
    for row in rows:
        found = mean_of.get(row.uid, row)
        if found.uid not in seen:
            folded.append(found)
        seen.add(found.uid)
    return folded


def _mean(rows: Sequence[RunRow]) -> RunRow:
    def mean(value: Callable[[RunRow], float]) -> float:
        return statistics.fmean(map(value, rows))

    first = rows[0]
    metrics = [name for name in first.metrics if all(name in row.metrics for row in rows)]
    return replace(
        first,
        run=", ".join(dict.fromkeys(row.run for row in rows)),
        epochs=mean(lambda row: row.epochs),
        best_epoch=mean(lambda row: row.best_epoch),
        metrics={name: mean(lambda row, name=name: row.metrics[name]) for name in metrics},
        deviations={name: statistics.stdev(row.metrics[name] for row in rows) for name in metrics},
        seconds=mean(lambda row: row.seconds),
        notes=tuple(dict.fromkeys(note for row in rows for note in row.notes)),
        resampled=_mean_resampled([row.resampled for row in rows]),
        seeds=tuple(row.config["seed"] for row in rows),
    )


def _mean_resampled(found: Sequence[Resampled | None]) -> Resampled | None:
    """The mean of what all seeds would have on the same resamples; None where one has none, or of other samples."""
    known = [resampled for resampled in found if resampled is not None]
    if len(known) < len(found) or len({resampled.drawn for resampled in known}) > 1:
        return None
    first = known[0]
    names = [name for name in first.values if all(name in resampled.values for resampled in known)]
    values = {name: np.mean([resampled.values[name] for resampled in known], 0) for name in names}
    return Resampled(values, first.samples, first.drawn)
