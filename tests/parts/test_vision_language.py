"""Foreign captioners against themselves: the same loss and captions as by the ways that transformers documents."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_captioners import KINDS, SIZE, write_captioner
from torch import Tensor

from trainables.parts import vision_language
from trainables.parts.captioner_files import build_model, read_files, read_processor
from trainables.parts.foreign_prompts import Asked, Captioner
from trainables.parts.vision_language import IGNORED, ask, caption_tokens, encode, is_encoded, read, write
from vltune.errors import BadInput

torch.set_num_threads(1)
every_kind = pytest.mark.parametrize("kind", KINDS)
CAPTIONS = ("a red dog on the grass", "a blue cat", "white house of wood")
SETTINGS: dict[str, Any] = {
    "max_tokens": 8,
    "beam_width": 3,
    "length_penalty": 1.0,
    "repetition_penalty": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "temperature": 1.0,
    "uniforms": None,
}


@pytest.fixture(scope="module")
def captioners(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Captioner]:
    made: dict[str, Captioner] = {}

    def get(kind: str) -> Captioner:
        if kind not in made:
            folder = Path(write_captioner(kind, tmp_path_factory.mktemp(kind)))
            texts = read_files(folder)
            made[kind] = Captioner(build_model(texts, folder), read_processor(texts))
        return made[kind]

    return get


def pictures(count: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8))


def asked(captioner: Captioner, prompt: str = "") -> Asked:
    # What LLaVA is asked by default is longer than the tiny model's context.
    default = "red" if captioner.config.model_type == "llava" else ""
    return ask(captioner, prompt or default, picture_size=SIZE, max_tokens=8)


def padded(rows: list[list[int]]) -> Tensor:
    tokens = torch.full((len(rows), max(map(len, rows))), IGNORED)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens


def documented_inputs(kind: str, captioner: Captioner, picture: Image.Image, caption: str | None) -> dict[str, Any]:
    """Inputs, with labels if there is a caption, by the model's own processor, as its page of documentation has it."""
    processor, tokenizer = captioner.processor, captioner.processor.tokenizer
    if kind == "paligemma":
        given = {"text": "<image>caption en", "images": picture, "return_tensors": "pt"}
        inputs = processor(**given, suffix=caption) if caption else processor(**given)
        return {k: v for k, v in inputs.items() if caption or k != "labels"}
    if kind in ("vit_gpt2", "florence2"):
        if kind == "florence2":
            inputs = dict(processor(text="<CAPTION>", images=picture, return_tensors="pt"))
            first = [2, 0]
        else:
            inputs = dict(captioner.processor.image_processor(picture, return_tensors="pt"))
            first = [0]
        if caption:
            row = [*tokenizer(caption, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            inputs["decoder_input_ids"] = torch.tensor([[*first, *row[:-1]]])
            inputs["labels"] = torch.tensor([[IGNORED] * (len(first) - 1) + row])
        return inputs
    if kind in ("blip", "git"):
        inputs = dict(processor.image_processor(picture, return_tensors="pt"))
        if caption:
            row = tokenizer(caption).input_ids
            row[0] = captioner.config.text_config.bos_token_id if kind == "blip" else row[0]
            inputs |= {"input_ids": torch.tensor([row]), "labels": torch.tensor([row])}
        return inputs
    if kind == "llava":
        parts = [{"type": "image"}, {"type": "text", "text": "red"}]
        text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        end = [tokenizer.eos_token_id]
    else:
        text, end = "", captioner.model.language_model.generation_config.eos_token_id
        end = [end]
    inputs = dict(processor(text=text, images=picture, return_tensors="pt"))
    if caption:
        row = tokenizer(caption, add_special_tokens=False).input_ids + end
        if kind == "blip_2_t5":
            return inputs | {"labels": torch.tensor([row])}
        before = inputs["input_ids"][0].tolist()
        inputs["input_ids"] = torch.tensor([before + row])
        inputs["labels"] = torch.tensor([[IGNORED] * len(before) + row])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


@torch.no_grad()
@every_kind
def test_reading_gives_the_models_own_loss(kind: str, captioners: Callable[[str], Captioner]) -> None:
    captioner, shown = captioners(kind), pictures()
    question = asked(captioner)
    tokens = padded(caption_tokens(captioner, question, CAPTIONS, max_tokens=20))
    logits = read(captioner, question, seen=encode(captioner, shown), owners=torch.arange(3), tokens=tokens)
    for row, caption in enumerate(CAPTIONS):
        inputs = documented_inputs(kind, captioner, Image.fromarray(shown[row].numpy()), caption)
        ours = torch.nn.functional.cross_entropy(logits[row], tokens[row], ignore_index=IGNORED)
        assert ours.item() == pytest.approx(captioner.model(**inputs).loss.item(), rel=1e-4)


@torch.no_grad()
@every_kind
@pytest.mark.parametrize("decoding", ["greedy", "beam"])
def test_writing_gives_the_models_own_captions(
    kind: str, decoding: str, captioners: Callable[[str], Captioner]
) -> None:
    captioner, shown = captioners(kind), pictures()
    beams = 3 if decoding == "beam" else 1
    expected = []
    for picture in shown:
        inputs = documented_inputs(kind, captioner, Image.fromarray(picture.numpy()), None)
        row = captioner.model.generate(**inputs, max_new_tokens=8 + (kind == "florence2"), num_beams=beams)[0]
        if "input_ids" in inputs and not captioner.config.is_encoder_decoder:
            row = row[inputs["input_ids"].shape[1] :]
        expected.append(captioner.processor.tokenizer.decode(row, skip_special_tokens=True).strip())
    assert write(captioner, asked(captioner), seen=encode(captioner, shown), decoding=decoding, **SETTINGS) == expected
    assert len(set(expected)) > 1, "the pictures make a difference"


@torch.no_grad()
@every_kind
def test_captions_of_a_picture_are_read_as_they_are_alone(kind: str, captioners: Callable[[str], Captioner]) -> None:
    captioner, shown = captioners(kind), pictures(2)
    question = asked(captioner)
    rows = caption_tokens(captioner, question, CAPTIONS, max_tokens=20)
    owners = torch.tensor([1, 0, 1])
    together = read(captioner, question, seen=encode(captioner, shown), owners=owners, tokens=padded(rows))
    for place, (owner, row) in enumerate(zip(owners.tolist(), rows, strict=True)):
        alone = read(
            captioner,
            question,
            seen=encode(captioner, shown[owner : owner + 1]),
            owners=torch.tensor([0]),
            tokens=torch.tensor([row]),
        )
        torch.testing.assert_close(together[place, : len(row)], alone[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["git", "llava", "florence2"])
def test_pixels_and_pictures_themselves_are_read_and_written_from_alike(
    kind: str, captioners: Callable[[str], Captioner], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, shown = captioners(kind), pictures()
    question = asked(captioner, "<CAPTION>" if kind == "florence2" else "")
    tokens = padded(caption_tokens(captioner, question, CAPTIONS, max_tokens=20))
    found = []
    expected = write(captioner, question, seen=encode(captioner, shown), decoding="beam", **SETTINGS)
    monkeypatch.delitem(vision_language.KINDS, "florence2")  # as a model of which nothing is known
    for seen in (encode(captioner, shown), shown):
        assert write(captioner, question, seen=seen, decoding="beam", **SETTINGS) == expected
        found.append(read(captioner, question, seen=seen, owners=torch.arange(3), tokens=tokens))
    torch.testing.assert_close(*found)


def test_what_is_more_than_one_tensor_is_not_kept(
    captioners: Callable[[str], Captioner], monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, shown = captioners("git"), pictures()
    assert is_encoded(captioner, picture_size=SIZE)
    assert encode(captioner, shown).shape == (3, 3, SIZE, SIZE)
    pixels = Captioner.pixels
    monkeypatch.setattr(Captioner, "pixels", lambda self, p: pixels(self, p) | {"pixel_mask": torch.ones(1)})
    assert not is_encoded(captioner, picture_size=SIZE)
    assert encode(captioner, shown) is shown


@torch.no_grad()
@every_kind
def test_the_library_has_nothing_to_warn_of(
    kind: str, captioners: Callable[[str], Captioner], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging as theirs

    theirs.warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])
    captioner, shown = captioners(kind), pictures()
    question = asked(captioner)
    tokens = padded(caption_tokens(captioner, question, CAPTIONS, max_tokens=20))
    read(captioner, question, seen=encode(captioner, shown), owners=torch.arange(3), tokens=tokens)
    for decoding in ("greedy", "beam"):
        write(captioner, question, seen=encode(captioner, shown), decoding=decoding, **SETTINGS)
    assert not caplog.messages


@every_kind
def test_long_captions_are_cut_and_all_have_an_end(kind: str, captioners: Callable[[str], Captioner]) -> None:
    captioner = captioners(kind)
    question = asked(captioner)
    short, long = caption_tokens(captioner, question, ("a cat", "a cat " * 50), max_tokens=6)
    assert (short[-1], long[-1], len(long)) == (question.ends[0], question.ends[0], 6)
    assert captioner.processor.tokenizer.decode(short[:-1]) == "a cat"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["blip", "git", "blip_2", "vit_gpt2"])
def test_a_caption_goes_on_from_the_prompt(kind: str, captioners: Callable[[str], Captioner]) -> None:
    captioner = captioners(kind)
    question = asked(captioner, "a red")
    (row,) = caption_tokens(captioner, question, ["dog"], max_tokens=8)
    tokenizer = captioner.processor.tokenizer
    whole = tokenizer("a red dog", add_special_tokens=False).input_ids
    assert [*question.prefix[-2:], *row] == [*whole, question.ends[0]]
    seen = encode(captioner, pictures())
    prompted = write(captioner, question, seen=seen, decoding="greedy", **SETTINGS)
    assert prompted != write(captioner, asked(captioner), seen=seen, decoding="greedy", **SETTINGS)
    if kind == "blip":
        shown = [Image.fromarray(p.numpy()) for p in pictures()]
        inputs = captioner.processor(images=shown, text=["a red"] * 3, return_tensors="pt")
        rows = captioner.model.generate(**inputs, max_new_tokens=8)
        texts = captioner.processor.batch_decode(rows, skip_special_tokens=True)
        assert [f"a red {caption}".replace(" ##", "") for caption in prompted] == texts


def test_the_task_of_florence_is_written_out(captioners: Callable[[str], Captioner]) -> None:
    captioner = captioners("florence2")
    row = asked(captioner, "<OCR>").inputs["input_ids"]
    assert "What is the text in the image?" in captioner.processor.tokenizer.decode(row)


@pytest.mark.parametrize(
    ("kind", "prompt", "text"),
    [
        ("blip", "a dog " * 40, r"prompt='a dog a dog .* with max_tokens=8 needs \d+ places, and the model has 64"),
        ("florence2", "a dog " * 40, r"needs \d+ places, and the model has 64: shorten the prompt"),
        ("llava", "a dog " * 20, r"prompt='a dog .* shorten the prompt, or lower max_tokens"),
        ("florence2", "<CAPTION> now", r"prompt='<CAPTION> now' cannot be put to the model \(Task token <CAPTION>"),
    ],
)
def test_impossible_prompts_say_why(kind: str, prompt: str, text: str, captioners: Callable[[str], Captioner]) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        ask(captioners(kind), prompt, picture_size=SIZE, max_tokens=8)
    assert "\n" not in str(caught.value)
