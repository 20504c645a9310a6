"""How much the captions of a model differ from one another: self-BLEU, distinct n-grams, words used."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from trainables.parts.metrics import bleu_formula
from trainables.parts.ptb import ptb_tokenize
from trainables.parts.references import ORDERS
from trainables.parts.sentences import similarities
from vltune.contract import Scores


def score_diversity(captions: Sequence[str]) -> Scores:
    """``self_bleu``, ``distinct_1``, ``distinct_2`` and ``vocabulary_used`` of all captions of a split.

    Self-BLEU is the mean over captions of the BLEU-4 of each against all others
    (https://arxiv.org/abs/1802.01886), distinct-n the number of different n-grams over that of all
    (https://aclanthology.org/N16-1014), the vocabulary the number of different words, as
    https://arxiv.org/abs/1703.10476 and https://aclanthology.org/C18-1147 count it. Words are those of the PTB
    tokenizer.

    Self-BLEU has a value for each caption; the others are of the whole, and of splits of unequal size they do not
    compare: who writes more repeats more.

    Args:
        captions: one for each picture.
    """
    words = [text.split() for text in ptb_tokenize(captions)]
    each = self_bleus(words)
    used = len({word for text in words for word in text})
    whole = {
        "self_bleu": float(each.mean()),
        "distinct_1": distinct(words, order=1),
        "distinct_2": distinct(words, order=2),
    }
    return Scores({**whole, "vocabulary_used": float(used)}, [{"self_bleu": value} for value in each.tolist()])


def score_samples(
    samples: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    model: str,
    model_hash: str,
    cache: str,
) -> Scores:
    """How near several sampled captions of a picture come to its references, and how they differ from one another.

    ``samples_similarity`` is the mean cosine of sentence embeddings over all pairs of a sample and a reference, as the
    study of noise for text-only captioning compares its models. ``samples_self_bleu``, ``samples_distinct_1`` and
    ``samples_distinct_2`` are those of a picture's samples alone, and of that the mean over pictures
    (https://arxiv.org/abs/1703.10476 calls them mBLEU and Div-n).

    Args:
        samples: of each picture, two or more.
        references: of each picture, one or more.
        model: name or folder of the model that embeds sentences.
        model_hash: of its files, as recorded.
        cache: folder in which the references' embeddings stay; empty: nowhere.

    Raises:
        NotFound: the model is not there.
        BadInput: it is another one, or no such model.
    """
    near = similarities(samples, references, model=model, model_hash=model_hash, cache=cache)
    flat, place, rows = [text.split() for text in ptb_tokenize([t for texts in samples for t in texts])], 0, []
    for value, texts in zip(near.tolist(), samples, strict=True):
        words = flat[place : place + len(texts)]
        rows.append(
            {
                "samples_similarity": value,
                "samples_self_bleu": float(self_bleus(words).mean()),
                "samples_distinct_1": distinct(words, order=1),
                "samples_distinct_2": distinct(words, order=2),
            }
        )
        place += len(texts)
    return Scores({name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, rows)


def distinct(texts: Sequence[Sequence[str]], *, order: int) -> float:
    """Different n-grams over all n-grams of some texts; 0 where there are none."""
    grams = [gram for words in texts for gram in _grams(words, order)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleus(texts: Sequence[Sequence[str]]) -> Float[np.ndarray, " texts"]:
    """BLEU-4 (https://aclanthology.org/P02-1040) of each text against all others; 0 where there is no other.

    A text of fewer than four words has BLEU of its own length: it has no 4-gram to match, and would count as unlike the
    very same text.

    An n-gram may be matched as often as it stands in that other text which has it most often, so for each n-gram the
    two greatest counts are enough: a text's own is not asked.
    """
    if len(texts) < 2:
        return np.zeros(len(texts))
    lengths = [len(words) for words in texts]
    nearest = np.array(_nearest(lengths), np.float64)
    words = np.array(lengths, np.float64)
    orders = range(1, ORDERS + 1)
    matched = [np.array(_matched([Counter(_grams(text, order)) for text in texts]), np.float64) for order in orders]
    possible = [np.maximum(0.0, words - order + 1) for order in orders]
    scores = np.stack(bleu_formula(matched, possible, words, nearest))
    return scores[np.clip(words.astype(np.int64), 1, ORDERS) - 1, np.arange(len(texts))]


def _grams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [*zip(*(words[start:] for start in range(order)), strict=False)]


def _matched(counts: Sequence[Counter[tuple[str, ...]]]) -> list[int]:
    """Of each text, how many of its n-grams another one has, each at most as often as the text that has it most."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for count in counts:
        for gram, times in count.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (max(first, times), max(min(first, times), second))
    return [
        sum(min(times, most[gram][1] if times == most[gram][0] else most[gram][0]) for gram, times in count.items())
        for count in counts
    ]


def _nearest(lengths: Sequence[int]) -> list[int]:
    """Of each length, the nearest among the others; of two that are equally near the smaller."""
    times = Counter(lengths)
    nearest = {
        own: min(
            (other for other in times if other != own or times[own] > 1),
            key=lambda other, own=own: (abs(other - own), other),
        )
        for own in times
    }
    return [nearest[own] for own in lengths]
