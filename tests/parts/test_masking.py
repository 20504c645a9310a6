"""Which words are hidden, and how guesses are written."""

from collections import Counter

import numpy as np
import pytest

from trainables.parts.masking import fill, mask_places, read_written_masks
from trainables.parts.text import MASK, SPECIAL, UNKNOWN, CaptionTokenizer

WORDS = list(range(len(SPECIAL), len(SPECIAL) + 10))


def places(tokens: list[int], share: float, seed: int = 0) -> list[int]:
    return mask_places(tokens, np.random.default_rng(seed), share=share)


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.04, 1), (0.15, 2), (0.5, 5), (0.99, 10)])
def test_the_share_of_the_words_and_one_at_least(share: float, count: int) -> None:
    hidden = places(WORDS, share)
    assert len(set(hidden)) == len(hidden) == count
    assert hidden == sorted(hidden)


def test_every_word_is_hidden_equally_often() -> None:
    counts = Counter(place for seed in range(2000) for place in places(WORDS, 0.0, seed))
    assert sorted(counts) == list(range(10))
    assert max(counts.values()) < 1.3 * 200


def test_unknown_words_are_never_hidden() -> None:
    tokens = [UNKNOWN, 7, UNKNOWN, 8]
    assert {tuple(places(tokens, 0.9, seed)) for seed in range(20)} == {(1, 3)}
    assert {tuple(places(tokens, 0.0, seed)) for seed in range(20)} == {(1,), (3,)}
    assert places([UNKNOWN], 0.5) == []
    assert places([], 0.5) == []


def test_written_masks_and_guesses() -> None:
    tokenizer = CaptionTokenizer.fit(["a red dog runs"], min_word_count=1)
    number = {word: tokenizer.ids([word])[0][0] for word in ("a", "red", "dog", "runs")}
    tokens = read_written_masks(tokenizer, "A <mask> dog, <mask>!")
    assert tokens == [number["a"], MASK, number["dog"], MASK]
    assert fill(tokenizer, tokens, {1: number["red"], 3: number["runs"]}) == "a [red] dog [runs]"
    assert read_written_masks(tokenizer, "<mask>") == [MASK]
    assert fill(tokenizer, [MASK], {0: number["dog"]}) == "[dog]"
    assert fill(tokenizer, [number["a"], number["dog"]], {}) == "a dog"


def test_what_is_not_cleaned_keeps_its_punctuation_and_has_no_special_words() -> None:
    captions = ["A dog, running.", "a  dog <mask> runs <PAD> !"]
    raw = CaptionTokenizer.fit(captions, min_word_count=1, clean_text=False)
    assert raw.words(captions[0]) == ["a", "dog,", "running."]
    assert raw.words(captions[1]) == ["a", "dog", "runs", "!"]
    again = CaptionTokenizer.from_text(raw.to_text())
    assert again.ids(captions) == raw.ids(captions)
    assert all(token >= len(SPECIAL) for row in raw.ids(captions) for token in row)
    assert CaptionTokenizer.fit(captions, min_word_count=1).words(captions[0]) == ["a", "dog", "running"]
    stemmed = CaptionTokenizer.fit(["running dogs"], min_word_count=1, clean_text=False, stem_words=True)
    assert stemmed.words("running dogs") == ["run", "dog"]
