"""What metrics that are no means over samples are made of, drawn again: sums, medians, and the area under a curve.

``counts`` says how often each sample was drawn, (resamples, samples).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


def drawn_sums(
    counts: Float[np.ndarray, "resamples samples"], records: Sequence[Mapping[str, Any]], *keys: str
) -> list[Float[np.ndarray, " resamples"]]:
    """Of each key the sum over the samples that were drawn, of numbers or of lists of them."""
    columns = np.array([[np.sum(record[key], dtype=np.float64) for key in keys] for record in records])
    return [*(counts @ columns).T]


def drawn_medians(
    counts: Float[np.ndarray, "resamples samples"],
    values: Float[np.ndarray, " values"],
    owners: Int[np.ndarray, " values"],
) -> Float[np.ndarray, " resamples"]:
    """The median of the values that were drawn; of an even number the mean of the two in the middle.

    Args:
        values: any number for each sample.
        owners: the sample of each value.
    """
    order = np.argsort(values, kind="stable")
    ordered, times = values[order], counts.astype(np.int32)[:, owners[order]].cumsum(1, dtype=np.int32)
    # Of n values the middle ones are number (n + 1) // 2 and n // 2 + 1.
    places = np.array([row.searchsorted(((row[-1] + 1) // 2, row[-1] // 2 + 1)) for row in times])
    return ordered[places].mean(1)


def drawn_roc_auc(
    counts: Float[np.ndarray, "resamples samples"],
    truths: Bool[np.ndarray, " values"],
    scores: Float[np.ndarray, " values"],
    owners: Int[np.ndarray, " values"],
) -> Float[np.ndarray, " resamples"]:
    """Probability that a true one that was drawn has a higher score than a false one; equal scores count half.

    NaN where only one kind was drawn.

    Args:
        owners: the sample of each value.
    """
    order = np.argsort(scores, kind="stable")
    start = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    times, true = counts[:, owners[order]], truths[order]
    positives, negatives = (np.add.reduceat(times * kind, start, axis=1) for kind in (true, ~true))
    below = negatives.cumsum(1) - negatives / 2
    pairs = positives.sum(1) * negatives.sum(1)
    return np.divide((positives * below).sum(1), pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
