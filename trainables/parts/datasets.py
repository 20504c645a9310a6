"""Opens a folder of pictures with captions as it is distributed: checked, split, decoded once."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from trainables.parts.annotations import refuse
from trainables.parts.layouts import HELD_OUT, POOL, TEST, TRAIN, VALIDATION, Entry, read_listing
from trainables.parts.pictures import read_picture
from vltune.cache import Stored, stored, write_text
from vltune.contract import Data, Sample, fingerprint
from vltune.errors import BadInput, NotFound

MAX_CACHE_BYTES = 20 * 10**9
MAX_CORRUPT = 0.01
"""Share of the pictures that may be damaged; they are skipped."""
_DECODER = 1
"""Goes up when ``read_picture`` gives other pixels than before, so that older caches are not read."""
_AT_ONCE = 256
_CHECK_SIZE = 64

Progress = Callable[[str, int, int], None]
"""What is done, how many of them, of how many."""
T = TypeVar("T")
R = TypeVar("R")


class PictureFiles(Sequence[np.ndarray]):
    """Pictures that are decoded each time they are asked for."""

    def __init__(self, paths: Sequence[Path], *, size: int) -> None:
        self._paths, self._size = paths, size

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [read_picture(path, size=self._size) for path in self._paths[index]]
        return read_picture(self._paths[index], size=self._size)


class StoredSample(Sample):
    """A sample whose picture is read when it is first asked for: captions alone cost no decoding."""

    def __init__(
        self,
        id: str,  # noqa: A002 - as the field is called
        picture: np.ndarray | Callable[[], np.ndarray] | None,
        captions: tuple[str, ...],
        features: np.ndarray | None = None,
    ) -> None:
        # Past the lock of a frozen dataclass, as its own __init__ does it.
        vars(self).update(id=id, captions=captions, features=features)
        vars(self)["_read" if callable(picture) else "picture"] = picture

    @cached_property
    def picture(self) -> np.ndarray | None:
        """uint8, (height, width, 3), RGB."""
        return vars(self)["_read"]()


class Split(Sequence[Sample]):
    """The samples of one split, in the order of their ids."""

    def __init__(self, entries: Sequence[Entry], rows: Sequence[int], pictures: Stored | PictureFiles) -> None:
        self._entries, self._rows, self._pictures = entries, rows, pictures

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        entry = self._entries[index]
        return StoredSample(entry.id, partial(self._pictures.__getitem__, self._rows[index]), entry.captions)


def open_folder(
    path: str,
    *,
    picture_size: int,
    cache: str,
    allow_leakage: bool = False,
    seed: int = 0,
    max_cache_bytes: int = MAX_CACHE_BYTES,
    progress: Progress | None = None,
) -> Data:
    """Opens a COCO, Flickr8k or Flickr30k folder, with Karpathy's splits where they are given.

    Args:
        path: the folder.
        picture_size: side of the decoded pictures in pixels, at least 1.
        cache: folder for decoded pictures and remembered file hashes.
        allow_leakage: take splits that share pictures, and say so in the notes.
        seed: shares out pictures where the folder gives no splits.
        max_cache_bytes: decoded pictures that would need more are decoded whenever they are read instead, and a note
            says so; 0: for who looks at few of them, without a note.
        progress: hears how far long work is; without it, a line on stderr every few seconds.

    Raises:
        NotFound: there is no such folder.
        BadInput: no known layout; broken annotations; missing pictures; too many damaged pictures; leakage; an
            empty split.
    """
    if picture_size < 1:
        raise BadInput(f"picture_size={picture_size} is out of range: it must be at least 1.")
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{cache}: the cache cannot be made ({error.strerror}); choose another folder.") from error
    progress = progress or _Spoken()
    listing = read_listing(path, refuse)
    notes = list(listing.notes)
    entries = [entry for entry in listing.entries if entry.captions]
    if len(entries) < len(listing.entries):
        notes.append(f"{len(listing.entries) - len(entries)} pictures without captions left out.")
    missing = missing_pictures(entries)
    if missing:
        raise BadInput(
            f"{path}: {len(missing)} of {len(entries)} pictures are missing, the first is {missing[0].path}; "
            "add them, or remove them from the annotations."
        )
    hashes = content_hashes(path, entries, cache=cache, progress=progress)
    order = {content: row for row, content in enumerate(sorted(set(hashes.values())))}
    files = {hashes[entry.path]: entry.path for entry in reversed(entries)}
    paths = [files[content] for content in order]
    pictures, remarks, note = _decoded(paths, list(order), picture_size, cache, max_cache_bytes, progress)
    notes += note
    corrupt = {content: remarks[row] for content, row in order.items() if row in remarks}
    entries, note = _without_corrupt(path, entries, hashes, corrupt)
    notes += note
    entries, note = split_entries(path, entries, hashes, seed=seed)
    notes += note
    leaks = find_leaks(entries, hashes)
    if leaks:
        first, second, reason = leaks[0]
        text = (
            f"{len(leaks)} pictures are in two splits, the first is {first.id!r} ({first.split}) and {second.id!r} "
            f"({second.split}), the same by {reason}"
        )
        if not allow_leakage:
            raise BadInput(f"{path}: {text}; remove them, or set allow_leakage=true.")
        notes.append(f"leakage allowed: {text}.")
    splits = {}
    for name in (TRAIN, VALIDATION, TEST):
        own = sorted((entry for entry in entries if entry.split == name), key=lambda entry: entry.id)
        if not own:
            raise BadInput(f"{path}: the split {name!r} is empty; each of the three needs at least one picture.")
        splits[name] = Split(own, [order[hashes[entry.path]] for entry in own], pictures)
    given = {entry.id: str(entry.path) for entry in entries}
    return Data(listing.name, data_hash(entries, hashes), splits, tuple(notes), given)


def missing_pictures(entries: Iterable[Entry]) -> list[Entry]:
    """Entries whose picture is not there."""
    return [entry for entry in entries if not entry.path.is_file()]


def content_hashes(
    path: str, entries: Sequence[Entry], *, cache: str = "", progress: Progress | None = None
) -> dict[Path, str]:
    """SHA-256 of each picture's file. With a cache folder, files that did not change are not read again."""
    root = Path(path).resolve()
    memory = Path(cache) / f"hashes-{fingerprint(str(root))}.json"
    known = _remembered(memory) if cache else {}
    found: dict[Path, str] = {}
    fresh: dict[str, list[int | str]] = {}
    work: dict[Path, tuple[str, int, int]] = {}
    for picture in dict.fromkeys(entry.path for entry in entries):
        name, status = os.path.relpath(picture.absolute(), root), picture.stat()
        old = known.get(name)
        if isinstance(old, list) and old[:2] == [status.st_size, status.st_mtime_ns] and len(old) == 3:
            found[picture] = str(old[2])
            fresh[name] = old
        else:
            work[picture] = (name, status.st_size, status.st_mtime_ns)
    now = time.time_ns()
    results = _pooled(_sha256, list(work), "reading pictures", progress)
    for (picture, (name, size, changed)), content in zip(work.items(), results, strict=True):
        found[picture] = content
        # A file of the last seconds may change again within the clock's grain.
        if now - changed > 2 * 10**9:
            fresh[name] = [size, changed, content]
    if cache and fresh != known:
        try:
            write_text(memory, json.dumps(fresh))
        except OSError as error:
            raise BadInput(f"{cache}: the cache cannot be written ({error.strerror}); choose another.") from error
    return found


