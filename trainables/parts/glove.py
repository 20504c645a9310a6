"""How near captions come to their references in meaning, by GloVe's vectors of words."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from trainables.parts.kept_vectors import kept_vectors
from trainables.parts.ptb import ptb_tokenize
from trainables.parts.recorded_files import file_hash, file_state
from trainables.parts.references import reference_statistics
from vltune.contract import Scores, fingerprint
from vltune.errors import BadInput

_FIELD = "glove_file"
_OF_NUMBERS = b"0123456789+-.eE "


def glove_hash(path: str, recorded: str = "") -> str:
    """SHA-256 of a file of vectors, which must be the recorded one if there is one. All its lines are looked at.

    Raises:
        NotFound: there is no such file.
        BadInput: it cannot be read, a line of it is no vector, or it has changed.
    """
    found = file_hash(path, recorded, field=_FIELD)
    _check(*file_state(Path(path).expanduser()))
    return found


def score_glove(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, file: str, recorded: str, cache: str
) -> Scores:
    """``glove_similarity``: the cosine between the mean vector of a caption's words and that of a reference's words,
    and of that the mean over a picture's references (vectors: https://aclanthology.org/D14-1162).

    Words are those of the PTB tokenizer, in lower case and without punctuation. A word that the file does not have is
    left out of the mean; a text of which it has no word has the cosine 0 to any other.

    Args:
        captions: one for each picture.
        references: of each picture, one or more.
        file: of the vectors.
        recorded: its SHA-256, as recorded; empty if it is not known.
        cache: folder in which the references' tokens and directions stay; empty: in memory only.

    Raises:
        NotFound: there is no such file.
        BadInput: it has changed, or a line of it is no vector.
    """
    content, place = file_hash(file, recorded, field=_FIELD), Path(file).expanduser()
    known = [text for texts in reference_statistics(captions, references, cache=cache).tokens for text in texts]
    theirs = kept_vectors(
        f"glove-{fingerprint([content, known])}",
        rows=len(known),
        width=_width(place),
        cache=cache,
        build=lambda: _directions(known, place),
    )
    ours, values, start = _directions(ptb_tokenize(captions), place), [], 0
    for caption, texts in zip(ours, references, strict=True):
        values.append(float((theirs[start : start + len(texts)] @ caption).mean()))
        start += len(texts)
    return Scores(
        {"glove_similarity": float(np.mean(values))},
        [{"glove_similarity": value} for value in values],
    )


def _directions(texts: Sequence[str], file: Path) -> Float[np.ndarray, "texts width"]:
    """The mean vector of each text's words, of length 1; zeros where the file has none of them."""
    words = [text.split() for text in texts]
    vectors, found = _vectors(file, {word for own in words for word in own}), np.zeros((len(texts), _width(file)))
    for row, own in enumerate(words):
        known = [vectors[word] for word in own if word in vectors]
        mean = np.mean(known, 0) if known else found[row]
        found[row] = mean / (np.linalg.norm(mean) or 1.0)
    return found.astype(np.float32)


def _vectors(path: Path, words: Iterable[str]) -> dict[str, np.ndarray]:
    """The vectors of those words that the file has. Lines are read when their words are first asked for."""
    offsets, width = _index(*file_state(path)), _width(path)
    found = {}
    with path.open("rb") as file:
        for word in sorted(set(words) & offsets.keys(), key=offsets.__getitem__):
            file.seek(offsets[word])
            line = file.readline().decode("utf-8", "replace").split()
            try:
                found[word] = np.array(line[1:], np.float64)
            except ValueError:
                found[word] = np.zeros(0)
            if found[word].shape != (width,) or not np.isfinite(found[word]).all():
                raise _no_vector(path, word, width)
    return found


@functools.lru_cache(maxsize=4)
def _check(path: Path, size: int, changed: int) -> None:  # noqa: ARG001 - a file with others is another one
    for _ in _lines(path):
        pass


@functools.lru_cache(maxsize=2)
def _index(path: Path, size: int, changed: int) -> dict[str, int]:  # noqa: ARG001 - likewise
    """Where in the file the line of each word begins."""
    offsets: dict[str, int] = {}
    for word, place in _lines(path):
        offsets.setdefault(word.decode("utf-8", "replace"), place)
    return offsets


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """The words of a file, each with the place where its line begins. Numbers are looked at as text: to read them all
    would take minutes.

    Raises:
        BadInput: a line has fewer numbers than the first, or something else among them.
    """
    place, width = 0, _width(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip()
            spaces = text.count(b" ")
            if spaces < width:
                raise BadInput(
                    f"{_FIELD}={str(path)!r}:{number}: has {spaces} numbers, not {width} as the first line; correct it."
                )
            if spaces == width:  # GloVe's largest file has words with spaces in them, which no caption has
                word, _, numbers = text.partition(b" ")
                if numbers.translate(None, _OF_NUMBERS):
                    raise _no_vector(path, word.decode("utf-8", "replace"), width)
                yield word, place
            place += len(line)


def _no_vector(path: Path, word: str, width: int) -> BadInput:
    return BadInput(f"{_FIELD}={str(path)!r}: the line of {word!r} is not {width} finite numbers; correct it.")


def _width(path: Path) -> int:
    """Numbers of each vector, from the first line."""
    with path.open("rb") as file:
        first = file.readline(1 << 16).split()
    try:
        numbers = [float(part) for part in first[1:]]
    except ValueError:
        numbers = []
    if len(numbers) < 2:
        hint = "the first line is a head such as word2vec's; remove it" if len(numbers) == 1 else "take GloVe's text"
        raise BadInput(f"{_FIELD}={str(path)!r} does not begin with a word and its numbers: {hint}.")
    return len(numbers)
