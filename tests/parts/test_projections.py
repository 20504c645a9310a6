"""Vectors as points of the plane."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from trainables.parts.projections import projections


def groups(width: int = 8, count: int = 20) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"a": random.normal(size=(count, width)), "b": random.normal(size=(count, width)) + 8}


def test_principal_components_are_those_of_all_groups() -> None:
    given = groups()
    found = projections(given)["principal components"]
    wanted = PCA(2, svd_solver="full").fit_transform(np.concatenate([*given.values()]))
    drawn = np.concatenate([found["a"], found["b"]])
    np.testing.assert_allclose(np.abs(drawn), np.abs(wanted), atol=1e-8)


def test_neighbours_stay_neighbours_and_repeat() -> None:
    state = np.random.get_state()[1].copy()
    one, two = (projections(groups())["t-SNE"] for _ in range(2))
    np.testing.assert_array_equal(one["a"], two["a"])
    assert np.array_equal(state, np.random.get_state()[1]), "nobody else's draws change"
    points, labels = np.concatenate([one["a"], one["b"]]), np.repeat([0, 1], 20)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(40, np.inf))
    assert (labels[distances.argmin(1)] == labels).all()


@pytest.mark.parametrize(("width", "count"), [(8, 1), (1, 20), (1, 1), (2, 3)])
def test_few_or_short_vectors_are_points_too(width: int, count: int) -> None:
    for panel in projections(groups(width, count)).values():
        assert all(points.shape == (count, 2) and np.isfinite(points).all() for points in panel.values())


def test_equal_vectors_are_one_point() -> None:
    for panel in projections({"a": np.ones((6, 4))}).values():
        assert np.isfinite(panel["a"]).all()
