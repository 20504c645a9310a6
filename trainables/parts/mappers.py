"""Mappers: from one embedding to the prefix that a decoder reads, a row of vectors."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.parts.transformer import EncoderLayer
from vltune.errors import BadInput


class MlpMapper(nn.Module):
    """One hidden layer with tanh, half as wide as the prefix, as in ClipCap (https://arxiv.org/abs/2111.09734)."""

    def __init__(self, *, width: int, prefix_length: int, prefix_width: int) -> None:
        super().__init__()
        whole = prefix_length * prefix_width
        self._shape = (prefix_length, prefix_width)
        self.layers = nn.Sequential(
            nn.Linear(width, max(1, whole // 2)), nn.Tanh(), nn.Linear(max(1, whole // 2), whole)
        )

    def forward(self, embeddings: Float[Tensor, "rows width"]) -> Float[Tensor, "rows prefix prefix_width"]:
        """The prefix of each embedding."""
        return self.layers(embeddings).unflatten(1, self._shape)


class TransformerMapper(nn.Module):
    """Self-attention over the embedding, cut into vectors, and over learned ones, which become the prefix.

    As in ClipCap (https://arxiv.org/abs/2111.09734): as many vectors are made of the embedding as the prefix has, the
    feed-forward networks are twice as wide as the vectors, and nothing is dropped out. Unlike there, queries have a
    bias.
    """

    def __init__(
        self, *, width: int, prefix_length: int, prefix_width: int, mapper_layers: int, mapper_heads: int
    ) -> None:
        super().__init__()
        if prefix_width % mapper_heads:
            raise BadInput(
                f"mapper_heads={mapper_heads} does not divide the width of the decoder's vectors, {prefix_width}; "
                f"change one."
            )
        self._shape = (prefix_length, prefix_width)
        self.cut = nn.Linear(width, prefix_length * prefix_width)
        self.learned = nn.Parameter(torch.randn(prefix_length, prefix_width))
        settings = {"heads": mapper_heads, "feedforward_width": 2 * prefix_width}
        self.layers = nn.Sequential(
            *(EncoderLayer(prefix_width, dropout=0.0, activation="relu", **settings) for _ in range(mapper_layers))
        )

    def forward(self, embeddings: Float[Tensor, "rows width"]) -> Float[Tensor, "rows prefix prefix_width"]:
        """The prefix of each embedding."""
        cut = self.cut(embeddings).unflatten(1, self._shape)
        learned = self.learned.to(cut.dtype).expand(len(cut), -1, -1)
        return self.layers(torch.cat((cut, learned), 1))[:, self._shape[0] :]


def build_mapper(
    name: str, *, width: int, prefix_length: int, prefix_width: int, mapper_layers: int, mapper_heads: int
) -> nn.Module:
    """A mapper from embeddings of ``width`` to prefixes of ``prefix_length`` vectors of ``prefix_width``.

    Raises:
        BadInput: the heads do not divide the vectors.
    """
    assert name in MAPPERS, name
    sizes = {"width": width, "prefix_length": prefix_length, "prefix_width": prefix_width}
    if name == "mlp":
        return MlpMapper(**sizes)
    return TransformerMapper(mapper_layers=mapper_layers, mapper_heads=mapper_heads, **sizes)


MAPPERS = ("mlp", "transformer")
