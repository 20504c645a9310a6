"""Vectors of what stays the same from epoch to epoch and from trial to trial: computed once, in memory and on disk."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from vltune.cache import stored

_ROOM = 8
_KEPT: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()


def kept_vectors(
    key: str, *, rows: int, width: int, cache: str, build: Callable[[], Float[np.ndarray, "rows width"]]
) -> Float[np.ndarray, "rows width"]:
    """The vectors that belong to a key, built where neither this process nor the cache has them.

    Args:
        key: names what they are of and what made them, by their hashes: letters, digits, ``-``, ``_``.
        rows: how many they are.
        width: their length.
        cache: folder in which they stay for other processes; empty: this one alone keeps them.
        build: makes all of them, in single precision.

    Raises:
        BadInput: the folder cannot be written.
    """
    place = (cache, key)
    if place not in _KEPT:
        _KEPT[place] = _read(key, rows=rows, width=width, cache=cache, build=build)
    _KEPT.move_to_end(place)
    while len(_KEPT) > _ROOM:
        _KEPT.popitem(last=False)
    return _KEPT[place]


def _read(key: str, *, rows: int, width: int, cache: str, build: Callable[[], np.ndarray]) -> np.ndarray:
    if not cache or not rows:
        return build()
    found = stored(cache, key, rows=rows, shape=(width,), dtype="float32", build=lambda: ((row, "") for row in build()))
    return np.stack(found[:])
