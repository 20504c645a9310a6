"""Annotation files, read strictly: a fault is named with its file and place, and captions come out clean."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vltune.errors import BadInput

MAX_FILE_BYTES = 1 << 30
"""Largest annotation file; COCO's captions of 2014 have about 100 MB."""
MAX_WORDS = 100
"""Longest caption in words; the longest of COCO and Flickr30k stay below."""
MAX_CHARACTERS = 1000
"""Longest caption in characters."""
_CONTROL = ("Cc", "Cs")
"""Unicode's categories of control characters and of lone surrogates."""


@dataclass(frozen=True)
class Finding:
    """One fault of a data set."""

    kind: str
    """What is wrong: ``missing``, ``corrupt``, ``tiny``, ``duplicate_id``, ``duplicate_picture``, ``captionless``,
    ``leakage``, ``broken`` (a line or an item), ``outside``, ``unreadable`` (a whole file), ``split``."""
    where: str
    """The picture's or the file's name, with the line where there is one."""
    text: str
    """One line for a person."""


Report = Callable[[Finding], None]


def refuse(finding: Finding) -> None:
    """Stops at the first fault.

    Raises:
        BadInput: always.
    """
    raise BadInput(finding.text)


@dataclass
class Cleaner:
    """Cleans captions and counts what had to be done."""

    empty: int = 0
    cut: int = 0
    _notes: list[str] = field(default_factory=list)

    def clean(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Captions with single spaces, without control characters, of bounded length; empty ones are left out."""
        kept = []
        for text in texts:
            caption = clean_caption(text)
            short = " ".join(caption.split(" ")[:MAX_WORDS])[:MAX_CHARACTERS].rstrip()
            self.cut += short != caption
            self.empty += not short
            if short:
                kept.append(short)
        return tuple(kept)

    def notes(self) -> list[str]:
        """A line for each kind of change."""
        return [
            line
            for count, line in (
                (self.empty, f"{self.empty} empty captions dropped."),
                (self.cut, f"{self.cut} captions cut to {MAX_WORDS} words or {MAX_CHARACTERS} characters."),
            )
            if count
        ]


def clean_caption(text: str) -> str:
    """A caption on one line: any white space (U+2028 too) is one space, control characters and surrogates go."""
    text = " ".join(text.split())
    if text.isprintable():
        return text
    return " ".join("".join(" " if unicodedata.category(c) in _CONTROL or c == "\ufeff" else c for c in text).split())


def inside(name: str) -> bool:
    """Whether a picture's name from an annotation file stays in its folder.

    Only the name is looked at: links that the owner of the folder placed there lead where the owner wants.
    """
    return (
        bool(name)
        and not any(unicodedata.category(c) in _CONTROL for c in name)
        and "\\" not in name
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
    )


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers. Only a line feed ends a line.

    Raises:
        BadInput: the file cannot be read, or a line is not UTF-8.
    """
    # splitlines() would also split at U+2028 and U+0085, which occur inside captions.
    for number, raw in enumerate(_content(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            place = f"byte {error.start + 1} of the line"
            raise BadInput(f"{path}:{number}: is not UTF-8 ({place}); save the file as UTF-8.") from error
        if line.strip():
            yield number, line.removesuffix("\r")


def read_json(path: Path) -> Any:
    """The content of a JSON file in which no object has a key twice.

    Raises:
        BadInput: the file cannot be read, is not UTF-8 or not JSON, is nested too deep, or repeats a key.
    """
    raw = _content(path)
    try:
        text = raw.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}:{line}: is not UTF-8 (offset {error.start}); save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        what = "ends too early" if error.pos >= len(error.doc.rstrip()) else "is not JSON"
        place = f"offset {error.pos}, line {error.lineno}"
        raise BadInput(f"{path}: {what} ({error.msg} at {place}); get the file again.") from error
    except RecursionError as error:
        raise BadInput(f"{path}: is nested too deep (from offset {_deepest(raw)} on); get the file again.") from error
    except _Repeated as error:
        raise BadInput(f"{path}: {error}; remove one of the two, or get the file again.") from error
    except ValueError as error:
        raise BadInput(f"{path}: is not JSON that can be read ({error}); get the file again.") from error


def items(tree: Any, key: str, path: Path) -> list[Any]:
    """The list under a key of a JSON file.

    Raises:
        BadInput: there is none.
    """
    found = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(found, list):
        raise BadInput(f"{path}: has no list under {key!r}; get the file again.")
    return found


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadInput(f"{path}: has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. Split the data set.")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the file.") from error


class _Repeated(ValueError):
    """An object has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise _Repeated(
                    f"has the key {key!r} twice in one object, with {_short(seen[key])} and {_short(value)}"
                )
            seen[key] = value
    return table


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _deepest(raw: bytes) -> int:
    """Offset at which brackets are open 500 deep, a depth that no annotation file has."""
    depth = 0
    for match in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', raw):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(match.group(), 0)
        if depth == 500:
            return match.start()
    return 0
