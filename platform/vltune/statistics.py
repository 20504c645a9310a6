"""How sure a number is: bootstrap intervals over a split's samples, paired differences, and Holm's correction.

Everything is deterministic: the draws depend on nothing but the number of samples, so that they are the same for all
models of a split, which makes differences paired, and the same whenever they are drawn.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

from vltune.contract import Resampled, Scores

RESAMPLES = 2000
CONFIDENCE = 0.95
SIGNIFICANT = 1 - CONFIDENCE
"""A difference whose corrected p-value is below is called significant."""

_SEED = 2000
_AT_ONCE = 1_000_000
"""Counts that lie in memory at the same time."""
_ROUNDING = 1e-6
"""A metric that is so near to the mean over samples, relatively, is that mean."""


def draws(samples: int, *, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each sample is drawn in each resample, some resamples at a time: (resamples, samples), float64."""
    generator = np.random.Generator(np.random.Philox(key=_SEED))
    size = max(1, _AT_ONCE // samples)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        chosen = generator.integers(samples, size=(rows, samples)) + samples * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * samples).reshape(rows, samples).astype(np.float64)


def resample(scores: Scores, ids: Sequence[str]) -> Resampled:
    """Metrics of resamples of a split (Efron, https://doi.org/10.1214/aos/1176344552).

    A metric that is the mean of its values for single samples is resampled so; for others ``scores.resample`` is asked,
    and those of which it says nothing are left out.

    Args:
        scores: of the whole split.
        ids: of its samples, in the order of ``scores.records``; at least one.
    """
    means = {
        name: np.array([record[name] for record in scores.records], np.float64)
        for name, value in scores.metrics.items()
        if all(name in record for record in scores.records) and _is_mean(value, [r[name] for r in scores.records])
    }
    columns = np.stack([*means.values()], 1) if means else np.empty((len(ids), 0))
    digest = hashlib.blake2b("\n".join(ids).encode(errors="surrogatepass"), digest_size=16)
    parts: dict[str, list[np.ndarray]] = {}
    for counts in draws(len(ids)):
        digest.update(counts.astype(np.uint16).tobytes())
        further = scores.resample(counts) if scores.resample is not None else {}
        found = {**dict(zip(means, (counts @ columns / len(ids)).T, strict=True)), **further}
        for name in scores.metrics.keys() & found.keys():
            parts.setdefault(name, []).append(found[name])
    values = {name: np.concatenate(parts[name]) for name in scores.metrics if name in parts}
    return Resampled(values, len(ids), digest.hexdigest())


def _is_mean(value: float, values: Sequence[float]) -> bool:
    return math.isclose(value, math.fsum(values) / len(values), rel_tol=_ROUNDING, abs_tol=1e-12)


def interval(values: np.ndarray, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The percentile interval of resampled values (Efron & Tibshirani 1993, chapter 13,
    https://doi.org/10.1201/9780429246593); None where there is none.

    Args:
        values: (resamples,); what is not finite, such as a share of nothing, is left out.
        confidence: share of the resamples that it holds. In (0, 1).
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_value(difference: float, resampled: np.ndarray) -> float:
    """Two-sided p-value of a difference, under the null hypothesis that it is zero.

    The resampled differences, shifted to zero, are what chance does to it (Efron & Tibshirani 1993, section 16.4).
    Where none of them is as far from zero as the difference itself, their standard error says how small the p-value
    is: a correction for many rows could find nothing otherwise.

    Args:
        difference: on the split itself.
        resampled: (resamples,), of the same pairs; what is not finite is left out.
    """
    shifted = resampled[np.isfinite(resampled)] - difference
    least = 1 / (len(shifted) + 1)
    # What is equal but for rounding is as far.
    further = int((np.abs(shifted) >= abs(difference) * (1 - 1e-9)).sum())
    if further:
        return min(1.0, (further + 1) * least)
    spread = float(shifted.std()) if len(shifted) else math.inf
    return min(least, math.erfc(abs(difference) / spread / math.sqrt(2))) if spread else least


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order (Holm, https://www.jstor.org/stable/4615733).

    The probability that any of those below a bound is below it by chance is at most that bound.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = largest
    return corrected
