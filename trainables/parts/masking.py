"""Captions in which words are hidden, for a network that is to tell which."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trainables.parts.text import MASK, SPECIAL, CaptionTokenizer

WRITTEN_MASK = SPECIAL[MASK]
"""How a person writes that a word is missing."""


def mask_places(tokens: Sequence[int], generator: np.random.Generator, *, share: float) -> list[int]:
    """Which places of a text to hide, rising.

    BERT (https://arxiv.org/abs/1810.04805) leaves some of the chosen words as they are, or puts others there; here all
    are hidden, as in the matching study. Special tokens, such as that for unknown words, are never chosen.

    Args:
        tokens: numbers of the text's tokens.
        generator: all that is random.
        share: of the tokens that can be hidden, in [0, 1); one at least, if there is one.
    """
    known = [place for place, token in enumerate(tokens) if token >= len(SPECIAL)]
    count = min(len(known), max(1, round(share * len(known))))
    return sorted(generator.choice(known, count, replace=False).tolist()) if known else []


def read_written_masks(tokenizer: CaptionTokenizer, text: str) -> list[int]:
    """The tokens of a text in which a person wrote ``<mask>``."""
    first, *others = tokenizer.ids(text.split(WRITTEN_MASK))
    return [*first, *(token for piece in others for token in (MASK, *piece))]


def fill(tokenizer: CaptionTokenizer, tokens: Sequence[int], guesses: Mapping[int, int]) -> str:
    """A text with guesses, in square brackets, in place of what is hidden.

    Args:
        tokenizer: of the text.
        tokens: the text's, with ``MASK`` at the hidden places.
        guesses: place -> token.
    """
    return " ".join(filter(None, _pieces(tokenizer, tokens, guesses)))


def _pieces(tokenizer: CaptionTokenizer, tokens: Sequence[int], guesses: Mapping[int, int]) -> Iterator[str]:
    start = 0
    for place in sorted(guesses):
        yield tokenizer.decode(tokens[start:place])
        yield f"[{tokenizer.decode([guesses[place]])}]"
        start = place + 1
    yield tokenizer.decode(tokens[start:])
