"""Matches against plain loops, principal components against NumPy, errors against arithmetic."""

import math

import numpy as np
import pytest
import torch

from trainables.parts.correspondences import Matches, error_metrics, in_order, match, principal_components
from trainables.parts.crops import grid_positions
from vltune.errors import BadInput

torch.set_num_threads(1)
CPU = torch.device("cpu")


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def slow_distance(one: np.ndarray, two: np.ndarray, distance: str) -> float:
    if distance == "cosine":
        one, two = one / math.sqrt(sum(one**2)), two / math.sqrt(sum(two**2))
    return math.sqrt(sum((one - two) ** 2))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_matches_and_their_returns_are_those_of_a_loop(distance: str) -> None:
    source, target = vectors(3, 16, 5), 2 * vectors(3, 25, 5, seed=1) + 0.5
    found = match(source, target, distance=distance)
    for pair in range(3):
        ours, theirs = source[pair].double().numpy(), target[pair].double().numpy()
        for i in range(16):
            to = [slow_distance(ours[i], other, distance) for other in theirs]
            place = int(np.argmin(to))
            back = int(np.argmin([slow_distance(own, theirs[place], distance) for own in ours]))
            assert (found.places[pair, i], found.returns[pair, i]) == (place, back)
            assert found.distances[pair, i].item() == pytest.approx(to[place], rel=1e-3)


def test_cosine_does_not_see_lengths_and_euclidean_does() -> None:
    source, target = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[9.0, 1.0], [1.0, 0.9]]])
    assert match(source, target, distance="cosine").places.item() == 0
    assert match(source, target, distance="euclidean").places.item() == 1


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_of_equal_vectors_the_first_is_taken_whatever_is_rounded(distance: str) -> None:
    target = (10 + vectors(1, 6, 64)).repeat_interleave(4, 1)
    source = target[:, ::4]
    for noise in (0, 1, 2):
        shaken = target * (1 + 1e-7 * vectors(*target.shape, seed=noise))
        found = match(source, shaken, distance=distance)
        assert found.places.tolist() == [[0, 4, 8, 12, 16, 20]]
        assert found.distances.max() == 0


def test_many_positions_are_matched_pair_by_pair() -> None:
    source, target = vectors(3, 2100, 4), vectors(3, 2100, 4, seed=1)
    whole = match(source, target, distance="euclidean")
    for pair in range(3):
        expected = torch.cdist(source[pair].double(), target[pair].double()).argmin(1)
        assert (whole.places[pair] == expected).float().mean() > 0.99


def test_pictures_of_one_colour_have_matches_too() -> None:
    found = match(torch.zeros(1, 4, 3), torch.zeros(1, 9, 3), distance="cosine")
    assert found.places.tolist() == [[0, 0, 0, 0]]
    assert found.distances.tolist() == [[0, 0, 0, 0]]


def test_matching_keeps_its_precision_under_autocast() -> None:
    source, target = vectors(2, 9, 32), vectors(2, 16, 32, seed=1)
    plain = match(source, target, distance="euclidean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for one, two in zip(plain, match(source, target, distance="euclidean"), strict=True):
            torch.testing.assert_close(one, two)


def test_the_order_of_scores_by_hand() -> None:
    # Two by two positions; the returns are 0, 1 and 2 steps away, and none.
    matches = Matches(
        torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0.3, 0.1, 0.2, 0.9]]), torch.tensor([[0, 0, 1, 3]])
    )
    order, scores = in_order(matches, grid_positions(2, device=CPU), score="feature")
    assert order.tolist() == [[1, 2, 0, 3]]
    assert scores[0].tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.9])
    order, scores = in_order(matches, grid_positions(2, device=CPU), score="cycle")
    # Two come back to themselves: of these the nearer vector is first.
    assert order.tolist() == [[0, 3, 1, 2]]
    assert scores[0].tolist() == pytest.approx([0, 0, -0.5, -math.sqrt(0.5)])


@pytest.mark.parametrize("width", [6, 40])  # narrower and wider than the 25 positions of a pair
def test_components_are_those_of_a_singular_value_decomposition(width: int) -> None:
    scale = torch.linspace(3, 0.1, width)
    source, target = vectors(2, 9, width) * scale + 5, vectors(2, 16, width, seed=1) * scale + 5
    found = torch.cat(principal_components(source, target, count=4), 1)
    for pair in range(2):
        both = torch.cat((source, target), 1)[pair].double().numpy()
        left, values, _ = np.linalg.svd(both - both.mean(0), full_matrices=False)
        expected = left[:, :4] * values[:4]
        signs = np.sign((expected * found[pair].numpy()).sum(0))
        np.testing.assert_allclose(found[pair], expected * signs, atol=1e-4)


def test_components_of_a_pair_are_its_own() -> None:
    source, target = vectors(4, 9, 12), vectors(4, 9, 12, seed=1)
    whole = match(*principal_components(source, target, count=3), distance="euclidean")
    alone = match(*principal_components(source[2:3], target[2:3], count=3), distance="euclidean")
    assert torch.equal(whole.places[2:3], alone.places)


def test_components_that_reduce_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="pca_components=12 reduces nothing: this layer's vectors have 12 numbers"):
        principal_components(vectors(1, 4, 12), vectors(1, 4, 12), count=12)


def test_errors_by_hand() -> None:
    errors = np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [2.0, 2, 2, 2, 2, 30, 30, 30, 30, 30]])
    found = error_metrics(errors, kept=0.4)
    assert found == {
        "crop_error_mean": (0 + 1 + 2 + 3 + 4 * 2) / 8,
        "crop_error_median": 2,
        "crop_error_top_10": 1,
        "crop_error_top_25": (0 + 1 + 2 + 2) / 4,
        "crop_error_top_50": 2,
        "crop_error_top_100": (45 + 160) / 20,
    }
    assert error_metrics(errors, kept=0.001)["crop_error_mean"] == 1
