"""The Transformer caption decoder, and its layers."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainables.parts.decoder import Decoder, word_embedding
from vltune.errors import BadInput, lookup

KeysValues = tuple[Tensor, Tensor]
"""Each (rows, heads, positions, width of a head)."""


@dataclass(frozen=True)
class TransformerState:
    """Where each row of a Transformer decoder stands: the keys and values of the tokens so far, a pair for a layer."""

    memory: tuple[KeysValues, ...]
    past: tuple[KeysValues, ...]
    length: int


class TransformerDecoder(Decoder):
    """Self-attention over the picture's positions, then layers that attend to the words before and to the picture.

    As in https://arxiv.org/abs/1706.03762, but normalised before each sub-layer, which trains without warm-up. The
    picture's positions get no position embedding: an encoder's features know their borders.
    """

    def __init__(
        self,
        *,
        width: int,
        words: int,
        max_tokens: int,
        embedding_width: int,
        encoder_layers: int,
        decoder_layers: int,
        heads: int,
        feedforward_width: int,
        dropout: float,
        activation: str,
        positions: str,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self._max_tokens, self._checkpointing = max_tokens, gradient_checkpointing
        factors = {"heads": heads, "feedforward_width": feedforward_width, "dropout": dropout, "activation": activation}
        self.picture = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embedding_width))
        self.encoder = nn.ModuleList(EncoderLayer(embedding_width, **factors) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(embedding_width)
        self.embedding = word_embedding(words, embedding_width)
        self.positions = lookup(POSITIONS, positions, "positions")(max_tokens, embedding_width)
        self.decoder = nn.ModuleList(DecoderLayer(embedding_width, **factors) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(embedding_width)
        self.dropout = nn.Dropout(dropout)
        self.words = nn.Linear(embedding_width, words)

    def prepare(self, features: Float[Tensor, "pictures positions width"]) -> tuple[KeysValues, ...]:
        """Keys and values of the encoded positions, for each decoder layer."""
        x = self.dropout(self.picture(features))
        for layer in self.encoder:
            x = self._run(layer, x)
        x = self.encoder_norm(x)
        return tuple(layer.look.keys_values(x) for layer in self._layers())

    def hidden(
        self, memory: tuple[KeysValues, ...], tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens hidden"]:
        """The normalised output of the last layer."""
        x = self._embed(tokens, first=0)
        for layer, looked_at in zip(self.decoder, memory, strict=True):
            x, _ = self._run(layer, x, looked_at)
        return self.decoder_norm(x)

    def attention(
        self, memory: tuple[KeysValues, ...], tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens positions"]:
        """The last layer's weights, averaged over its heads."""
        x = self._embed(tokens, first=0)
        *layers, last = self._layers()
        for layer, looked_at in zip(layers, memory[:-1], strict=True):
            x, _ = layer(x, looked_at)
        x, _ = last.hear(x)
        weights = last.look.weights(last.look_norm(x).flatten(1, 2), memory[-1][0])
        return weights.unflatten(1, tokens.shape[1:])

    def start(self, memory: tuple[KeysValues, ...]) -> TransformerState:
        """No tokens yet."""
        return TransformerState(memory, (), 0)

    def step(
        self, tokens: Int[Tensor, "pictures rows"], state: TransformerState
    ) -> tuple[Float[Tensor, "pictures rows words"], TransformerState]:
        """One token in every row; the tokens before are kept as keys and values."""
        x = self._embed(tokens[:, :, None], first=state.length)
        past = []
        for i, (layer, looked_at) in enumerate(zip(self._layers(), state.memory, strict=True)):
            x, present = layer(x, looked_at, state.past[i] if state.past else None)
            past.append(present)
        logits = self.words(self.decoder_norm(x.squeeze(2)))
        return logits, replace(state, past=tuple(past), length=state.length + 1)

    def reorder(self, state: TransformerState, source: Int[Tensor, "pictures new_rows"]) -> TransformerState:
        """Keys and values of other rows."""
        if not state.past:
            return state
        rows = len(state.past[0][0]) // len(source)
        flat = (source + rows * torch.arange(len(source), device=source.device)[:, None]).flatten()
        return replace(state, past=tuple((keys[flat], values[flat]) for keys, values in state.past))

    def _layers(self) -> "list[DecoderLayer]":
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def _run(self, layer: nn.Module, *inputs: Any) -> Any:
        if self._checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def _embed(self, tokens: Int[Tensor, "pictures rows tokens"], *, first: int) -> Tensor:
        end = first + tokens.shape[2]
        if end > self._max_tokens:
            raise BadInput(
                f"a caption of {end} tokens is too long for max_tokens={self._max_tokens}; shorten the prompt or "
                f"train with a larger max_tokens."
            )
        words = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(words + self.positions(torch.arange(first, end, device=tokens.device)))


