"""How each kind of foreign captioner is shown pictures, is asked, reads captions and writes them.

All kinds go one way: pictures are encoded once (``encode``), the prompt is turned into tokens once (``ask``), a caption
is what follows them, and its words are predicted from the picture, the prompt and the words before (``read``), or
written by the model's own ``generate`` (``write``). ``KINDS`` says where kinds differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from trainables.parts.drawn_tokens import Drawing
from trainables.parts.foreign_attention import (
    across,
    across_the_prompt,
    among_tokens,
    before_tokens,
    shares,
    told_weights,
)
from trainables.parts.foreign_pictures import (
    as_words,
    attended,
    begin_with_pixels,
    begin_with_words,
    by_encoder,
    is_one_tensor,
    look_across,
    look_again,
    look_at_encoded,
    look_at_places,
    look_through_encoder,
    look_with_prompt,
    own_pixels,
)
from trainables.parts.foreign_prompts import (
    Asked,
    Captioner,
    ask_blip,
    ask_blip_2,
    ask_chat,
    ask_git,
    ask_marked,
    ask_of_two,
    ask_task,
    blank_picture,
    read_before,
    repeated,
)
from vltune.errors import BadInput

IGNORED = -100
"""The target that counts nothing."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Where one kind of model differs from others."""

    ask: Callable[[Captioner, str, int], Asked]
    """Tokens from a prompt and the side of the pictures."""
    look: Callable[[Captioner, Asked, Tensor, Tensor], dict[str, Any]]
    """What the decoder sees of what ``encode`` made, repeated for the pictures' captions."""
    encode: Callable[[Captioner, Tensor], Tensor] = own_pixels
    """What becomes of pictures, whatever is asked: it is kept for trials that differ in nothing but decoding. Vectors;
    pixels alone for GIT, which takes nothing else, and for the models that ``KINDS`` does not name."""
    begin: Callable[[Captioner, Asked, Tensor], dict[str, Any]] | None = None
    """What ``generate`` is given, where that is not the prompt's tokens and what ``look`` gives."""
    prompt: str = ""
    """What is asked if nothing else is."""
    decoder: Callable[[Any], Any] = field(default=lambda model: model)
    """The part of the model that reads captions."""
    writer: Callable[[Any], Any] = field(default=lambda model: model)
    """The part of the model that writes them."""
    caption_type: int = 0
    """Type of a caption's tokens, where tokens have types."""
    attention: Callable[[Captioner, Asked, Any, int], Tensor | None] | None = None
    """Which of the decoder's weights are those on the picture's patches; None: it sees no places of the picture
    (BLIP-2's decoder sees what 32 questions found), or it is not known where they are."""


def kind_of(config: Any) -> Kind:
    """How to treat a model."""
    other = Kind(ask=ask_chat, look=look_again, prompt="Describe the picture in one short sentence.")
    if config.model_type not in KINDS and config.is_encoder_decoder:
        other = Kind(ask=ask_task, look=look_through_encoder, begin=begin_with_pixels)
    return KINDS.get(config.model_type, other)


def encode(captioner: Captioner, pictures: UInt8[Tensor, "pictures height width 3"]) -> Shaped[Tensor, "pictures ..."]:
    """What a model makes of pictures before it is asked anything; ``read`` and ``write`` take it."""
    return kind_of(captioner.config).encode(captioner, pictures)


def is_encoded(captioner: Captioner, *, picture_size: int) -> bool:
    """Whether ``encode`` gives numbers that can be kept; else it gives pictures back as they are."""
    blank = torch.from_numpy(blank_picture(picture_size)[None])
    return kind_of(captioner.config).encode is not own_pixels or is_one_tensor(captioner, blank)


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
    seen: Shaped[Tensor, "pictures ..."],
    owners: Int[Tensor, " captions"],
    tokens: Int[Tensor, "captions places"],
) -> Float[Tensor, "captions places words"]:
    """Logits for every place of captions, given the picture, the prompt and the words before.

    Args:
        captioner: the model.
        asked: the prompt.
        seen: what ``encode`` made of the pictures.
        owners: the picture of each caption.
        tokens: of the captions, ends included, ``IGNORED`` behind them.
    """
    return _read(captioner, asked, seen, owners, tokens).logits[:, -tokens.shape[1] :]


def picture_attention(
    captioner: Captioner,
    asked: Asked,
    *,
    seen: Shaped[Tensor, "pictures ..."],
    owners: Int[Tensor, " captions"],
    tokens: Int[Tensor, "captions places"],
) -> Float[Tensor, "captions places patches"] | None:
    """Where in the picture each token of captions was looked for; None where a model does not look, or does not tell.

    The last layer's weights, averaged over its heads, on the picture's patches alone; they sum to one. Arguments: see
    ``read``.
    """
    kind = kind_of(captioner.config)
    if kind.attention is None:
        return None
    with told_weights(captioner.model):
        given = _read(captioner, asked, seen, owners, tokens, output_attentions=True)
    weights = kind.attention(captioner, asked, given, tokens.shape[1])
    return None if weights is None else shares(weights)


