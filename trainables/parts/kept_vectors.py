"""Vectors of what stays the same from epoch to epoch and from trial to trial: computed once, in memory or on disk."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from vltune.cache import Stored, stored

_MOST_BYTES = 1 << 30
"""Of tables in memory. The one that was asked for last stays, however large."""
_KEPT: OrderedDict[str, np.ndarray] = OrderedDict()


def kept_vectors(
    key: str, *, rows: int, width: int, cache: str, build: Callable[[], Float[np.ndarray, "rows width"]]
) -> np.ndarray | Stored:
    """The vectors that belong to a key, built where neither this process nor the cache has them.

    Those of a cache stay in its file, which all processes map: take what is needed of them, a slice at a time.

    Args:
        key: names what they are of and what made them, by their hashes: letters, digits, ``-``, ``_``.
        rows: how many they are.
        width: their length.
        cache: folder in which they stay for all processes; empty: in this one's memory.
        build: makes all of them, in single precision.

    Raises:
        BadInput: the folder cannot be written.
    """
    if cache and rows:
        return stored(
            cache, key, rows=rows, shape=(width,), dtype="float32", build=lambda: ((row, "") for row in build())
        )
    if key not in _KEPT:
        _KEPT[key] = build()
    _KEPT.move_to_end(key)
    while len(_KEPT) > 1 and sum(table.nbytes for table in _KEPT.values()) > _MOST_BYTES:
        _KEPT.popitem(last=False)
    return _KEPT[key]
