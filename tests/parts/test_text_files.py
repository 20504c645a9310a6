"""Training text from files: formats, cleaning, and what is held out."""

import hashlib
from pathlib import Path

import pytest

from trainables.parts.text_files import read_text_file, text_file_hash, without_known
from vltune.errors import BadInput, NotFound


def write(folder: Path, content: bytes) -> str:
    file = folder / "texts.txt"
    file.write_bytes(content)
    return str(file)


def test_a_line_is_a_caption(tmp_path: Path) -> None:
    file = write(tmp_path, "A dog ,  runs .\r\n\n  \nimage of a cat, asleep\nÄ\u2028bird\n".encode())
    assert read_text_file(file) == (["A dog , runs .", "image of a cat, asleep", "Ä bird"], [])


def test_pictures_before_the_captions_are_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, b'image,caption\na.jpg,A dog .\nb.jpg,"A cat , asleep ."\nb.jpg,\nb.jpg,a "big" one, too\n')
    texts, notes = read_text_file(file)
    assert texts == ["A dog .", "A cat , asleep .", 'a "big" one, too']
    assert notes == ["1 empty captions dropped."]


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, b"a dog\n")
    assert text_file_hash(file) == hashlib.sha256(b"a dog\n").hexdigest()
    assert read_text_file(file, text_file_hash(file))[0] == ["a dog"]
    with pytest.raises(BadInput, match="has changed since the trial was recorded"):
        read_text_file(file, "0" * 64)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "holds no caption: put one on each line"),
        (b" \n\n", "holds no caption"),
        (b"image,caption\n", "holds no caption"),
        (b"image,caption\nno comma\n", "texts.txt:2: has no comma between picture and caption"),
        (b"a\n\xff\n", "texts.txt:2: is not UTF-8"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        read_text_file(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"text_file='.*missing.txt': there is no such file"):
        read_text_file(str(tmp_path / "missing.txt"))
    with pytest.raises(BadInput, match="cannot be read"):
        read_text_file(str(tmp_path))


def test_known_texts_are_left_out_whatever_their_case_and_punctuation() -> None:
    texts = ["A dog runs .", "a dog runs fast", "a  DOG, runs", "a do gruns"]
    assert without_known(texts, ["a dog runs!", "another"]) == ["a dog runs fast", "a do gruns"]


@pytest.mark.shared_data
def test_flickr8k_has_text_without_pictures(shared_data: Path) -> None:
    texts, _ = read_text_file(str(shared_data / "flickr8k" / "captions_text_only.txt"))
    assert len(texts) == 35455
    assert texts[0] == "A black and gray cat stands on a contracption while two big dogs stare at it ."
    assert not any('"' in text[:1] for text in texts[:1000])
