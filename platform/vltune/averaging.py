"""The moving average of a model's weights, which is evaluated and kept in their place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from vltune.checkpoints import Corrupt


class WeightAverage:
    """An exponential moving average of weights, as in https://arxiv.org/abs/1703.01780.

    The first steps count more than ``decay`` would have it, (1 + step) / (10 + step), so that random first weights are
    soon forgotten. Statistics of batch normalisation are not averaged: they are averages already.
    """

    def __init__(self, weights: Sequence[Tensor], *, decay: float) -> None:
        self._weights, self._decay, self._steps = list(weights), decay, 0
        self._other = [weight.detach().clone() for weight in weights]
        """The average while training, the weights themselves while the average is in their place."""

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        weights = [weight.detach() for weight in self._weights]
        torch._foreach_lerp_(self._other, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the average in the weights' place meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def raw(self) -> dict[str, Tensor]:
        """The weights themselves while the average is in their place, and how many steps were taken in."""
        steps = torch.tensor(self._steps)
        return {"steps": steps, **{f"weight.{i}": weight for i, weight in enumerate(self._other)}}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from ``raw``, given weights that were loaded from the average.

        Raises:
            Corrupt: the tensors are of another model.
        """
        raw = [tensors.get(f"weight.{i}") for i in range(len(self._weights))]
        for i, (weight, given) in enumerate(zip(self._weights, raw, strict=True)):
            if given is None or given.shape != weight.shape:
                raise Corrupt(f"the weights behind the average do not fit the model at weight {i}")
            self._other[i].copy_(weight)
            weight.copy_(given)
        self._steps = int(tensors["steps"])

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, other in zip(self._weights, self._other, strict=True):
            kept = weight.detach().clone()
            weight.copy_(other)
            other.copy_(kept)
