"""Looking a data set over: all faults at once, and figures that agree with independent counts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.parts.inspection import folder_stats, validate_folder
from vltune.errors import BadInput, NotFound


def _picture(path: Path, number: int, width: int = 24, height: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)).save(path)


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    names = {"a": "train", "b": "val", "c": "test", "d": "train", "e": "train", "f": "val", "g": "train", "h": "train"}
    images = [
        {"filepath": "p", "filename": f"{name}.png", "cocoid": name, "split": split, "sentences": [{"raw": "x"}]}
        for name, split in names.items()
    ]
    images[-1]["sentences"] = [{"raw": " "}]
    images.append({"filepath": "..", "filename": "x.png", "split": "train", "sentences": []})
    images.append(images[0])
    images.append({"filename": "y.png", "split": "else", "sentences": []})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    for number, name in enumerate("abch"):
        _picture(tmp_path / "p" / f"{name}.png", number)
    _picture(tmp_path / "p" / "d.png", 0)
    _picture(tmp_path / "p" / "e.png", 9, 1, 1)
    _picture(tmp_path / "p" / "f.png", 0)
    (tmp_path / "p" / "g.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "p" / "c.png").unlink()
    findings = validate_folder(str(tmp_path))
    found = {(finding.kind, finding.where) for finding in findings}
    file = tmp_path / "dataset_coco.json"
    assert found == {
        ("outside", f"{file}: images[8]"),
        ("duplicate_id", f"{file}: images[9]"),
        ("broken", f"{file}: images[10]"),
        ("captionless", "h"),
        ("missing", "c"),
        ("tiny", "e"),
        ("corrupt", "g"),
        ("corrupt", str(tmp_path)),
        ("duplicate_picture", "d"),
        ("leakage", "f"),
        ("split", str(tmp_path)),
    }
    assert all("\n" not in finding.text for finding in findings)
    assert "p/f.png: is the same by content as 'a'" in " ".join(f.text for f in findings if f.kind == "leakage")


def test_annotations_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "dataset_coco.json").write_text('{"images": [')
    (finding,) = validate_folder(str(tmp_path))
    assert finding.kind == "unreadable"
    assert "offset" in finding.text
    with pytest.raises(BadInput, match="offset"):
        folder_stats(str(tmp_path))
    with pytest.raises(NotFound):
        validate_folder(str(tmp_path / "no"))


def test_figures_of_a_small_folder(tmp_path: Path) -> None:
    lines = ["image,caption"]
    for i in range(10):
        _picture(tmp_path / "Images" / f"{i}.png", i, 20 + i, 40)
        lines += [f"{i}.png,A dog runs .", f"{i}.png,a cat"]
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    stats = folder_stats(str(tmp_path))
    assert (stats["pictures"], stats["captions"], stats["unreadable"]) == (10, 20, 0)
    assert stats["splits"] == {
        "train": {"pictures": 8, "captions": 16},
        "validation": {"pictures": 1, "captions": 2},
        "test": {"pictures": 1, "captions": 2},
    }
    assert sorted(stats["widths"]) == list(range(20, 30))
    assert stats["heights"] == [40] * 10
    assert stats["caption_lengths"] == {2: 10, 4: 10}
    assert stats["vocabulary"] == 4
    assert stats["frequent_words"]["a"] == 20
    json.dumps(stats)


@pytest.mark.shared_data
def test_real_folders_are_sound_and_counted(shared_data: Path, tmp_path: Path) -> None:
    for name in ("flickr8k", "coco-mini"):
        assert validate_folder(str(shared_data / name)) == []
    stats = folder_stats(str(shared_data / "flickr8k"), cache=str(tmp_path))
    lines = (shared_data / "flickr8k" / "captions.txt").read_text().splitlines()[1:]
    captions = [re.sub(r'^"(.*)"$', r"\1", line.split(",", 1)[1]) for line in lines]
    assert stats["captions"] == len(captions) == 4000
    assert sum(k * v for k, v in stats["caption_lengths"].items()) == sum(len(c.split()) for c in captions)
    shapes = [Image.open(path).size for path in (shared_data / "flickr8k" / "Images").iterdir()]
    assert sorted(stats["widths"]) == sorted(width for width, _ in shapes)
    assert sorted(stats["heights"]) == sorted(height for _, height in shapes)
