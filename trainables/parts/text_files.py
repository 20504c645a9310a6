"""Training text without pictures: a file with a caption on each line."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainables.parts.annotations import Cleaner, read_lines
from trainables.parts.layouts import comma_line
from trainables.parts.recorded_files import file_hash
from vltune.errors import BadInput

_HEAD = re.compile(r"image(_name)?\s*,\s*caption", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def read_text_file(path: str, recorded: str = "") -> tuple[list[str], list[str]]:
    """The captions of a text file, cleaned, and notes on what was cleaned.

    A line is a caption; where the first line is ``image,caption``, a line is the name of a picture, which is not read,
    and behind the first comma the caption, as in Flickr8k's ``captions.txt``.

    Args:
        path: of the file.
        recorded: SHA-256 of the file that a trial was recorded with; empty if it is not known.

    Raises:
        NotFound: there is no such file.
        BadInput: it has changed, cannot be read, is not UTF-8, or holds no caption.
    """
    text_file_hash(path, recorded)
    lines = list(read_lines(Path(path).expanduser()))
    cleaner = Cleaner()
    if lines and _HEAD.fullmatch(lines[0][1].strip()):
        texts = []
        for number, line in lines[1:]:
            parsed = comma_line(line)
            if parsed is None:
                raise BadInput(f"{path}:{number}: has no comma between picture and caption; correct the line.")
            texts.append(parsed[2])
    else:
        texts = [line for _, line in lines]
    captions = cleaner.clean(texts)
    if not captions:
        raise BadInput(f"text_file={path!r} holds no caption: put one on each line.")
    return [*captions], cleaner.notes()


def text_file_hash(path: str, recorded: str = "") -> str:
    """SHA-256 of a text file, which must be the recorded one if there is one.

    Raises:
        NotFound: there is no such file.
        BadInput: it cannot be read, or has changed.
    """
    return file_hash(path, recorded, field="text_file")


def without_known(texts: Sequence[str], known: Iterable[str]) -> list[str]:
    """The texts that are not among the known ones, whatever their case, spaces and punctuation."""
    held_out = {_words(text) for text in known}
    return [text for text in texts if _words(text) not in held_out]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))
