"""The fields of a family whose decoder reads a prefix made of one vector, and what is made of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trainables.parts.caption_fields import TOKENIZER, CaptionConfig, build_caption_decoder, fit_tokenizer
from trainables.parts.decoder import Decoder
from trainables.parts.decoders import DECODERS
from trainables.parts.hub import CONFIG, hub_source
from trainables.parts.language_models import LanguageModelDecoder, check_language_model, own_vocabulary
from trainables.parts.mappers import MAPPERS, build_mapper
from vltune.configuration import Library, absolute_reference, in_range, named, one_of, only_with
from vltune.contract import Assets
from vltune.errors import BadInput

LANGUAGE_MODEL = "language_model.json"
"""The asset that describes a language model, so that it can be built without its files."""


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(CaptionConfig):
    """What makes a prefix, and what goes on from it."""

    decoder: str = "transformer"
    """``lstm`` or ``gru`` with additive attention to the prefix, ``transformer``, or ``gpt2`` (a language model)."""
    mapper: str = "mlp"
    """From an embedding to the prefix that the decoder reads: ``mlp`` or ``transformer``."""
    prefix_length: int = 10
    """Vectors of the prefix. At least 1."""
    mapper_layers: int = 8
    """``mapper=transformer``: layers. At least 1."""
    mapper_heads: int = 8
    """``mapper=transformer``: attention heads of each layer; must divide the width of the decoder's vectors, which is
    ``embedding_width`` or the language model's."""
    language_model: str = ""
    """``gpt2``: name on the Hugging Face hub, such as ``gpt2``, or the path of a folder."""
    language_model_hash: str = ""
    """SHA-256 over the language model's files; filled in when the search starts, and checked when they are read."""
    train_language_model: bool = True
    """``gpt2``: whether the language model learns; without it, the mapper alone does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "mapper", MAPPERS)
        for key in ("prefix_length", "mapper_layers", "mapper_heads"):
            in_range(self, key, 1)
        own = self.mapper == "transformer" and self.decoder != "gpt2"
        if own and self.embedding_width % self.mapper_heads:
            raise BadInput(
                f"mapper_heads={self.mapper_heads} does not divide embedding_width={self.embedding_width}; change one."
            )
        only_with(self, PREFIX_READ_WITH)

    def check_decoder(self) -> None:
        """Checks the decoder's name."""
        one_of(self, "decoder", (*DECODERS, "gpt2"))

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the language model made absolute."""
        model = fields.get("language_model", "")
        whole = {"language_model": absolute_reference(model)} if model else {}
        return {**super().with_absolute_paths(fields), **whole}

    def find_sources(self, library: Library) -> "PrefixConfig":
        """The same, with the hash of the language model, which is fetched if need be."""
        found = super().find_sources(library)
        if self.decoder != "gpt2":
            return found
        folder, language_model_hash = _files(self)
        config = (folder / CONFIG).read_text(encoding="utf-8")
        fields = check_language_model(config, prefix_length=self.prefix_length, max_tokens=self.max_tokens)
        if self.mapper == "transformer" and fields["n_embd"] % self.mapper_heads:
            raise BadInput(
                f"mapper_heads={self.mapper_heads} does not divide the width of the decoder's vectors, "
                f"{fields['n_embd']}; change it."
            )
        return dataclasses.replace(found, language_model_hash=language_model_hash)

    def without_sources(self) -> "PrefixConfig":
        """The same, for a model whose weights come from a checkpoint; a frozen language model is read all the same."""
        config = super().without_sources()
        if config.decoder != "gpt2" or is_language_model_kept(config):
            return config
        return dataclasses.replace(config, language_model="", language_model_hash="")


def is_language_model_kept(config: PrefixConfig) -> bool:
    """Whether the decoder is a language model with the very weights of its files, which need not be stored then."""
    frozen = config.decoder == "gpt2" and not config.train_language_model
    return frozen and "decoder" not in named(config, "init_from")


def prefix_assets(config: PrefixConfig, captions: Iterable[str]) -> Assets:
    """The vocabulary of the training captions, or what comes with a language model.

    Raises:
        NotFound: there is no such language model.
        BadInput: it is none, or the captions hold no word.
    """
    if config.decoder != "gpt2":
        return {TOKENIZER: fit_tokenizer(config, captions).to_text()}
    folder, _ = _files(config)
    return {TOKENIZER: own_vocabulary(folder), LANGUAGE_MODEL: (folder / CONFIG).read_text(encoding="utf-8")}


def build_prefix_decoder(config: PrefixConfig, assets: Assets, *, words: int) -> tuple[Decoder, int]:
    """The decoder that a configuration describes, and the width of the vectors that it takes.

    Args:
        config: which decoder, and its settings.
        assets: what ``prefix_assets`` made.
        words: size of the vocabulary; a language model knows its own.

    Raises:
        BadInput: prefix and caption are too long for the language model, or its files hold another model.
    """
    if config.decoder != "gpt2":
        return build_caption_decoder(config, width=config.embedding_width, words=words), config.embedding_width
    decoder = LanguageModelDecoder(
        assets[LANGUAGE_MODEL],
        folder=_files(config)[0] if config.language_model else None,
        prefix_length=config.prefix_length,
        max_tokens=config.max_tokens,
        dropout=config.dropout,
        train=config.train_language_model,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    return decoder, decoder.width


def build_prefix_mapper(config: PrefixConfig, *, width: int, prefix_width: int) -> nn.Module:
    """The mapper that a configuration describes, from embeddings of ``width`` to vectors of ``prefix_width``."""
    return build_mapper(
        config.mapper,
        width=width,
        prefix_length=config.prefix_length,
        prefix_width=prefix_width,
        mapper_layers=config.mapper_layers,
        mapper_heads=config.mapper_heads,
    )


def _files(config: PrefixConfig) -> tuple[Path, str]:
    """The language model's folder and hash."""
    if not config.language_model:
        raise BadInput("language_model='' is missing: decoder='gpt2' needs its name on the hub (gpt2), or its folder.")
    return hub_source(config.language_model, config.language_model_hash, field="language_model")


PREFIX_READ_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "mapper_layers": ("mapper", ("transformer",)),
    "mapper_heads": ("mapper", ("transformer",)),
    "language_model": ("decoder", ("gpt2",)),
    "language_model_hash": ("decoder", ("gpt2",)),
    "train_language_model": ("decoder", ("gpt2",)),
    "tokens": ("decoder", DECODERS),
    "min_word_count": ("decoder", DECODERS),
}
"""Fields that are read only if another field has one of these values."""
