"""What every text encoder can do: tokens in, a state for each token and one vector for each text out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from trainables.parts.text import PADDING


class EncodedTexts(NamedTuple):
    """What a text encoder makes of a batch of texts."""

    states: Tensor
    """(texts, tokens, width): a state for each token; those of padding mean nothing."""
    vectors: Tensor
    """(texts, width): a vector for each text."""


class TextEncoder(nn.Module, ABC):
    """Reads tokens that are filled up with ``PADDING``. What follows the last token of a text changes nothing."""

    width: int
    """Length of states and vectors."""
    embedding: nn.Embedding
    """A vector for each token of the vocabulary."""
    frozen = False

    @abstractmethod
    def forward(self, tokens: Int[Tensor, "texts tokens"]) -> EncodedTexts:
        """States and vectors of texts, each of at least one token."""

    def train(self, mode: bool = True) -> "TextEncoder":  # noqa: FBT001, FBT002 - as nn.Module has it
        """Sets the mode; a frozen encoder stays in evaluation."""
        return super().train(mode and not self.frozen)


def freeze_text(encoder: TextEncoder) -> TextEncoder:
    """Stops all learning of an encoder, and its dropout, and returns it."""
    encoder.frozen = True
    encoder.requires_grad_(requires_grad=False)
    return encoder.eval()


def token_embedding(words: int, width: int) -> nn.Embedding:
    """Vectors of tokens whose length is about one; that of padding is zero and stays so."""
    embedding = nn.Embedding(words, width, padding_idx=PADDING)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    with torch.no_grad():
        embedding.weight[PADDING] = 0
    return embedding


def mean_of_tokens(
    states: Float[Tensor, "texts tokens width"], real: Bool[Tensor, "texts tokens"]
) -> Float[Tensor, "texts width"]:
    """The mean of the states of real tokens, in single precision at least."""
    weights = real.to(torch.promote_types(states.dtype, torch.float32))[:, :, None]
    return (states * weights).sum(1) / weights.sum(1)