class Attention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def keys_values(self, x: Float[Tensor, "rows positions width"]) -> KeysValues:
        """What queries are compared with, and what they get."""
        keys, values = self.key_value(x).chunk(2, -1)
        return self._split(keys), self._split(values)

    def forward(
        self, x: Float[Tensor, "rows queries width"], attended: KeysValues, *, causal: bool = False
    ) -> Float[Tensor, "rows queries width"]:
        """For each query the values, weighted; ``causal`` shows it only those at its own place and before."""
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), *attended, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(
        self, x: Float[Tensor, "rows queries width"], keys: Float[Tensor, "rows heads positions head_width"]
    ) -> Float[Tensor, "rows queries positions"]:
        """The weights of ``forward``, averaged over the heads."""
        queries = self._split(self.query(x)) / math.sqrt(keys.shape[-1])
        return (queries @ keys.transpose(-1, -2)).softmax(-1).mean(1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention over the picture's positions, then a feed-forward network."""

    def __init__(self, width: int, *, heads: int, feedforward_width: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.see_norm, self.see = nn.LayerNorm(width), Attention(width, heads=heads)
        self.feedforward = _feedforward(width, feedforward_width, dropout=dropout, activation=activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "pictures positions width"]) -> Float[Tensor, "pictures positions width"]:
        """Positions that know of each other."""
        seen = self.see_norm(x)
        x = x + self.dropout(self.see(seen, self.see.keys_values(seen)))
        return x + self.feedforward(x)


class DecoderLayer(nn.Module):
    """Attention to the words before, attention to the picture, then a feed-forward network."""

    def __init__(self, width: int, *, heads: int, feedforward_width: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.listen_norm, self.listen = nn.LayerNorm(width), Attention(width, heads=heads)
        self.look_norm, self.look = nn.LayerNorm(width), Attention(width, heads=heads)
        self.feedforward = _feedforward(width, feedforward_width, dropout=dropout, activation=activation)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "pictures rows tokens width"],
        picture: KeysValues,
        past: KeysValues | None = None,
    ) -> tuple[Float[Tensor, "pictures rows tokens width"], KeysValues]:
        """The layer's output, and the keys and values of the words up to here. With a ``past``, one token at a time."""
        x, present = self.hear(x, past)
        # All captions of a picture ask the same memory, so they are queries of one row and it is never copied.
        looked = self.look(self.look_norm(x).flatten(1, 2), picture).view_as(x)
        x = x + self.dropout(looked)
        return x + self.feedforward(x), present

    def hear(
        self, x: Float[Tensor, "pictures rows tokens width"], past: KeysValues | None = None
    ) -> tuple[Float[Tensor, "pictures rows tokens width"], KeysValues]:
        """The attention to the words before."""
        heard = self.listen_norm(x).flatten(0, 1)
        present = self.listen.keys_values(heard)
        if past is not None:
            present = (torch.cat((past[0], present[0]), 2), torch.cat((past[1], present[1]), 2))
        return x + self.dropout(self.listen(heard, present, causal=past is None)).view_as(x), present


class LearnedPositions(nn.Embedding):
    """A learned vector for each place in the caption."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__(places, width)
        nn.init.normal_(self.weight, std=0.02)


class SinusoidalPositions(nn.Module):
    """Sines and cosines of the place, of wavelengths from 2 pi to 20,000 pi."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(places)[:, None] * rates
        waves = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :width]
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, places: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens width"]:
        """A row for each place."""
        return self.get_buffer("waves")[places]


def _feedforward(width: int, inner: int, *, dropout: float, activation: str) -> nn.Sequential:
    function = lookup(ACTIVATIONS, activation, "activation")()
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner),
        function,
        nn.Dropout(dropout),
        nn.Linear(inner, width),
        nn.Dropout(dropout),
    )


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
POSITIONS: dict[str, type[nn.Module]] = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}
