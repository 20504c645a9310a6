"""Contrastive losses over matching pictures and texts, with the pictures and texts of all workers as negatives."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vltune.contract import Loss


class Pairs(NamedTuple):
    """Normalised embeddings of pictures and of their texts; a picture may have several."""

    pictures: Tensor
    """(pictures, width)."""
    texts: Tensor
    """(texts, width)."""
    owners: Tensor
    """(texts,): the row of each text's picture."""

    def shares(self) -> Float[Tensor, " texts"]:
        """What each text counts: all texts of a picture count as much as one text of another."""
        return 1 / self.owners.bincount(minlength=1)[self.owners]


class Gathered(NamedTuple):
    """The pairs of all workers, and where this worker's begin."""

    pairs: Pairs
    first_picture: int
    first_text: int


def gather_pairs(own: Pairs) -> Gathered:
    """The pairs of all workers, in their order. Gradients of what others make of this worker's pairs come back to it.

    Each worker's loss then is its own share of the sum, and the gradients of all workers add up to those of one that
    has the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return Gathered(own, 0, 0)
    count = torch.tensor([len(own.pictures), len(own.texts)], device=own.owners.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    pictures, texts = torch.stack(counts).T.tolist()
    rank = dist.get_rank()
    first_picture, first_text = sum(pictures[:rank]), sum(texts[:rank])
    gathered = Pairs(
        _Gather.apply(own.pictures, pictures),  # pyright: ignore[reportArgumentType] - torch types it too narrowly
        _Gather.apply(own.texts, texts),  # pyright: ignore[reportArgumentType]
        _gather(own.owners + first_picture, texts),
    )
    return Gathered(gathered, first_picture, first_text)


def infonce(
    own: Pairs,
    everyone: Gathered,
    *,
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""] | None,  # noqa: ARG001
) -> Loss:
    """Which text belongs to this picture, and which picture to this text: CLIP's symmetric cross-entropy.

    As in https://arxiv.org/abs/2103.00020. Where a picture has several texts, each is sought among those of other
    pictures: they are no negatives of each other.

    Args:
        own: this worker's pairs.
        everyone: those of all workers.
        scale: what cosines are multiplied by, the inverse of the temperature.
        bias: not used.
    """
    pairs, texts = everyone.pairs, torch.arange(len(own.texts), device=own.owners.device)
    owners, places = own.owners + everyone.first_picture, texts + everyone.first_text
    to_picture = F.cross_entropy(scale * own.texts @ pairs.pictures.T, owners, reduction="none")
    siblings = pairs.owners == owners[:, None]
    siblings[texts, places] = False
    logits = (scale * own.pictures @ pairs.texts.T)[own.owners].masked_fill(siblings, -torch.inf)
    to_text = F.cross_entropy(logits, places, reduction="none")
    shares = own.shares()
    return Loss((shares * (to_picture + to_text)).sum() / 2, shares.sum())


def sigmoid(own: Pairs, everyone: Gathered, *, scale: Float[Tensor, ""], bias: Float[Tensor, ""] | None) -> Loss:
    """Do this picture and this text belong together? Each pair is a question of its own, as in SigLIP.

    As in https://arxiv.org/abs/2303.15343: summed over texts, averaged over pictures.

    Args:
        own: this worker's pairs.
        everyone: those of all workers.
        scale: what cosines are multiplied by.
        bias: what is added then.
    """
    assert bias is not None, "most pairs do not match: without a bias, training begins with correcting that"
    pairs, pictures = everyone.pairs, torch.arange(len(own.pictures), device=own.owners.device)
    match = pairs.owners == (pictures + everyone.first_picture)[:, None]
    logits = scale * own.pictures @ pairs.texts.T + bias
    losses = -F.logsigmoid(torch.where(match, logits, -logits))
    return Loss((losses * pairs.shares()).sum(), own.shares().sum())


CONTRASTIVE_LOSSES = {f.__name__: f for f in (infonce, sigmoid)}


def _gather(rows: Tensor, counts: list[int]) -> Tensor:
    """Rows of all workers, which may have different numbers of them."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([some[:count] for some, count in zip(gathered, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """``_gather`` with gradients: those that all workers have for this worker's rows, summed."""

    @staticmethod
    def forward(ctx: Any, rows: Float[Tensor, "rows width"], counts: list[int]) -> Float[Tensor, "all_rows width"]:
        first = sum(counts[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))
        return _gather(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradients: Float[Tensor, "all_rows width"]) -> tuple[Float[Tensor, "rows width"], None]:
        gradients = gradients.contiguous()
        dist.all_reduce(gradients)
        return gradients[ctx.own], None
