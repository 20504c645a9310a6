"""Losses against hand-computed cases, torch's own functions, numerical gradients and extreme logits."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from trainables.parts.losses import LOSSES, build_loss, count_tokens, cross_entropy, focal, kl_divergence
from vltune.errors import NotFound

torch.set_num_threads(1)
PADDING = 0


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 6, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, 11, (4, 6), generator=generator)
    targets[1, 4:] = PADDING
    targets[2, 1:] = PADDING
    return logits, targets


def distribution(targets: torch.Tensor, vocabulary: int, smoothing: float) -> torch.Tensor:
    return (1 - smoothing) * F.one_hot(targets, vocabulary).double() + smoothing / vocabulary


def test_hand_computed() -> None:
    """Two tokens predicted with probability 3/4 and 1/4 of a vocabulary of two, and one of padding."""
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(3), 0.0], [5.0, -5.0]]], dtype=torch.float64)
    targets = torch.tensor([[1, 1, 0]])
    nearly = functools.partial(pytest.approx, rel=1e-12)
    assert cross_entropy(logits, targets, padding=0).item() == nearly(math.log(4 / 3) + math.log(4))
    assert focal(logits, targets, padding=0, focal_alpha=0.25, focal_gamma=2.0).item() == nearly(
        0.25 * (1 / 16 * math.log(4 / 3) + 9 / 16 * math.log(4))
    )
    # P = (0.1, 0.9): the smoothed one-hot target.
    divergences = [0.1 * math.log(0.1 / (1 - q)) + 0.9 * math.log(0.9 / q) for q in (3 / 4, 1 / 4)]
    # Torch keeps the share of smoothing in float32.
    assert kl_divergence(logits, targets, padding=0, label_smoothing=0.2).item() == pytest.approx(
        sum(divergences), rel=1e-7
    )
    assert count_tokens(targets, padding=0).item() == 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_and_divergence_are_those_of_torch(sample, smoothing: float) -> None:
    logits, targets = sample
    real = targets != PADDING
    p, log_q = distribution(targets[real], 11, smoothing), logits[real].log_softmax(-1)
    torch.testing.assert_close(
        cross_entropy(logits, targets, padding=PADDING, label_smoothing=smoothing), -(p * log_q).sum()
    )
    torch.testing.assert_close(
        kl_divergence(logits, targets, padding=PADDING, label_smoothing=smoothing), F.kl_div(log_q, p, reduction="sum")
    )


def test_divergence_from_one_hot_targets_is_cross_entropy(sample) -> None:
    logits, targets = sample
    assert torch.equal(kl_divergence(logits, targets, padding=PADDING), cross_entropy(logits, targets, padding=PADDING))


def test_divergence_has_the_gradient_of_cross_entropy(sample) -> None:
    logits, targets = sample
    logits.requires_grad_()
    gradients = [
        torch.autograd.grad(loss(logits, targets, padding=PADDING, label_smoothing=0.1), logits)[0]
        for loss in (cross_entropy, kl_divergence)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_formula(sample, gamma: float) -> None:
    logits, targets = sample
    q = logits.softmax(-1).gather(-1, targets[..., None])[..., 0][targets != PADDING]
    expected = (-0.3 * (1 - q) ** gamma * q.log()).sum()
    torch.testing.assert_close(
        focal(logits, targets, padding=PADDING, focal_alpha=0.3, focal_gamma=gamma), expected, rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("padding", [0, -100])
def test_padding_changes_nothing(sample, name: str, padding: int) -> None:
    logits, targets = sample
    targets = targets.masked_fill(targets == PADDING, padding)
    logits.requires_grad_()
    loss = LOSSES[name](logits, targets, padding=padding)
    loss.backward()
    assert logits.grad is not None
    per_token = logits.grad.abs().sum(-1)
    assert torch.equal(per_token > 0, targets != padding)
    # A caption more or less of padding alone, and longer padding, are the same sum.
    wider = F.pad(logits.detach(), (0, 0, 0, 2), value=7.0), F.pad(targets, (0, 2), value=padding)
    torch.testing.assert_close(LOSSES[name](*wider, padding=padding), loss.detach())


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(cross_entropy, label_smoothing=0.1),
        functools.partial(kl_divergence, label_smoothing=0.1),
        functools.partial(focal, focal_gamma=2.0),
        functools.partial(focal, focal_gamma=0.5),
        functools.partial(focal, focal_gamma=0.0),
    ],
)
def test_gradients(sample, loss) -> None:
    logits, targets = sample
    logits = logits[:3, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, targets[:3, :3], padding=PADDING), logits)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 2.0])
def test_extreme_logits_stay_finite(name: str, scale: float, gamma: float) -> None:
    """One token is certainly right, one certainly wrong, one is padding."""
    logits = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]) * scale
    targets = torch.tensor([[1, 2, 0]])
    logits.requires_grad_()
    loss = build_loss(name, label_smoothing=0.0, focal_alpha=1.0, focal_gamma=gamma)(logits, targets, padding=0)
    loss.backward()
    assert loss.item() == pytest.approx(scale)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 1], torch.tensor([0.0, 1.0, -1.0]))
    assert logits.grad[0, [0, 2]].abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_summed_in_float32(name: str) -> None:
    """Five thousand tokens: in bfloat16 the sum would be off by percents."""
    logits = torch.randn(50, 100, 7, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.randint(1, 7, (50, 100), generator=torch.Generator().manual_seed(2))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = LOSSES[name](logits, targets, padding=0)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), LOSSES[name](logits.double(), targets, padding=0), rtol=1e-5, atol=0)


def test_build_loss_hands_each_its_own(sample) -> None:
    logits, targets = sample
    settings = {"label_smoothing": 0.2, "focal_alpha": 0.7, "focal_gamma": 1.5}
    for name, own in {
        "cross_entropy": {"label_smoothing": 0.2},
        "kl_divergence": {"label_smoothing": 0.2},
        "focal": {"focal_alpha": 0.7, "focal_gamma": 1.5},
    }.items():
        built = build_loss(name, **settings)(logits, targets, padding=PADDING)
        assert torch.equal(built, LOSSES[name](logits, targets, padding=PADDING, **own))
        assert not torch.equal(built, LOSSES[name](logits, targets, padding=PADDING))
    with pytest.raises(NotFound, match="unknown loss 'focl'; did you mean 'focal'"):
        build_loss("focl", **settings)
