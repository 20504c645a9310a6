"""Where in a picture a foreign captioner looks for each word: which of a model's weights say so, kind by kind.

A map takes what the decoder gave (with ``output_attentions``), the prompt and the number of a caption's places, and
answers with the last layer's weights on the picture's patches, row by row of the picture, averaged over heads:
(captions, places, patches). None where the model tells no weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.parts.foreign_prompts import Asked, Captioner

Patches = Float[Tensor, "captions places patches"]


def across(captioner: Captioner, asked: Asked, given: Any, places: int) -> Patches | None:  # noqa: ARG001
    """Of a decoder that attends to a Vision Transformer's class token and patches in layers of their own."""
    weights = _last(given.cross_attentions)
    return None if weights is None else weights[:, -places:, 1:]


def across_the_prompt(captioner: Captioner, asked: Asked, given: Any, places: int) -> Patches | None:
    """Of a decoder that attends to an encoder's states, among which the picture has places.

    Florence-2's first one is the mean over all others, which lie in the picture.
    """
    weights = _last(given.cross_attentions)
    return None if weights is None else weights[:, -places:, _picture_places(captioner, asked)[1:]]


def among_tokens(captioner: Captioner, asked: Asked, given: Any, places: int) -> Patches | None:
    """Of a language model in whose context the picture has places."""
    weights = _last(given.attentions)
    return None if weights is None else weights[:, -places:, _picture_places(captioner, asked)]


def before_tokens(captioner: Captioner, asked: Asked, given: Any, places: int) -> Patches | None:  # noqa: ARG001
    """Of GIT, where a class token and the patches stand before all words."""
    weights = _last(given.attentions)
    if weights is None:
        return None
    words = len(asked.prefix) + places - 1
    return weights[:, -places:, 1:-words]


def shares(weights: Patches) -> Patches:
    """Each word's weights as shares of what the picture got; nothing at all is shared out alike."""
    weights = weights.float()
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(torch.float32).tiny), 1 / weights.shape[-1])


@contextmanager
def told_weights(model: Any) -> Iterator[None]:
    """Lets a model compute attention in the one way that has weights to tell; afterwards it does so as before."""
    before = _implementations(model.config)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _implementations(config: Any) -> dict[str, Any]:
    """How a model and its parts compute attention, in the form that ``set_attn_implementation`` takes."""
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    return {
        "": config._attn_implementation,  # noqa: SLF001 - the library has no other name for it
        **{key: _implementations(part) for key, part in parts.items() if part is not None},
    }


def _last(layers: Any) -> Tensor | None:
    """Weights of the last layer that has any, averaged over heads."""
    return layers[-1].mean(1) if layers and layers[-1] is not None else None


def _picture_places(captioner: Captioner, asked: Asked) -> list[int]:
    return [i for i, token in enumerate(asked.inputs["input_ids"]) if token == captioner.config.image_token_id]