def split_entries(
    path: str, entries: Sequence[Entry], hashes: Mapping[Path, str], *, seed: int
) -> tuple[list[Entry], list[str]]:
    """Shares out the pictures whose split is not given: 80/10/10, or halves of what is held out.

    The place of a picture follows from the seed and its content: equal pictures stay together, and one picture more
    or less moves few others.
    """
    shared, notes = [entry for entry in entries if entry.split not in (POOL, HELD_OUT)], []
    for kind in (POOL, HELD_OUT):
        open_entries = [entry for entry in entries if entry.split == kind]
        count = len(open_entries)
        if not count:
            continue
        if kind == POOL:
            if count < 3:
                raise BadInput(f"{path}: {count} pictures cannot be split in three; at least 3 are needed.")
            borders = {TRAIN: min(count * 8 // 10, count - 2), VALIDATION: max(1, count // 10)}
            notes.append(f"Split 80/10/10 by picture with seed {seed}: the folder gives none.")
        else:
            borders = {VALIDATION: max(1, count // 2)}
            notes.append(f"held-out pictures halved into validation and test with seed {seed}.")
        names = [name for name, number in borders.items() for _ in range(number)]
        names += [TEST] * (count - len(names))
        chosen: dict[str, str] = {}
        ordered = sorted(open_entries, key=lambda entry: (_drawn(seed, hashes[entry.path]), entry.id))
        for entry, name in zip(ordered, names, strict=True):
            shared.append(replace(entry, split=chosen.setdefault(hashes[entry.path], name)))
    return shared, notes


def find_leaks(entries: Sequence[Entry], hashes: Mapping[Path, str]) -> list[tuple[Entry, Entry, str]]:
    """Pairs of entries in different splits with the same id or the same content, and which of the two it is.

    Pictures that are still to be shared out between validation and test count as one split.
    """
    leaks = []
    by_id: dict[str, Entry] = {}
    by_content: dict[str, Entry] = {}
    for entry in entries:
        same_id = by_id.setdefault(entry.id, entry)
        same_content = by_content.setdefault(hashes[entry.path], entry)
        if same_id.split != entry.split:
            leaks.append((same_id, entry, "id"))
        elif same_content.split != entry.split:
            leaks.append((same_content, entry, "content"))
    return leaks


def data_hash(entries: Sequence[Entry], hashes: Mapping[Path, str]) -> str:
    """SHA-256 over ids, splits, contents and captions, wherever the folder lies and however its lists are ordered."""
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: (entry.split, entry.id)):
        line = json.dumps([entry.split, entry.id, hashes[entry.path], entry.captions])
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def damages(paths: Sequence[Path], *, size: int, progress: Progress | None = None) -> Iterator[tuple[np.ndarray, str]]:
    """Decodes pictures in threads: each picture, and why it cannot be decoded (its picture is black then)."""
    return _pooled(partial(_decode, size=size), paths, f"decoding pictures at {size}x{size}", progress)


def _decoded(
    paths: Sequence[Path], contents: list[str], size: int, cache: str, max_cache_bytes: int, progress: Progress
) -> tuple[Stored | PictureFiles, dict[int, str], list[str]]:
    """The pictures, remarks on those that are damaged, and notes."""
    key = fingerprint([_DECODER, contents])
    name, bytes_needed = f"pictures-{size}-{key}", len(paths) * size * size * 3
    there = (Path(cache) / f"{name}.arrow").is_file()
    free = bytes_needed if there else shutil.disk_usage(cache).free
    if bytes_needed <= min(max_cache_bytes, free):
        if bytes_needed > 10**9 and not there:
            progress(f"decoding into {bytes_needed / 1e9:.1f} GB in {cache}", 0, len(paths))
        build = partial(damages, paths, size=size, progress=progress)
        found = stored(cache, name, rows=len(paths), shape=(size, size, 3), dtype="uint8", build=build)
        return found, found.remarks, []
    found = PictureFiles(paths, size=size)
    remarks = _checked(paths, key, cache, progress)
    if not max_cache_bytes:
        return found, remarks, []
    rule = f"{max_cache_bytes / 1e9:.3g} GB are allowed" if bytes_needed > max_cache_bytes else "the disk has less"
    note = f"pictures are decoded whenever they are read: they would need {bytes_needed / 1e9:.3g} GB, {rule}."
    return found, remarks, [note]


def _checked(paths: Sequence[Path], key: str, cache: str, progress: Progress) -> dict[int, str]:
    """Remarks on damaged pictures: those of whoever decoded them before, at any size, else of small copies."""
    for file in sorted(Path(cache).glob(f"pictures-*-{key}.arrow")):
        size = int(file.stem.split("-")[1])
        build = partial(damages, paths, size=size, progress=progress)
        return stored(cache, file.stem, rows=len(paths), shape=(size, size, 3), dtype="uint8", build=build).remarks

    def check() -> Iterator[tuple[np.ndarray, str]]:
        for _, remark in damages(paths, size=_CHECK_SIZE, progress=progress):
            yield np.array([not remark], np.uint8), remark

    return stored(cache, f"checks-{key}", rows=len(paths), shape=(1,), dtype="uint8", build=check).remarks


def _without_corrupt(
    path: str, entries: Sequence[Entry], hashes: Mapping[Path, str], corrupt: Mapping[str, str]
) -> tuple[list[Entry], list[str]]:
    bad = [entry for entry in entries if hashes[entry.path] in corrupt]
    if not bad:
        return list(entries), []
    named = "; ".join(f"{entry.path} {corrupt[hashes[entry.path]].rstrip('.')}" for entry in bad[:20])
    named += f"; and {len(bad) - 20} more." if len(bad) > 20 else "."
    counted = f"{len(bad)} of {len(entries)} pictures cannot be used"
    if len(bad) > MAX_CORRUPT * len(entries):
        raise BadInput(
            f"{path}: {counted}, at most {MAX_CORRUPT:.0%} may be skipped; replace them or remove them from the "
            f"annotations. The first: {bad[0].path} {corrupt[hashes[bad[0].path]]}"
        )
    return [entry for entry in entries if hashes[entry.path] not in corrupt], [f"{counted} and were skipped: {named}"]


def _decode(path: Path, *, size: int) -> tuple[np.ndarray, str]:
    try:
        return read_picture(path, size=size), ""
    except NotFound:
        raise
    except BadInput as error:
        # Kept by content, so without the path.
        return np.zeros((size, size, 3), np.uint8), str(error).removeprefix(f"{path}: ")


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the file.") from error


def _drawn(seed: int, content: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{content}".encode(), digest_size=16).digest()


def _remembered(memory: Path) -> dict[str, object]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _pooled(work: Callable[[T], R], things: Sequence[T], what: str, progress: Progress | None) -> Iterator[R]:
    # In pieces: the pool would otherwise run ahead of a slow disk and fill the memory.
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(things), _AT_ONCE):
            yield from pool.map(work, things[start : start + _AT_ONCE])
            if progress:
                progress(what, min(start + _AT_ONCE, len(things)), len(things))


class _Spoken:
    """Says on stderr every five seconds how far long work is."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._last > 5 or not done:
            self._last = time.monotonic()
            sys.stderr.write(f"{what}: {done:,} of {total:,}\n")
