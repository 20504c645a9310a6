"""How near captions come to their references in meaning, by GloVe's vectors of words."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from trainables.parts.ptb import ptb_tokenize
from vltune.checkpoints import sha256
from vltune.contract import Scores
from vltune.errors import BadInput, NotFound


def glove_hash(path: str, recorded: str = "") -> str:
    """SHA-256 of a file of vectors, which must be the recorded one if there is one. Its form is looked at too.

    Raises:
        NotFound: there is no such file.
        BadInput: it cannot be read, is no such file, or has changed.
    """
    found = _hash(*_stamp(path))
    if recorded and found != recorded:
        raise BadInput(
            f"glove_file={path!r} has changed since the trial was recorded: its hash is {found[:12]}…, not "
            f"{recorded[:12]}…; put the old file back, or train a new trial."
        )
    _width(path)
    return found


def score_glove(captions: Sequence[str], references: Sequence[Sequence[str]], *, file: str, recorded: str) -> Scores:
    """``glove_similarity``: the cosine between the mean vector of a caption's words and that of a reference's words,
    and of that the mean over a picture's references (vectors: https://aclanthology.org/D14-1162).

    Words are those of the PTB tokenizer, in lower case and without punctuation. A word that the file does not have is
    left out of the mean; a text of which it has no word has the cosine 0 to any other.

    Args:
        captions: one for each picture.
        references: of each picture, one or more.
        file: of the vectors.
        recorded: its SHA-256, as recorded; empty if it is not known.

    Raises:
        NotFound: there is no such file.
        BadInput: it has changed, or a line of it is no vector.
    """
    glove_hash(file, recorded)
    flat = [text.split() for text in ptb_tokenize([*captions, *(text for texts in references for text in texts)])]
    vectors = _vectors(file, {word for words in flat for word in words})
    width = _width(file)
    means = np.stack([_direction(words, vectors, width) for words in flat])
    theirs, values, place = means[len(captions) :], [], 0
    for caption, texts in zip(means, references, strict=False):
        values.append(float((theirs[place : place + len(texts)] @ caption).mean()))
        place += len(texts)
    return Scores(
        {"glove_similarity": float(np.mean(values))},
        [{"glove_similarity": value} for value in values],
    )


def _direction(words: Iterable[str], vectors: dict[str, np.ndarray], width: int) -> Float[np.ndarray, " width"]:
    known = [vectors[word] for word in words if word in vectors]
    mean = np.mean(known, 0) if known else np.zeros(width)
    length = float(np.linalg.norm(mean))
    return mean / length if length else mean


def _vectors(path: str, words: set[str]) -> dict[str, np.ndarray]:
    """The vectors of those words that the file has. Lines are read when their words are first asked for."""
    offsets, width = _index(*_stamp(path)), _width(path)
    found = {}
    with Path(path).expanduser().open("rb") as file:
        for word in sorted(words & offsets.keys(), key=offsets.__getitem__):
            file.seek(offsets[word])
            line = file.readline().decode("utf-8", "replace").split()
            try:
                found[word] = np.array(line[1:], np.float64)
            except ValueError:
                found[word] = np.zeros(0)
            if found[word].shape != (width,) or not np.isfinite(found[word]).all():
                raise BadInput(f"glove_file={path!r}: the line of {word!r} is not {width} finite numbers; correct it.")
    return found


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        place = Path(path).expanduser()
        status = place.stat()
    except OSError as error:
        raise NotFound(f"glove_file={path!r}: there is no such file; check the path.") from error
    if not place.is_file():
        raise BadInput(f"glove_file={path!r} is no file; give the text file of the vectors.")
    return str(place), status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _hash(path: str, size: int, changed: int) -> str:  # noqa: ARG001 - a file with others is another one
    try:
        return sha256(Path(path))
    except OSError as error:
        raise BadInput(f"glove_file={path!r}: cannot be read ({error.strerror}); check the file.") from error


@functools.lru_cache(maxsize=2)
def _index(path: str, size: int, changed: int) -> dict[str, int]:  # noqa: ARG001 - likewise
    """Where in the file the line of each word begins."""
    offsets, place, width = {}, 0, _width(path)
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            spaces = line.rstrip().count(b" ")
            if spaces < width:
                raise BadInput(
                    f"glove_file={path!r}:{number}: has {spaces} numbers, not {width} as the first line; correct it."
                )
            if spaces == width:  # GloVe's largest file has words with spaces in them, which no caption has
                offsets.setdefault(line[: line.index(b" ")].decode("utf-8", "replace"), place)
            place += len(line)
    return offsets


def _width(path: str) -> int:
    """Numbers of each vector, from the first line."""
    with Path(path).expanduser().open("rb") as file:
        first = file.readline(1 << 16).split()
    try:
        numbers = [float(part) for part in first[1:]]
    except ValueError:
        numbers = []
    if len(numbers) < 2:
        hint = "the first line is a head such as word2vec's; remove it" if len(numbers) == 1 else "take GloVe's text"
        raise BadInput(f"glove_file={path!r} does not begin with a word and its numbers: {hint}.")
    return len(numbers)
