"""Captions from a decoder: greedy, beam search and sampling, for many pictures at once, a token at a time.

Each function gives a row of token ids for each picture: the prompt, the caption, its end, and padding behind it. No row
is longer than ``max_tokens``, end included, and padding, start, unknown words and the mask are never generated. What a
picture gets depends on that picture alone.

All of them take a ``repetition_penalty`` (https://arxiv.org/abs/1909.05858): the logits of words that a caption already
has, its prompt included, are divided by it where they are positive, and multiplied where they are negative. 1 changes
nothing.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainables.parts.text import END, NEVER_GENERATED, PADDING, START


@runtime_checkable
class Stepper(Protocol):
    """The part of a decoder that generation needs."""

    def start(self, memory: Any) -> Any:
        """The state before the first token, one row for each picture."""
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits (pictures, rows, words) after one more token in every row (pictures, rows), and the new state."""
        ...

    def reorder(self, state: Any, source: Tensor) -> Any:
        """A state whose row j of picture i goes on from that picture's row ``source[i, j]``."""
        ...


def greedy(
    decoder: Stepper,
    memory: Any,
    *,
    pictures: int,
    prompt: Sequence[int],
    max_tokens: int,
    device: torch.device,
    repetition_penalty: float = 1.0,
) -> Int[Tensor, "pictures tokens"]:
    """The likeliest word each time."""
    logits, state = _read_prompt(decoder, memory, pictures=pictures, prompt=prompt, device=device)
    tokens = _first_tokens(prompt, rows=(pictures,), device=device)
    ended = torch.zeros(pictures, dtype=torch.bool, device=device)
    while True:
        word = _allowed(_penalised(logits[:, 0], tokens, repetition_penalty)).argmax(-1).masked_fill(ended, PADDING)
        tokens = torch.cat((tokens, word[:, None]), 1)
        ended = ended | (word == END)
        if _finished(ended, tokens, max_tokens=max_tokens):
            return tokens
        logits, state = decoder.step(word[:, None], state)


def sample(
    decoder: Stepper,
    memory: Any,
    *,
    uniforms: Float[Tensor, "pictures max_tokens"],
    prompt: Sequence[int],
    top_k: int,
    temperature: float,
    max_tokens: int,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
) -> Int[Tensor, "pictures tokens"]:
    """A random word each time, drawn from the likeliest: the temperature acts first, then ``top_k``, then ``top_p``.

    Args:
        uniforms: draws from [0, 1), a row for each picture and a column for each place in the caption: given, so that
            a picture's caption does not depend on the batch it is in.
        top_k: how many words there are to draw from (https://arxiv.org/abs/1805.04833); 0: all.
        top_p: draws from the fewest likeliest words whose probabilities sum to at least this, the nucleus
            (https://arxiv.org/abs/1904.09751); above 0, 1 draws from all.
        temperature: what logits are divided by, above 0; small values come close to greedy.
    """
    pictures, device = len(uniforms), uniforms.device
    logits, state = _read_prompt(decoder, memory, pictures=pictures, prompt=prompt, device=device)
    tokens = _first_tokens(prompt, rows=(pictures,), device=device)
    ended = torch.zeros(pictures, dtype=torch.bool, device=device)
    while True:
        # In double precision (which Apple's GPUs lack), so that rounding, which differs between batches, hardly ever
        # moves a draw across a border.
        wide = torch.float32 if device.type == "mps" else torch.float64
        scores = _allowed(_penalised(logits[:, 0].to(wide), tokens, repetition_penalty)) / temperature
        scores, words = scores.topk(min(top_k, scores.shape[-1]) if top_k else scores.shape[-1])
        borders = scores.softmax(-1).cumsum(-1)
        if top_p < 1:
            # A word belongs to the nucleus if those before it are not yet enough; the likeliest always does.
            last = (borders[:, :-1] < top_p).sum(-1, keepdim=True)
        else:
            last = torch.full((pictures, 1), borders.shape[-1] - 1, device=device)
        draw = uniforms[:, tokens.shape[1], None].to(wide) * borders.gather(1, last)
        # The last border is left out: a draw beyond the one before it can only be the last word.
        chosen = torch.searchsorted(borders[:, :-1].contiguous(), draw, right=True).minimum(last)
        word = words.gather(1, chosen).squeeze(1).masked_fill(ended, PADDING)
        tokens = torch.cat((tokens, word[:, None]), 1)
        ended = ended | (word == END)
        if _finished(ended, tokens, max_tokens=max_tokens):
            return tokens
        logits, state = decoder.step(word[:, None], state)


