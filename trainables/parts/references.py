"""What caption scores need of a split's references: tokens and n-gram statistics, made once and kept on disk."""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from trainables.parts.ptb import ptb_tokenize
from vltune.cache import kept_bytes
from vltune.errors import BadInput

ORDERS = 4
"""N-grams have up to so many words."""

_VERSION = 1
"""Of what lies on disk: of the tokens, of the statistics, and of how they are written."""
_HELD: "dict[tuple[tuple[str, ...], ...], References]" = {}
_MOST_HELD = 4
"""Splits whose statistics stay in memory."""


@dataclass(frozen=True)
class Counts:
    """How often each n-gram of one order stands in each text; one entry for a text and an n-gram of it."""

    text: np.ndarray
    gram: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Order:
    """The references' n-grams of one order."""

    pairs: np.ndarray
    """Sorted keys of (picture, n-gram)."""
    most: np.ndarray
    """For each pair: the greatest count of the n-gram in one reference of the picture."""
    start: np.ndarray
    """For each pair: where its entries start in ``entry_text`` and ``entry_weight``; one more at the end."""
    entry_text: np.ndarray
    entry_weight: np.ndarray
    """CIDEr weight of the n-gram in the reference."""
    idf: np.ndarray
    """Of each n-gram."""
    norm: np.ndarray
    """Of each reference's vector."""


@dataclass(frozen=True)
class References:
    """All that the scores need of a split's references."""

    tokens: list[list[str]]
    """For each picture its references, tokenised and joined by spaces."""
    words: dict[str, int]
    """Their numbers, by when they come first."""
    tables: list[np.ndarray]
    """For orders 2 to 4: the sorted keys (n-gram without its last word, last word); a key's place is its number."""
    orders: list[Order]
    picture: np.ndarray
    """Of each reference."""
    bigrams: np.ndarray
    """Of each reference: their number is what CIDEr calls its length."""
    lengths: list[list[int]]
    """For each picture, words of its references."""
    rouge: list[tuple[dict[str, int], int, list[tuple[int, int]]]]
    """For each picture: bit masks of where each word stands, ones at all places, (offset, words) of each reference."""


def reference_statistics(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, cache: str = ""
) -> References:
    """What scores need of the references; computed once for a split, which stays the same from epoch to epoch.

    Args:
        captions: one for each picture, to be scored.
        references: of each picture.
        cache: folder where the result is kept for other processes; empty: in memory only.

    Raises:
        BadInput: no pictures, a picture without references, or a folder that cannot be written.
        TrainingFailure: the tokenizer cannot run.
    """
    assert len(captions) == len(references), "one caption for each picture"
    if not captions:
        raise BadInput("no captions to score: the split has no pictures.")
    if missing := [str(index) for index, texts in enumerate(references) if not texts]:
        raise BadInput(f"picture {missing[0]} of the split has no reference caption: every scored picture needs one.")
    texts = tuple(map(tuple, references))
    found = _HELD.pop(texts, None) or _made(texts, cache)
    _HELD[texts] = found
    while len(_HELD) > _MOST_HELD:
        _HELD.pop(next(iter(_HELD)))
    return found


def _made(references: Sequence[Sequence[str]], cache: str) -> References:
    if not cache:
        return _with_texts(_arrays(references))
    # Escaped, since a text may hold what UTF-8 does not.
    digest = hashlib.sha256(json.dumps([_VERSION, references]).encode()).hexdigest()
    return _with_texts(_read(kept_bytes(cache, f"references-{digest}", build=lambda: _written(_arrays(references)))))


