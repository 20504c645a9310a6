"""Data sets that stay open: trials of one process that share a folder do not read its annotations again."""

import os
import time
from functools import lru_cache
from pathlib import Path

from trainables.parts.datasets import MAX_CACHE_BYTES, open_folder
from vltune.contract import Data

KEPT = 2
"""Data sets that stay open, the last used; searches over picture sizes open some folders in several ways."""
_GRAIN = 2 * 10**9
"""Nanoseconds: a file of the last two seconds may change again and keep its time."""


def open_kept_folder(
    path: str, *, picture_size: int, cache: str, allow_leakage: bool = False, max_cache_bytes: int = MAX_CACHE_BYTES
) -> Data:
    """What ``open_folder`` gives; where no file has changed since this process opened it last, it is not read again.

    A file counts as the same if name, size and time of change are. A folder with folders in its folders is always read:
    none of the data sets that are known comes so, and looking through all of what may be somebody's home takes long.

    Raises:
        NotFound: as ``open_folder``.
        BadInput: as ``open_folder``.
    """
    seen, now = _stamp(Path(path)), time.time_ns()
    if not seen or max(changed for _, _, changed in seen) > now - _GRAIN:
        options = {"allow_leakage": allow_leakage, "max_cache_bytes": max_cache_bytes}
        return open_folder(path, picture_size=picture_size, cache=cache, **options)
    return _opened(path, picture_size, cache, allow_leakage, max_cache_bytes, hash(seen))


@lru_cache(maxsize=KEPT)
def _opened(
    path: str,
    picture_size: int,
    cache: str,
    allow_leakage: bool,  # noqa: FBT001
    max_cache_bytes: int,
    seen: int,  # noqa: ARG001 - what is not the same is opened anew
) -> Data:
    options = {"allow_leakage": allow_leakage, "max_cache_bytes": max_cache_bytes}
    return open_folder(path, picture_size=picture_size, cache=cache, **options)


def _stamp(root: Path) -> frozenset[tuple[str, int, int]]:
    """Name, size and time of change of all in a folder and its folders; nothing if that is not all, or not readable."""
    found = set()
    try:
        above = list(os.scandir(root))
        below = [entry for folder in above if folder.is_dir() for entry in os.scandir(folder)]
        if any(entry.is_dir() for entry in below):
            return frozenset()
        for entry in (*above, *below):
            status = entry.stat()
            found.add((entry.path, status.st_size, status.st_mtime_ns))
    except OSError:
        return frozenset()
    return frozenset(found)
