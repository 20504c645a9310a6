"""Captions as tokens and numbers: a vocabulary fitted on the training captions and saved with the model."""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence

import snowballstemmer
import torch
from jaxtyping import Int64
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from vltune.errors import BadInput

PADDING, START, END, UNKNOWN, MASK = range(5)
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>", "<mask>")
NEVER_GENERATED = (PADDING, START, UNKNOWN, MASK)
TOKENS = ("words", "byte_pair")
SMALLEST_BYTE_PAIR = len(SPECIAL) + 256
"""Tokens of a byte-pair vocabulary without a single pair."""

WORD = r"[\p{L}\p{M}\p{N}]+(?:['-][\p{L}\p{M}\p{N}]+)*"
"""Letters and digits; apostrophes and hyphens stay inside a word, where the metrics' tokenizer expects them."""


class CaptionTokenizer:
    """Lower-cased words without punctuation, one number each; or pieces of the lower-cased text, which lose nothing.

    The special tokens are entries of the vocabulary and nothing more: ``<pad>`` written in a caption is the word
    "pad", or a few pieces, and never the token.
    """

    def __init__(self, tokenizer: Tokenizer, *, stem_words: bool = False) -> None:
        self._tokenizer, self._stem_words = tokenizer, stem_words
        self._pieces = isinstance(tokenizer.model, models.BPE)
        self._rules = _word_rules() if self._pieces else (tokenizer.normalizer, tokenizer.pre_tokenizer)
        self._words = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
        self._numbers = {word: i for i, word in enumerate(self._words)}

    @classmethod
    def fit(
        cls,
        captions: Iterable[str],
        *,
        min_word_count: int,
        tokens: str = "words",
        vocabulary_size: int = 4096,
        stem_words: bool = False,
        clean_text: bool = True,
    ) -> "CaptionTokenizer":
        """A vocabulary of the training captions.

        Args:
            captions: of the training split.
            min_word_count: for ``words``, how often a word must occur; they come by falling count, then alphabet.
            tokens: ``words``, or ``byte_pair``: pieces of words, from bytes up to whole words, as in GPT-2
                (https://arxiv.org/abs/1508.07909 for letters in place of bytes). No word is unknown then.
            vocabulary_size: for ``byte_pair``, the most tokens, special ones and bytes included; fewer if no pair is
                left that occurs twice. At least ``SMALLEST_BYTE_PAIR``.
            stem_words: for ``words``, reduce each to its stem (Porter's second stemmer for English). What is decoded
                are stems, so this is for models that do not write.
            clean_text: for ``words``, drop punctuation; without it, a word is what stands between white space.

        Raises:
            BadInput: no word is that frequent, or there is no text at all.
        """
        assert tokens in TOKENS
        if tokens == "byte_pair":
            assert not stem_words, "pieces have no stems"
            return cls(_byte_pair_tokenizer(captions, vocabulary_size=vocabulary_size))
        bare = cls(_word_tokenizer({}, clean_text=clean_text), stem_words=stem_words)
        counts = Counter(word for caption in captions for word in bare.words(caption))
        kept = sorted((w for w, n in counts.items() if n >= min_word_count), key=lambda w: (-counts[w], w))
        if not kept:
            raise BadInput(
                f"min_word_count={min_word_count} leaves no word: the training captions have {len(counts)} words, the "
                f"most frequent {max(counts.values(), default=0)} times; lower it or add captions."
            )
        vocabulary = {word: i for i, word in enumerate((*SPECIAL, *kept))}
        return cls(_word_tokenizer(vocabulary, clean_text=clean_text), stem_words=stem_words)

    @classmethod
    def from_text(cls, text: str) -> "CaptionTokenizer":
        """The vocabulary that ``to_text`` wrote.

        Raises:
            BadInput: the text is no tokenizer of this kind.
        """
        try:  # the library raises a bare Exception
            fields = json.loads(text)
            stem_words = bool(fields.pop("stem_words", False))
            tokenizer = Tokenizer.from_str(json.dumps(fields))
        except Exception as error:
            raise BadInput(f"tokenizer.json cannot be read: {error}; take the file that was saved with it.") from error
        if tuple(tokenizer.id_to_token(i) for i in range(len(SPECIAL))) != SPECIAL:
            raise BadInput(f"tokenizer.json must begin with {', '.join(SPECIAL)}; take the file saved with the model.")
        return cls(tokenizer, stem_words=stem_words)

    def to_text(self) -> str:
        """Everything there is to know, as JSON."""
        text = self._tokenizer.to_str()
        # The library's format has no place for stemming, and takes no further key: ours goes before it is read.
        return json.dumps({**json.loads(text), "stem_words": True}, ensure_ascii=False) if self._stem_words else text

    def __len__(self) -> int:
        return len(self._words)

    def words(self, caption: str) -> list[str]:
        """The words of a caption, known or not, whatever the tokens are; stems, where words are stemmed."""
        normalizer, pre_tokenizer = self._rules
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(caption))]
        return [_stem(word) for word in words] if self._stem_words else words

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The tokens' numbers, without start and end."""
        if self._stem_words:
            return [[self._numbers.get(word, UNKNOWN) for word in self.words(caption)] for caption in captions]
        return [encoding.ids for encoding in self._tokenizer.encode_batch([*captions])]

    def encode(self, captions: Sequence[str], *, max_tokens: int) -> Int64[Tensor, "captions tokens"]:
        """Start, tokens, end and padding. ``max_tokens`` counts the end too; what is longer loses its last tokens."""
        return pad([[START, *ids[: max_tokens - 1], END] for ids in self.ids(captions)])

    def prompt(self, text: str, *, max_tokens: int) -> list[int]:
        """The numbers of the tokens with which every caption is to begin.

        Raises:
            BadInput: a word that the model does not know, or no room left for a caption.
        """
        ids = self.ids([text])[0]
        if UNKNOWN in ids:
            raise BadInput(
                f"prompt={text!r}: the word {self.words(text)[ids.index(UNKNOWN)]!r} is not in the vocabulary of the "
                f"training captions; use another or lower min_word_count."
            )
        if len(ids) >= max_tokens:
            raise BadInput(
                f"prompt={text!r} has {len(ids)} tokens: it must have fewer than max_tokens={max_tokens}; shorten it."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the end: words joined by spaces, or pieces put together.

        Pieces give back any text that they came from, lower-cased. Bytes that are no character, which a model may
        write, become U+FFFD.
        """
        until_end = ids[: ids.index(END)] if END in ids else ids
        kept = [i for i in until_end if i >= len(SPECIAL)]
        if self._pieces:
            return self._tokenizer.decode(kept).strip()
        return " ".join(self._words[i] for i in kept)


def pad(rows: Sequence[Sequence[int]]) -> Int64[Tensor, "rows tokens"]:
    """Rows of unequal length as one tensor, filled up with padding."""
    length = max(map(len, rows), default=0)
    filled = [[*row, *[PADDING] * (length - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64).reshape(len(rows), length)


@functools.cache
def _word_rules(*, clean_text: bool = True) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    if not clean_text:
        # Or what is written like a special token would be one.
        apart = normalizers.Replace(Regex("|".join(SPECIAL)), " ")
        return normalizers.Sequence([*_normalizers(), apart]), pre_tokenizers.WhitespaceSplit()
    return normalizers.Sequence(_normalizers()), pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)


def _normalizers() -> list[normalizers.Normalizer]:
    return [normalizers.NFC(), normalizers.Replace("\u2019", "'"), normalizers.Lowercase()]


@functools.lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    # A stemmer has a state, and several threads make batches: each word gets its own, which costs nothing beside it.
    return snowballstemmer.stemmer("english").stemWord(word)


def _word_tokenizer(vocabulary: dict[str, int], *, clean_text: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _word_rules(clean_text=clean_text)
    return tokenizer


def _byte_pair_tokenizer(captions: Iterable[str], *, vocabulary_size: int) -> Tokenizer:
    trained = _piece_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [text for text in captions if text.strip()]
    if not texts:
        raise BadInput("tokens='byte_pair' has nothing to learn from: the training captions are empty; add captions.")
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    # Put together anew, because the trainer's tokenizer would read the special tokens out of captions.
    return _piece_tokenizer(models.BPE(vocab=model["vocab"], merges=[(left, right) for left, right in model["merges"]]))


def _piece_tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([*_normalizers(), normalizers.Strip()])
    # A space before the first word too: a word has the same number wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
