"""Pictures with what models say about them: which ones to show, so that one sees more than the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vltune.contract import Direction

BEST, USUAL, WORST, APART, SOME = "best", "usual", "worst", "apart", "some"
"""Why a picture is shown: by the models' mean score, because the models' scores lie apart, or for want of scores."""


@dataclass(frozen=True)
class GalleryItem:
    """One picture with what people and models say about it."""

    picture: np.ndarray
    """uint8, (height, width, 3)."""
    captions: Mapping[str, str]
    """Model -> its caption."""
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    """Model -> its caption's own score."""
    id: str = ""


def choose(scores: Mapping[str, Sequence[float]], direction: Direction, *, of_each: int) -> dict[str, list[str]]:
    """Which pictures to show: the best, the usual and the worst by the mean score, and where models differ most.

    No picture is chosen twice. Where scores are equal, the order in which the pictures come decides.

    Args:
        scores: picture's id -> its score by each model, all pictures by the same models; no scores: not known.
        direction: which way scores are better.
        of_each: pictures of each kind, at most; of few pictures there are fewer of each.

    Returns:
        Kind -> ids; kinds without pictures are left out.
    """
    means = {i: math.fsum(values) / len(values) for i, values in scores.items() if values}
    known = [i for i, mean in means.items() if math.isfinite(mean)]
    if len(known) < 3:
        some = {SOME: [*scores][: 3 * of_each]}
        return some if scores else {}
    sign = -1.0 if direction == "max" else 1.0
    order = sorted(known, key=lambda i: sign * means[i])
    several = len(scores[order[0]]) > 1
    count = max(1, min(of_each, len(order) // (4 if several else 3)))
    first = (len(order) - count) // 2
    chosen = {BEST: order[:count], USUAL: order[first : first + count], WORST: order[-count:]}
    taken = {i for ids in chosen.values() for i in ids}
    if several:
        range_of = {i: max(scores[i]) - min(scores[i]) for i in known if i not in taken}
        apart = sorted((i for i, size in range_of.items() if size > 0), key=lambda i: -range_of[i])
        chosen[APART] = apart[:count]
    return {kind: ids for kind, ids in chosen.items() if ids}
