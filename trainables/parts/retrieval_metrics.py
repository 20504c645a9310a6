"""How well pictures find their texts and texts their pictures, over a whole split."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainables.parts.resampling import drawn_medians
from vltune.contract import Direction, Scores

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

DRAWN_WITH = dict.fromkeys(RETRIEVAL_METRICS.keys() - {"modality_gap"}, "queries are drawn, from among the same others")
"""``Family.drawn_with`` of families that retrieve."""

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
) -> Scores:
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
    totals = [part.double().numpy() for part in (pictures, _sums_of_texts(texts, owners))]
    texts_of = owners.bincount().numpy()
    text_ranks, picture_ranks = compared.text_ranks.numpy(), compared.picture_ranks.numpy()

    def resampled(counts: np.ndarray) -> dict[str, np.ndarray]:
        of_texts = {f"text_to_picture_{name}": values for name, values in _drawn(counts, text_ranks, owners.numpy())}
        whose = np.arange(len(picture_ranks))
        of_pictures = {f"picture_to_text_{name}": values for name, values in _drawn(counts, picture_ranks, whose)}
        recalls = [v for name, v in {**of_texts, **of_pictures}.items() if "_recall_at_" in name]
        centres = counts @ totals[0] / len(whose) - counts @ totals[1] / (counts @ texts_of)[:, None]
        means = {"mean_recall": np.mean(recalls, 0), "modality_gap": np.linalg.norm(centres, axis=1)}
        return {**of_texts, **of_pictures, **means}

    return Scores(metrics, each, resampled)


def _drawn(
    counts: Float[np.ndarray, "resamples pictures"],
    ranks: Int[np.ndarray, " queries"],
    owners: Int[np.ndarray, " queries"],
) -> Iterator[tuple[str, np.ndarray]]:
    """Recall and median rank of the queries of the pictures that were drawn; who they are ranked among stays."""
    of_pictures = [np.bincount(owners, ranks <= k) for k in (*DEPTHS, math.inf)]
    *found, queries = (counts @ np.stack(of_pictures, 1)).T
    for k, hits in zip(DEPTHS, found, strict=True):
        yield f"recall_at_{k}", hits / queries
    yield "median_rank", drawn_medians(counts, ranks.astype(np.float64), owners)


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
    return _sums_of_texts(values[:, None], owners)[:, 0] / owners.bincount()


def _sums_of_texts(
    values: Float[Tensor, "texts width"], owners: Int[Tensor, " texts"]
) -> Float[Tensor, "pictures width"]:
    """For each picture the sum over its texts."""
    sums = torch.zeros(len(owners.bincount()), values.shape[1], dtype=torch.float64)
    return sums.index_add_(0, owners, values.double())
