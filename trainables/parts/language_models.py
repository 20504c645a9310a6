"""GPT-2 as a caption decoder: it goes on from a prefix of vectors, with its own vocabulary."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainables.parts.decoder import Decoder
from trainables.parts.hub import load_foreign
from trainables.parts.text import END, SPECIAL, START
from vltune.errors import BadInput

NEVER = -1e4
"""Logit of what the language model does not know: our padding, for instance. Finite, for label smoothing."""


@dataclass(frozen=True)
class LanguageModelState:
    """Where each row stands: the prefix, then keys and values of all before, a pair for a layer."""

    prefix: Float[Tensor, "pictures prefix width"]
    past: tuple[tuple[Tensor, Tensor], ...]


class LanguageModelDecoder(Decoder):
    """GPT-2 behind a prefix, as in ClipCap (https://arxiv.org/abs/2111.09734).

    The prefix takes the place of the first words' vectors. Unlike there, GPT-2's mark between texts stands between the
    prefix and the first word; it also ends a caption, so that no token is new to the model.
    """

    def __init__(
        self,
        config: str,
        *,
        folder: Path | None,
        prefix_length: int,
        max_tokens: int,
        dropout: float,
        train: bool,
        gradient_checkpointing: bool,
    ) -> None:
        """Builds the model.

        Args:
            config: text of its ``config.json``.
            folder: where its weights are; None: random weights, to be replaced by those of a checkpoint.
            prefix_length: vectors that come before the first word.
            max_tokens: tokens of the longest caption, its end counted.
            dropout: share of all activations that are zeroed in training, whatever its own file says.
            train: whether it learns; without it, it stays in evaluation mode.
            gradient_checkpointing: recompute activations in the backward pass.

        Raises:
            BadInput: it is no GPT-2, its weights are of something else, or it reads fewer tokens.
        """
        super().__init__()
        fields = check_language_model(config, prefix_length=prefix_length, max_tokens=max_tokens)
        self._train, self._mark, self.width = train, fields["eos_token_id"], fields["n_embd"]
        self.language_model = _build(fields, folder)
        for layer in self.language_model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = dropout
        if gradient_checkpointing:
            self.language_model.activation_checkpointing_enable({"use_reentrant": False})
        self.language_model.requires_grad_(train).train(train)

    @property
    def words(self) -> "Words":
        """From the last hidden vector to logits in the order of the vocabulary: ours, then the model's own."""
        return Words(self.language_model.lm_head, mark=self._mark)

    def prepare(self, features: Float[Tensor, "pictures positions width"]) -> Tensor:
        """The prefix is the memory."""
        return features

    def hidden(
        self, memory: Float[Tensor, "pictures positions width"], tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens hidden"]:
        """The normalised output of the last layer, behind the prefix."""
        rows = torch.cat((memory.repeat_interleave(tokens.shape[1], 0), self._embed(tokens.flatten(0, 1))), 1)
        states = self.language_model.transformer(inputs_embeds=rows, use_cache=False).last_hidden_state
        return states[:, memory.shape[1] :].unflatten(0, tokens.shape[:2])

    def attention(
        self, memory: Float[Tensor, "pictures positions width"], tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens positions"]:
        """The last layer's weights on the prefix, averaged over its heads and made to sum to one."""
        model, positions = self.language_model, memory.shape[1]
        rows = torch.cat((memory.repeat_interleave(tokens.shape[1], 0), self._embed(tokens.flatten(0, 1))), 1)
        usual = model.config._attn_implementation  # noqa: SLF001 - there is no public getter
        model.set_attn_implementation("eager")  # the others do not tell their weights
        try:
            weights = model.transformer(inputs_embeds=rows, use_cache=False, output_attentions=True).attentions[-1]
        finally:
            model.set_attn_implementation(usual)
        on_prefix = weights.mean(1)[:, positions:, :positions]
        return (on_prefix / on_prefix.sum(-1, keepdim=True)).unflatten(0, tokens.shape[:2])

    def start(self, memory: Float[Tensor, "pictures positions width"]) -> LanguageModelState:
        """Nothing read yet."""
        return LanguageModelState(memory, ())

    def step(
        self, tokens: Int[Tensor, "pictures rows"], state: LanguageModelState
    ) -> tuple[Float[Tensor, "pictures rows words"], LanguageModelState]:
        """One token in every row, with the prefix before the first; what was read is kept as keys and values."""
        from transformers import DynamicCache  # slow to import

        given = self._embed(tokens.flatten()[:, None])
        if not state.past:
            given = torch.cat((state.prefix.repeat_interleave(tokens.shape[1], 0), given), 1)
        cache: Any = DynamicCache(state.past or None)
        found = self.language_model.transformer(inputs_embeds=given, past_key_values=cache, use_cache=True)
        past = tuple((layer.keys, layer.values) for layer in cache.layers)
        return self.words(found.last_hidden_state[:, -1]).unflatten(0, tokens.shape), replace(state, past=past)

    def reorder(self, state: LanguageModelState, source: Int[Tensor, "pictures new_rows"]) -> LanguageModelState:
        """Keys and values of other rows."""
        if not state.past:
            return state
        rows = len(state.past[0][0]) // len(source)
        flat = (source + rows * torch.arange(len(source), device=source.device)[:, None]).flatten()
        return replace(state, past=tuple((keys[flat], values[flat]) for keys, values in state.past))

    def train(self, mode: bool = True) -> "LanguageModelDecoder":  # noqa: FBT001, FBT002 - as nn.Module has it
        """Sets the mode; a frozen model stays in evaluation."""
        return super().train(mode and self._train)

    def _embed(self, tokens: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens width"]:
        theirs = (tokens - len(SPECIAL)).clamp(min=0)
        ours = (tokens == START) | (tokens == END)
        return self.language_model.transformer.wte(theirs.masked_fill(ours, self._mark))


class Words:
    """The logits of all words: our special tokens, of which the end alone can come, then the language model's."""

    def __init__(self, layer: nn.Linear, *, mark: int) -> None:
        self._layer, self._mark = layer, mark

    def __call__(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows words"]:
        """A logit for each word, in the order of the tokenizer that ``own_vocabulary`` makes."""
        logits = self._layer(hidden)
        ours = logits.new_full((*logits.shape[:-1], len(SPECIAL)), NEVER)
        ours[..., END] = logits[..., self._mark]
        return torch.cat((ours, logits.index_fill(-1, torch.tensor(self._mark, device=logits.device), NEVER)), -1)


def own_vocabulary(folder: Path) -> str:
    """A language model's tokenizer with our special tokens before its own, as ``CaptionTokenizer.from_text`` reads it.

    Its own special tokens become pieces of text that no text contains: nothing in a caption is a command.

    Raises:
        BadInput: the folder has no tokenizer of GPT-2's kind.
    """
    file = folder / "tokenizer.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        model, kinds = fields["model"], (fields["model"].get("type", "BPE"), fields["decoder"]["type"])
        theirs = {token: number + len(SPECIAL) for token, number in model["vocab"].items() if token not in SPECIAL}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_tokenizer(file) from error
    if kinds != ("BPE", "ByteLevel"):
        raise _no_tokenizer(file)
    vocabulary = {**{token: number for number, token in enumerate(SPECIAL)}, **theirs}
    nothing_around = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return json.dumps({**fields, **nothing_around, "model": {**model, "vocab": vocabulary}}, ensure_ascii=False)


def _no_tokenizer(file: Path) -> BadInput:
    return BadInput(f"{file} is no byte-level tokenizer such as GPT-2's; take another language_model.")


def check_language_model(config: str, *, prefix_length: int, max_tokens: int) -> dict[str, Any]:
    """The fields of a GPT-2's ``config.json``.

    Args:
        config: text of the file.
        prefix_length: vectors that come before the first word.
        max_tokens: tokens of the longest caption, its end counted.

    Raises:
        BadInput: it is no GPT-2, or reads fewer tokens.
    """
    try:
        fields = {"n_positions": 1024, "n_embd": 768, "eos_token_id": 50256, **json.loads(config)}
    except (ValueError, TypeError) as error:
        raise BadInput(f"language_model: its config.json cannot be read ({error}); take another one.") from error
    if fields.get("model_type") != "gpt2":
        raise BadInput(
            f"language_model is a {fields.get('model_type', 'unknown')!r}: decoder='gpt2' needs a GPT-2; take another "
            "one."
        )
    longest = prefix_length + max_tokens
    if longest > fields["n_positions"]:
        raise BadInput(
            f"prefix_length={prefix_length} and max_tokens={max_tokens} are {longest} together: the language model "
            f"reads {fields['n_positions']}; lower one."
        )
    return fields


def _build(fields: dict[str, Any], folder: Path | None) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import

    return GPT2LMHeadModel(GPT2Config(**fields)) if folder is None else load_foreign(GPT2LMHeadModel, folder)
