"""Strict reading: faults are named with their place, captions come out clean."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.parts.annotations import MAX_FILE_BYTES, Cleaner, clean_caption, inside, read_json, read_lines
from vltune.errors import BadInput


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  A dog .  ", "A dog ."),
        ("a\u2028dog\u2029runs\x85here\xa0now", "a dog runs here now"),
        ("a\x00dog\x07 runs", "a dog runs"),
        ("a\tdog\r\nruns", "a dog runs"),
        ("\ufeffa dog", "a dog"),
        ("a dog \ud800 runs", "a dog runs"),
        ("caf\u00e9 \U0001f415 na\u00efve", "caf\u00e9 \U0001f415 na\u00efve"),
        ("\x00\u2028 ", ""),
    ],
)
def test_captions_are_cleaned(text: str, clean: str) -> None:
    assert clean_caption(text) == clean


@given(st.text())
def test_a_clean_caption_is_one_line_of_utf8_and_stays_as_it_is(text: str) -> None:
    clean = clean_caption(text)
    assert len(clean.splitlines()) <= 1
    assert clean == clean.strip()
    assert "  " not in clean
    clean.encode()
    assert clean_caption(clean) == clean


def test_empty_and_overlong_captions_are_counted() -> None:
    cleaner = Cleaner()
    kept = cleaner.clean(["a dog", " \u2028", "", "word " * 10_000, "x" * 5000])
    assert kept == ("a dog", " ".join(["word"] * 100), "x" * 1000)
    assert (cleaner.empty, cleaner.cut) == (2, 2)
    assert [note.split(" ")[0] for note in cleaner.notes()] == ["2", "2"]


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a b.jpg", "..a.jpg", "\u00e9.jpg"])
def test_names_inside(name: str) -> None:
    assert inside(name)


@pytest.mark.parametrize(
    "name", ["", "../a.jpg", "a/../../b.jpg", "/etc/passwd", "a\\b.jpg", "a\0.jpg", "a\n.jpg", "\ud800.jpg"]
)
def test_names_that_are_refused(name: str) -> None:
    assert not inside(name)


def _refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text.removeprefix(str(path))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"a": [1, 2', "ends too early (Expecting ',' delimiter at offset 11, line 1)"),
        (b'{"a": "tr', "offset 6"),
        (b'{"a": 1,\n "b": x}', "is not JSON (Expecting value at offset 15, line 2)"),
        (b"", "offset 0"),
        (b'{"images": [{"id": 5, "id": 7}]}', "the key 'id' twice in one object, with 5 and 7"),
        (b'{"a": "\n\xff"}', ":2: is not UTF-8 (offset 8)"),
        (b"[" * 100_000, "nested too deep (from offset 499 on)"),
        (b'{"a": ' * 100_000, "nested too deep (from offset 2994 on)"),
        (b'["[[", ' + b"[" * 100_000, "from offset 505 on"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
    ],
)
def test_json_faults_are_named_with_their_place(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert text in _refusal(path)


def test_json_that_is_too_large_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)
    assert "at most" in _refusal(path)
    assert "cannot be read" in _refusal(tmp_path / "b.json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_sound_json_is_read_as_json_does(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "sound.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_json(path) == value


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still\r\n\n  \nfour\x85still".encode())
    assert list(read_lines(path)) == [(1, "one\u2028still"), (4, "four\x85still")]


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3"])
def test_bad_utf8_is_named_with_its_line(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nb" + bad + b"\nfine\n")
    with pytest.raises(BadInput, match=r"a\.txt:2: is not UTF-8 \(byte 2 of the line\)"):
        list(read_lines(path))
