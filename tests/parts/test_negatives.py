"""Captions that do not belong to a picture: whose they are, how they are drawn, how hard they are."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.parts.negatives import CaptionPool, PairSample, PairSplit
from vltune.contract import Sample
from vltune.errors import BadInput

TEXTS = st.lists(st.lists(st.sampled_from(["a dog", "A dog.", "a cat", "red", "a red cat"]), min_size=1), min_size=1)


def split(*captions: tuple[str, ...]) -> list[Sample]:
    picture = np.zeros((8, 8, 3), np.uint8)
    return [Sample(f"p{i}", picture, texts) for i, texts in enumerate(captions)]


def draw(
    pool: CaptionPool, captions: tuple[str, ...], seed: int = 0, *, hard_share: float = 0.0, candidates: int = 20
) -> tuple[str, ...]:
    generator = np.random.default_rng(seed)
    return pool.draw(captions, generator, own=captions, hard_share=hard_share, candidates=candidates)


def plain(text: str) -> list[str]:
    return text.lower().replace(".", "").split()


@settings(deadline=None)
@given(TEXTS, st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 10))
def test_no_negative_has_the_words_of_a_caption_of_the_picture(
    texts: list[list[str]], hard_share: float, seed: int
) -> None:
    samples = split(*map(tuple, texts))
    pool, own = CaptionPool(samples), samples[0].captions
    foreign = [text for sample in samples for text in sample.captions if plain(text) not in map(plain, own)]
    if not foreign:
        with pytest.raises(BadInput, match="none is left that does not belong to it"):
            draw(pool, own, seed, hard_share=hard_share)
        return
    drawn = draw(pool, own, seed, hard_share=hard_share)
    assert len(drawn) == len(own)
    assert set(drawn) <= set(foreign)


def test_random_negatives_are_drawn_evenly() -> None:
    pool = CaptionPool(split(("own",), ("a", "b"), ("c",), ("own", "d")))
    counts = Counter(text for seed in range(2000) for text in draw(pool, ("own",), seed))
    assert counts.keys() == {"a", "b", "c", "d"}
    assert min(counts.values()) > 0.8 * 500


def test_one_caption_among_thousands_that_is_not_the_pictures_is_found() -> None:
    assert draw(CaptionPool(split(("same",) * 5000, ("other",))), ("same",)) == ("other",)


def test_similarity_by_hand() -> None:
    pool = CaptionPool(split(("a red dog",), ("a red cat",), ("a blue dog",)))
    # Of three captions all have "a", two "red" or "dog", one "cat" or "blue".
    of_all, of_two, of_one = 1 + np.log(4 / 4), 1 + np.log(4 / 3), 1 + np.log(4 / 2)
    expected = (of_all + of_two) / (of_all + 2 * of_two + of_one)
    assert pool.similarity("A red dog!", "a red cat") == pytest.approx(expected)
    assert pool.similarity("a red dog", "dog, red, a") == 1
    assert pool.similarity("dog", "cat") == 0
    # A rare word in common counts for more than a frequent one.
    assert pool.similarity("a cat", "cat") > pool.similarity("a cat", "a")


def test_hard_negatives_are_the_most_similar_of_many() -> None:
    others = [(f"word{i} thing{i}",) for i in range(30)]
    pool = CaptionPool(split(("a red dog runs",), *others, ("a red dog sits",)))
    own = ("a red dog runs",)
    hard = [draw(pool, own, seed, hard_share=1.0, candidates=200)[0] for seed in range(20)]
    assert set(hard) == {"a red dog sits"}
    mixed = Counter(draw(pool, own, seed, hard_share=0.3, candidates=200)[0] for seed in range(1000))
    assert 0.28 * 1000 < mixed["a red dog sits"] < 0.37 * 1000


def test_similarities_do_not_depend_on_the_order_of_words() -> None:
    """The order of a set of words differs from process to process; sums must be rounded once, not word by word."""
    texts = [" ".join(f"w{j}" for j in range(i, i + 9)) for i in range(12)]
    texts += [f"w{i}" for i in range(20) for _ in range(i % 4)]
    pool = CaptionPool(split(*((text,) for text in texts)))
    counts = Counter(word for text in texts for word in set(text.split()))

    def exact(words: set[str]) -> float:
        return float(sum(Fraction(1 + math.log((1 + len(texts)) / (1 + counts[word]))) for word in words))

    for one, other in itertools.product(texts[:12], repeat=2):
        left, right = set(one.split()), set(other.split())
        shared = exact(left & right)
        assert pool.similarity(one, other) == shared / (exact(left) + exact(right) - shared)


def test_a_split_knows_no_captions_but_its_own() -> None:
    samples = split(("a dog",), ("a cat",), ("a bird",))
    pairs = PairSplit(samples)
    assert len(pairs) == 3
    pair = pairs[0]
    assert isinstance(pair, PairSample)
    assert (pair.id, pair.captions, pair.picture is samples[0].picture) == ("p0", ("a dog",), True)
    drawn = {
        text
        for seed in range(50)
        for text in pair.negatives(pair.captions, np.random.default_rng(seed), hard_share=0.0, candidates=2)
    }
    assert drawn == {"a cat", "a bird"}
    first_two = PairSplit(samples, among=2)
    assert [s.id for s in first_two[1:]] == ["p1", "p2"]
    pair = first_two[0]
    assert isinstance(pair, PairSample)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert pair.negatives(pair.captions, rng, hard_share=0.5, candidates=5) == ("a cat",)
