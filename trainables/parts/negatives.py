"""Captions that do not belong to a picture: drawn from those of other pictures of the same split."""

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import overload

import numpy as np

from trainables.parts.datasets import StoredSample
from vltune.contract import Sample
from vltune.errors import BadInput

NEGATIVES = ("random", "hard")
_TRIES = 64
_REMEMBERED = 1 << 16


class CaptionPool:
    """The captions of a split."""

    def __init__(self, split: Sequence[Sample]) -> None:
        self._texts = [text for i in range(len(split)) for text in split[i].captions]
        self._weighed = functools.lru_cache(_REMEMBERED)(self._weigh)

    def draw(
        self,
        captions: Sequence[str],
        generator: np.random.Generator,
        *,
        own: Sequence[str],
        hard_share: float,
        candidates: int,
    ) -> tuple[str, ...]:
        """For each of some captions of a picture one that does not belong to it.

        None has the words of a caption of that picture in their order, wherever it comes from: another picture may
        have been described alike.

        Args:
            captions: of the picture.
            generator: all that is random.
            own: all captions of the picture.
            hard_share: probability that a negative is a hard one, in [0, 1].
            candidates: how many captions are drawn for a hard one, of which the most similar is taken; at least 1.

        Raises:
            BadInput: all captions of the split could belong to the picture.
        """
        words, drawn = {_words(text) for text in own}, []
        for caption in captions:
            count = candidates if generator.random() < hard_share else 1
            foreign = [self._foreign(words, generator) for _ in range(count)]
            drawn.append(max(foreign, key=lambda text: self.similarity(caption, text)) if count > 1 else foreign[0])
        return tuple(drawn)

    def similarity(self, one: str, other: str) -> float:
        """How many of the words of two captions are in both, in [0, 1], the rarer a word the more it counts.

        Jaccard's index over words, each weighted by its inverse document frequency.
        """
        (left, of_left), (right, of_right) = self._weighed(one), self._weighed(other)
        # Not sum(): it rounds by the order of a set, which differs from process to process.
        shared = math.fsum(map(self._rarity, left & right))
        return shared / (of_left + of_right - shared) if left or right else 1.0

    def _weigh(self, text: str) -> tuple[frozenset[str], float]:
        words = frozenset(_words(text))
        return words, math.fsum(map(self._rarity, words))

    def _rarity(self, word: str) -> float:
        """Inverse document frequency, smoothed so that a word of every caption still counts."""
        return 1 + math.log((1 + len(self._texts)) / (1 + self._frequencies[word]))

    @cached_property
    def _frequencies(self) -> Counter[str]:
        """How many captions have a word. Counted when a hard negative is first asked for."""
        return Counter(word for text in self._texts for word in set(_words(text)))

    def _foreign(self, own: set[tuple[str, ...]], generator: np.random.Generator) -> str:
        for _ in range(_TRIES):
            text = self._texts[int(generator.integers(len(self._texts)))]
            if _words(text) not in own:
                return text
        others = [text for text in self._texts if _words(text) not in own]
        if not others:
            raise BadInput(
                f"all {len(self._texts)} captions of a split fit one of its pictures, so none is left that does not "
                "belong to it: add pictures with other captions."
            )
        return others[int(generator.integers(len(others)))]


class PairSample(StoredSample):
    """A sample that knows captions which do not belong to it."""

    def __init__(self, sample: Sample, pool: CaptionPool) -> None:
        def picture() -> np.ndarray:
            assert sample.picture is not None, "a pair is a picture and a caption"
            return sample.picture

        super().__init__(sample.id, picture, sample.captions)
        vars(self)["_pool"] = pool

    def negatives(
        self, captions: Sequence[str], generator: np.random.Generator, *, hard_share: float, candidates: int
    ) -> tuple[str, ...]:
        """As ``CaptionPool.draw``, for this picture."""
        pool: CaptionPool = vars(self)["_pool"]
        return pool.draw(captions, generator, own=self.captions, hard_share=hard_share, candidates=candidates)


class PairSplit(Sequence[Sample]):
    """A split whose samples know the captions of all others of the split, and of no other split."""

    def __init__(self, split: Sequence[Sample], *, among: int = 0) -> None:
        """The same samples.

        Args:
            split: the samples.
            among: negatives come from the first ones only, those that are trained on; 0: from all.
        """
        self._split = split
        self._pool = CaptionPool(split[:among] if among else split)

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PairSample(self._split[index], self._pool)


@functools.lru_cache(_REMEMBERED)
def _words(caption: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", caption.casefold()))
