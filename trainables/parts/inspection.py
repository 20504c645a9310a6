"""A data set looked over without training: everything that is wrong with it, and what is in it."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from trainables.parts.annotations import Finding, refuse
from trainables.parts.datasets import MAX_CORRUPT, content_hashes, damages, find_leaks, missing_pictures, split_entries
from trainables.parts.layouts import HELD_OUT, POOL, TEST, TRAIN, VALIDATION, Entry, read_listing
from trainables.parts.pictures import picture_shape
from vltune.errors import BadInput, NotFound


def validate_folder(path: str) -> list[Finding]:
    """Every fault of a data set, without stopping at the first.

    Raises:
        NotFound: there is no such folder.
    """
    findings: list[Finding] = []
    try:
        listing = read_listing(path, findings.append)
    except NotFound:
        raise
    except BadInput as error:
        return [*findings, Finding("unreadable", path, str(error))]
    findings += [_finding("captionless", entry, "has no caption") for entry in listing.entries if not entry.captions]
    absent = missing_pictures(listing.entries)
    findings += [_finding("missing", entry, "is missing") for entry in absent]
    gone = {entry.path for entry in absent}
    entries = [entry for entry in listing.entries if entry.path not in gone]
    hashes = content_hashes(path, entries)
    paths = list(hashes)
    bad = {}
    for picture, (_, reason) in zip(paths, damages(paths, size=32), strict=True):
        if reason:
            bad[picture] = reason
    for entry in entries:
        if entry.path in bad:
            reason = bad[entry.path]
            findings.append(_finding("tiny" if reason.startswith("is too small") else "corrupt", entry, reason))
    if len(bad) > MAX_CORRUPT * len(entries):
        share = (
            f"{len(bad)} of {len(entries)} pictures cannot be used, more than the {MAX_CORRUPT:.0%} that are skipped"
        )
        findings.append(Finding("corrupt", path, f"{path}: {share}."))
    sound = [entry for entry in entries if entry.path not in bad and entry.captions]
    findings += _twins(sound, hashes)
    for first, second, reason in find_leaks(sound, hashes):
        text = f"is the same by {reason} as {first.id!r} of {first.split}, but in {second.split}"
        findings.append(_finding("leakage", second, text))
    return findings + _empty_splits(path, sound)


def folder_stats(path: str, *, seed: int = 0, cache: str = "") -> dict[str, Any]:
    """What a data set holds, in plain values: counts, picture sizes in pixels, caption lengths in words.

    Args:
        path: the folder.
        seed: as for ``open_folder``, which shares out the pictures in the same way.
        cache: folder in which file hashes are remembered; empty for none.

    Raises:
        NotFound: there is no such folder.
        BadInput: annotations that cannot be read, or pictures that are missing.
    """
    listing = read_listing(path, refuse)
    entries = [entry for entry in listing.entries if entry.captions]
    absent = missing_pictures(entries)
    if absent:
        raise BadInput(f"{path}: {len(absent)} pictures are missing, the first is {absent[0].path}; add them.")
    entries, notes = split_entries(path, entries, content_hashes(path, entries, cache=cache), seed=seed)
    shapes, unreadable = [], 0
    for entry in entries:
        try:
            shapes.append(picture_shape(entry.path))
        except BadInput:
            unreadable += 1
    lengths, words = Counter(), Counter()
    for entry in entries:
        for caption in entry.captions:
            lengths[len(caption.split())] += 1
            words.update(re.findall(r"\w+(?:'\w+)?", caption.lower()))
    return {
        "name": listing.name,
        "pictures": len(entries),
        "unreadable": unreadable,
        "captions": sum(lengths.values()),
        "splits": {name: _counts(entries, name) for name in (TRAIN, VALIDATION, TEST)},
        "widths": [width for width, _ in shapes],
        "heights": [height for _, height in shapes],
        "caption_lengths": dict(sorted(lengths.items())),
        "vocabulary": len(words),
        "frequent_words": dict(words.most_common(20)),
        "notes": [*listing.notes, *notes],
    }


def _finding(kind: str, entry: Entry, text: str) -> Finding:
    return Finding(kind, entry.id, f"{entry.path}: {text}")


def _twins(entries: Iterable[Entry], hashes: dict[Any, str]) -> list[Finding]:
    """Pictures of one split with the same content; across splits it is leakage."""
    first: dict[tuple[str, str], Entry] = {}
    found = []
    for entry in entries:
        other = first.setdefault((entry.split, hashes[entry.path]), entry)
        if other is not entry:
            found.append(_finding("duplicate_picture", entry, f"has the same content as {other.path}"))
    return found


def _empty_splits(path: str, entries: Sequence[Entry]) -> list[Finding]:
    given = {entry.split for entry in entries}
    if POOL in given and len(entries) > 2:
        return []
    names = (TRAIN, HELD_OUT) if HELD_OUT in given else (TRAIN, VALIDATION, TEST)
    return [Finding("split", path, f"{path}: the split {n!r} is empty.") for n in names if n not in given]


def _counts(entries: Sequence[Entry], name: str) -> dict[str, int]:
    own = [entry for entry in entries if entry.split == name]
    return {"pictures": len(own), "captions": sum(len(entry.captions) for entry in own)}
