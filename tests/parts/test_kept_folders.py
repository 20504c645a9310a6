"""A data set that stays open, and is read again when it has changed."""

import os
import time
from pathlib import Path

import pytest

from trainables.parts import kept_folders
from trainables.parts.kept_folders import open_kept_folder
from trainables.parts.scenes import write_scenes


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Generated pictures, an hour old."""
    write_scenes(str(tmp_path / "scenes"), pictures=12, picture_size=32)
    for path in tmp_path.rglob("*"):
        age(path, 3600)
    return tmp_path / "scenes"


def test_what_has_not_changed_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, read = str(tmp_path / "cache"), []
    opened = kept_folders.open_folder
    monkeypatch.setattr(
        kept_folders, "open_folder", lambda *a, **k: (read.append(k["picture_size"]), opened(*a, **k))[1]
    )
    first = open_kept_folder(str(folder), picture_size=32, cache=cache)
    assert open_kept_folder(str(folder), picture_size=32, cache=cache) is first
    assert open_kept_folder(str(folder), picture_size=16, cache=cache).splits["train"][0].picture is not None
    assert read == [32, 16]


@pytest.mark.parametrize("seconds", [1800, 0])
def test_whatever_changes_is_seen(folder: Path, tmp_path: Path, seconds: float) -> None:
    cache = str(tmp_path / "cache")
    before = open_kept_folder(str(folder), picture_size=32, cache=cache)
    annotations = folder / "dataset_coco.json"
    annotations.write_text(annotations.read_text().replace("circle", "square"))
    age(annotations, seconds)
    after = open_kept_folder(str(folder), picture_size=32, cache=cache)
    assert after.hash != before.hash
    picture = next((folder / "val2017").iterdir())
    picture.write_bytes(next((folder / "train2017").iterdir()).read_bytes())
    age(picture, seconds)
    assert open_kept_folder(str(folder), picture_size=32, cache=cache, allow_leakage=True).hash != after.hash


def test_folders_in_folders_are_always_read(folder: Path, tmp_path: Path) -> None:
    (folder / "train2017" / "more").mkdir()
    age(folder / "train2017" / "more", 3600)
    age(folder / "train2017", 3600)
    first, second = (open_kept_folder(str(folder), picture_size=32, cache=str(tmp_path / "cache")) for _ in range(2))
    assert first is not second
    assert first.hash == second.hash