def beam(
    decoder: Stepper,
    memory: Any,
    *,
    pictures: int,
    beam_width: int,
    length_penalty: float,
    prompt: Sequence[int],
    max_tokens: int,
    device: torch.device,
    repetition_penalty: float = 1.0,
) -> Int[Tensor, "pictures tokens"]:
    """The best of ``beam_width`` captions that grow side by side.

    Each time, the ``beam_width`` continuations with the greatest sum of log-probabilities stay; a caption that has
    ended keeps its place while it is among them. At the end the one wins with the greatest
    sum / length**length_penalty, the length being its tokens behind the prompt with the end. That is simpler than
    https://arxiv.org/abs/1609.08144, whose denominator is ((5 + length) / 6)**penalty and which rewards coverage.

    Args:
        length_penalty: 0 compares sums, which favours short captions; 1 compares means; more favours long ones.
    """
    logits, state = _read_prompt(decoder, memory, pictures=pictures, prompt=prompt, device=device)
    words = logits.shape[-1]
    # The prompt is one row; the first choice makes beam_width of it.
    tokens = _first_tokens(prompt, rows=(pictures, 1), device=device)
    scores = torch.zeros(pictures, 1, dtype=_log_softmax(logits).dtype, device=device)
    ended = torch.zeros(pictures, 1, dtype=torch.bool, device=device)
    while True:
        steps = _log_softmax(_allowed(_penalised(logits, tokens, repetition_penalty)))
        # Behind its end a caption goes on with padding, which costs nothing.
        steps = steps.masked_fill(ended[..., None], -torch.inf)
        steps[..., PADDING] = steps[..., PADDING].masked_fill(ended, 0.0)
        candidates = (scores[..., None] + steps).flatten(1)
        scores, chosen = candidates.topk(min(beam_width, candidates.shape[1]), 1)
        source, word = chosen // words, chosen % words
        tokens = torch.cat((tokens.gather(1, source[..., None].expand(-1, -1, tokens.shape[2])), word[..., None]), 2)
        ended = ended.gather(1, source) | (word == END)
        if _finished(ended, tokens, max_tokens=max_tokens):
            break
        logits, state = decoder.step(word, decoder.reorder(state, source))
    lengths = (tokens[:, :, len(prompt) :] != PADDING).sum(-1)
    best = (scores / lengths**length_penalty).argmax(1)
    return tokens[torch.arange(pictures, device=device), best]


def _read_prompt(
    decoder: Stepper, memory: Any, *, pictures: int, prompt: Sequence[int], device: torch.device
) -> tuple[Float[Tensor, "pictures 1 words"], Any]:
    logits, state = None, decoder.start(memory)
    for token in (START, *prompt):
        logits, state = decoder.step(torch.full((pictures, 1), token, device=device), state)
    assert logits is not None
    return logits, state


def _first_tokens(prompt: Sequence[int], *, rows: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([*prompt], dtype=torch.int64, device=device).expand(*rows, len(prompt))


def _penalised(
    logits: Float[Tensor, "*rows words"], tokens: Int[Tensor, "*rows length"], penalty: float
) -> Float[Tensor, "*rows words"]:
    if penalty == 1:
        return logits
    there = logits.gather(-1, tokens)
    # A word that occurs twice is written twice, with the same value.
    return logits.scatter(-1, tokens, torch.where(there < 0, there * penalty, there / penalty))


def _allowed(logits: Float[Tensor, "*rows words"]) -> Float[Tensor, "*rows words"]:
    forbidden = torch.tensor(NEVER_GENERATED, device=logits.device)
    return logits.index_fill(-1, forbidden, -torch.inf)


def _log_softmax(logits: Float[Tensor, "*rows words"]) -> Float[Tensor, "*rows words"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _finished(ended: Bool[Tensor, "*rows"], tokens: Tensor, *, max_tokens: int) -> bool:
    return tokens.shape[-1] >= max_tokens or bool(ended.all())
