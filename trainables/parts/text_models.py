"""Encoders of texts from elsewhere that measure captions: their tokens' vectors, layer by layer."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainables.parts.annotations import read_json
from trainables.parts.hub import CONFIG, hub_hash, load_foreign, outline_foreign
from vltune.errors import BadInput

_AT_ONCE = 64
_LONGEST = 512
_SENTENCES = "sentence_bert_config.json"
"""Where sentence models say how many tokens they read, and whether in lower case."""
_UNUSED = ("pooler.",)


class Encoded(NamedTuple):
    """What an encoder makes of a few texts."""

    places: list[int]
    """Which of the texts."""
    states: Float[Tensor, "texts tokens width"]
    there: Bool[Tensor, "texts tokens"]
    """Where there are tokens, special ones included."""
    words: Bool[Tensor, "texts tokens"]
    """Where there are tokens of the text itself."""


class TextModel:
    """A frozen encoder with its tokenizer. It lies in the processor's memory, and is on the GPU only while it works."""

    def __init__(self, folder: Path, *, field: str) -> None:
        """Loads the model.

        Args:
            folder: its files, as ``hub_folder`` gives it.
            field: that names it, for the errors.

        Raises:
            BadInput: they hold no encoder of texts.
        """
        import transformers  # slow to import

        check_text_encoder(folder, field=field)
        self.model = load_foreign(transformers.AutoModel, folder, unused=_UNUSED).requires_grad_(requires_grad=False)
        self.kind, self.width = str(self.model.config.model_type), int(self.model.config.hidden_size)
        self.tokenizer = _tokenizer(folder, field)
        file = folder / _SENTENCES
        said = read_json(file) if file.is_file() else {}
        self.max_tokens = _longest(said.get("max_seq_length"), self.tokenizer, self.model.config)
        self.lower_case = bool(said.get("do_lower_case"))
        """Whether sentences are to be put into lower case first, whatever the tokenizer does."""

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, layer: int = -1) -> Iterator[Encoded]:
        """All texts, some at a time, those of equal length together.

        Args:
            texts: any; of one that is too long the beginning.
            layer: 0 for the embeddings, 1 for the first layer, …; -1 for the last.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self.model.to(device)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        try:
            # Whoever asks, in training or in evaluation, gets the same: autocast would round.
            with torch.autocast(device.type, enabled=False):
                for start in range(0, len(order), _AT_ONCE):
                    places = order[start : start + _AT_ONCE]
                    given = self.tokenizer(
                        [texts[place] for place in places],
                        padding=True,
                        truncation=True,
                        max_length=self.max_tokens,
                        return_special_tokens_mask=True,
                        return_tensors="pt",
                    ).to(device)
                    there = given["attention_mask"].bool()
                    words = there & ~given.pop("special_tokens_mask").bool()
                    states = model(**given, output_hidden_states=True).hidden_states[layer].float()
                    yield Encoded(places, states, there, words)
        finally:
            self.model.to("cpu")


@functools.lru_cache(maxsize=3)
def text_model(folder: Path, content: str, *, field: str) -> TextModel:  # noqa: ARG001 - the content is the key
    """The model of a folder, which stays in this process while its files stay the same."""
    return TextModel(folder, field=field)


def check_text_encoder(folder: Path, *, field: str) -> None:
    """Checks, without its weights, that a model encodes texts.

    Args:
        folder: as ``hub_folder`` gives it.
        field: that names it, for the errors.

    Raises:
        BadInput: it does not, or lacks a file.
    """
    _check(folder, hub_hash(folder), field)


@functools.lru_cache(maxsize=8)
def _check(folder: Path, content: str, field: str) -> None:  # noqa: ARG001 - likewise
    import transformers  # slow to import

    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        outlined = outline_foreign(transformers.AutoModel, folder, unused=_UNUSED)
    except (BadInput, ValueError) as error:
        raise BadInput(f"{field}={str(folder)!r}: {error}") from error
    if fields.get("is_encoder_decoder") or "vision_config" in fields or not hasattr(outlined.config, "hidden_size"):
        raise BadInput(
            f"{field}={str(folder)!r}: a {outlined.config.model_type!r} is no encoder of texts such as BERT; take "
            "another model."
        )
    _tokenizer(folder, field)


def _tokenizer(folder: Path, field: str) -> Any:
    import transformers  # slow to import

    try:  # anything: the files are as people left them
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split(".")[0].split())[:160]
        raise BadInput(
            f"{field}={str(folder)!r} has no tokenizer that can be read ({reason}); complete the files."
        ) from error
    if found.pad_token is None:
        raise BadInput(f"{field}={str(folder)!r} has a tokenizer without padding: take an encoder such as BERT.")
    return found


def _longest(said: int | None, tokenizer: Any, config: Any) -> int:
    """Tokens of the longest text, special ones included."""
    # RoBERTa counts its places from behind the padding's number.
    shift = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    most = getattr(config, "max_position_embeddings", _LONGEST) - shift
    return int(min(said or _LONGEST, tokenizer.model_max_length, most))
