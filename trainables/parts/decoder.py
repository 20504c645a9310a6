"""What every caption decoder can do; generation is written against it."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from trainables.parts.text import SPECIAL


class Decoder(nn.Module, ABC):
    """Words, given a picture and the words before. A picture is prepared once, however many captions it has.

    Rows are (picture, caption) pairs: training reads several captions of a picture at once, a beam search writes
    several. Nothing of the picture is copied for them.
    """

    words: nn.Linear
    """From the last hidden vector to a logit for each word of the vocabulary."""

    @abstractmethod
    def prepare(self, features: Float[Tensor, "pictures positions width"]) -> Any:
        """The memory: all that depends on the picture alone."""

    @abstractmethod
    def hidden(
        self, memory: Any, tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens hidden"]:
        """What ``words`` turns into logits: so that padding need not be turned into logits at all."""

    @abstractmethod
    def attention(
        self, memory: Any, tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens positions"]:
        """Where in the picture each next word was looked for: weights that sum to one over the positions."""

    @abstractmethod
    def start(self, memory: Any) -> Any:
        """The state before the first token, one row for each picture."""

    @abstractmethod
    def step(
        self, tokens: Int[Tensor, "pictures rows"], state: Any
    ) -> tuple[Float[Tensor, "pictures rows words"], Any]:
        """Logits after one more token in every row, and the state to go on from."""

    @abstractmethod
    def reorder(self, state: Any, source: Int[Tensor, "pictures new_rows"]) -> Any:
        """A state whose row j of picture i goes on from that picture's row ``source[i, j]``."""

    def forward(
        self, memory: Any, tokens: Int[Tensor, "pictures captions tokens"]
    ) -> Float[Tensor, "pictures captions tokens words"]:
        """The logits of each next word, every token given (teacher forcing)."""
        return self.words(self.hidden(memory, tokens))


def word_embedding(words: int, width: int) -> nn.Embedding:
    """Vectors of words whose length is about one."""
    assert words > len(SPECIAL)
    embedding = nn.Embedding(words, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding
