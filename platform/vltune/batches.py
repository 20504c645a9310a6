"""Which samples a step sees, and their features where a frozen encoder makes them once for all epochs."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vltune.cache import Stored, stored
from vltune.contract import Draws, Family, Sample
from vltune.errors import BadInput

MAX_FEATURE_BYTES = 20 * 10**9
_AT_ONCE = 32


def first(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """The first samples of a split; 0: all.

    Raises:
        BadInput: there are not so many.
    """
    if count > len(samples):
        raise BadInput(f"train_pictures={count} is more than the {len(samples)} of the training split.")
    return Head(samples, count) if count else samples


class Head(Sequence[Sample]):
    """The first samples of a split."""

    def __init__(self, samples: Sequence[Sample], count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._samples[range(self._count)[index]]


def plan(count: int, draws: Draws, batch_size: int) -> list[list[int]]:
    """Which samples each step sees: a permutation of (seed, epoch) cut into batches of nearly equal size."""
    order = draws.generator("", "order").permutation(count).tolist()
    return shares(order, math.ceil(count / batch_size))


def shares(items: Sequence[int], parts: int) -> list[list[int]]:
    """Consecutive parts whose sizes differ by one at most."""
    small, large = divmod(len(items), parts)
    ends = [(i + 1) * small + min(i + 1, large) for i in range(parts)]
    return [list(items[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


class Featured(Sequence[Sample]):
    """A split whose samples carry the features that a frozen encoder made of them."""

    def __init__(self, samples: Sequence[Sample], rows: Stored) -> None:
        assert len(samples) == len(rows)
        self._samples, self._rows = samples, rows

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        sample = copy.copy(self._samples[index])  # not `replace`, which would decode the picture
        vars(sample)["features"] = self._rows[index]
        return sample


def featured(
    model: Family, samples: Sequence[Sample], *, split: str, data_hash: str, cache: str
) -> tuple[Sequence[Sample], str]:
    """The samples with their features, made once for all trials of the node, where the family has such features.

    Returns:
        The samples, and a note if their features would be too large to keep.
    """
    features = model.features() if len(samples) else None
    if features is None:
        return samples, ""
    was_training = model.training
    model.eval()
    try:
        shape = features.encode([samples[0]]).shape[1:]
        size = len(samples) * int(np.prod(shape)) * 4
        name = f"features-{features.key()}-{data_hash[:16]}-{split}-{len(samples)}"
        if size > MAX_FEATURE_BYTES:  # nothing else decides: all workers of a trial must decide alike
            return samples, f"features of {size / 1e9:.0f} GB were not kept: the frozen encoder ran in every epoch"

        def build() -> Iterator[tuple[np.ndarray, str]]:
            for start in range(0, len(samples), _AT_ONCE):
                chunk = [samples[i] for i in range(start, min(start + _AT_ONCE, len(samples)))]
                for row in features.encode(chunk).astype(np.float32, copy=False):
                    yield row, ""

        return Featured(samples, stored(cache, name, rows=len(samples), shape=shape, dtype="float32", build=build)), ""
    finally:
        model.train(was_training)
