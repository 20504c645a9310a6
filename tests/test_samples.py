"""The page of samples that a person looks at."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vltune.contract import Sample
from vltune.samples import write_samples


class Page(HTMLParser):
    """What stands in a page: its texts, and what its tags point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts += [data.strip()] if data.strip() else []


def picture(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((20, 30, 3), colour, np.uint8)


def test_page_shows_pictures_captions_and_references(tmp_path: Path) -> None:
    samples = [
        Sample("../a", picture((200, 0, 0)), ("a red field", "röd & <b>bold</b>")),
        Sample("b", None, ()),
    ]
    hostile = '<script>alert("x")</script> {figures}'
    write_samples(tmp_path / "samples", samples, [hostile, "seen"])
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {"00.jpg", "samples.json", "samples.html"}
    shown = json.loads((tmp_path / "samples" / "samples.json").read_text(encoding="utf-8"))
    assert shown == [
        {"id": "../a", "caption": hostile, "references": ["a red field", "röd & <b>bold</b>"], "picture": "00.jpg"},
        {"id": "b", "caption": "seen", "references": []},
    ]
    page = Page((tmp_path / "samples" / "samples.html").read_text(encoding="utf-8"))
    assert page.sources == ["00.jpg"], "nothing but the pictures beside it"
    assert "script" not in page.tags
    assert hostile in page.texts
    assert page.texts[-3:-1] == ["a red field", "röd & <b>bold</b>"]
    with Image.open(tmp_path / "samples" / "00.jpg") as image:
        assert image.size == (30, 20)
        assert np.abs(np.asarray(image, int) - (200, 0, 0)).max() < 10


def test_samples_and_records_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_samples(tmp_path, [Sample("a", None, ())], [])
