"""How each kind of foreign captioner is shown pictures, is asked, reads captions and writes them.

All kinds go one way: the prompt is turned into tokens once (``ask``), a caption is what follows them, and its words are
predicted from the picture, the prompt and the words before (``read``), or written by the model's own ``generate``
(``write``). ``KINDS`` says where kinds differ.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from trainables.parts.captioner_files import processed
from trainables.parts.drawn_tokens import Drawing
from vltune.errors import BadInput

IGNORED = -100
"""The target that counts nothing."""


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


Look = Callable[[Captioner, Asked, Tensor, Tensor], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Where one kind of model differs from others."""

    ask: Callable[[Captioner, str, int], Asked]
    """Tokens from a prompt and the side of the pictures."""
    look: Look
    """What the decoder sees of pictures, repeated for their captions; each picture is encoded once if that can be."""
    prompt: str = ""
    """What is asked if nothing else is."""
    decoder: Callable[[Any], Any] = field(default=lambda model: model)
    """The part of the model that reads captions."""
    caption_type: int = 0
    """Type of a caption's tokens, where tokens have types."""
    looks: bool = False
    """Whether the decoder attends to the class token and the patches of a picture in layers of their own."""


def kind_of(config: Any) -> Kind:
    """How to treat a model."""
    other = Kind(ask=_ask_chat, look=_look_again, prompt="Describe the picture in one short sentence.")
    if config.model_type not in KINDS and config.is_encoder_decoder:
        other = Kind(ask=_ask_task, look=_look_through_encoder)
    return KINDS.get(config.model_type, other)


def ask(captioner: Captioner, prompt: str, *, picture_size: int, max_tokens: int) -> Asked:
    """The tokens of a prompt.

    Args:
        captioner: whose tokens.
        prompt: empty: what the kind of model is used to.
        picture_size: side of the pictures that the processor will be given, in pixels.
        max_tokens: of the longest caption.

    Raises:
        BadInput: the model does not take such a prompt, or it is too long.
    """
    kind = kind_of(captioner.config)
    text = prompt or kind.prompt
    try:
        asked = kind.ask(captioner, text, picture_size)
    except BadInput:
        raise
    except (ValueError, TypeError, KeyError) as error:
        line = " ".join(str(error).split())[:160]
        raise BadInput(f"prompt={text!r} cannot be put to the model ({line}); take another prompt.") from error
    most = getattr(captioner.config.get_text_config(decoder=True), "max_position_embeddings", None)
    # What an encoder reads, its decoder has not to remember.
    longest = max(len(asked.prefix) + max_tokens, *map(len, asked.inputs.values()), 0)
    if most is not None and longest > most:
        raise BadInput(
            f"prompt={text[:40]!r}{'…' * (len(text) > 40)} with max_tokens={max_tokens} needs {longest} places, and "
            f"the model has {most}: shorten the prompt, or lower max_tokens."
        )
    return asked


def caption_tokens(captioner: Captioner, asked: Asked, captions: Sequence[str], *, max_tokens: int) -> list[list[int]]:
    """Each caption's tokens with its end; a longer one than ``max_tokens`` loses its last words."""

    def cut(texts: Sequence[str]) -> list[list[int]]:
        return captioner.processor.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []

    rows = cut(captions)
    if asked.words:
        (before,) = cut([asked.words])
        joined = cut([f"{asked.words} {caption}" for caption in captions])
        rows = [
            row[len(before) :] if row[: len(before)] == before else alone
            for row, alone in zip(joined, rows, strict=True)
        ]
    return [[*row[: max_tokens - 1], asked.ends[0]] for row in rows]


def read(
    captioner: Captioner,
    asked: Asked,
    *,
    pictures: UInt8[Tensor, "pictures height width 3"],
    owners: Int[Tensor, " captions"],
    tokens: Int[Tensor, "captions places"],
) -> Float[Tensor, "captions places words"]:
    """Logits for every place of captions, given the picture, the prompt and the words before.

    Args:
        captioner: the model.
        asked: the prompt.
        pictures: as bytes.
        owners: the picture of each caption.
        tokens: of the captions, ends included, ``IGNORED`` behind them.
    """
    return _read(captioner, asked, pictures, owners, tokens).logits[:, -tokens.shape[1] :]


