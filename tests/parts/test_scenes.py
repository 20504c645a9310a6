"""Scenes: the same bytes from the same seed, splits without shared compositions, captions that are true."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from trainables.parts.datasets import open_folder
from trainables.parts.inspection import validate_folder
from trainables.parts.scenes import write_scenes
from vltune.errors import BadInput

COLOURS = {
    "red": (212, 36, 36), "green": (38, 152, 54), "blue": (38, 78, 214), "yellow": (244, 214, 34),
    "purple": (128, 44, 160), "orange": (244, 134, 24), "pink": (250, 142, 196),
}  # fmt: skip
SHAPES = "circle|square|triangle|star|cross"
THING = rf"({'|'.join(COLOURS)}) ({SHAPES})"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(str(path), pictures=400, seed=3)
    return path


def _images(root: Path) -> list[dict]:
    return json.loads((root / "dataset_coco.json").read_text())["images"]


def _digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(str(tmp_path / name), pictures=24, seed=seed)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b") != _digest(tmp_path / "c")


def test_it_opens_as_any_coco_folder(scenes: Path, tmp_path: Path) -> None:
    data = open_folder(str(scenes), picture_size=96, cache=str(tmp_path))
    assert data.name == "scenes"
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 300, "validation": 50, "test": 50}
    assert validate_folder(str(scenes)) == []
    (scenes / "dataset_coco.json").rename(tmp_path / "aside")
    try:
        plain = open_folder(str(scenes), picture_size=96, cache=str(tmp_path))
    finally:
        (tmp_path / "aside").rename(scenes / "dataset_coco.json")
    assert [s.id for s in plain.splits["train"]] == [s.id for s in data.splits["train"]]
    assert [s.captions for s in plain.splits["train"]] == [s.captions for s in data.splits["train"]]
    assert data.splits["train"][0].picture is not None
    assert data.splits["train"][0].picture.shape == (96, 96, 3)


def test_captions_are_five_short_and_different(scenes: Path) -> None:
    words = set()
    for image in _images(scenes):
        captions = [sentence["raw"] for sentence in image["sentences"]]
        assert len(set(captions)) == 5
        for caption in captions:
            assert 5 <= len(caption.split()) <= 18, caption
            words |= set(caption.split())
    assert 40 <= len(words) <= 60


def _composition(image: dict) -> tuple[bool, frozenset]:
    """From the words alone: which things are side by side, or one above the other."""
    text = " / ".join(sentence["raw"] for sentence in image["sentences"])
    across = bool(re.search(r"\b(left|right)\b", text))
    assert across != bool(re.search(r"\b(above|over|below|under|top|bottom)\b", text)), text
    return across, frozenset(re.findall(THING, text))


def test_no_composition_is_in_two_splits(scenes: Path) -> None:
    places: dict[tuple[bool, frozenset], set[str]] = {}
    for image in _images(scenes):
        across, things = _composition(image)
        assert len(things) in (2, 3)
        places.setdefault((across, things), set()).add(image["split"])
    assert all(len(splits) == 1 for splits in places.values())
    assert len(places) > 200


def _centre(picture: np.ndarray, colour: str) -> tuple[float, float] | None:
    distance = np.abs(picture - np.array(COLOURS[colour])).max(2)
    rows, columns = np.nonzero(distance < 40)
    return (float(columns.mean()), float(rows.mean())) if len(rows) > 20 else None


def test_captions_are_true_of_the_pixels(scenes: Path) -> None:
    """Colours are found by their pixels, and lie as the captions say."""
    checked = 0
    for image in _images(scenes):
        path = scenes / image["filepath"] / image["filename"]
        picture = np.asarray(Image.open(path)).astype(int)
        for sentence in image["sentences"]:
            match = re.search(rf"a (?:\w+ )?{THING} (.*) a (?:\w+ )?{THING}$", sentence["raw"])
            relation = match and re.search(r"left|right|above|over|below|under", match[3])
            if not match or not relation:
                continue
            first, second = _centre(picture, match[1]), _centre(picture, match[4])
            if first is None or second is None:
                continue
            axis = 0 if relation[0] in ("left", "right") else 1
            sign = 1 if relation[0] in ("left", "above", "over") else -1
            assert sign * (second[axis] - first[axis]) > 5, (path, sentence["raw"])
            checked += 1
    assert checked > 400


def test_big_things_are_bigger(scenes: Path) -> None:
    areas: dict[str, list[int]] = {"big": [], "small": []}
    for image in _images(scenes):
        picture = np.asarray(Image.open(scenes / image["filepath"] / image["filename"])).astype(int)
        for size, colour in re.findall(
            rf"(big|large|small|little) ({'|'.join(COLOURS)})", " ".join(s["raw"] for s in image["sentences"])
        ):
            kind = "big" if size in ("big", "large") else "small"
            areas[kind].append(int((np.abs(picture - np.array(COLOURS[colour])).max(2) < 30).sum()))
    assert np.percentile(areas["big"], 20) > np.percentile(areas["small"], 80)


@pytest.mark.parametrize("folder", ["train2017", "val2017"])
def test_masks_lie_where_the_colours_are_and_name_what_the_captions_name(scenes: Path, folder: str) -> None:
    coco = COCO(str(scenes / "annotations" / f"instances_{folder}.json"))
    told = {i["cocoid"]: _composition(i)[1] for i in _images(scenes) if i["filepath"] == folder}
    assert coco.imgs.keys() == told.keys()
    overlaps = []
    for identity, image in coco.imgs.items():
        picture = np.asarray(Image.open(scenes / folder / image["file_name"])).astype(int)
        things = coco.imgToAnns[identity]
        names = [coco.cats[thing["category_id"]]["name"] for thing in things]
        assert {tuple(name.split()) for name in names} == told[identity]
        for thing, name in zip(things, names, strict=True):
            mask = coco.annToMask(thing) > 0
            assert mask.sum() == pytest.approx(thing["area"], rel=0.1)
            rows, columns = np.nonzero(mask)
            x, y, width, height = thing["bbox"]
            assert (x + width / 2, y + height / 2) == pytest.approx(
                ((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2), abs=1
            )
            seen = np.abs(picture - np.array(COLOURS[name.split()[0]])).max(2) < 60
            near = np.zeros_like(seen)  # backgrounds and other things may be of a similar colour
            near[max(0, rows.min() - 2) : rows.max() + 3, max(0, columns.min() - 2) : columns.max() + 3] = True
            overlaps.append((mask & seen).sum() / (mask | seen & near).sum())
    assert np.median(overlaps) > 0.92
    assert np.percentile(overlaps, 5) > 0.8


def test_only_its_own_folder_is_left_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "a"
    root.mkdir()
    write_scenes(str(root), pictures=8)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_scenes(str(root), pictures=8)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(BadInput, match="another seed"):
        write_scenes(str(root), pictures=8, seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty"):
        write_scenes(str(tmp_path / "other"), pictures=8)
    with pytest.raises(BadInput, match="is not empty"):
        write_scenes(str(tmp_path / "other" / "letter.txt"), pictures=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "other"]


@pytest.mark.parametrize("options", [{"pictures": 7}, {"seed": -1}, {"picture_size": 8}])
def test_arguments_out_of_range(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(options))}=.* is out of range"):
        write_scenes(str(tmp_path / "a"), **options)
