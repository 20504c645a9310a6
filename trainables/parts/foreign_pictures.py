"""The pictures of foreign captioners: what each kind of model makes of them once, and how its decoder sees that."""

from types import SimpleNamespace
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from trainables.parts.foreign_prompts import Asked, Captioner, read_before, repeated


def own_pixels(captioner: Captioner, pictures: UInt8[Tensor, "pictures height width 3"]) -> Tensor:
    """The pixels as the processor makes them; pictures as they are where it makes more than one tensor of them."""
    if not is_one_tensor(captioner, pictures[:1]):
        return pictures
    return captioner.pixels(pictures)["pixel_values"]


def is_one_tensor(captioner: Captioner, picture: UInt8[Tensor, "1 height width 3"]) -> bool:
    """Whether the processor makes nothing but ``pixel_values`` of a picture, which fit in a row of their own."""
    pixels = captioner.pixels(picture)
    return pixels.keys() == {"pixel_values"} and len(pixels["pixel_values"]) == 1


# -- encoding


def attended(captioner: Captioner, pictures: Tensor) -> Tensor:
    """Vectors that a text decoder attends to."""
    return captioner.model.vision_model(**captioner.pixels(pictures)).last_hidden_state


def as_words(captioner: Captioner, pictures: Tensor) -> Tensor:
    """Vectors that take the picture's places among those of words."""
    return captioner.model.get_image_features(**captioner.pixels(pictures), return_dict=True).pooler_output


def by_encoder(captioner: Captioner, pictures: Tensor) -> Tensor:
    """All that an encoder gives its decoder, where it reads no prompt."""
    return captioner.model.encoder(**captioner.pixels(pictures)).last_hidden_state


# -- looking


def look_again(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """Pixels, once for each caption: the only thing that all models take."""
    return _pixels_of(captioner, seen[owners])


def look_across(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """Vectors of the picture for a text decoder that attends to them."""
    return {"encoder_hidden_states": seen[owners]}


def look_at_places(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """Vectors that take the picture's places among the tokens."""
    shown = SimpleNamespace(pooler_output=seen[owners], qformer_outputs=None, vision_outputs=None)
    return {"pixel_values": None, "mm_encoder_outputs": {"image": shown}}


def look_at_encoded(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """What an encoder has made of the picture."""
    return _encoded(seen[owners])


def look_with_prompt(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor) -> dict[str, Any]:
    """What the encoder of a language model makes of picture and prompt."""
    prompted = _with_words(captioner, asked, seen)
    mask = repeated(asked.inputs["attention_mask"], len(seen), seen)
    encoder = captioner.model.get_encoder()
    return _encoded(encoder(inputs_embeds=prompted, attention_mask=mask).last_hidden_state[owners])


def look_through_encoder(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor) -> dict[str, Any]:
    """What an encoder makes of pixels and prompt."""
    inputs = {key: repeated(row, len(seen), seen) for key, row in asked.inputs.items()}
    inputs |= read_before(asked.prefix[:1], len(seen), seen)
    made = captioner.model(**inputs, **_pixels_of(captioner, seen), use_cache=False).encoder_last_hidden_state
    return _encoded(made[owners])


def begin_with_pixels(captioner: Captioner, asked: Asked, seen: Tensor) -> dict[str, Any]:
    """Pixels and prompt as they are, for a model whose way of joining them is not known."""
    return {key: repeated(row, len(seen), seen) for key, row in asked.inputs.items()} | _pixels_of(captioner, seen)


def begin_with_words(captioner: Captioner, asked: Asked, seen: Tensor) -> dict[str, Any]:
    """Vectors of picture and prompt, for a language model that writes by itself."""
    inputs = {key: repeated(row, len(seen), seen) for key, row in asked.inputs.items()}
    if captioner.config.is_encoder_decoder:
        del inputs["input_ids"]
    return inputs | {"inputs_embeds": _with_words(captioner, asked, seen)}


def _with_words(captioner: Captioner, asked: Asked, seen: Tensor) -> Float[Tensor, "pictures places width"]:
    """The prompt's vectors, with the picture's own in its places."""
    tokens = repeated(asked.inputs["input_ids"], len(seen), seen)
    words = captioner.model.get_input_embeddings()(tokens)
    return words.masked_scatter((tokens == captioner.config.image_token_id)[..., None], seen.to(words.dtype))


def _pixels_of(captioner: Captioner, seen: Tensor) -> dict[str, Tensor]:
    return {"pixel_values": seen} if seen.is_floating_point() else captioner.pixels(seen)


def _encoded(states: Tensor) -> dict[str, Any]:
    from transformers.modeling_outputs import BaseModelOutput  # slow to import

    return {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}
