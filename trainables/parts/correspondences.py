"""Correspondences: each position's nearest neighbour among the vectors of another picture, and how far off it is."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vltune.errors import BadInput

DISTANCES = ("cosine", "euclidean")
SCORES = ("feature", "cycle")
TOP = (10, 25, 50, 100)
"""Ranks at which the error is told: percent of the matches, the best-scored."""
_GRAIN = 1e-4
"""Distances are told apart to this share of the largest of their pair."""
_AT_ONCE = 1 << 23
"""Distances that are in memory at once, of one pair at least; each takes 8 bytes, a few times over."""


class Matches(NamedTuple):
    """For each position of the source its match in the target."""

    places: Int[Tensor, "pairs positions"]
    """Number of the match."""
    distances: Float[Tensor, "pairs positions"]
    """Of the two vectors, at least 0."""
    returns: Int[Tensor, "pairs positions"]
    """Where the match's own match lies in the source."""


def principal_components(
    source: Float[Tensor, "pairs positions width"], target: Float[Tensor, "pairs places width"], *, count: int
) -> tuple[Float[Tensor, "pairs positions components"], Float[Tensor, "pairs places components"]]:
    """The vectors of both pictures of each pair along the principal components of all positions of that pair.

    Fitted on the pair, nothing depends on other pairs, and both pictures share one basis. Where a pair has fewer
    positions than components asked for, there are as many as positions.

    Args:
        source: vectors of the first pictures.
        target: vectors of the second.
        count: components kept, the largest first. At least 1.

    Raises:
        BadInput: not fewer than the vectors are long.
    """
    positions, width = source.shape[1] + target.shape[1], source.shape[2]
    if count >= width:
        raise BadInput(
            f"pca_components={count} reduces nothing: this layer's vectors have {width} numbers; take fewer."
        )
    # In double precision: squares of small components would drown in the rounding of large ones.
    both = torch.cat((source, target), 1).double()
    both = both - both.mean(1, keepdim=True)
    if width <= positions:
        _, vectors = torch.linalg.eigh(both.mT @ both)
        found = both @ vectors[..., -count:]
    else:
        values, vectors = torch.linalg.eigh(both @ both.mT)
        found = vectors[..., -count:] * values[:, None, -count:].clamp(min=0).sqrt()
    found = found.flip(2).float()
    return found[:, : source.shape[1]], found[:, source.shape[1] :]


def match(
    source: Float[Tensor, "pairs positions width"], target: Float[Tensor, "pairs places width"], *, distance: str
) -> Matches:
    """The nearest neighbour of each of the source's vectors among the target's, and of that one in the source.

    Vectors that differ by rounding alone count as equal, and of equal ones the first is taken: what is found in a plain
    area would otherwise depend on how pairs are batched.

    Args:
        source: vectors of the first pictures.
        target: vectors of the second.
        distance: ``cosine`` (of vectors brought to length 1) or ``euclidean``.
    """
    at_once = max(1, _AT_ONCE // (source.shape[1] * target.shape[1]))
    parts = zip(source.split(at_once), target.split(at_once), strict=True)
    found = [_match(one, two, distance) for one, two in parts]
    return Matches(*(torch.cat(of_parts) for of_parts in zip(*found, strict=True)))


def in_order(
    matches: Matches, positions: Float[Tensor, "positions 2"], *, score: str
) -> tuple[Int[Tensor, "pairs positions"], Float[Tensor, "pairs positions"]]:
    """The numbers of the source's positions from the best-scored match to the worst, and the scores in that order.

    Args:
        matches: what ``match`` found.
        positions: where the source's positions lie in it.
        score: ``feature``, the negative distance of the two vectors, or ``cycle``, the negative distance between a
            position and where its match's match lies; of equal ones that with the nearer vector comes first.
    """
    order = torch.sort(matches.distances, dim=1, stable=True).indices
    scores = -matches.distances
    if score == "cycle":
        scores = -(positions[matches.returns] - positions).square().sum(2).sqrt()
        again = torch.sort(scores.gather(1, order), dim=1, stable=True, descending=True).indices
        order = order.gather(1, again)
    return order, scores.gather(1, order)


def error_metrics(errors: Float[np.ndarray, "pairs positions"], *, kept: float) -> dict[str, float]:
    """Mean and median error of the matches kept, and mean errors among the best-scored of each pair.

    Args:
        errors: distances from the true places, each pair's in the order of their scores; at least 0.
        kept: share of each pair's matches that mean and median count, the best-scored. In (0, 1].
    """
    count = errors.shape[1]
    best = errors[:, : _first(kept, count)]
    curve = {f"crop_error_top_{top}": float(errors[:, : _first(top / 100, count)].mean()) for top in TOP}
    return {"crop_error_mean": float(best.mean()), "crop_error_median": float(np.median(best)), **curve}


def _first(share: float, count: int) -> int:
    return max(1, round(share * count))


def _match(
    source: Float[Tensor, "pairs positions width"], target: Float[Tensor, "pairs places width"], distance: str
) -> Matches:
    # Double precision: what is left of the squares of near vectors would be rounding. Autocast leaves it alone.
    source, target = source.double(), target.double()
    if distance == "cosine":
        source, target = F.normalize(source, dim=2), F.normalize(target, dim=2)
    lengths = source.square().sum(2)[..., None] + target.square().sum(2)[:, None]
    distances = (lengths - 2 * source @ target.mT).clamp(min=0).sqrt()
    grain = _GRAIN * distances.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    grains = (distances / grain).round()
    # Of several smallest values argmin takes the first.
    places, back = grains.argmin(2), grains.argmin(1)
    nearest = grains.gather(2, places[..., None])[..., 0] * grain[..., 0]
    return Matches(places, nearest.float(), back.gather(1, places))