def _written(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def _read(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)


def _arrays(references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """What is slow to make: it goes through Java, or through all n-grams."""
    flat = ptb_tokenize([text for texts in references for text in texts])
    numbers = np.array([len(texts) for texts in references])
    tables: list[np.ndarray] = []
    words = _vocabulary(flat)
    counts = count_ngrams(flat, words, tables, grow=True)
    sizes = [len(words), *map(len, tables)]
    picture = np.repeat(np.arange(len(references)), numbers)
    arrays: dict[str, Any] = {
        "tokens": np.frombuffer("\n".join(flat).encode(), np.uint8),
        "numbers": numbers,
        "bigrams": np.bincount(counts[1].text, counts[1].times, minlength=len(flat)),
    }
    arrays |= {f"table_{order}": table for order, table in enumerate(tables, 2)}
    for number, (count, size) in enumerate(zip(counts, sizes, strict=True), 1):
        order = _order(count, picture, size, len(references))
        arrays |= {f"order_{number}_{field.name}": getattr(order, field.name) for field in fields(Order)}
    return arrays


def _with_texts(arrays: dict[str, np.ndarray]) -> References:
    """Beside the arrays, what is quickly made from the tokens."""
    flat = arrays["tokens"].tobytes().decode().split("\n")
    ends = arrays["numbers"].cumsum().tolist()
    groups = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return References(
        tokens=groups,
        words=_vocabulary(flat),
        tables=[arrays[f"table_{order}"] for order in range(2, ORDERS + 1)],
        orders=[
            Order(**{field.name: arrays[f"order_{number}_{field.name}"] for field in fields(Order)})
            for number in range(1, ORDERS + 1)
        ],
        picture=np.repeat(np.arange(len(groups)), arrays["numbers"]),
        bigrams=arrays["bigrams"],
        lengths=[[len(text.split()) for text in group] for group in groups],
        rouge=[_masks(group) for group in groups],
    )


def _vocabulary(texts: Sequence[str]) -> dict[str, int]:
    words: dict[str, int] = {}
    for text in texts:
        for word in text.split():
            words.setdefault(word, len(words))
    return words


def _order(counts: Counts, picture: np.ndarray, size: int, pictures: int) -> Order:
    keys = pair_key(picture[counts.text], counts.gram)
    order = np.argsort(keys, kind="stable")
    pairs, start = np.unique(keys[order], return_index=True)
    most = np.maximum.reduceat(counts.times[order], start) if len(start) else np.zeros(0)
    seen = np.bincount(pairs & 0xFFFFFFFF, minlength=size)
    idf = math.log(pictures) - np.log(np.maximum(1.0, seen))
    weight = counts.times * idf[counts.gram]
    norm = np.sqrt(np.bincount(counts.text, weight**2, minlength=len(picture)))
    return Order(pairs, most, np.append(start, len(keys)), counts.text[order], weight[order], idf, norm)


def pair_key(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Two numbers below 2^31 and 2^32 as one that sorts by the first, then by the second."""
    return (high.astype(np.int64) << 32) | low


def count_ngrams(
    texts: Sequence[str], words: dict[str, int], tables: list[np.ndarray], *, grow: bool = False
) -> list[Counts]:
    """Counts of n-grams for orders 1 to 4. Words and n-grams that the references lack get numbers above theirs.

    Args:
        grow: fills ``tables``, for the references.
    """
    split = [text.split() for text in texts]
    foreign: dict[str, int] = {}
    numbers = (
        words[word] if word in words else foreign.setdefault(word, len(words) + len(foreign))
        for line in split
        for word in line
    )
    word = np.fromiter(numbers, np.int64)
    text = np.repeat(np.arange(len(split)), [len(line) for line in split])
    gram, result = word, [_counted(text, word)]
    for order in range(2, ORDERS + 1):
        last = order - 1
        inside = text[last:] == text[: max(len(text) - last, 0)]
        # gram[i] is the n-gram of the order before that starts at place i
        keys = pair_key(gram[: len(inside)], word[last:])
        if grow:
            tables.append(np.unique(keys[inside]))
        gram = _numbers(keys, tables[order - 2])
        result.append(_counted(text[: len(inside)][inside], gram[inside]))
    return result


def _numbers(keys: np.ndarray, table: np.ndarray) -> np.ndarray:
    place = np.searchsorted(table, keys)
    known = np.zeros(len(keys), bool)
    within = place < len(table)
    known[within] = table[place[within]] == keys[within]
    place[~known] = len(table) + np.unique(keys[~known], return_inverse=True)[1]
    return place


def _counted(text: np.ndarray, gram: np.ndarray) -> Counts:
    keys, times = np.unique(pair_key(text, gram), return_counts=True)
    return Counts(keys >> 32, keys & 0xFFFFFFFF, times.astype(np.float64))


def _masks(texts: Sequence[str]) -> tuple[dict[str, int], int, list[tuple[int, int]]]:
    masks: dict[str, int] = {}
    ones, offset, spans = 0, 0, []
    for text in texts:
        words = text.split(" ")
        for place, word in enumerate(words, offset):
            masks[word] = masks.get(word, 0) | 1 << place
        ones |= ((1 << len(words)) - 1) << offset
        spans.append((offset, len(words)))
        offset += len(words) + 1
    return masks, ones, spans
