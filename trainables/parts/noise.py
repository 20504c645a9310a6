"""Noise on the embeddings of texts, so that a decoder trained on them also reads those of pictures.

Everything is drawn from keys, one for each text: a text gets the same noise in whatever batch, and on whatever worker,
it is read. The keys seed a generator on the embeddings' own device, which draws candidates by the hundred thousand
several times faster than NumPy does, and without carrying them there.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vltune.errors import lookup

_AT_ONCE = 1 << 24
"""Numbers that are drawn at once."""


class Noised(NamedTuple):
    """What noise made of embeddings."""

    embeddings: Float[Tensor, "texts width"]
    accepted: Float[Tensor, " texts"]
    """Share of a text's draws that were kept. 1 for noise that rejects nothing."""


def none(embeddings: Float[Tensor, "texts width"], keys: Sequence[int]) -> Noised:
    """The embeddings as they are."""
    assert len(keys) == len(embeddings)
    return _kept(embeddings)


def gaussian(embeddings: Float[Tensor, "texts width"], keys: Sequence[int], *, noise_std: float) -> Noised:
    """Adds independent normal numbers, as CapDec does (https://arxiv.org/abs/2211.00575).

    Args:
        embeddings: of texts.
        keys: a number for each text, which decides its draws.
        noise_std: their standard deviation, at least 0. CapDec's own setting is named by its square.
    """
    return _kept(embeddings + noise_std * _drawn(torch.randn, embeddings, keys))


def uniform_ball(embeddings: Float[Tensor, "texts width"], keys: Sequence[int], *, noise_radius: float) -> Noised:
    """Adds a vector that is uniform in a ball, as an option of CapDec's code does.

    Args:
        embeddings: of texts.
        keys: a number for each text, which decides its draws.
        noise_radius: of the ball, at least 0. In many dimensions nearly all vectors lie close to its surface.
    """
    width = embeddings.shape[1]

    def draw(*shape: int, generator: torch.Generator, device: torch.device) -> Tensor:
        direction = normalize(torch.randn(*shape, generator=generator, device=device), dim=-1)
        return direction * torch.rand(1, generator=generator, device=device) ** (1 / width)

    return _kept(embeddings + noise_radius * _drawn(draw, embeddings, keys))


def student_t(
    embeddings: Float[Tensor, "texts width"], keys: Sequence[int], *, noise_std: float, noise_df: float
) -> Noised:
    """Adds independent numbers of Student's t-distribution, whose tails are heavier than the normal one's.

    Drawn by Bailey's polar method (https://doi.org/10.2307/2153537), which takes any degrees of freedom.

    Args:
        embeddings: of texts.
        keys: a number for each text, which decides its draws.
        noise_std: what the numbers are multiplied by, at least 0. It is a scale: the standard deviation is
            sqrt(df / (df - 2)) times as large, and infinite up to two degrees of freedom.
        noise_df: degrees of freedom, at least 0.5; many come close to ``gaussian``.
    """

    def draw(*shape: int, generator: torch.Generator, device: torch.device) -> Tensor:
        u, v = torch.rand(2, *shape, generator=generator, device=device)
        # 1 - u lies in (0, 1]; expm1 keeps the digits of small numbers.
        radius = (noise_df * torch.expm1(-2 / noise_df * torch.log1p(-u))).sqrt()
        return radius * torch.cos(2 * math.pi * v)

    return _kept(embeddings + noise_std * _drawn(draw, embeddings, keys))


def gradient(
    embeddings: Float[Tensor, "texts width"],
    keys: Sequence[int],
    *,
    loss_gradient: Callable[[Float[Tensor, "texts width"]], Float[Tensor, "texts width"]],
    noise_epsilon: float,
) -> Noised:
    """Moves each embedding by a step of fixed length along the gradient of the loss there.

    The step goes up the loss, as in adversarial training (https://arxiv.org/abs/1412.6572; on embeddings of text
    https://arxiv.org/abs/1605.07725): the decoder learns to read what it reads worst. An embedding whose gradient is 0
    stays.

    Args:
        embeddings: of texts.
        keys: not used; nothing is random here.
        loss_gradient: the gradient of the training loss at given embeddings.
        noise_epsilon: length of the step, at least 0.
    """
    assert len(keys) == len(embeddings)
    return _kept(embeddings + noise_epsilon * normalize(loss_gradient(embeddings), dim=-1))


