"""Scores of captions against references: BLEU, CIDEr, ROUGE-L; and what the loss of tokens says."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from trainables.parts.ptb import ptb_tokenize
from trainables.parts.references import ORDERS, Counts, Order, References, count_ngrams, pair_key, reference_statistics
from trainables.parts.resampling import drawn_sums

_SIGMA = 6.0
"""CIDEr: width of the Gaussian that punishes a difference in length."""
_BETA = 1.2
"""ROUGE-L of COCO: weight of recall against precision."""


def score_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, cache: str = ""
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores a caption for each picture against the picture's references, over all pictures and for each.

    ``bleu_1`` to ``bleu_4`` (https://aclanthology.org/P02-1040), ``cider`` (https://arxiv.org/abs/1411.5726; the
    clipped variant, CIDEr-D) and ``rouge_l`` (https://aclanthology.org/W04-1013) equal those of pycocoevalcap on
    PTB-tokenised text. BLEU of the whole is no mean over pictures: matches and lengths are summed first. CIDEr weighs
    words by how rare they are in the references given here, so scores of different splits do not compare.

    The scores of single pictures come with ``bleu_words``, ``bleu_nearest`` (words of the reference that is nearest in
    length) and ``bleu_matched_1`` to ``bleu_matched_4``, whose sums make the BLEU of several pictures.

    ``rouge_l`` is one F with beta 1.2 over the best precision and the best recall, which may be of two references.
    ``rouge_l_precision``, ``rouge_l_recall`` and ``rouge_l_f1`` belong together: precision is the longest common
    subsequence over the words of the caption, recall over the words of the reference, F1 has beta 1; of a picture's
    references the one with the greatest F1 counts (the first of equals), and the whole is the mean over pictures.

    Args:
        cache: folder where what is computed of the references is kept; empty: in memory only.

    Raises:
        BadInput: no pictures, a picture without references, or a folder that cannot be written.
        TrainingFailure: the tokenizer cannot run.
    """
    statistics = reference_statistics(captions, references, cache=cache)
    tokens = ptb_tokenize(captions)
    counts = count_ngrams(tokens, statistics.words, statistics.tables)
    bleu, bleus, sums = _bleu(tokens, counts, statistics)
    each = {f"bleu_{order}": bleus[order - 1] for order in range(1, ORDERS + 1)}
    each["cider"] = _cider(counts, statistics)
    each |= _rouge(tokens, statistics)
    whole = {name: float(values.mean()) for name, values in each.items()}
    whole |= {f"bleu_{order}": bleu[order - 1] for order in range(1, ORDERS + 1)}
    each |= sums
    rows = zip(*(values.tolist() for values in each.values()), strict=True)
    return whole, [dict(zip(each, row, strict=True)) for row in rows]


