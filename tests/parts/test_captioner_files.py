"""Files of foreign captioners: what is read of them, and pictures as their own processors make them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_captioners import KINDS, SIZE, write_captioner

from trainables.parts.captioner_files import (
    build_model,
    crops,
    outline_model,
    picture_side,
    processed,
    read_files,
    read_processor,
)
from trainables.parts.pictures import read_picture
from vltune.errors import BadInput

torch.set_num_threads(1)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_pictures_are_as_the_models_own_processor_makes_them(kind: str, tmp_path: Path) -> None:
    processor = read_processor(read_files(Path(write_captioner(kind, tmp_path))))
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    expected = processor.image_processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    given = torch.from_numpy(picture)[None]
    found = processed(processor, given, taken=("pixel_values",), dtype=torch.float32)
    assert list(found) == ["pixel_values"]
    torch.testing.assert_close(found["pixel_values"], expected, rtol=0, atol=1e-6)
    assert picture_side(processor, 0) == SIZE
    assert crops(processor) == (kind in ("git", "llava"))


@pytest.mark.parametrize(("kind", "tolerance"), [("vit_gpt2", 0.008), ("blip", 0.1), ("git", 0.1)])
def test_a_large_picture_is_resized_nearly_as_the_processor_does_it(
    kind: str, tolerance: float, tmp_path: Path
) -> None:
    processor = read_processor(read_files(Path(write_captioner(kind, tmp_path))))
    y, x = np.mgrid[0:60, 0:60] / 60
    smooth = np.stack((x, y, np.sin(6 * x) * np.cos(6 * y) / 2 + 0.5), -1)
    Image.fromarray((smooth * 255).astype(np.uint8)).save(tmp_path / "picture.png")
    expected = processor.image_processor(Image.open(tmp_path / "picture.png"), return_tensors="pt")["pixel_values"]
    ours = torch.from_numpy(read_picture(tmp_path / "picture.png", size=SIZE))[None]
    found = processed(processor, ours, taken=("pixel_values",), dtype=torch.float32)["pixel_values"]
    # Ours is bilinear, as ViT's own, where one step of a byte is 0.008; BLIP's and GIT's own is bicubic.
    assert (found - expected).abs().max() < tolerance


@every_kind
def test_a_model_is_built_again_without_its_weights(kind: str, tmp_path: Path) -> None:
    texts = read_files(Path(write_captioner(kind, tmp_path)))
    model, bare = build_model(texts, tmp_path), build_model(texts, None)
    assert {n: t.shape for n, t in bare.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    bare.load_state_dict(model.state_dict())
    assert str(bare.generation_config) == str(model.generation_config)
    for outline in (outline_model(texts, tmp_path), outline_model(texts, None)):
        assert {n: t.shape for n, t in outline.state_dict().items()} == {
            n: t.shape for n, t in bare.state_dict().items()
        }
        assert all(parameter.is_meta for parameter in outline.parameters())
        assert str(outline.generation_config) == str(model.generation_config)


def test_files_that_are_no_captioner_say_so_in_a_line(tmp_path: Path) -> None:
    folder = Path(write_captioner("blip", tmp_path))
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "bert"}))
    with pytest.raises(BadInput, match="model of the type 'bert', which writes no text about pictures"):
        read_files(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json or another text file cannot be read"):
        read_files(folder)
    larger = fields["text_config"] | {"hidden_size": 32}
    for change in ({"text_config": larger}, {"model_type": "git"}):
        (folder / "config.json").write_text(json.dumps(fields | change))
        with pytest.raises(BadInput, match=r"cannot be read as a model|another architecture") as caught:
            build_model(read_files(folder), folder)
        assert "\n" not in str(caught.value)
    (folder / "config.json").write_text(json.dumps(fields))
    words = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="captioner_model: its processor or tokenizer cannot be read") as caught:
        read_processor(read_files(folder))
    assert "\n" not in str(caught.value)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json; save the model's fast tokenizer"):
        read_files(folder)
    (folder / "tokenizer.json").write_text(words)
    assert len(read_processor(read_files(folder)).tokenizer) > 10


def test_a_processor_without_a_size_asks_for_one(tmp_path: Path) -> None:
    processor = read_processor(read_files(Path(write_captioner("blip", tmp_path))))
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    with pytest.raises(BadInput, match="set picture_size"):
        picture_side(processor, 0)
    assert picture_side(processor, 224) == 224
