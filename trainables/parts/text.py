"""Captions as words and numbers: a vocabulary fitted on the training captions and saved with the model."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int64
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from vltune.contract import BadInput

PADDING, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
NEVER_GENERATED = (PADDING, START, UNKNOWN)

WORD = r"[\p{L}\p{M}\p{N}]+(?:['-][\p{L}\p{M}\p{N}]+)*"
"""Letters and digits; apostrophes and hyphens stay inside a word, where the metrics' tokenizer expects them."""


class CaptionTokenizer:
    """Lower-cased words without punctuation, one number each.

    The special tokens are entries of the vocabulary and nothing more: ``<pad>`` written in a caption is the word
    "pad", because punctuation goes before words are looked up.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]

    @classmethod
    def fit(cls, captions: Iterable[str], *, min_word_count: int) -> "CaptionTokenizer":
        """A vocabulary of the words that occur at least ``min_word_count`` times, by falling count, then alphabet.

        Raises:
            BadInput: no word is that frequent.
        """
        bare = _tokenizer({})
        counts = Counter(word for caption in captions for word in _split(bare, caption))
        kept = sorted((w for w, n in counts.items() if n >= min_word_count), key=lambda w: (-counts[w], w))
        if not kept:
            raise BadInput(
                f"min_word_count={min_word_count} leaves no word: the training captions have {len(counts)} words, the "
                f"most frequent {max(counts.values(), default=0)} times; lower it or add captions."
            )
        return cls(_tokenizer({word: i for i, word in enumerate((*SPECIAL, *kept))}))

    @classmethod
    def from_text(cls, text: str) -> "CaptionTokenizer":
        """The vocabulary that ``to_text`` wrote.

        Raises:
            BadInput: the text is no tokenizer of this kind.
        """
        try:  # the library raises a bare Exception
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:
            raise BadInput(f"tokenizer.json cannot be read: {error}; take the file that was saved with it.") from error
        if tuple(tokenizer.id_to_token(i) for i in range(len(SPECIAL))) != SPECIAL:
            raise BadInput(f"tokenizer.json must begin with {', '.join(SPECIAL)}; take the file saved with the model.")
        return cls(tokenizer)

    def to_text(self) -> str:
        """Everything there is to know, as JSON."""
        return self._tokenizer.to_str()

    def __len__(self) -> int:
        return len(self._words)

    def words(self, caption: str) -> list[str]:
        """The words of a caption, known or not."""
        return _split(self._tokenizer, caption)

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The words' numbers, without start and end."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([*captions])]

    def encode(self, captions: Sequence[str], *, max_tokens: int) -> Int64[Tensor, "captions tokens"]:
        """Start, words, end and padding. ``max_tokens`` counts words and end; what is longer loses its last words."""
        return pad([[START, *ids[: max_tokens - 1], END] for ids in self.ids(captions)])

    def prompt(self, text: str, *, max_tokens: int) -> list[int]:
        """The numbers of the words with which every caption is to begin.

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
                f"prompt={text!r} has {len(ids)} words: it must have fewer than max_tokens={max_tokens}; shorten it."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The words up to the end, joined by spaces."""
        words = []
        for i in ids:
            if i == END:
                break
            if i >= len(SPECIAL):
                words.append(self._words[i])
        return " ".join(words)


def pad(rows: Sequence[Sequence[int]]) -> Int64[Tensor, "rows tokens"]:
    """Rows of unequal length as one tensor, filled up with padding."""
    length = max(map(len, rows), default=0)
    filled = [[*row, *[PADDING] * (length - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64).reshape(len(rows), length)


def _split(tokenizer: Tokenizer, caption: str) -> list[str]:
    assert tokenizer.normalizer is not None
    assert tokenizer.pre_tokenizer is not None
    text = tokenizer.normalizer.normalize_str(caption)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace("\u2019", "'"), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    return tokenizer
