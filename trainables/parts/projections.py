"""Vectors as points of the plane, for people to look at."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

PROJECTED = 300
"""Vectors that are projected at once, at most; t-SNE takes half a second for them."""
_FEWEST = 5
"""Vectors that t-SNE can make something of."""


def projections(groups: Mapping[str, Float[np.ndarray, "_ width"]]) -> dict[str, dict[str, Float[np.ndarray, "_ 2"]]]:
    """Groups of vectors in common projections: name of the projection -> group -> points.

    Principal components keep distances between far groups; t-SNE (van der Maaten and Hinton 2008,
    https://jmlr.org/papers/v9/vandermaaten08a.html) keeps neighbours. Both are the same whenever they are computed.

    Args:
        groups: vectors of equal length; of very few, there are principal components alone.
    """
    assert sum(map(len, groups.values())) <= PROJECTED, "take fewer"
    vectors = np.concatenate([*groups.values()]).astype(np.float64)
    found = {"principal components": _principal(vectors)}
    if len(vectors) >= _FEWEST and vectors.shape[1] > 1:
        found["t-SNE"] = _neighbours(vectors)
    ends = np.cumsum([len(group) for group in groups.values()])[:-1]
    return {name: dict(zip(groups, np.split(points, ends), strict=True)) for name, points in found.items()}


def _principal(vectors: Float[np.ndarray, "vectors width"]) -> Float[np.ndarray, "vectors 2"]:
    centred = vectors - vectors.mean(0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    points = (left * lengths)[:, :2]
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _neighbours(vectors: Float[np.ndarray, "vectors width"]) -> Float[np.ndarray, "vectors 2"]:
    from sklearn.manifold import TSNE  # slow to import

    # A start from principal components, as small as the paper's, keeps the places of far groups.
    start: Any = _principal(vectors)
    start = 1e-4 * start / max(start[:, 0].std(), 1e-12)
    # The exact method: the other one's tree of points ends the process where many are equal, as those of a model that
    # has collapsed are.
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, init=start, method="exact", perplexity=perplexity, max_iter=500, random_state=0)
    return tsne.fit_transform(vectors)
