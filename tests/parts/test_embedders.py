"""Embedders: a CLIP as the hub holds it, and a promoted model, behind the same interface."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor, nn

from trainables.parts.embedders import HubEmbedder, PromotedEmbedder, embedded_size, is_promoted
from vltune.errors import BadInput

torch.set_num_threads(1)
TEXTS = ["a red dog", "a blue cat that runs", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.clip(tmp_path_factory.mktemp("clip"))


def pictures(count: int = 3, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@torch.no_grad()
def test_a_clip_gives_what_transformers_gives(folder: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor, CLIPModel

    embedder, model = HubEmbedder(folder), CLIPModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert (embedder.width, embedder.picture_size, embedded_size(str(folder), promoted="", cache="")) == (12, 16, 16)
    for text, found in zip(TEXTS, embedder.encode_texts(TEXTS), strict=True):
        expected = model.get_text_features(**processor(text=[text], return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(found, expected)
    for picture, found in zip(pictures(), embedder.encode_pictures(pictures()), strict=True):
        given = processor(images=Image.fromarray(picture), return_tensors="pt")
        torch.testing.assert_close(found, model.get_image_features(**given).pooler_output[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_a_siglip_reads_padding_as_it_was_trained_whatever_its_tokenizer_says(kind: str, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    folder = getattr(tiny_models, kind)(tmp_path)
    embedder, model = HubEmbedder(folder), SiglipModel.from_pretrained(folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    assert ("attention_mask" in tokenizer("a")) == (kind == "siglip2")
    assert (embedder.width, embedder.picture_size, embedded_size(str(folder), promoted="", cache="")) == (16, 16, 16)
    for text, found in zip(TEXTS, embedder.encode_texts(TEXTS), strict=True):
        rows = tokenizer([text], padding="max_length", max_length=32, return_tensors="pt").input_ids
        torch.testing.assert_close(found, model.get_text_features(input_ids=rows).pooler_output[0])
    for picture, found in zip(pictures(), embedder.encode_pictures(pictures()), strict=True):
        given = processor(images=Image.fromarray(picture), return_tensors="pt")
        torch.testing.assert_close(found, model.get_image_features(**given).pooler_output[0])


def test_it_is_frozen_and_says_the_same_whatever_surrounds_it(folder: Path) -> None:
    embedder = HubEmbedder(folder)
    alone = embedder.encode_texts(TEXTS[:1])
    embedder.train()
    assert not any(module.training for module in embedder.modules())
    assert not any(p.requires_grad for p in embedder.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        many = embedder.encode_texts(TEXTS * 30)
    assert many.shape == (90, 12)
    torch.testing.assert_close(many[:1], alone)
    assert not many.requires_grad
    assert embedder.encode_pictures(pictures(0)).shape == (0, 12)


class Colours(nn.Module):
    """A promoted model as others see it: it embeds a picture as the mean of its colours."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.5)
        self.width, self.config = 3, type("Config", (), {"picture_size": 8})()

    def collate(self, samples: Any, draws: Any) -> dict[str, Any]:
        assert draws is None
        return {"ids": [s.id for s in samples], "pictures": torch.tensor(np.stack([s.picture for s in samples]))}

    def encode_pictures(self, batch: dict[str, Any]) -> Tensor:
        return self.dropout(self.scale * batch["pictures"].float().mean((1, 2)))

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.dropout(torch.tensor([[float(len(text))] * 3 for text in texts]))


def test_a_promoted_model_is_asked_through_its_own_collate() -> None:
    embedder = PromotedEmbedder(Colours()).train()
    assert (embedder.width, embedder.picture_size) == (3, 8)
    expected = torch.tensor(pictures(70, 8).reshape(70, -1, 3).mean(1), dtype=torch.float32)
    torch.testing.assert_close(embedder.encode_pictures(pictures(70, 8)), expected)
    assert embedder.encode_texts(["ab", "c"]).tolist() == [[2.0] * 3, [1.0] * 3]


def test_what_names_a_promoted_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"family": "retrieval", "config": {}, "assets": []}))
    for name in ("retrieval@champion", "retrieval/3", "models:/retrieval@champion", "models:/a/3", str(tmp_path)):
        assert is_promoted(name), name
    for name in ("openai/clip-vit-base-patch32", "clip", str(folder), str(tmp_path / "missing")):
        assert not is_promoted(name), name


def test_what_is_no_embedder_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    language = tiny_models.gpt2(tmp_path / "gpt2")
    flexible = tiny_models.siglip2_naflex(tmp_path / "flexible")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    for call, text in (
        (
            lambda: HubEmbedder(language),
            "a 'gpt2' does not embed pictures and texts in one space; take one such as CLIP",
        ),
        (lambda: embedded_size(str(language), promoted="", cache=""), "a 'gpt2' does not embed pictures and texts"),
        (lambda: HubEmbedder(flexible), "takes pictures of many sizes; take one of a fixed size"),
        (lambda: embedded_size(str(flexible), promoted="", cache=""), "takes pictures of many sizes; take one of a"),
        (lambda: HubEmbedder(bare), "has no image processor that can be read"),
    ):
        with pytest.raises(BadInput, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