def picture_attention(
    captioner: Captioner,
    asked: Asked,
    *,
    pictures: UInt8[Tensor, "pictures height width 3"],
    owners: Int[Tensor, " captions"],
    tokens: Int[Tensor, "captions places"],
) -> Float[Tensor, "captions places patches"] | None:
    """Where in the picture each token of captions was looked for; None where a model does not look, or does not tell.

    The last layer's weights, averaged over its heads, without the class token's; they sum to one. Arguments: see
    ``read``.
    """
    if not kind_of(captioner.config).looks:
        return None
    found = _read(captioner, asked, pictures, owners, tokens, output_attentions=True).cross_attentions
    if not found or found[-1] is None:
        return None
    weights = found[-1].float().mean(1)[:, -tokens.shape[1] :, 1:]
    return weights / weights.sum(-1, keepdim=True)


def _read(captioner: Captioner, asked: Asked, pictures: Tensor, owners: Tensor, tokens: Tensor, **settings: Any) -> Any:
    """What the decoder gives; logits of the captions' places come last."""
    kind, (count, places) = kind_of(captioner.config), tokens.shape
    seen = kind.look(captioner, asked, pictures, owners)
    decoder = kind.decoder(captioner.model)
    before = tokens[:, :-1]
    # Behind a caption's end any token will do: what comes later is never looked at.
    given = torch.cat((_rows(asked.prefix, count, tokens), before.clamp(min=0)), 1)
    if captioner.config.is_encoder_decoder:
        inputs = {k: _rows(v, count, tokens) for k, v in asked.inputs.items()}
        if "encoder_outputs" in seen:
            inputs.pop("input_ids", None)
        return decoder(**inputs, **seen, decoder_input_ids=given, use_cache=False, **settings)
    there = torch.cat((_rows([1] * len(asked.prefix), count, tokens), (before != IGNORED).long()), 1)
    types = {
        key: torch.cat((_rows(row, count, tokens), torch.full_like(before, kind.caption_type)), 1)
        for key, row in asked.inputs.items()
        if key not in ("input_ids", "attention_mask")
    }
    # Logits of the picture's places, of which there are hundreds, would take most of the memory.
    kept = {"logits_to_keep": places} if "logits_to_keep" in signature(decoder.forward).parameters else {}
    return decoder(input_ids=given, attention_mask=there, **types, **seen, **kept, use_cache=False, **settings)


def write(
    captioner: Captioner,
    asked: Asked,
    *,
    pictures: UInt8[Tensor, "pictures height width 3"],
    decoding: str,
    max_tokens: int,
    beam_width: int,
    length_penalty: float,
    repetition_penalty: float,
    top_k: int,
    top_p: float,
    temperature: float,
    uniforms: Float[Tensor, "pictures max_tokens"] | None,
) -> list[str]:
    """A caption for each picture, without the prompt, by the model's own ``generate``.

    Every picture has the same prompt, so that no row is padded, and a caption does not depend on its batch. What is
    not an argument here is as the model's ``generation_config.json`` says (Florence-2 repeats no three words).

    Args:
        captioner: the model.
        asked: the prompt.
        pictures: as bytes.
        decoding: ``greedy``, ``beam`` or ``sample``.
        max_tokens: of a caption, its end included; at least 1.
        beam_width: captions that grow side by side; at least 1.
        length_penalty: they compare by log-probability / length**length_penalty.
        repetition_penalty: logits of tokens that are there are divided by it where positive, else multiplied.
        top_k: as for ``Drawing``.
        top_p: as for ``Drawing``.
        temperature: as for ``Drawing``.
        uniforms: draws from [0, 1), a row for each picture and a column for each place; only sampling needs them.
    """
    count = len(pictures)
    inputs = {key: _rows(row, count, pictures) for key, row in asked.inputs.items()}
    if captioner.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = _rows(asked.prefix, count, pictures)
    # Named in full, so that a model's own settings of the same name do not act.
    settings: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
    settings |= {"num_beams": 1, "repetition_penalty": repetition_penalty, "max_new_tokens": max_tokens}
    if decoding == "beam":
        settings |= {"num_beams": beam_width, "length_penalty": length_penalty}
    if decoding == "sample":
        assert uniforms is not None, "sampling needs draws"
        drawing = Drawing(uniforms, start=len(asked.prefix), top_k=top_k, top_p=top_p, temperature=temperature)
        settings["logits_processor"] = [drawing]
    rows = captioner.model.generate(**inputs, **captioner.pixels(pictures), **settings)[:, len(asked.prefix) :].tolist()
    kept = [row[: next((i for i, token in enumerate(row) if token in asked.ends), len(row))] for row in rows]
    return [text.strip() for text in captioner.processor.tokenizer.batch_decode(kept, skip_special_tokens=True)]