def _read(captioner: Captioner, asked: Asked, seen: Tensor, owners: Tensor, tokens: Tensor, **settings: Any) -> Any:
    """What the decoder gives; logits of the captions' places come last."""
    kind, (count, places) = kind_of(captioner.config), tokens.shape
    shown = kind.look(captioner, asked, seen, owners)
    decoder = kind.decoder(captioner.model)
    before = tokens[:, :-1]
    # Behind a caption's end any token will do: what comes later is never looked at.
    given = torch.cat((repeated(asked.prefix, count, tokens), before.clamp(min=0)), 1)
    there = torch.cat((repeated([1] * len(asked.prefix), count, tokens), (before != IGNORED).long()), 1)
    if captioner.config.is_encoder_decoder:
        inputs = {k: repeated(v, count, tokens) for k, v in asked.inputs.items()}
        if "encoder_outputs" in shown:
            inputs.pop("input_ids", None)
        given_with_mask = {"decoder_input_ids": given, "decoder_attention_mask": there}
        return decoder(**inputs, **shown, **given_with_mask, use_cache=False, **settings)
    types = {
        key: torch.cat((repeated(row, count, tokens), torch.full_like(before, kind.caption_type)), 1)
        for key, row in asked.inputs.items()
        if key not in ("input_ids", "attention_mask")
    }
    # Logits of the picture's places, of which there are hundreds, would take most of the memory.
    kept = {"logits_to_keep": places} if "logits_to_keep" in signature(decoder.forward).parameters else {}
    return decoder(input_ids=given, attention_mask=there, **types, **shown, **kept, use_cache=False, **settings)


def write(
    captioner: Captioner,
    asked: Asked,
    *,
    seen: Shaped[Tensor, "pictures ..."],
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
        seen: what ``encode`` made of the pictures.
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
    kind, count = kind_of(captioner.config), len(seen)
    if kind.begin is None:
        shown = kind.look(captioner, asked, seen, torch.arange(count, device=seen.device))
        inputs = {key: repeated(row, count, seen) for key, row in asked.inputs.items()}
        inputs |= {key: value for key, value in shown.items() if value is not None}
        if "encoder_outputs" in inputs:
            inputs.pop("input_ids", None)
    else:
        inputs = kind.begin(captioner, asked, seen)
    # Named in full, so that a model's own settings of the same name do not act.
    settings: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
    settings |= {"num_beams": 1, "repetition_penalty": repetition_penalty, "max_new_tokens": max_tokens}
    # Padding comes behind a caption's end and is cut off. If it were an end, as in GPT-2, transformers would ask for a
    # mask of what an encoder reads, and pictures have none.
    settings["pad_token_id"] = next(token for token in range(len(asked.ends) + 1) if token not in asked.ends)
    settings["eos_token_id"] = [*asked.ends]
    if captioner.config.is_encoder_decoder:
        inputs |= read_before(asked.prefix, count, seen)
    if decoding == "beam":
        settings |= {"num_beams": beam_width, "length_penalty": length_penalty}
    if decoding == "sample":
        assert uniforms is not None, "sampling needs draws"
        drawing = Drawing(uniforms, start=len(asked.prefix), top_k=top_k, top_p=top_p, temperature=temperature)
        settings["logits_processor"] = [drawing]
    rows = kind.writer(captioner.model).generate(**inputs, **settings)[:, len(asked.prefix) :].tolist()
    kept = [row[: next((i for i, token in enumerate(row) if token in asked.ends), len(row))] for row in rows]
    return [text.strip() for text in captioner.processor.tokenizer.batch_decode(kept, skip_special_tokens=True)]


KINDS: dict[str, Kind] = {
    "blip": Kind(
        ask=ask_blip,
        encode=attended,
        look=look_across,
        decoder=lambda model: model.text_decoder,
        writer=lambda model: model.text_decoder,
        attention=across,
    ),
    "blip-2": Kind(
        ask=ask_blip_2,
        encode=as_words,
        look=look_at_places,
        begin=begin_with_words,
        writer=lambda model: model.language_model,
    ),
    "git": Kind(ask=ask_git, look=look_again, attention=before_tokens),
    "florence2": Kind(
        ask=ask_task, encode=as_words, look=look_with_prompt, prompt="<CAPTION>", attention=across_the_prompt
    ),
    "paligemma": Kind(
        ask=ask_marked,
        encode=as_words,
        look=look_at_places,
        prompt="caption en",
        caption_type=1,
        attention=among_tokens,
    ),
    "vision-encoder-decoder": Kind(ask=ask_of_two, encode=by_encoder, look=look_at_encoded, attention=across),
}
"""By the ``model_type`` of a model's configuration. Others go through their processor, and its chat template."""
