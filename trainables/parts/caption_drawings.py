"""Drawings of captions: the best, the usual and the worst, and where a decoder looked for each word."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainables.parts.decoder import Decoder
from trainables.parts.text import END, START, CaptionTokenizer
from vltune.contract import Direction, Record, Sample
from vltune.drawings import Drawing, Pictures, Row, Tile

ATTENDED = 3
"""Pictures whose attention is drawn."""
_SHOWN_SCORES = ("cider", "bleu_4", "rouge_l", "bleu_1", "token_accuracy", "val_loss")
_LISTED_SCORES = 3
_REFERENCES = 2
_ACROSS = 8
_WORDS = 2 * _ACROSS - 1


def caption_gallery(
    samples: Sequence[Sample],
    records: Sequence[Record],
    *,
    objective: str,
    metrics: Mapping[str, Direction],
    of_each: int = 5,
) -> list[Drawing]:
    """The best, the median and the worst captions of a split, each with references and its own scores.

    Args:
        samples: with pictures; those that are shown are read.
        records: ``caption``, ``references`` and scores of each.
        objective: what they are ordered by; where single pictures have no such score, CIDEr, then any.
        metrics: which way each metric is better.
        of_each: pictures that are shown of the best, of the usual and of the worst, at most.
    """
    order, metric = _best_first(records, objective=objective, metrics=metrics)
    if not order:
        return []
    count = min(of_each, max(1, len(order) // 3))
    middle = max(0, (len(order) - count) // 2)
    groups = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    if len(order) < 3:
        groups = {"all": order}
    rows = [
        Row(title=f"{name} by {metric}", tiles=[_captioned(samples[i], records[i], metric) for i in chosen])
        for name, chosen in groups.items()
    ]
    return [
        Pictures(
            name="captions",
            title=f"Captions, ordered by {metric}",
            reads=f"In bold what the model wrote, below what people wrote and this picture's own scores; of "
            f"{len(order)} validation pictures.",
            rows=rows,
        )
    ]


def attention_drawings(
    decoder: Decoder,
    memory: Any,
    written: Int[Tensor, "pictures tokens"],
    shown: Sequence[Sample],
    tokenizer: CaptionTokenizer,
) -> list[Drawing]:
    """Where in the picture the decoder looked for each word that it wrote; nothing where pictures have one position.

    Args:
        decoder: that wrote.
        memory: what it prepared of the pictures.
        written: what it wrote, prompt and end included.
        shown: the pictures.
        tokenizer: its vocabulary.
    """
    rows = [tokens[: tokens.index(END)] if END in tokens else tokens for tokens in written.tolist()]
    captions = [(tokenizer.decode(row), [tokenizer.decode([word]) for word in row]) for row in rows]
    return attention_maps(shown, captions, word_attention(decoder, memory, written))


def attention_maps(
    shown: Sequence[Sample],
    captions: Sequence[tuple[str, Sequence[str]]],
    weights: Float[Tensor, "pictures tokens positions"],
) -> list[Drawing]:
    """A map over the picture for each word; nothing where positions make no square.

    Args:
        shown: the pictures.
        captions: of each picture, whole and word by word.
        weights: of the words, and perhaps of what stands behind them.
    """
    side = math.isqrt(weights.shape[2])
    if side < 2 or side * side != weights.shape[2]:
        return []
    rows: list[Row] = []
    for sample, (caption, words), heats in zip(shown, captions, weights.cpu().numpy(), strict=True):
        assert sample.picture is not None, "captions are of pictures"
        tiles = [Tile(picture=sample.picture, text="whole picture")]
        for word, heat in list(zip(words, heats, strict=False))[:_WORDS]:
            tiles.append(Tile(picture=sample.picture, heat=heat.reshape(side, side), text=word or "(unknown)"))
        cut = " (its first words)" if len(words) > _WORDS else ""
        rows.append(Row(title=(caption or "(empty)") + cut, tiles=tiles[:_ACROSS]))
        rows += [Row(tiles=tiles[_ACROSS:])] if tiles[_ACROSS:] else []
    return [
        Pictures(
            name="attention",
            title="Attention, word by word",
            reads="The decoder looked for a word where the picture shows through; where it shows a little everywhere, "
            "everything was looked at alike.",
            rows=rows,
        )
    ]


@torch.no_grad()
def word_attention(
    decoder: Decoder, memory: Any, written: Int[Tensor, "pictures tokens"]
) -> Float[Tensor, "pictures tokens positions"]:
    """The weights with which each token of captions was looked for, each token given those before it."""
    start = written.new_full((len(written), 1), START)
    inputs = torch.cat((start, written[:, :-1]), 1)
    return decoder.attention(memory, inputs[:, None]).squeeze(1).float()


def own_metric(records: Sequence[Record], objective: str) -> str:
    """What single records are ordered by: the objective, or what they have in its place; empty if nothing."""
    there = {key for key, value in records[0].items() if isinstance(value, float)} if records else set()
    return next((key for key in (objective, *_SHOWN_SCORES) if key in there), "")


def _best_first(
    records: Sequence[Record], *, objective: str, metrics: Mapping[str, Direction]
) -> tuple[list[int], str]:
    metric = own_metric(records, objective)
    if not metric:
        return [], ""
    sign = -1 if metrics.get(metric, "max") == "max" else 1
    values = [sign * float(record.get(metric, math.nan)) for record in records]
    # A stable order, with what is not finite at the end.
    return sorted(range(len(values)), key=lambda i: (not math.isfinite(values[i]), values[i])), metric


def _captioned(sample: Sample, record: Record, metric: str) -> Tile:
    picture = sample.picture if sample.picture is not None else np.full((8, 8, 3), 230, np.uint8)
    named = [key for key in dict.fromkeys((metric, *_SHOWN_SCORES)) if key in record][:_LISTED_SCORES]
    scores = ", ".join(f"{key}\u00a0{record[key]:.2f}" for key in named)
    references = [f"– {text}" for text in record.get("references", ())[:_REFERENCES]]
    return Tile(picture=picture, text=record["caption"] or "(empty)", details=[*references, scores])
