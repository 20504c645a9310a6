"""Losses over the tokens of captions: sums over everything that is not padding, and the number to divide them by."""

import functools
import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vltune.errors import lookup


def count_tokens(targets: Int[Tensor, "batch tokens"], *, padding: int) -> Int[Tensor, ""]:
    """The number of targets that are not padding."""
    return (targets != padding).sum()


def cross_entropy(
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int[Tensor, "batch tokens"],
    *,
    padding: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum of -log q(target).

    Args:
        padding: the target that counts nothing.
        label_smoothing: share of the target's probability that is spread evenly over the vocabulary, in [0, 1]
            (https://arxiv.org/abs/1512.00567).
    """
    return _surprise(logits, targets, padding=padding, label_smoothing=label_smoothing).sum()


def focal(
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int[Tensor, "batch tokens"],
    *,
    padding: int,
    focal_alpha: float = 0.25,
    focal_gamma: float = 2.0,
) -> Float[Tensor, ""]:
    """Sum of -alpha (1 - q)^gamma log q with q = q(target) (https://arxiv.org/abs/1708.02002).

    The paper weighs two classes with alpha and 1 - alpha. A vocabulary has no second class, so alpha scales the whole
    loss, as in the COCO Transformer study.

    Args:
        padding: the target that counts nothing.
        focal_alpha: factor of the loss, above 0.
        focal_gamma: how much less a token counts that is predicted well, at least 0; 0 gives alpha times cross-entropy.
    """
    surprise = _surprise(logits, targets, padding=padding)
    # -expm1 keeps 1 - q exact where q is nearly 1. The bound is for gamma in (0, 1): the slope of x^gamma is infinite
    # at 0, and padding and perfect predictions are at 0.
    missed = (-torch.expm1(-surprise)).clamp(min=torch.finfo(surprise.dtype).tiny)
    return (focal_alpha * missed**focal_gamma * surprise).sum()


def kl_divergence(
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int[Tensor, "batch tokens"],
    *,
    padding: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum of P log(P / Q), P being the one-hot targets after label smoothing and 0 log 0 = 0.

    It is cross-entropy less the entropy of P, which no weight changes: without label smoothing both are equal, with it
    their gradients are. Written so, P never takes memory.

    Args:
        padding: the target that counts nothing.
        label_smoothing: as for ``cross_entropy``.
    """
    vocabulary = logits.shape[-1]
    others = label_smoothing / vocabulary
    entropy = _entropy_term(1 - label_smoothing + others) + (vocabulary - 1) * _entropy_term(others)
    cross = cross_entropy(logits, targets, padding=padding, label_smoothing=label_smoothing)
    return cross - entropy * count_tokens(targets, padding=padding)


def build_loss(
    name: str, *, label_smoothing: float, focal_alpha: float, focal_gamma: float
) -> Callable[..., Float[Tensor, ""]]:
    """A loss of the table with those of the hyperparameters that it takes; call it with ``padding``.

    Raises:
        NotFound: there is no such loss.
    """
    loss = lookup(LOSSES, name, "loss")
    given = {"label_smoothing": label_smoothing, "focal_alpha": focal_alpha, "focal_gamma": focal_gamma}
    taken = inspect.signature(loss).parameters
    return functools.partial(loss, **{key: value for key, value in given.items() if key in taken})


def _surprise(
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int[Tensor, "batch tokens"],
    *,
    padding: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " positions"]:
    """-log q(target) of each token, 0 for padding; at least in float32, whatever the logits are."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(
        logits.flatten(0, 1),
        targets.flatten().long(),
        ignore_index=padding,
        label_smoothing=label_smoothing,
        reduction="none",
    )


def _entropy_term(probability: float) -> float:
    return -probability * math.log(probability) if probability > 0 else 0.0


LOSSES: dict[str, Callable[..., Float[Tensor, ""]]] = {f.__name__: f for f in (cross_entropy, focal, kl_divergence)}
