"""Recurrent caption decoders: LSTM and GRU with additive attention over the picture."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainables.parts.decoder import Decoder, word_embedding
from vltune.errors import lookup


@dataclass(frozen=True)
class RecurrentMemory:
    """A picture for a recurrent decoder."""

    values: Float[Tensor, "pictures positions embedding"]
    keys: Float[Tensor, "pictures positions attention"]


@dataclass(frozen=True)
class RecurrentState:
    """Where each row of a recurrent decoder stands."""

    memory: RecurrentMemory
    hidden: Float[Tensor, "pictures rows hidden"]
    carry: Float[Tensor, "pictures rows hidden"]


class RecurrentDecoder(Decoder):
    """An LSTM or a GRU with additive attention.

    Attention as in Bahdanau et al. (https://arxiv.org/abs/1409.0473), initial state from the mean of the positions and
    deep output as in Show, Attend and Tell (https://arxiv.org/abs/1502.03044). Unlike there, the positions are
    normalised and projected first, and nothing gates the context or rewards looking everywhere.
    """

    def __init__(
        self,
        cell: str,
        *,
        width: int,
        words: int,
        embedding_width: int,
        hidden_width: int,
        attention_width: int,
        dropout: float,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self._cell = lookup(CELLS, cell, "cell")
        self._attention_width, self._checkpointing = attention_width, gradient_checkpointing
        gates = (4 if cell == "lstm" else 3) * hidden_width
        self.picture = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embedding_width))
        self.first = nn.Linear(embedding_width, hidden_width * (2 if cell == "lstm" else 1))
        self.embedding = word_embedding(words, embedding_width)
        self.key = nn.Linear(embedding_width, attention_width, bias=False)
        self.score = nn.Linear(attention_width, 1, bias=False)
        self.from_word = nn.Linear(embedding_width, gates)
        self.from_context = nn.Linear(embedding_width, gates, bias=False)
        # The query of the attention and the recurrent part of the gates see the same vector: one product for both.
        self.from_hidden = nn.Linear(hidden_width, attention_width + gates)
        self.deep = nn.Linear(hidden_width + embedding_width, embedding_width)
        self.dropout = nn.Dropout(dropout)
        self.words = nn.Linear(embedding_width, words)

    def prepare(self, features: Float[Tensor, "pictures positions width"]) -> RecurrentMemory:
        """The projected positions, and what queries are compared with."""
        values = self.picture(features)
        return RecurrentMemory(values, self.key(values))

    def start(self, memory: RecurrentMemory) -> RecurrentState:
        """Hidden vectors that know the picture's mean."""
        first = torch.tanh(self.first(memory.values.mean(1, keepdim=True)))
        # The carried state keeps the weights' precision under autocast: many small additions would drown in 8 bits.
        first = first.to(self.first.weight.dtype)
        hidden, carry = first.chunk(2, -1) if self._cell is lstm else (first, first)
        return RecurrentState(memory, hidden, carry)

    def hidden(
        self, memory: RecurrentMemory, tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens hidden"]:
        """Deep output: of the word before, the hidden vector and the place looked at."""
        words, hidden, context, _ = self._unroll(memory, tokens)
        return self._deep_output(words, hidden, context)

    def attention(
        self, memory: RecurrentMemory, tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens positions"]:
        """The weights of the additive attention."""
        return self._unroll(memory, tokens)[-1]

    def step(
        self, tokens: Int[Tensor, "pictures rows"], state: RecurrentState
    ) -> tuple[Float[Tensor, "pictures rows words"], RecurrentState]:
        """One token in every row."""
        words = self.dropout(self.embedding(tokens))
        state, context, _ = self._advance(state, self.from_word(words))
        return self.words(self._deep_output(words, state.hidden, context)), state

    def reorder(self, state: RecurrentState, source: Int[Tensor, "pictures new_rows"]) -> RecurrentState:
        """Hidden vectors of other rows."""
        pictures = torch.arange(len(source), device=source.device)[:, None]
        return replace(state, hidden=state.hidden[pictures, source], carry=state.carry[pictures, source])

    def _unroll(
        self, memory: RecurrentMemory, tokens: Int[Tensor, "pictures captions tokens"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        words = self.dropout(self.embedding(tokens))
        state = self.start(memory)
        state = self.reorder(state, tokens.new_zeros(tokens.shape[:2]))
        steps = []
        # unbind, not indexing: the gradient of an index is a whole tensor of zeros for every token.
        for part in self.from_word(words).unbind(2):
            state, context, weights = self._advance(state, part)
            steps.append((state.hidden, context, weights))
        hidden, context, weights = (torch.stack(part, 2) for part in zip(*steps, strict=True))
        return words, hidden, context, weights

    def _advance(
        self, state: RecurrentState, word: Float[Tensor, "pictures rows gates"]
    ) -> tuple[RecurrentState, Float[Tensor, "pictures rows embedding"], Float[Tensor, "pictures rows positions"]]:
        from_hidden = self.from_hidden(state.hidden)
        query, recurrent = from_hidden.split((self._attention_width, word.shape[-1]), -1)
        if self._checkpointing and torch.is_grad_enabled():
            weights = checkpoint(self._look, query, state.memory.keys, use_reentrant=False)
        else:
            weights = self._look(query, state.memory.keys)
        context = torch.bmm(weights.to(state.memory.values.dtype), state.memory.values)
        hidden, carry = self._cell(word + self.from_context(context), recurrent, state.carry)
        return RecurrentState(state.memory, hidden, carry), context, weights

    def _look(
        self, query: Float[Tensor, "pictures rows attention"], keys: Float[Tensor, "pictures positions attention"]
    ) -> Float[Tensor, "pictures rows positions"]:
        return self.score((query[:, :, None] + keys[:, None]).tanh_()).squeeze(-1).softmax(-1)

    def _deep_output(self, words: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        return self.dropout(words + self.deep(torch.cat((hidden, context.to(hidden.dtype)), -1)))


def lstm(
    inputs: Float[Tensor, "*rows gates"], recurrent: Float[Tensor, "*rows gates"], carry: Float[Tensor, "*rows hidden"]
) -> tuple[Float[Tensor, "*rows hidden"], Float[Tensor, "*rows hidden"]]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gate): the hidden vector and the cell."""
    gate_in, gate_forget, gate_out, candidate = (inputs + recurrent).chunk(4, -1)
    carry = gate_forget.sigmoid() * carry + gate_in.sigmoid() * candidate.tanh()
    return gate_out.sigmoid() * carry.tanh(), carry


def gru(
    inputs: Float[Tensor, "*rows gates"], recurrent: Float[Tensor, "*rows gates"], carry: Float[Tensor, "*rows hidden"]
) -> tuple[Float[Tensor, "*rows hidden"], Float[Tensor, "*rows hidden"]]:
    """Gated recurrent unit (https://arxiv.org/abs/1406.1078), the reset after the product: the hidden vector, twice."""
    (reset, update, candidate), (to_reset, to_update, to_candidate) = inputs.chunk(3, -1), recurrent.chunk(3, -1)
    candidate = (candidate + (reset + to_reset).sigmoid() * to_candidate).tanh()
    carry = torch.lerp(candidate.to(carry.dtype), carry, (update + to_update).sigmoid().to(carry.dtype))
    return carry, carry


CELLS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {f.__name__: f for f in (lstm, gru)}
