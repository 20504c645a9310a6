"""How well pictures find their texts and texts their pictures, over a whole split."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vltune.contract import Direction

DEPTHS = (1, 5, 10)
"""The k of recall at k."""
DIRECTIONS = ("text_to_picture", "picture_to_text")
TIE = 1e-6
"""Similarities that differ by no more are equal: rounding alone would separate equal embeddings."""

RETRIEVAL_METRICS: dict[str, Direction] = {
    **{f"{direction}_recall_at_{k}": "max" for direction in DIRECTIONS for k in DEPTHS},
    **dict.fromkeys((f"{direction}_median_rank" for direction in DIRECTIONS), "min"),
    "mean_recall": "max",
    "val_loss": "min",
    "modality_gap": "min",
}
"""What is measured, and which way is better. As everywhere in the field, the right texts of a picture are those that
were written for it: equal words that were written for another picture are wrong, so repeated captions cap recall.
"""

_AT_ONCE = 8_000_000
"""Similarities that lie in memory at the same time."""


class Comparison(NamedTuple):
    """What comes of comparing all pictures with all texts."""

    picture_ranks: Tensor
    """(pictures,): the place of a picture's best text among all texts of other pictures, from 1."""
    text_ranks: Tensor
    """(texts,): the place of a text's picture among all pictures, from 1."""
    to_text: Tensor
    """(texts,): negative log-probability of a text given its picture, among it and the texts of other pictures."""
    to_picture: Tensor
    """(texts,): negative log-probability of a text's picture, among all pictures."""


def score_retrieval(
    pictures: Float[Tensor, "pictures width"],
    texts: Float[Tensor, "texts width"],
    owners: Int[Tensor, " texts"],
    *,
    scale: float,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Recall, median rank, loss and modality gap of a split, and what of them exists for single pictures.

    A picture is found by the best of its texts, each text is a query for its one picture. Who is as similar as the
    right one comes before it: a model that embeds everything alike finds nothing.

    Args:
        pictures: normalised embeddings.
        texts: normalised embeddings.
        owners: the row of each text's picture; every picture has a text.
        scale: inverse of the temperature of ``val_loss``, which is InfoNCE over the whole split (``infonce``).
    """
    compared = compare_all(pictures, texts, owners, scale=scale)
    ranks = {"text_to_picture": compared.text_ranks, "picture_to_text": compared.picture_ranks}
    metrics = _recalls({direction: found.numpy() for direction, found in ranks.items()})
    losses = (_mean_of_texts(compared.to_text, owners) + _mean_of_texts(compared.to_picture, owners)) / 2
    gap = (pictures.double().mean(0) - texts.double().mean(0)).norm()
    metrics |= {"val_loss": losses.mean().item(), "modality_gap": gap.item()}
    order = owners.argsort(stable=True)
    of_pictures = np.split(compared.text_ranks[order].numpy(), owners.bincount().cumsum(0)[:-1].numpy())
    each = [
        _recalls({"text_to_picture": of_texts, "picture_to_text": np.array([rank])}) | {"val_loss": loss}
        for of_texts, rank, loss in zip(of_pictures, compared.picture_ranks.tolist(), losses.tolist(), strict=True)
    ]
    return metrics, each


def compare_all(
    pictures: Float[Tensor, "pictures width"],
    texts: Float[Tensor, "texts width"],
    owners: Int[Tensor, " texts"],
    *,
    scale: float,
) -> Comparison:
    """Ranks and losses of all pictures and texts against all, some pictures at a time."""
    right = (pictures[owners] * texts).sum(1)
    best = torch.full((len(pictures),), -torch.inf).scatter_reduce(0, owners, right, "amax")
    picture_ranks = torch.ones(len(pictures), dtype=torch.int64)
    text_ranks = torch.ones(len(texts), dtype=torch.int64)
    among_texts = torch.empty(len(pictures))
    among_pictures = torch.full((len(texts),), -torch.inf)
    size = max(1, _AT_ONCE // len(texts))
    for start in range(0, len(pictures), size):
        rows = slice(start, start + size)
        similar = pictures[rows] @ texts.T
        inside = (owners >= start) & (owners < start + size)
        similar[owners[inside] - start, inside.nonzero().squeeze(1)] = -torch.inf  # what is left are the wrong ones
        picture_ranks[rows] += (similar >= best[rows, None] - TIE).sum(1)
        text_ranks += (similar >= right - TIE).sum(0)
        similar *= scale
        among_texts[rows] = similar.logsumexp(1)
        among_pictures = among_pictures.logaddexp(similar.logsumexp(0))
    logits = scale * right
    return Comparison(
        picture_ranks,
        text_ranks,
        among_texts[owners].logaddexp(logits) - logits,
        among_pictures.logaddexp(logits) - logits,
    )


def _recalls(ranks: dict[str, np.ndarray]) -> dict[str, float]:
    """Recall and median rank in both directions, and the mean of all recalls."""
    recalls = {f"{way}_recall_at_{k}": float((found <= k).mean()) for way, found in ranks.items() for k in DEPTHS}
    medians = {f"{way}_median_rank": float(np.median(found)) for way, found in ranks.items()}
    return recalls | medians | {"mean_recall": math.fsum(recalls.values()) / len(recalls)}


def _mean_of_texts(values: Float[Tensor, " texts"], owners: Int[Tensor, " texts"]) -> Float[Tensor, " pictures"]:
    """For each picture the mean over its texts."""
    counts = owners.bincount()
    return torch.zeros(len(counts), dtype=torch.float64).index_add_(0, owners, values.double()) / counts
