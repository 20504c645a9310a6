"""The fields that say how captions are written, and the writing."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainables.parts.generation import Stepper, beam, greedy, sample
from trainables.parts.scoring_fields import ScoringConfig, asks_for
from vltune.configuration import in_range, one_of, only_with, unchecked
from vltune.contract import Draws, Record

DECODINGS = tuple(f.__name__ for f in (greedy, beam, sample))


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(ScoringConfig):
    """How captions are written."""

    max_tokens: int = 30
    """Tokens of the longest caption, its end counted; longer captions lose their last ones. At least 2."""
    decoding: str = "greedy"
    """How captions are written: ``greedy``, ``beam`` or ``sample``."""
    beam_width: int = 3
    """``beam``: captions that grow side by side. At least 1."""
    length_penalty: float = 1.0
    """``beam``: captions compare by log-probability / length**length_penalty. At least 0."""
    top_k: int = 0
    """``sample``: draws from this many likeliest words; 0: from all. The further metric ``samples`` draws with this and
    with the next two as well."""
    top_p: float = 1.0
    """``sample``: draws from the fewest likeliest words whose probabilities sum to this (nucleus sampling,
    https://arxiv.org/abs/1904.09751); 1: from all. In (0, 1]."""
    temperature: float = 1.0
    """``sample``: what logits are divided by; lower is closer to greedy. Above 0."""
    repetition_penalty: float = 1.0
    """Makes words that a caption already has less likely (https://arxiv.org/abs/1909.05858): what their logits are
    divided by, or multiplied where negative; 1: nothing. Above 0."""
    prompt: str = ""
    """Words with which every caption begins; they are part of the caption."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "decoding", DECODINGS)
        if self.max_tokens or type(self).__dataclass_fields__["max_tokens"].default:
            in_range(self, "max_tokens", 2)  # 0 is possible where it is the default
        for key, low in {"beam_width": 1, "length_penalty": 0, "top_k": 0}.items():
            in_range(self, key, low)
        in_range(self, "top_p", 0, 1, above=True)
        for key in ("temperature", "repetition_penalty"):
            in_range(self, key, 0, above=True)
        sampled = asks_for(self, "samples")
        only_with(self, {k: v for k, v in DECODED_WITH.items() if not (sampled and v[1] == ("sample",))})


class Way(NamedTuple):
    """One way to write the captions of a batch."""

    settings: Any
    """A ``DecodingConfig``."""
    uniforms: Float[Tensor, "pictures max_tokens"] | None
    """What ``decoding_uniforms`` drew; only ``sample`` needs it."""


def decoding_uniforms(
    config: DecodingConfig, ids: Sequence[str], *, purpose: str = "decoding"
) -> Float[Tensor, "pictures max_tokens"]:
    """What ``sample`` draws with: the same in each epoch, so that captions of different epochs can be compared."""
    drawn = [Draws(config.seed, 0).generator(i, purpose).random(config.max_tokens, np.float32) for i in ids]
    return torch.from_numpy(np.stack(drawn))


def sampling_ways(config: DecodingConfig, ids: Sequence[str]) -> list[Way]:
    """How the captions are written that the further metric ``samples`` scores, a caption of each picture in each way;
    none where it was not asked for.

    What each is drawn with is a function of the seed, the picture's id and the number of the sample.

    Args:
        config: how many, and how boldly they are drawn.
        ids: of the pictures.
    """
    if not asks_for(config, "samples"):
        return []
    with unchecked():  # a beam's own settings mean nothing here
        settings = dataclasses.replace(config, decoding="sample")
    numbers = range(config.samples_per_picture)
    return [Way(settings, decoding_uniforms(config, ids, purpose=f"sample {number}")) for number in numbers]


def with_samples(records: Sequence[Record], rounds: Sequence[Sequence[str]]) -> list[Record]:
    """Records with the captions that were sampled, of each record one in each round; unchanged without any."""
    if not rounds:
        return [*records]
    return [{**r, "samples": [*texts]} for r, texts in zip(records, zip(*rounds, strict=True), strict=True)]


def write_captions(
    decoder: Stepper,
    memory: Any,
    way: Way,
    *,
    prompt: Sequence[int],
    pictures: int,
    device: torch.device,
) -> Int[Tensor, "pictures tokens"]:
    """A caption's tokens for each picture, as the settings say.

    Args:
        decoder: whose words are taken.
        memory: what it prepared of the pictures.
        way: settings, and what is drawn with.
        prompt: tokens with which every caption begins.
        pictures: how many there are.
        device: where the memory lies.
    """
    config: DecodingConfig = way.settings
    limits: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": config.max_tokens,
        "repetition_penalty": config.repetition_penalty,
    }
    if config.decoding == "sample":
        assert way.uniforms is not None, "sampling needs draws"
        settings = {"top_k": config.top_k, "top_p": config.top_p, "temperature": config.temperature}
        return sample(decoder, memory, uniforms=way.uniforms.to(device), **settings, **limits)
    limits |= {"pictures": pictures, "device": device}
    if config.decoding == "beam":
        settings = {"beam_width": config.beam_width, "length_penalty": config.length_penalty}
        return beam(decoder, memory, **settings, **limits)
    return greedy(decoder, memory, **limits)


DECODED_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "beam_width": ("decoding", ("beam",)),
    "length_penalty": ("decoding", ("beam",)),
    "top_k": ("decoding", ("sample",)),
    "top_p": ("decoding", ("sample",)),
    "temperature": ("decoding", ("sample",)),
}
"""Fields that are read only if another field has one of these values."""