def cosine_directed(
    embeddings: Float[Tensor, "texts width"],
    keys: Sequence[int],
    *,
    noise_candidates: int,
    noise_beta: float,
    noise_threshold: float,
) -> Noised:
    """Moves each embedding by the mean offset of those of its noisy candidates that still point its way.

    Of the candidates x + beta * (normal numbers), those are kept whose cosine with x is above the threshold, and x is
    moved by the mean of their offsets, weighted by their cosines. Where no candidate passes, x stays as it is. On
    embeddings of unit length the cosine is about 1 / sqrt(1 + beta**2 * width), whatever the embedding.

    Args:
        embeddings: of texts.
        keys: a number for each text, which decides its draws.
        noise_candidates: of each text, at least 1.
        noise_beta: standard deviation of the candidates' offsets, above 0.
        noise_threshold: cosine above which a candidate is kept, in [0, 1).
    """
    at_once = max(1, _AT_ONCE // (noise_candidates * embeddings.shape[1]))
    parts = []
    for start in range(0, len(embeddings), at_once):
        some = embeddings[start : start + at_once]
        drawn = _drawn(torch.randn, some, keys[start : start + at_once], noise_candidates)
        parts.append(towards_candidates(some, drawn, beta=noise_beta, threshold=noise_threshold))
    moved, accepted = zip(*parts, strict=True)
    return Noised(torch.cat(moved), torch.cat(accepted))


def towards_candidates(
    embeddings: Float[Tensor, "texts width"],
    drawn: Float[Tensor, "texts candidates width"],
    *,
    beta: float,
    threshold: float,
) -> Noised:
    """What ``cosine_directed`` makes of given draws; the candidates themselves are never written down."""
    length = embeddings.square().sum(-1, keepdim=True)
    along = (drawn @ embeddings[:, :, None]).squeeze(-1)
    norm = (length + 2 * beta * along + beta**2 * drawn.square().sum(-1)).clamp(min=0).sqrt()
    cosine = (length + beta * along) / (length.sqrt() * norm).clamp(min=torch.finfo(norm.dtype).tiny)
    kept = cosine > threshold
    weight = cosine * kept
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(norm.dtype).tiny)
    offset = beta * (weight[:, None] @ drawn).squeeze(1)
    return Noised(embeddings + offset, kept.to(embeddings.dtype).mean(-1))


def build_noise(
    name: str,
    *,
    noise_std: float,
    noise_radius: float,
    noise_df: float,
    noise_epsilon: float,
    noise_candidates: int,
    noise_beta: float,
    noise_threshold: float,
) -> Callable[..., Noised]:
    """A noise of the table with those of the hyperparameters that it takes; ``gradient`` wants ``loss_gradient`` too.

    Raises:
        NotFound: there is no such noise.
    """
    noise = lookup(NOISES, name, "noise")
    given = {
        "noise_std": noise_std,
        "noise_radius": noise_radius,
        "noise_df": noise_df,
        "noise_epsilon": noise_epsilon,
        "noise_candidates": noise_candidates,
        "noise_beta": noise_beta,
        "noise_threshold": noise_threshold,
    }
    taken = inspect.signature(noise).parameters
    return functools.partial(noise, **{key: value for key, value in given.items() if key in taken})


def _drawn(
    draw: Callable[..., Tensor], like: Float[Tensor, "texts width"], keys: Sequence[int], *rows: int
) -> Float[Tensor, "texts *rows width"]:
    """Draws of each text, (texts, width) or (texts, rows, width), each from its own key."""
    assert len(keys) == len(like)
    generator = torch.Generator(like.device)
    shape = (*rows, like.shape[1])
    drawn = [draw(*shape, generator=generator.manual_seed(key), device=like.device) for key in keys]
    return torch.stack(drawn).to(like.dtype) if drawn else like.new_zeros(0, *shape)


def _kept(embeddings: Float[Tensor, "texts width"]) -> Noised:
    return Noised(embeddings, embeddings.new_ones(len(embeddings)))


NOISES: dict[str, Callable[..., Noised]] = {
    f.__name__: f for f in (none, gaussian, uniform_ball, student_t, gradient, cosine_directed)
}
