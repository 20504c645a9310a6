"""How well yes and no are told apart."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from trainables.parts.resampling import drawn_roc_auc
from vltune.contract import Direction

BINARY_METRICS: dict[str, Direction] = {
    **dict.fromkeys(("accuracy", "f1", "precision", "recall", "roc_auc"), "max"),
    **dict.fromkeys(("true_positive_share", "true_negative_share"), "max"),
    **dict.fromkeys(("false_positive_share", "false_negative_share"), "min"),
}
"""What is measured, and which way is better. The four shares are the confusion matrix, and sum to 1."""


def binary_metrics(truths: Sequence[bool], answers: Sequence[bool], scores: Sequence[float]) -> dict[str, float]:
    """Every one of ``BINARY_METRICS``.

    Args:
        truths: what is so; at least one of each kind.
        answers: what was said.
        scores: how sure it was said: the higher, the more likely yes.
    """
    true, said = np.asarray(truths, bool), np.asarray(answers, bool)
    hits, alarms, misses, rejections = (
        float(np.mean(cell)) for cell in (true & said, ~true & said, true & ~said, ~true & ~said)
    )
    return {
        "accuracy": hits + rejections,
        "f1": _share(2 * hits, 2 * hits + alarms + misses),
        "precision": _share(hits, hits + alarms),
        "recall": _share(hits, hits + misses),
        "roc_auc": roc_auc(truths, scores),
        "true_positive_share": hits,
        "true_negative_share": rejections,
        "false_positive_share": alarms,
        "false_negative_share": misses,
    }


def drawn_binary_metrics(
    counts: Float[np.ndarray, "resamples samples"],
    truths: Sequence[bool],
    answers: Sequence[bool],
    scores: Sequence[float],
    owners: Int[np.ndarray, " values"],
) -> dict[str, np.ndarray]:
    """The same of resamples.

    Args:
        counts: how often each sample was drawn.
        truths: as above.
        answers: as above.
        scores: as above.
        owners: the sample of each truth.
    """
    true, said, times = np.asarray(truths, bool), np.asarray(answers, bool), counts[:, owners]
    whole = times.sum(1)
    hits, alarms, misses, rejections = (
        times @ cell / whole for cell in (true & said, ~true & said, true & ~said, ~true & ~said)
    )
    return {
        "accuracy": hits + rejections,
        "f1": _shares(2 * hits, 2 * hits + alarms + misses),
        "precision": _shares(hits, hits + alarms),
        "recall": _shares(hits, hits + misses),
        "roc_auc": drawn_roc_auc(counts, true, np.asarray(scores, float), owners),
        "true_positive_share": hits,
        "true_negative_share": rejections,
        "false_positive_share": alarms,
        "false_negative_share": misses,
    }


def _shares(parts: Float[np.ndarray, " resamples"], wholes: Float[np.ndarray, " resamples"]) -> np.ndarray:
    return np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0)


def roc_auc(truths: Sequence[bool], scores: Sequence[float]) -> float:
    """Probability that a true one has a higher score than a false one; equal scores count half.

    That is the area under the curve of true positives against false positives over all thresholds.

    Args:
        truths: at least one of each kind.
        scores: one for each truth.
    """
    true = np.asarray(truths, bool)
    assert true.any(), "at least one true one"
    assert not true.all(), "at least one false one"
    _, place, count = np.unique(np.asarray(scores, float), return_inverse=True, return_counts=True)
    # Ranks from 1, the mean of their places for equal scores (Mann and Whitney).
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positives, negatives = int(true.sum()), int((~true).sum())
    return float((ranks[true].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _share(part: float, whole: float) -> float:
    """0 where there is nothing to have a share of, as is the custom for precision and F1."""
    return part / whole if whole else 0.0
