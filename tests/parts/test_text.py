"""The vocabulary against hand-counted words."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.parts.text import END, PADDING, SPECIAL, START, UNKNOWN, CaptionTokenizer
from vltune.contract import BadInput

CAPTIONS = ("A dog runs.", "a Dog, and a cat!", "The cat's T-shirt", "a bird")


def test_frequent_words_come_first_then_the_alphabet_and_rare_ones_are_left_out() -> None:
    tokenizer = CaptionTokenizer.fit(CAPTIONS, min_word_count=1)
    expected = [*SPECIAL, "a", "dog", "and", "bird", "cat", "cat's", "runs", "t-shirt", "the"]
    assert list(json.loads(tokenizer.to_text())["model"]["vocab"]) == expected
    assert len(tokenizer) == len(expected)
    assert len(CaptionTokenizer.fit(CAPTIONS, min_word_count=2)) == len(SPECIAL) + 2


def test_order_of_captions_does_not_matter() -> None:
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    one, other = (CaptionTokenizer.fit(c, min_word_count=1).to_text() for c in (CAPTIONS, shuffled))
    assert one == other


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A  man's T-Shirt, isn't 'ok'.", ["a", "man's", "t-shirt", "isn't", "ok"]),
        ("man\u2019s", ["man's"]),
        ("Cafe\u0301 \u2014 na\u00efve", ["caf\u00e9", "na\u00efve"]),
        ("two--three ... !? 4", ["two", "three", "4"]),
        ("\U0001f600", []),
    ],
)
def test_words(caption: str, words: list[str]) -> None:
    assert CaptionTokenizer.fit(CAPTIONS, min_word_count=1).words(caption) == words


def test_encoding_pads_marks_unknown_words_and_cuts() -> None:
    tokenizer = CaptionTokenizer.fit(CAPTIONS, min_word_count=2)
    a, dog = 4, 5
    ids = tokenizer.encode(["A dog sleeps", "dog", ""], max_tokens=10)
    assert ids.tolist() == [
        [START, a, dog, UNKNOWN, END],
        [START, dog, END, PADDING, PADDING],
        [START, END, PADDING, PADDING, PADDING],
    ]
    cut = tokenizer.encode(["a dog a dog a dog"], max_tokens=3)
    assert cut.tolist() == [[START, a, dog, END]]
    assert tokenizer.encode([], max_tokens=3).shape == (0, 0)


def test_decoding_stops_at_the_end_and_skips_special_tokens() -> None:
    tokenizer = CaptionTokenizer.fit(CAPTIONS, min_word_count=2)
    assert tokenizer.decode([START, 4, PADDING, 5, END, 4]) == "a dog"
    assert tokenizer.decode([]) == ""


def test_special_tokens_written_in_a_caption_are_plain_words() -> None:
    tokenizer = CaptionTokenizer.fit(["pad <pad> <end> end"], min_word_count=1)
    assert min(tokenizer.ids(["<pad> <end>"])[0]) >= len(SPECIAL)


def test_text_round_trip_and_broken_text() -> None:
    tokenizer = CaptionTokenizer.fit(CAPTIONS, min_word_count=1)
    again = CaptionTokenizer.from_text(tokenizer.to_text())
    assert again.to_text() == tokenizer.to_text()
    assert again.ids(CAPTIONS) == tokenizer.ids(CAPTIONS)
    with pytest.raises(BadInput, match="cannot be read"):
        CaptionTokenizer.from_text("{")
    with pytest.raises(BadInput, match="must begin with <pad>"):
        CaptionTokenizer.from_text(tokenizer.to_text().replace("<pad>", "<bad>"))


def test_what_a_person_can_get_wrong() -> None:
    with pytest.raises(BadInput, match=r"min_word_count=9 leaves no word.* 9 words, the most frequent 4 times"):
        CaptionTokenizer.fit(CAPTIONS, min_word_count=9)
    with pytest.raises(BadInput, match="leaves no word"):
        CaptionTokenizer.fit([], min_word_count=1)
    tokenizer = CaptionTokenizer.fit(CAPTIONS, min_word_count=1)
    assert tokenizer.prompt("A dog,", max_tokens=3) == tokenizer.ids(["a dog"])[0]
    assert tokenizer.prompt("", max_tokens=3) == []
    with pytest.raises(BadInput, match="the word 'depiction' is not in the vocabulary"):
        tokenizer.prompt("a depiction", max_tokens=9)
    with pytest.raises(BadInput, match="has 3 words: it must have fewer than max_tokens=3"):
        tokenizer.prompt("a dog runs", max_tokens=3)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_is_words_of_letters_and_comes_back(captions: list[str]) -> None:
    tokenizer = CaptionTokenizer.fit(["a word", *captions], min_word_count=1)
    for caption, ids in zip(captions, tokenizer.ids(captions), strict=True):
        assert UNKNOWN not in ids
        assert tokenizer.decode(ids) == " ".join(tokenizer.words(caption))
        assert not re.search(r"[\s.,;:!?\"<>()]", "".join(tokenizer.words(caption)))
