"""The vocabulary against hand-counted words."""

import json
import random
import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.parts.text import (
    END,
    MASK,
    NEVER_GENERATED,
    PADDING,
    SMALLEST_BYTE_PAIR,
    SPECIAL,
    START,
    UNKNOWN,
    CaptionTokenizer,
)
from vltune.errors import BadInput

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
    a, dog = 5, 6
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
    assert tokenizer.decode([START, 5, PADDING, MASK, 6, END, 5]) == "a dog"
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
    with pytest.raises(BadInput, match="has 3 tokens: it must have fewer than max_tokens=3"):
        tokenizer.prompt("a dog runs", max_tokens=3)


def byte_pair(captions: Sequence[str], vocabulary_size: int = 300) -> CaptionTokenizer:
    return CaptionTokenizer.fit(captions, min_word_count=9, tokens="byte_pair", vocabulary_size=vocabulary_size)


def test_byte_pairs_are_merged_by_their_count() -> None:
    """By hand: "aaab" has the pairs aa, aa, ab; merging goes on until no pair occurs twice."""
    tokenizer = byte_pair(["Hug pug hug", "pug hugs"], vocabulary_size=SMALLEST_BYTE_PAIR + 3)
    # " hug" 2 + 1 times, " pug" twice: "ug" is the most frequent pair (5), then "hug" (3) and " hug" (3).
    assert [len(ids) for ids in tokenizer.ids(["hug", "hug pug", "hugs"])] == [1, 1 + 3, 2]
    assert len(tokenizer) == SMALLEST_BYTE_PAIR + 3
    # Pairs that occur once are not merged, however much room there is.
    assert len(byte_pair(["abc"], vocabulary_size=1000)) == SMALLEST_BYTE_PAIR


def test_byte_pairs_give_the_text_back_whatever_was_trained_on() -> None:
    tokenizer = byte_pair([*CAPTIONS, *CAPTIONS])
    for text in ("A man's T-Shirt, isn't it?", "Zebra \U0001f600 \u00e9t\u00e9!", "a (small) dog ...", "<pad> <mask>"):
        assert tokenizer.decode(tokenizer.ids([text])[0]) == text.lower()
    assert min(tokenizer.ids(["<pad> <start> <end> <unk> <mask>"])[0]) >= len(SPECIAL)
    assert tokenizer.decode([]) == ""
    assert tokenizer.ids([""]) == [[]]


def test_byte_pairs_of_a_prompt_begin_the_caption() -> None:
    tokenizer = byte_pair([*CAPTIONS, *CAPTIONS])
    prompt = tokenizer.prompt(" The cat's ", max_tokens=30)
    assert tokenizer.ids(["the cat's hat"])[0][: len(prompt)] == prompt
    assert tokenizer.prompt("depiction", max_tokens=30)  # no word is unknown
    with pytest.raises(BadInput, match="tokens: it must have fewer than max_tokens=3"):
        tokenizer.prompt("depiction", max_tokens=3)


def test_byte_pairs_decode_as_another_implementation_does() -> None:
    """GPT-2's way from bytes to letters, written out: printable bytes stand for themselves, others for 256, 257, …"""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    byte_of = {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}
    tokenizer = byte_pair(CAPTIONS)
    vocabulary = {i: token for token, i in json.loads(tokenizer.to_text())["model"]["vocab"].items()}
    for text in ("the cat's \u00e9t\u00e9", "\U0001f600 a bird"):
        pieces = "".join(vocabulary[i] for i in tokenizer.ids([text])[0])
        assert bytes(byte_of[letter] for letter in pieces).decode() == " " + text
    half = tokenizer.ids(["\u00e9"])[0][:-1]
    assert tokenizer.decode([*half, END]) == "\ufffd"


def test_byte_pairs_are_saved_whole_and_do_not_depend_on_the_order() -> None:
    captions = [f"{a} {b}" for a in CAPTIONS for b in CAPTIONS]
    tokenizer = byte_pair(captions, 400)
    shuffled = random.Random(1).sample(captions, len(captions))
    assert byte_pair(shuffled, 400).to_text() == tokenizer.to_text()
    again = CaptionTokenizer.from_text(tokenizer.to_text())
    assert again.to_text() == tokenizer.to_text()
    assert again.ids(captions) == tokenizer.ids(captions)
    assert [again.decode(ids) for ids in again.ids(CAPTIONS)] == [caption.lower() for caption in CAPTIONS]


def test_byte_pairs_need_text() -> None:
    with pytest.raises(BadInput, match="nothing to learn from: the training captions are empty"):
        byte_pair([" ", ""])


def test_stems_share_a_number() -> None:
    """Stems by hand, from the rules of Porter's second stemmer; ``skis`` and ``dying`` are its exceptions."""
    captions = ["Dogs running", "a dog runs, generously", "skis dying"]
    tokenizer = CaptionTokenizer.fit(captions, min_word_count=1, stem_words=True)
    assert tokenizer.words("the Dog's skis, dying") == ["the", "dog", "ski", "die"]
    assert len(tokenizer) == len(SPECIAL) + len({"dog", "run", "a", "generous", "ski", "die"})
    dog, run = tokenizer.ids(["dog run"])[0]
    assert tokenizer.ids(["Dogs, running", "the dogs run"]) == [[dog, run], [UNKNOWN, dog, run]]
    plain = CaptionTokenizer.fit(captions, min_word_count=1)
    assert plain.ids(["dog"]) != plain.ids(["dogs"])
    assert len(CaptionTokenizer.fit(captions, min_word_count=2, stem_words=True)) == len(SPECIAL) + 2


def test_stemming_is_saved_with_the_vocabulary() -> None:
    tokenizer = CaptionTokenizer.fit(["dogs running \u00e9t\u00e9"], min_word_count=1, stem_words=True)
    again = CaptionTokenizer.from_text(tokenizer.to_text())
    assert again.to_text() == tokenizer.to_text()
    assert again.ids(["dog runs"]) == tokenizer.ids(["dog runs"])
    assert UNKNOWN not in again.ids(["dog runs"])[0]


def test_the_mask_is_never_written() -> None:
    assert SPECIAL[MASK] == "<mask>"
    assert {PADDING, START, UNKNOWN, MASK} == {*NEVER_GENERATED}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_is_pieces_and_comes_back(captions: list[str]) -> None:
    tokenizer = byte_pair(["a word", *captions])
    for caption, ids in zip(captions, tokenizer.ids(captions), strict=True):
        assert all(len(SPECIAL) <= i < len(tokenizer) for i in ids)
        # Lower-cased letter by letter: Python's lower() knows of a final sigma.
        lower = "".join(letter.lower() for letter in unicodedata.normalize("NFC", caption).replace("\u2019", "'"))
        assert tokenizer.decode(ids) == lower.strip()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_stem_is_known(captions: list[str]) -> None:
    tokenizer = CaptionTokenizer.fit(["a word", *captions], min_word_count=1, stem_words=True)
    for caption, ids in zip(captions, tokenizer.ids(captions), strict=True):
        assert UNKNOWN not in ids
        assert tokenizer.decode(ids) == " ".join(tokenizer.words(caption))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_is_words_of_letters_and_comes_back(captions: list[str]) -> None:
    tokenizer = CaptionTokenizer.fit(["a word", *captions], min_word_count=1)
    for caption, ids in zip(captions, tokenizer.ids(captions), strict=True):
        assert UNKNOWN not in ids
        assert tokenizer.decode(ids) == " ".join(tokenizer.words(caption))
        assert not re.search(r"[\s.,;:!?\"<>()]", "".join(tokenizer.words(caption)))
