"""Noise against its distributions, against plain loops, and its independence of the batch."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from trainables.parts.noise import (
    NOISES,
    build_noise,
    cosine_directed,
    gaussian,
    gradient,
    none,
    student_t,
    towards_candidates,
    uniform_ball,
)
from vltune.errors import NotFound

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "noise_std": 0.1,
    "noise_radius": 0.5,
    "noise_df": 4.0,
    "noise_epsilon": 0.05,
    "noise_candidates": 20,
    "noise_beta": 0.1,
    "noise_threshold": 0.8,
}


def embeddings(count: int = 6, width: int = 24) -> torch.Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(5))
    return torch.nn.functional.normalize(drawn, dim=1)


def keys(count: int = 6) -> list[int]:
    return [int(key) for key in np.random.default_rng(9).integers(2**63, size=count)]


def differences(noise: Any, **settings: Any) -> np.ndarray:
    """20,000 numbers that were added to embeddings of 0."""
    zeros = torch.zeros(50, 400)
    return noise(zeros, keys(50), **settings).embeddings.double().numpy().flatten()


def test_gaussian_is_normal() -> None:
    added = differences(gaussian, noise_std=0.3)
    assert stats.kstest(added, stats.norm(scale=0.3).cdf).pvalue > 0.01
    assert stats.kstest(added, stats.norm(scale=0.31).cdf).pvalue < 0.01


@pytest.mark.parametrize("df", [1.0, 2.5, 3.0, 20.0])
def test_student_t_has_its_degrees_of_freedom(df: float) -> None:
    added = differences(student_t, noise_std=0.3, noise_df=df)
    assert stats.kstest(added, stats.t(df, scale=0.3).cdf).pvalue > 0.01
    assert stats.kstest(added, stats.t(df, scale=0.32).cdf).pvalue < 0.01


def test_student_t_can_be_normalised_whatever_its_tails() -> None:
    moved = student_t(torch.zeros(2000, 256), keys(2000), noise_std=1.0, noise_df=0.5).embeddings
    assert torch.nn.functional.normalize(moved, dim=1).isfinite().all()


def test_student_t_has_heavy_tails_and_no_infinite_values() -> None:
    added = differences(student_t, noise_std=1.0, noise_df=3.0)
    assert np.isfinite(added).all()
    assert (np.abs(added) > 6).mean() == pytest.approx(2 * stats.t(3).sf(6), rel=0.2)


@pytest.mark.parametrize("width", [1, 3, 16])
def test_a_ball_is_filled_evenly(width: int) -> None:
    added = uniform_ball(torch.zeros(4000, width), keys(4000), noise_radius=0.7).embeddings.double().numpy()
    # The share of a ball's volume inside a radius is (radius / whole)**width.
    shares = (np.linalg.norm(added, axis=1) / 0.7) ** width
    assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert np.abs(added.mean(0)).max() < 0.05


def test_gradient_goes_up_the_loss_by_a_step_of_given_length() -> None:
    x = embeddings().double()
    weight = torch.randn(24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return (at @ weight).sin().exp().sum()

    def loss_gradient(at: torch.Tensor) -> torch.Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]

    moved = gradient(x, keys(), loss_gradient=loss_gradient, noise_epsilon=0.01).embeddings
    for row in range(6):
        slopes = torch.zeros(24, dtype=torch.float64)
        for place in range(24):
            step = torch.zeros(24, dtype=torch.float64)
            step[place] = 1e-6
            slopes[place] = (loss(x[row : row + 1] + step) - loss(x[row : row + 1] - step)) / 2e-6
        torch.testing.assert_close(moved[row] - x[row], 0.01 * slopes / slopes.norm(), atol=1e-8, rtol=1e-5)
        assert loss(moved[row : row + 1]) > loss(x[row : row + 1])


def test_where_the_gradient_is_nothing_the_embedding_stays() -> None:
    noised = gradient(embeddings(), keys(), loss_gradient=torch.zeros_like, noise_epsilon=0.1)
    assert torch.equal(noised.embeddings, embeddings())


def directed_slowly(x: np.ndarray, drawn: np.ndarray, *, beta: float, threshold: float) -> tuple[np.ndarray, int]:
    """The five steps of the study, one candidate at a time: where to, and how many candidates passed."""
    candidates = [x + beta * noise for noise in drawn]
    passed = []
    for candidate in candidates:
        similarity = x @ candidate / (np.linalg.norm(x) * np.linalg.norm(candidate))
        if similarity > threshold:
            passed.append((similarity, candidate))
    if not passed:
        return x, 0
    total = sum(similarity for similarity, _ in passed)
    return x + sum(similarity / total * (candidate - x) for similarity, candidate in passed), len(passed)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_cosine_directed_is_the_plain_loop(scale: float) -> None:
    x = scale * embeddings().double()
    drawn = torch.randn(6, 40, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    beta, seen = scale * 0.2, set()
    noised = towards_candidates(x, drawn, beta=beta, threshold=0.72)
    for row in range(6):
        expected, passed = directed_slowly(x[row].numpy(), drawn[row].numpy(), beta=beta, threshold=0.72)
        np.testing.assert_allclose(noised.embeddings[row].numpy(), expected, atol=1e-12)
        assert noised.accepted[row].item() == passed / 40
        seen.add(passed)
    assert 0 < min(seen) < max(seen) < 40


def test_where_no_candidate_passes_the_embedding_stays() -> None:
    settings = SETTINGS | {"noise_threshold": 0.999}
    noised = build_noise("cosine_directed", **settings)(embeddings(), keys())
    assert torch.equal(noised.embeddings, embeddings())
    assert noised.accepted.tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("beta", "threshold", "share"),
    [(0.01, 0.9, (1.0, 1.0)), (0.05, 0.7, (0.02, 0.06)), (0.05, 0.75, (0.0, 0.001)), (0.1, 0.7, (0.0, 0.0))],
)
def test_what_passes_on_embeddings_of_512_numbers(beta: float, threshold: float, share: tuple[float, float]) -> None:
    settings = {"noise_candidates": 500, "noise_beta": beta, "noise_threshold": threshold}
    accepted = cosine_directed(embeddings(10, 512), keys(10), **settings).accepted.mean().item()
    assert share[0] <= accepted <= share[1]


@pytest.mark.parametrize("name", NOISES)
def test_a_text_gets_the_same_noise_in_any_batch(name: str) -> None:
    noise = build_noise(name, **SETTINGS)
    if name == "gradient":
        noise = functools.partial(noise, loss_gradient=torch.square)
    some = [3, 2**62, 3, 11, 12, 13]
    whole = noise(embeddings(), some)
    assert whole.embeddings.shape == (6, 24)
    for row in (0, 2, 5):
        alone = noise(embeddings()[row : row + 1], some[row : row + 1])
        torch.testing.assert_close(alone.embeddings[0], whole.embeddings[row])
        assert alone.accepted[0] == whole.accepted[row]
    moved = whole.embeddings - embeddings()
    assert bool(moved.any()) == (name != "none")
    if name in ("gaussian", "uniform_ball", "student_t"):
        torch.testing.assert_close(moved[0], moved[2])
        assert (moved[0] - moved[1]).abs().max() > 1e-3
    if name != "cosine_directed":
        assert whole.accepted.tolist() == [1.0] * 6


def test_many_candidates_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_noise("cosine_directed", **SETTINGS)(embeddings(), keys())
    monkeypatch.setattr("trainables.parts.noise._AT_ONCE", 2 * 20 * 24)
    parts = build_noise("cosine_directed", **SETTINGS)(embeddings(), keys())
    torch.testing.assert_close(parts.embeddings, whole.embeddings)
    assert torch.equal(parts.accepted, whole.accepted)


def test_no_noise_is_no_noise() -> None:
    assert torch.equal(none(embeddings(), keys()).embeddings, embeddings())
    with pytest.raises(NotFound, match="unknown noise 'gausian'; did you mean 'gaussian'"):
        build_noise("gausian", **SETTINGS)
