"""The prompts of foreign captioners: what each kind of model reads beside a picture, as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from trainables.parts.captioner_files import processed
from vltune.errors import BadInput


@dataclass(frozen=True)
class Asked:
    """A prompt as a model reads it, the same for every picture."""

    inputs: Mapping[str, list[int]]
    """What is read beside the picture: ``input_ids`` with the picture's places, and what belongs to each of them."""
    prefix: tuple[int, ...]
    """Tokens of the decoder before a caption; without an encoder of text they are the inputs."""
    ends: tuple[int, ...]
    """Tokens each of which ends a caption; the first one is taught."""
    words: str = ""
    """Words that a caption goes on from, which decide how its first word is cut into tokens."""


@dataclass(frozen=True)
class Captioner:
    """A model with its processor."""

    model: Any
    processor: Any

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def pixels(self, pictures: UInt8[Tensor, "pictures height width 3"]) -> dict[str, Tensor]:
        """Pictures as the model takes them."""
        taken = tuple(signature(self.model.forward).parameters)
        return processed(self.processor, pictures, taken=taken, dtype=self.model.dtype)


def repeated(row: Sequence[int], count: int, like: Tensor) -> Int[Tensor, "rows places"]:
    """The same tokens for each of ``count`` pictures or captions, where ``like`` lies."""
    return torch.tensor([*row], dtype=torch.long, device=like.device).expand(count, len(row))


def read_before(prefix: Sequence[int], count: int, like: Tensor) -> dict[str, Tensor]:
    """What a decoder behind an encoder has read before its first word, all of which counts."""
    tokens = repeated(prefix, count, like)
    return {"decoder_input_ids": tokens, "decoder_attention_mask": torch.ones_like(tokens)}


def _plain(captioner: Captioner, text: str) -> list[int]:
    return captioner.processor.tokenizer(text, add_special_tokens=False).input_ids if text else []


def _ends(captioner: Captioner, generation: Any) -> tuple[int, ...]:
    found = generation.eos_token_id
    if found is None:
        found = captioner.processor.tokenizer.eos_token_id
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def _causal(row: list[int], ends: tuple[int, ...], words: str = "") -> Asked:
    return Asked({"input_ids": row, "attention_mask": [1] * len(row)}, tuple(row), ends, words)


def _decoder_start(model: Any) -> list[int]:
    settings = model.generation_config
    start = settings.decoder_start_token_id
    start = model.config.get_text_config(decoder=True).decoder_start_token_id if start is None else start
    forced = settings.forced_bos_token_id
    return [token for token in (start, forced) if token is not None]


def ask_blip(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    """The first words of a caption; a token of BLIP's own stands for its begin."""
    text = captioner.config.text_config
    ends = (text.sep_token_id,)
    return _causal([text.bos_token_id, *_plain(captioner, prompt)], ends, prompt)


def ask_git(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    """The first words of a caption."""
    row = [captioner.processor.tokenizer.cls_token_id, *_plain(captioner, prompt)]
    return _causal(row, _ends(captioner, captioner.model.generation_config), prompt)


def ask_blip_2(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    """A text behind the places of the Q-Former's vectors, read by an encoder or the first words of a caption."""
    model, config = captioner.model, captioner.config
    if config.image_token_id is None:
        raise BadInput(
            "captioner_model: its config.json names no image_token_index; take a newer version of its files."
        )
    row = [config.image_token_id] * config.num_query_tokens + captioner.processor.tokenizer(prompt).input_ids
    ends = _ends(captioner, model.language_model.generation_config)
    if not config.is_encoder_decoder:
        return _causal(row, ends, prompt)
    return Asked(
        {"input_ids": row, "attention_mask": [1] * len(row)}, tuple(_decoder_start(model.language_model)), ends
    )


def ask_of_two(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    """The first words of a caption: the encoder, which sees the picture, reads none."""
    prefix = [*_decoder_start(captioner.model), *_plain(captioner, prompt)]
    return Asked({}, tuple(prefix), _ends(captioner, captioner.model.generation_config), prompt)


def ask_task(captioner: Captioner, prompt: str, picture_size: int) -> Asked:
    """The prompt as the processor writes it out; the answer is a text of its own."""
    return _from_processor(captioner, captioner.processor(text=prompt, images=blank_picture(picture_size)))


def ask_marked(captioner: Captioner, prompt: str, picture_size: int) -> Asked:
    """The same, with the picture's mark before the prompt."""
    mark = getattr(captioner.processor, "image_token", "")
    return ask_task(captioner, f"{mark}{prompt}", picture_size)


def ask_chat(captioner: Captioner, prompt: str, picture_size: int) -> Asked:
    """A person's turn in a conversation, where the model was made for conversations."""
    processor = captioner.processor
    if not callable(processor):
        raise BadInput("captioner_model: it has no processor that joins pictures and text; take another model.")
    if not getattr(processor, "chat_template", None):
        return ask_marked(captioner, prompt, picture_size)
    parts = [{"type": "image", "image": blank_picture(picture_size)}, {"type": "text", "text": prompt}]
    turn = [{"role": "user", "content": parts}]
    told = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)
    return _from_processor(captioner, told)


def _from_processor(captioner: Captioner, told: Mapping[str, Any]) -> Asked:
    """What of a processor's output belongs to the tokens; the rest is the picture's."""
    taken = signature(captioner.model.forward).parameters
    (row,) = np.asarray(told["input_ids"]).tolist()
    inputs = {"input_ids": row}
    for key, value in told.items():
        if key in taken and key != "labels" and np.shape(value) == (1, len(row)):
            (inputs[key],) = np.asarray(value).tolist()
    ends = _ends(captioner, captioner.model.generation_config)
    if captioner.config.is_encoder_decoder:
        return Asked(inputs, tuple(_decoder_start(captioner.model)), ends)
    return Asked(inputs, tuple(row), ends)


def blank_picture(side: int) -> np.ndarray:
    """A black square: what a processor says of a prompt does not depend on what the picture shows."""
    return np.zeros((side, side, 3), np.uint8)