def _rows(row: Sequence[int], count: int, like: Tensor) -> Int[Tensor, "rows places"]:
    return torch.tensor([*row], dtype=torch.long, device=like.device).expand(count, len(row))


# -- asking


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


def _ask_blip(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    text = captioner.config.text_config
    ends = (text.sep_token_id,)
    row = [text.bos_token_id, *_plain(captioner, prompt)]
    # Its ``generate`` drops the last token, which its tokenizer puts there.
    return Asked({"input_ids": [*row, *ends]}, tuple(row), ends, prompt)


def _ask_git(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    row = [captioner.processor.tokenizer.cls_token_id, *_plain(captioner, prompt)]
    return _causal(row, _ends(captioner, captioner.model.generation_config), prompt)


def _ask_blip_2(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
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


def _ask_of_two(captioner: Captioner, prompt: str, picture_size: int) -> Asked:  # noqa: ARG001 - as all kinds are asked
    prefix = [*_decoder_start(captioner.model), *_plain(captioner, prompt)]
    return Asked({}, tuple(prefix), _ends(captioner, captioner.model.generation_config), prompt)


def _ask_task(captioner: Captioner, prompt: str, picture_size: int) -> Asked:
    """The prompt as the processor writes it out; the answer is a text of its own."""
    return _from_processor(captioner, captioner.processor(text=prompt, images=_blank(picture_size)))


def _ask_marked(captioner: Captioner, prompt: str, picture_size: int) -> Asked:
    """The same, with the picture's mark before the prompt."""
    mark = getattr(captioner.processor, "image_token", "")
    return _ask_task(captioner, f"{mark}{prompt}", picture_size)


def _ask_chat(captioner: Captioner, prompt: str, picture_size: int) -> Asked:
    """A person's turn in a conversation, where the model was made for conversations."""
    processor = captioner.processor
    if not callable(processor):
        raise BadInput("captioner_model: it has no processor that joins pictures and text; take another model.")
    if not getattr(processor, "chat_template", None):
        return _ask_marked(captioner, prompt, picture_size)
    parts = [{"type": "image", "image": _blank(picture_size)}, {"type": "text", "text": prompt}]
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


def _blank(side: int) -> np.ndarray:
    return np.zeros((side, side, 3), np.uint8)


# -- looking


def _look_again(captioner: Captioner, asked: Asked, pictures: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """Pixels, once for each caption: the only thing that all models take."""
    return captioner.pixels(pictures[owners])


def _look_across(captioner: Captioner, asked: Asked, pictures: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """Vectors of the picture for a text decoder that attends to them."""
    seen = captioner.model.vision_model(**captioner.pixels(pictures)).last_hidden_state
    return {"encoder_hidden_states": seen[owners]}


def _look_at_places(captioner: Captioner, asked: Asked, pictures: Tensor, owners: Tensor) -> dict[str, Any]:  # noqa: ARG001
    """Vectors that take the picture's places among the tokens."""
    seen = captioner.model.get_image_features(**captioner.pixels(pictures), return_dict=True).pooler_output[owners]
    shown = SimpleNamespace(pooler_output=seen, qformer_outputs=None, vision_outputs=None)
    return {"pixel_values": None, "mm_encoder_outputs": {"image": shown}}


def _look_through_encoder(captioner: Captioner, asked: Asked, pictures: Tensor, owners: Tensor) -> dict[str, Any]:
    """What the encoder makes of picture and prompt."""
    from transformers.modeling_outputs import BaseModelOutput  # slow to import

    inputs = {key: _rows(row, len(pictures), pictures) for key, row in asked.inputs.items()}
    start = _rows(asked.prefix[:1], len(pictures), pictures)
    pixels = captioner.pixels(pictures)
    seen = captioner.model(**inputs, **pixels, decoder_input_ids=start, use_cache=False).encoder_last_hidden_state
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=seen[owners])}


KINDS: dict[str, Kind] = {
    "blip": Kind(ask=_ask_blip, look=_look_across, decoder=lambda model: model.text_decoder, looks=True),
    "blip-2": Kind(ask=_ask_blip_2, look=_look_at_places),
    "git": Kind(ask=_ask_git, look=_look_again),
    "florence2": Kind(ask=_ask_task, look=_look_through_encoder, prompt="<CAPTION>"),
    "paligemma": Kind(ask=_ask_marked, look=_look_at_places, prompt="caption en", caption_type=1),
    "vision-encoder-decoder": Kind(ask=_ask_of_two, look=_look_through_encoder, looks=True),
}
"""By the ``model_type`` of a model's configuration. Others go through their processor, and its chat template."""