def drawn_bleu(
    counts: Float[np.ndarray, "resamples samples"], records: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """BLEU of resamples, from what ``score_captions`` says of single pictures beside their scores.

    Args:
        counts: how often each picture was drawn.
        records: of all pictures.
    """
    names = [f"bleu_matched_{order}" for order in range(1, ORDERS + 1)]
    words, nearest, *matched = drawn_sums(counts, records, "bleu_words", "bleu_nearest", *names)
    lengths = np.array([record["bleu_words"] for record in records])
    possible = [counts @ np.maximum(0.0, lengths - order) for order in range(ORDERS)]
    found = bleu_formula(matched, possible, words, nearest)
    return {f"bleu_{order}": values for order, values in enumerate(found, 1)}


def token_metrics(nll: float, tokens: float | int, correct: float | int) -> dict[str, float]:
    """``val_loss`` (nats per token), ``perplexity`` and ``token_accuracy`` from sums over all tokens of a split."""
    assert tokens > 0, "no tokens to average over"
    loss = nll / tokens
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return {"val_loss": loss, "perplexity": perplexity, "token_accuracy": correct / tokens}


def drawn_token_metrics(
    counts: Float[np.ndarray, "resamples samples"], records: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """The same of resamples, from the ``nll``, ``tokens`` and ``correct`` of single samples.

    Args:
        counts: how often each sample was drawn.
        records: of all samples. A resample without any token has no numbers.
    """
    nll, tokens, correct = drawn_sums(counts, records, "nll", "tokens", "correct")
    with np.errstate(over="ignore", invalid="ignore"):
        loss = nll / tokens
        return {"val_loss": loss, "perplexity": np.exp(loss), "token_accuracy": correct / tokens}


def _matches(counts: Counts, order: Order) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of the captions stand in a reference of the same picture, and at which pair."""
    keys = pair_key(counts.text, counts.gram)
    place = np.searchsorted(order.pairs, keys)
    entry = np.flatnonzero(place < len(order.pairs))
    entry = entry[order.pairs[place[entry]] == keys[entry]]
    return entry, place[entry]


def _bleu(
    tokens: Sequence[str], counts: Sequence[Counts], references: References
) -> tuple[list[float], list[np.ndarray], dict[str, np.ndarray]]:
    """Of all texts, of each, and what is summed over texts."""
    words = np.array([len(text.split()) for text in tokens], np.float64)
    closest = [
        min(lengths, key=lambda length, own=own: (abs(length - own), length))
        for own, lengths in zip(words.tolist(), references.lengths, strict=True)
    ]
    nearest = np.array(closest, np.float64)
    matched, possible = [], []
    for order, count in enumerate(counts):
        entry, pair = _matches(count, references.orders[order])
        clipped = np.minimum(count.times[entry], references.orders[order].most[pair])
        matched.append(np.bincount(count.text[entry], clipped, minlength=len(tokens)))
        possible.append(np.maximum(0.0, words - order))
    whole = bleu_formula([m.sum() for m in matched], [p.sum() for p in possible], words.sum(), nearest.sum())
    sums = {f"bleu_matched_{order}": values.astype(np.float64) for order, values in enumerate(matched, 1)}
    each = bleu_formula(matched, possible, words, nearest)
    return [float(value) for value in whole], each, {"bleu_words": words, "bleu_nearest": nearest, **sums}


def bleu_formula(matched: Sequence, possible: Sequence, words: Any, nearest: Any) -> list[np.ndarray]:
    """BLEU-1, BLEU-2, … of each text, or of sums over some; the small numbers are pycocoevalcap's guard against zero.

    Args:
        matched: for each order, n-grams that stand in a reference too.
        possible: for each order, all n-grams.
        words: of the text.
        nearest: words of the reference that is nearest in length.
    """
    ratio = (words + 1e-15) / (nearest + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    product, result = 1.0, []
    for order, (hits, tries) in enumerate(zip(matched, possible, strict=True), 1):
        product = product * (hits + 1e-15) / (tries + 1e-9)
        result.append(np.asarray(product ** (1 / order) * brevity))
    return result


def _cider(counts: Sequence[Counts], references: References) -> np.ndarray:
    pictures, texts = len(references.lengths), len(references.picture)
    bigrams = np.bincount(counts[1].text, counts[1].times, minlength=pictures)
    penalty = np.exp(-((bigrams[references.picture] - references.bigrams) ** 2) / (2 * _SIGMA**2))
    total = np.zeros(texts)
    for count, order in zip(counts, references.orders, strict=True):
        idf = np.full(len(count.gram), math.log(pictures))
        known = count.gram < len(order.idf)
        idf[known] = order.idf[count.gram[known]]
        weight = count.times * idf
        norm = np.sqrt(np.bincount(count.text, weight**2, minlength=pictures))
        entry, pair = _matches(count, order)
        # each entry of a caption meets the entries of all references of its picture that have the n-gram
        number = order.start[pair + 1] - order.start[pair]
        place = np.repeat(order.start[pair] - np.cumsum(number) + number, number) + np.arange(number.sum())
        theirs = order.entry_weight[place]
        product = np.minimum(np.repeat(weight[entry], number), theirs) * theirs
        value = np.bincount(order.entry_text[place], product, minlength=texts)
        scale = norm[references.picture] * order.norm
        total += np.divide(value, scale, out=np.zeros(texts), where=scale > 0) * penalty
    return 10 / ORDERS * np.bincount(references.picture, total) / np.bincount(references.picture)


def _common(words: Iterable[str], masks: dict[str, int], ones: int, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Length of the longest common subsequence with each reference, a bit for each word of all of them.

    The bit-parallel recurrence of Hyyrö (2004). An empty bit between two references takes up the carry.
    """
    state = ones
    for word in words:
        if hit := state & masks.get(word, 0):
            state = ((state + hit) | (state - hit)) & ones
    return [length - (state >> offset & ((1 << length) - 1)).bit_count() for offset, length in spans]


def _rouge(tokens: Sequence[str], references: References) -> dict[str, np.ndarray]:
    rows = []
    for text, (masks, ones, spans) in zip(tokens, references.rouge, strict=True):
        words = text.split(" ")
        common = _common(words, masks, ones, spans)
        precision = max(common) / len(words)
        recall = max(length / span[1] for length, span in zip(common, spans, strict=True))
        coco = (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if precision and recall else 0.0
        if text:
            # F1 = 2 LCS / (words of the caption + words of the reference)
            f1s = [2 * length / (len(words) + span[1]) for length, span in zip(common, spans, strict=True)]
            best = max(range(len(spans)), key=f1s.__getitem__)
            rows.append((coco, common[best] / len(words), common[best] / spans[best][1], f1s[best]))
        else:  # no words: "".split(" ") has one, which pycocoevalcap counts and finds again in an empty reference
            rows.append((coco, 0.0, 0.0, 0.0))
    names = ("rouge_l", "rouge_l_precision", "rouge_l_recall", "rouge_l_f1")
    return dict(zip(names, np.array(rows).T, strict=True))
