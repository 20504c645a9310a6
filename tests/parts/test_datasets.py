"""Opening a folder: what is refused, how it is split, hashed and cached, on generated and on real pictures."""

import dataclasses
import json
import os
import pickle
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.parts import datasets
from trainables.parts.datasets import open_folder
from vltune.contract import Data
from vltune.errors import BadInput, NotFound


def _picture(path: Path, number: int, size: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def _flickr(root: Path, numbers: list[int]) -> Path:
    """A Flickr8k folder whose picture i has the content of ``numbers[i]``."""
    lines = ["image,caption"]
    for i, number in enumerate(numbers):
        _picture(root / "Images" / f"{i:03}.jpg", number)
        lines += [f"{i:03}.jpg,caption {k} of {i}" for k in range(2)]
    (root / "captions.txt").write_text("\n".join(lines))
    return root


def _karpathy(root: Path, pictures: list[tuple[str, str, int]]) -> Path:
    """Pictures as (name, split, content)."""
    for name, _, number in pictures:
        _picture(root / "val2014" / name, number)
    images = [
        {"filepath": "val2014", "filename": name, "cocoid": name, "split": split, "sentences": [{"raw": f"a {name}"}]}
        for name, split, _ in pictures
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return root


def _open(root: Path, tmp_path: Path, **options) -> Data:
    return open_folder(str(root), **({"picture_size": 16, "cache": str(tmp_path / "cache")} | options))


def _ids(data: Data) -> dict[str, list[str]]:
    return {name: [sample.id for sample in split] for name, split in data.splits.items()}


def _refusal(root: Path, tmp_path: Path, **options) -> str:
    with pytest.raises(BadInput) as caught:
        _open(root, tmp_path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_have_their_own_pictures_and_captions(tmp_path: Path) -> None:
    data = _open(_flickr(tmp_path / "d", list(range(20))), tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert sorted(chain(*_ids(data).values())) == [f"{i:03}.jpg" for i in range(20)]
    for split in data.splits.values():
        for sample in split:
            full = Image.open(tmp_path / "d" / "Images" / sample.id).resize((16, 16), Image.Resampling.BILINEAR)
            assert sample.picture is not None
            np.testing.assert_array_equal(sample.picture, np.asarray(full))
            assert sample.captions == tuple(f"caption {k} of {int(sample.id[:3])}" for k in range(2))
    assert [sample.id for sample in data.splits["train"][2:4]] == _ids(data)["train"][2:4]
    sent = pickle.loads(pickle.dumps(data.splits["train"]))
    np.testing.assert_array_equal(sent[3].picture, data.splits["train"][3].picture)


def test_the_seed_splits_by_picture(tmp_path: Path) -> None:
    root = _flickr(tmp_path / "d", list(range(40)))
    first, again, other = (_ids(_open(root, tmp_path, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    lines = (root / "captions.txt").read_text().splitlines()
    (root / "captions.txt").write_text("\n".join([lines[0], *lines[:0:-1]]))
    assert _ids(_open(root, tmp_path)) == first, "the order of the file decides"


def test_the_published_split_sizes_of_flickr8k(tmp_path: Path) -> None:
    entries = [datasets.Entry(str(i), Path(str(i)), "", ("x",)) for i in range(8091)]
    shared, _ = datasets.split_entries("x", entries, {entry.path: entry.id for entry in entries}, seed=0)
    assert [sum(e.split == name for e in shared) for name in ("train", "validation", "test")] == [6472, 809, 810]


def test_equal_pictures_stay_together(tmp_path: Path) -> None:
    contents = [i % 15 for i in range(45)]
    for seed in range(5):
        data = _open(_flickr(tmp_path / "d", contents), tmp_path, seed=seed)
        places = {}
        for name, ids in _ids(data).items():
            for identity in ids:
                assert places.setdefault(contents[int(identity[:3])], name) == name


def test_coco_without_karpathy_keeps_train_and_halves_val(tmp_path: Path) -> None:
    root, number = tmp_path / "d", 0
    for part, count in (("train2017", 6), ("val2017", 4)):
        images = []
        for _ in range(count):
            number += 1
            _picture(root / part / f"{number}.jpg", number)
            images.append({"id": number, "file_name": f"{number}.jpg"})
        texts = [{"id": image["id"], "image_id": image["id"], "caption": "x"} for image in images]
        (root / "annotations").mkdir(exist_ok=True)
        tree = {"images": images, "annotations": texts}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(tree))
    ids = _ids(_open(root, tmp_path))
    assert ids["train"] == ["1", "2", "3", "4", "5", "6"]
    assert len(ids["validation"]) == len(ids["test"]) == 2
    assert sorted(ids["validation"] + ids["test"]) == ["10", "7", "8", "9"]
    _picture(root / "val2017" / "8.jpg", 3)
    assert "'3' (train) and '8'" in _refusal(root, tmp_path)


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ([("a", "train", 1), ("b", "val", 2), ("c", "test", 1)], "'a' (train) and 'c' (test), the same by content"),
        ([("a", "train", 1), ("a", "val", 1), ("c", "test", 3)], "'a' (train) and 'a' (validation), the same by id"),
    ],
)
def test_leakage_is_refused_unless_allowed(tmp_path: Path, pictures: list[tuple[str, str, int]], reason: str) -> None:
    root = _karpathy(tmp_path / "d", pictures)
    assert reason in _refusal(root, tmp_path)
    data = _open(root, tmp_path, allow_leakage=True)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "validation": 1, "test": 1}
    assert any(reason in note for note in data.notes)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    root = _karpathy(tmp_path / "d", [("a", "train", 1), ("b", "val", 2)])
    assert "the split 'test' is empty" in _refusal(root, tmp_path)
    assert "at least 3" in _refusal(_flickr(tmp_path / "e", [1, 2]), tmp_path)


def test_missing_pictures_are_counted_and_the_first_named(tmp_path: Path) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    for name in ("004.jpg", "007.jpg"):
        (root / "Images" / name).unlink()
    text = _refusal(root, tmp_path)
    assert "2 of 10 pictures are missing" in text
    assert "Images/004.jpg" in text


def test_pictures_without_captions_are_left_out(tmp_path: Path) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    with (root / "captions.txt").open("a") as file:
        file.write("\nnobody.jpg, \u2028\n")
    data = _open(root, tmp_path)
    assert "nobody.jpg" not in chain(*_ids(data).values())
    assert "1 pictures without captions left out." in data.notes
    assert "1 empty captions dropped." in data.notes


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        _open(tmp_path / "no", tmp_path)
    root = _flickr(tmp_path / "d", list(range(10)))
    assert "picture_size=0" in _refusal(root, tmp_path, picture_size=0)
    assert "cache" in _refusal(root, tmp_path, cache=str(root / "captions.txt"))


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    data = _open(root, tmp_path)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert _open(tmp_path / "elsewhere", tmp_path, cache=str(tmp_path / "other")).hash == data.hash
    assert _open(root, tmp_path, picture_size=8).hash == data.hash
    hashes = {data.hash, _open(root, tmp_path, seed=1).hash}
    captions = root / "captions.txt"
    captions.write_text(captions.read_text().replace("caption 1 of 3", "caption one of 3"))
    hashes.add(_open(root, tmp_path).hash)
    _picture(root / "Images" / "005.jpg", 99)
    hashes.add(_open(root, tmp_path).hash)
    assert len(hashes) == 4


def test_opening_again_reads_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    for path in (root / "Images").iterdir():
        os.utime(path, (1, 1))
    data = _open(root, tmp_path)

    def no(*_, **__):
        raise AssertionError("a picture was read again")

    monkeypatch.setattr(datasets, "_sha256", no)
    monkeypatch.setattr(datasets, "read_picture", no)
    again = _open(root, tmp_path)
    assert again.hash == data.hash
    np.testing.assert_array_equal(again.splits["test"][0].picture, data.splits["test"][0].picture)
    monkeypatch.undo()
    _picture(root / "Images" / "000.jpg", 77)
    assert _open(root, tmp_path).hash != data.hash


def test_a_damaged_memory_of_hashes_is_forgotten(tmp_path: Path) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    for path in (root / "Images").iterdir():
        os.utime(path, (1, 1))
    data = _open(root, tmp_path)
    (memory,) = (tmp_path / "cache").glob("hashes-*.json")
    for content in (memory.read_text()[:100], "[]", '{"Images/000.jpg": 3}'):
        memory.write_text(content)
        assert _open(root, tmp_path).hash == data.hash


def test_above_the_limit_pictures_are_decoded_when_read(tmp_path: Path) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    kept, read = _open(root, tmp_path), _open(root, tmp_path, max_cache_bytes=1000)
    assert any("decoded whenever they are read" in note for note in read.notes)
    assert not any("decoded whenever" in note for note in kept.notes)
    assert read.hash == kept.hash
    for one, other in zip(read.splits["train"], kept.splits["train"], strict=True):
        assert one.id == other.id
        np.testing.assert_array_equal(one.picture, other.picture)


def test_pictures_that_were_decoded_before_are_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, looked_at, decode = _flickr(tmp_path / "d", list(range(200))), [], datasets._decode
    (root / "Images" / "007.jpg").write_bytes(b"no picture")
    monkeypatch.setattr(
        datasets, "_decode", lambda path, *, size: looked_at.append((path.name, size)) or decode(path, size=size)
    )
    few = _open(root, tmp_path, max_cache_bytes=0)
    assert sorted(looked_at) == [(f"{i:03}.jpg", 64) for i in range(200)], "whether they are sound"
    assert not [*(tmp_path / "cache").glob("pictures-*")]
    kept = _open(root, tmp_path)
    assert few.notes == kept.notes
    for file in (tmp_path / "cache").glob("checks-*"):
        file.unlink()
    looked_at.clear()
    again = _open(root, tmp_path, picture_size=32, max_cache_bytes=0)
    assert looked_at == [], "it is known since then which are"
    assert again.hash == few.hash == kept.hash
    assert sum(map(len, again.splits.values())) == 199
    picture = again.splits["test"][0].picture
    assert picture is not None
    assert picture.shape == (32, 32, 3)


def test_captions_cost_no_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    split = _open(root, tmp_path, max_cache_bytes=1000).splits["train"]
    decoded = []
    monkeypatch.setattr(datasets, "read_picture", lambda path, *, size: decoded.append(path) or np.zeros((size,) * 2))
    sample = split[0]
    assert [s.captions for s in split[:]] == [s.captions for s in split]
    assert decoded == []
    assert sample.picture is sample.picture is not None
    assert len(decoded) == 1


def test_a_stored_sample_is_a_sample(tmp_path: Path) -> None:
    stored = _open(_flickr(tmp_path / "d", list(range(10))), tmp_path).splits["train"][0]
    assert [f.name for f in dataclasses.fields(stored)] == ["id", "picture", "captions", "features"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(stored, "id", "other")  # noqa: B010 - as a statement, no type checker lets it pass
    for copy in (dataclasses.replace(stored, captions=("else",)), pickle.loads(pickle.dumps(stored))):
        assert copy.id == stored.id
        np.testing.assert_array_equal(copy.picture, stored.picture)
    assert dataclasses.replace(stored, captions=("else",)).captions == ("else",)


def test_a_full_disk_counts_as_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _flickr(tmp_path / "d", list(range(10)))
    monkeypatch.setattr(datasets.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 10))
    assert any("the disk has less" in note for note in _open(root, tmp_path).notes)


def test_progress_is_told(tmp_path: Path) -> None:
    told = []
    _open(_flickr(tmp_path / "d", list(range(10))), tmp_path, progress=lambda *what: told.append(what))
    assert told == [("reading pictures", 10, 10), ("decoding pictures at 16x16", 10, 10)]


def _farm(source: Path, root: Path) -> Path:
    """The same folder, made of links."""
    (root / "Images").mkdir(parents=True)
    for path in (source / "Images").iterdir():
        (root / "Images" / path.name).symlink_to(path)
    shutil.copy(source / "captions.txt", root)
    return root


def _harm(root: Path, count: int) -> list[str]:
    kinds = [b"", b"<html></html>", b"\xff\xd8\xff\xe0\0\x10JFIF"]
    names = sorted(path.name for path in (root / "Images").iterdir())[100 : 100 + count]
    for number, name in enumerate(names):
        path = root / "Images" / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[: len(content) // 2] if number == 0 else kinds[number % 3] + b" " * number)
    return names


@pytest.mark.shared_data
def test_one_damaged_picture_of_800_is_skipped_and_nine_are_not(shared_data: Path, tmp_path: Path) -> None:
    root = _farm(shared_data / "flickr8k", tmp_path / "farm")
    whole = _open(root, tmp_path)
    assert {name: len(split) for name, split in whole.splits.items()} == {"train": 640, "validation": 80, "test": 80}
    assert all(len(sample.captions) == 5 for sample in whole.splits["train"])
    (name,) = _harm(root, 1)
    for options in ({}, {"max_cache_bytes": 1}, {}):
        data = _open(root, tmp_path, **options)
        assert sum(len(split) for split in data.splits.values()) == 799
        (note,) = (note for note in data.notes if "skipped" in note)
        assert note.startswith("1 of 800 pictures cannot be used")
        assert name in note
    # One picture less moves no more than the borders.
    moved = set(_ids(whole)["test"]) ^ set(_ids(data)["test"])
    assert len(moved) <= 3
    names = _harm(root, 9)
    for options in ({}, {"max_cache_bytes": 1}):
        text = _refusal(root, tmp_path, **options)
        assert "9 of 800 pictures cannot be used" in text
        assert names[0] in text


@pytest.mark.shared_data
def test_real_coco_folder(shared_data: Path, tmp_path: Path) -> None:
    data = _open(shared_data / "coco-mini", tmp_path, picture_size=32)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 80, "validation": 20, "test": 20}
    sample = next(sample for sample in data.splits["train"] if sample.id == "322517")
    assert "A group of people eating a candlelit dinner at a restaurant." in sample.captions
    assert sample.picture is not None
    assert sample.picture.shape == (32, 32, 3)
