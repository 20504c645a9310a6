"""The text encoders by name."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from trainables.parts.pretrained_text import PretrainedTextEncoder
from trainables.parts.text import PADDING
from trainables.parts.text_encoder import EncodedTexts, TextEncoder, mean_of_tokens, token_embedding
from trainables.parts.transformer import LearnedPositions


class RecurrentTextEncoder(TextEncoder):
    """An LSTM or a GRU; a text's vector is the last layer's state at its last token."""

    def __init__(
        self, kind: type[nn.LSTM | nn.GRU], *, words: int, word_width: int, text_width: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.width = text_width
        self.embedding = token_embedding(words, word_width)
        self.dropout = nn.Dropout(dropout)
        # Between layers only: torch warns if there is nothing between.
        self.layers = kind(word_width, text_width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, tokens: Int[Tensor, "texts tokens"]) -> EncodedTexts:
        """States and vectors of texts, each of at least one token."""
        states, _ = self.layers(self.dropout(self.embedding(tokens)))
        last = (tokens != PADDING).sum(1) - 1
        vectors = states[torch.arange(len(states), device=states.device), last]
        return EncodedTexts(states, self.dropout(vectors))


class TransformerTextEncoder(TextEncoder):
    """Layers of self-attention in both directions (https://arxiv.org/abs/1706.03762), normalised before each sub-layer.

    A text's vector is the mean of its states.
    """

    def __init__(
        self,
        *,
        words: int,
        text_width: int,
        layers: int,
        heads: int,
        feedforward_width: int,
        dropout: float,
        max_tokens: int,
    ) -> None:
        super().__init__()
        self.width = text_width
        self.embedding = token_embedding(words, text_width)
        self.positions = LearnedPositions(max_tokens, text_width)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            text_width, heads, feedforward_width, dropout, F.gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(text_width), enable_nested_tensor=False)

    def forward(self, tokens: Int[Tensor, "texts tokens"]) -> EncodedTexts:
        """States and vectors of texts, each of at least one token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.embedding(tokens) * math.sqrt(self.width) + self.positions(places)
        states = self.layers(self.dropout(embedded), src_key_padding_mask=tokens == PADDING)
        return EncodedTexts(states, mean_of_tokens(states, tokens != PADDING))


class MlpTextEncoder(TextEncoder):
    """All embedded tokens of a text side by side, then one layer: the matching study's alternative to an LSTM.

    There is one vector for a text, and it is the state of each of its tokens.
    """

    def __init__(self, *, words: int, word_width: int, text_width: int, dropout: float, max_tokens: int) -> None:
        super().__init__()
        self.width, self._max_tokens = text_width, max_tokens
        self.embedding = token_embedding(words, word_width)
        self.dense = nn.Sequential(nn.Linear(max_tokens * word_width, text_width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, tokens: Int[Tensor, "texts tokens"]) -> EncodedTexts:
        """States and vectors of texts, each of at least one token."""
        length = tokens.shape[1]
        assert length <= self._max_tokens, "tokens are cut before they come here"
        whole = F.pad(tokens, (0, self._max_tokens - length), value=PADDING)
        vectors = self.dense(self.embedding(whole).flatten(1))
        return EncodedTexts(vectors[:, None].expand(-1, length, -1), vectors)


def lstm(
    *, words: int, word_width: int, text_width: int, text_layers: int, text_dropout: float, **_: object
) -> TextEncoder:
    """An LSTM."""
    sizes = {"words": words, "word_width": word_width, "text_width": text_width}
    return RecurrentTextEncoder(nn.LSTM, **sizes, layers=text_layers, dropout=text_dropout)


def gru(
    *, words: int, word_width: int, text_width: int, text_layers: int, text_dropout: float, **_: object
) -> TextEncoder:
    """A GRU."""
    sizes = {"words": words, "word_width": word_width, "text_width": text_width}
    return RecurrentTextEncoder(nn.GRU, **sizes, layers=text_layers, dropout=text_dropout)


def transformer(
    *,
    words: int,
    text_width: int,
    text_layers: int,
    text_heads: int,
    text_feedforward_width: int,
    text_dropout: float,
    max_tokens: int,
    **_: object,
) -> TextEncoder:
    """A Transformer encoder."""
    return TransformerTextEncoder(
        words=words,
        text_width=text_width,
        layers=text_layers,
        heads=text_heads,
        feedforward_width=text_feedforward_width,
        dropout=text_dropout,
        max_tokens=max_tokens,
    )


def mlp(
    *, words: int, word_width: int, text_width: int, text_dropout: float, max_tokens: int, **_: object
) -> TextEncoder:
    """A layer over all tokens side by side."""
    sizes = {"words": words, "word_width": word_width, "text_width": text_width}
    return MlpTextEncoder(**sizes, dropout=text_dropout, max_tokens=max_tokens)


def pretrained(
    *, text_model_config: str, folder: Path | None, max_tokens: int, gradient_checkpointing: bool, **_: object
) -> TextEncoder:
    """A Transformer from elsewhere."""
    return PretrainedTextEncoder(
        text_model_config, folder=folder, max_tokens=max_tokens, gradient_checkpointing=gradient_checkpointing
    )


TEXT_ENCODERS = {f.__name__: f for f in (lstm, gru, transformer, mlp, pretrained)}
