"""The fields that every family with a text encoder has, and what is made of them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from trainables.parts.caption_fields import TOKENIZER
from trainables.parts.hub import CONFIG, hub_folder, hub_source
from trainables.parts.pretrained_text import PretrainedTokenizer, check_text_model
from trainables.parts.text import SMALLEST_BYTE_PAIR, TOKENS, UNKNOWN, CaptionTokenizer, pad
from trainables.parts.text_encoder import TextEncoder, freeze_text
from trainables.parts.text_encoders import TEXT_ENCODERS
from vltune.configuration import Library, TrialConfig, absolute_reference, in_range, named, one_of, only_with
from vltune.contract import Assets
from vltune.errors import BadInput

TEXT_MODEL = "text_model.json"
"""The asset that describes a pretrained text encoder, so that it can be built without its files."""
TEXT_TOKENIZER_FIELDS = ("tokens", "min_word_count", "vocabulary_size", "stem_words", "clean_text")
"""Fields that a vocabulary of texts is made by."""
TextTokenizer = CaptionTokenizer | PretrainedTokenizer


@dataclass(frozen=True, kw_only=True)
class TextConfig(TrialConfig):
    """How texts become tokens, and what reads them."""

    tokens: str = "words"
    """``words``, or ``byte_pair``: pieces of words."""
    min_word_count: int = 2
    """``words``: those that occur less often in the training captions become ``<unk>``. At least 1."""
    vocabulary_size: int = 4096
    """``byte_pair``: the most tokens, bytes and special ones included. At least 261."""
    stem_words: bool = False
    """``words``: whether they are reduced to their stems first (Porter's second stemmer for English)."""
    clean_text: bool = True
    """``words``: whether punctuation is dropped; without it, a word is what stands between white space."""
    max_tokens: int = 32
    """Tokens of the longest text; longer ones lose their last. At least 2."""
    text_encoder: str = "gru"
    """``lstm``, ``gru``, ``transformer``, ``mlp`` (all words side by side, one layer), or ``pretrained``."""
    text_model: str = ""
    """``pretrained``: name on the Hugging Face hub, such as ``all-MiniLM-L6-v2``, or the path of a folder."""
    text_model_hash: str = ""
    """SHA-256 over the pretrained encoder's files; filled in when the search starts, and checked when it is read."""
    train_text_encoder: bool = True
    """Whether the text encoder learns; without it, its weights stay as they are."""
    word_width: int = 256
    """``lstm``, ``gru``, ``mlp``: length of the vectors of words. At least 1."""
    text_width: int = 512
    """Length of a text's vector: an LSTM's state, a Transformer's width, an MLP's layer. At least 1."""
    text_layers: int = 1
    """``lstm``, ``gru``, ``transformer``: layers. At least 1."""
    text_heads: int = 4
    """``transformer``: attention heads of each layer; must divide ``text_width``."""
    text_feedforward_width: int = 1024
    """``transformer``: length of the vectors inside the feed-forward networks. At least 1."""
    text_dropout: float = 0.0
    """Share of a text encoder's activations that are zeroed in training. In [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "text_encoder", TEXT_ENCODERS)
        one_of(self, "tokens", TOKENS)
        for key, low in LOWEST.items():
            in_range(self, key, low)
        in_range(self, "text_dropout", 0, 1, below=True)
        if self.text_encoder == "transformer" and self.text_width % self.text_heads:
            raise BadInput(f"text_heads={self.text_heads} does not divide text_width={self.text_width}; change one.")
        only_with(self, ONLY_WITH)
        only_with(self, dict.fromkeys(TEXT_TOKENIZER_FIELDS, ("text_encoder", _OWN)))

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of a pretrained text encoder made absolute."""
        model = fields.get("text_model", "")
        whole = {"text_model": absolute_reference(model)} if model else {}
        return {**super().with_absolute_paths(fields), **whole}

    def find_sources(self, library: Library) -> "TextConfig":
        """The same, with the hash of a pretrained text encoder, which is fetched if need be."""
        found = super().find_sources(library)
        if self.text_encoder != "pretrained":
            return found
        folder, text_model_hash = hub_source(_text_model(self), self.text_model_hash, field="text_model")
        check_text_model((folder / CONFIG).read_text(encoding="utf-8"), max_tokens=self.max_tokens)
        return dataclasses.replace(found, text_model_hash=text_model_hash)

    def without_sources(self) -> "TextConfig":
        """The same, for a model whose weights come from a checkpoint; a frozen encoder's own are read all the same."""
        config = super().without_sources()
        return config if is_text_model_kept(config) else dataclasses.replace(config, text_model="", text_model_hash="")


def is_text_model_kept(config: TextConfig) -> bool:
    """Whether the text encoder has the very weights of its files, which need not be stored then."""
    foreign = config.text_encoder == "pretrained" and not config.train_text_encoder
    return foreign and "text_encoder" not in named(config, "init_from")


def fit_text_tokenizer(config: TextConfig, captions: Iterable[str]) -> Assets:
    """The assets of a text encoder: the vocabulary of the training captions, or what comes with a pretrained encoder.

    Raises:
        NotFound: there is no such pretrained encoder.
        BadInput: it is none, or the captions hold no word.
    """
    if config.text_encoder == "pretrained":
        folder = hub_folder(_text_model(config))
        text_model = (folder / CONFIG).read_text(encoding="utf-8")
        return {TOKENIZER: PretrainedTokenizer.read(folder), TEXT_MODEL: text_model}
    tokenizer = CaptionTokenizer.fit(
        captions,
        min_word_count=config.min_word_count,
        tokens=config.tokens,
        vocabulary_size=config.vocabulary_size,
        stem_words=config.stem_words,
        clean_text=config.clean_text,
    )
    return {TOKENIZER: tokenizer.to_text()}


def read_text_tokenizer(config: TextConfig, assets: Assets) -> TextTokenizer:
    """The tokenizer among the assets."""
    if config.text_encoder == "pretrained":
        return PretrainedTokenizer.from_text(assets[TOKENIZER], max_tokens=config.max_tokens)
    return CaptionTokenizer.from_text(assets[TOKENIZER])


def text_tokens(tokenizer: TextTokenizer, texts: Sequence[str], *, max_tokens: int) -> Int64[Tensor, "texts tokens"]:
    """Texts as a text encoder reads them: no start, no end, padding behind. A text without words is one unknown one.

    Args:
        tokenizer: as ``read_text_tokenizer`` gives it.
        texts: as people wrote them.
        max_tokens: where they are cut.
    """
    return pad([(row or [UNKNOWN])[:max_tokens] for row in tokenizer.ids(texts)])


def build_text_encoder(config: TextConfig, assets: Assets, *, words: int) -> TextEncoder:
    """The text encoder that a configuration describes, frozen if it is not to learn.

    Args:
        config: with the fields of ``TextConfig``.
        assets: as ``fit_text_tokenizer`` made them.
        words: tokens of the vocabulary.

    Raises:
        NotFound: the pretrained encoder is not there.
        BadInput: it has changed, or is of another kind.
    """
    folder = None
    if config.text_model:
        folder, _ = hub_source(config.text_model, config.text_model_hash, field="text_model")
    encoder = TEXT_ENCODERS[config.text_encoder](
        words=words,
        word_width=config.word_width,
        text_width=config.text_width,
        text_layers=config.text_layers,
        text_heads=config.text_heads,
        text_feedforward_width=config.text_feedforward_width,
        text_dropout=config.text_dropout,
        max_tokens=config.max_tokens,
        text_model_config=assets.get(TEXT_MODEL, ""),
        folder=folder,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    return encoder if config.train_text_encoder else freeze_text(encoder)


def _text_model(config: TextConfig) -> str:
    if not config.text_model:
        raise BadInput(
            "text_encoder='pretrained' needs text_model: a name on the Hugging Face hub such as all-MiniLM-L6-v2, or "
            "the path of a folder."
        )
    return config.text_model


LOWEST = {
    "min_word_count": 1,
    "vocabulary_size": SMALLEST_BYTE_PAIR,
    "max_tokens": 2,
    "word_width": 1,
    "text_width": 1,
    "text_layers": 1,
    "text_heads": 1,
    "text_feedforward_width": 1,
}
"""Smallest values of the fields that have no other bound."""

_OWN = ("lstm", "gru", "transformer", "mlp")
ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "min_word_count": ("tokens", ("words",)),
    "stem_words": ("tokens", ("words",)),
    "clean_text": ("tokens", ("words",)),
    "vocabulary_size": ("tokens", ("byte_pair",)),
    "text_model": ("text_encoder", ("pretrained",)),
    "text_model_hash": ("text_encoder", ("pretrained",)),
    "word_width": ("text_encoder", ("lstm", "gru", "mlp")),
    "text_width": ("text_encoder", _OWN),
    "text_layers": ("text_encoder", ("lstm", "gru", "transformer")),
    "text_heads": ("text_encoder", ("transformer",)),
    "text_feedforward_width": ("text_encoder", ("transformer",)),
    "text_dropout": ("text_encoder", _OWN),
}
"""Fields that are read only if another field has one of these values."""
