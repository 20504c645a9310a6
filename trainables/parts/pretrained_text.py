"""Text encoders from elsewhere: a Transformer by the name or folder of its files, with its own tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from trainables.parts.hub import CONFIG, load_foreign
from trainables.parts.text import PADDING
from trainables.parts.text_encoder import EncodedTexts, TextEncoder, mean_of_tokens
from vltune.errors import BadInput

TOKENIZER_FILE = "tokenizer.json"


class PretrainedTokenizer:
    """A foreign tokenizer. Its padding's number and our ``PADDING`` change places, so that padding is the same for all.

    Unlike a tokenizer of captions, it puts its own special tokens around each text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._padding = (tokenizer.padding or {}).get("pad_id", PADDING)
        tokenizer.no_padding()

    @classmethod
    def read(cls, folder: Path) -> str:
        """The text of a model's tokenizer, with the number of its padding written into it.

        Raises:
            BadInput: the folder has no ``tokenizer.json``.
        """
        file = folder / TOKENIZER_FILE
        if not file.is_file():
            raise BadInput(f"{folder} has no {TOKENIZER_FILE}; save the model's fast tokenizer there.")
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.enable_padding(pad_id=_padding(json.loads((folder / CONFIG).read_text(encoding="utf-8"))))
        return tokenizer.to_str()

    @classmethod
    def from_text(cls, text: str, *, max_tokens: int) -> "PretrainedTokenizer":
        """The tokenizer that ``read`` found, for texts of up to ``max_tokens``, special ones included."""
        tokenizer = Tokenizer.from_str(text)
        tokenizer.enable_truncation(max_tokens)
        return cls(tokenizer)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens' numbers, with the tokenizer's own first and last tokens."""
        swapped = {self._padding: PADDING, PADDING: self._padding}
        return [[swapped.get(i, i) for i in encoding.ids] for encoding in self._tokenizer.encode_batch([*texts])]


class PretrainedTextEncoder(TextEncoder):
    """A foreign Transformer; a text's vector is the mean over its tokens, as in https://arxiv.org/abs/1908.10084.

    Special tokens count, as there.
    """

    def __init__(
        self, config: str, *, folder: Path | None, max_tokens: int, gradient_checkpointing: bool = False
    ) -> None:
        """Builds the model.

        Args:
            config: text of the model's ``config.json``.
            folder: where its weights are; None: random weights, to be replaced by those of a checkpoint.
            max_tokens: the most tokens that a text will have.
            gradient_checkpointing: recompute activations in the backward pass.

        Raises:
            BadInput: it is no encoder of texts, reads fewer tokens, or its weights are of something else.
        """
        super().__init__()
        fields = check_text_model(config, max_tokens=max_tokens)
        self._padding = _padding(fields)
        self.model = _build(fields, folder)
        if gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        self.width = self.model.config.hidden_size

    @property
    def embedding(self) -> nn.Embedding:
        """A vector for each token of the model's vocabulary."""
        return self.model.get_input_embeddings()

    def forward(self, tokens: Int[Tensor, "texts tokens"]) -> EncodedTexts:
        """States and vectors of texts, each of at least one token."""
        real = tokens != PADDING
        ids = tokens
        if self._padding != PADDING:
            ids = torch.where(real, tokens, self._padding).masked_fill(tokens == self._padding, PADDING)
        states = self.model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        return EncodedTexts(states, mean_of_tokens(states, real))


def _build(fields: dict[str, Any], folder: Path | None) -> Any:
    import transformers  # slow to import

    if folder is None:
        kind = fields.pop("model_type")
        config = transformers.AutoConfig.for_model(kind, **fields)
        model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    else:
        model = load_foreign(transformers.AutoModel, folder, unused=("pooler.",))
    model.config.use_cache = False  # of use to who writes, not to who reads
    # A mean over tokens leaves the pooler without gradients.
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def check_text_model(config: str, *, max_tokens: int) -> dict[str, Any]:
    """The fields of a text encoder's ``config.json``.

    Args:
        config: text of the file.
        max_tokens: tokens of the longest text.

    Raises:
        BadInput: it is no encoder of texts, or reads fewer tokens.
    """
    fields: dict[str, Any] = json.loads(config)
    name = fields.get("model_type", "unknown")
    if fields.get("is_encoder_decoder") or "vision_config" in fields or "hidden_size" not in fields:
        raise BadInput(f"text_model: a {name!r} is no text encoder such as BERT; take another model.")
    # RoBERTa counts its places from behind the padding's number.
    most = fields.get("max_position_embeddings", max_tokens) - (_padding(fields) + 1 if "roberta" in name else 0)
    if max_tokens > most:
        raise BadInput(f"max_tokens={max_tokens} is too long for text_model: it reads {most} tokens; lower it.")
    return fields


def _padding(fields: dict[str, Any]) -> int:
    return fields.get("pad_token_id") or 0
