"""Files that trials are recorded with: what is said of those that are gone, or others now."""

import hashlib
import os
from pathlib import Path

import pytest

from trainables.parts import recorded_files
from trainables.parts.recorded_files import file_hash, known_sha256
from vltune.errors import BadInput, NotFound


def test_the_hash_is_that_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes(b"a dog\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = hashlib.sha256(b"a dog\n").hexdigest()
    assert file_hash(str(file), field="text_file") == file_hash("~/words.txt", wanted, field="text_file") == wanted


def test_a_file_is_read_once_while_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, read = tmp_path / "words.txt", []
    file.write_text("one")
    monkeypatch.setattr(recorded_files, "sha256", lambda path: read.append(path) or f"{len(read)}")
    assert [known_sha256(file), known_sha256(file)] == ["1", "1"]
    os.utime(file, (1, 1))
    assert [known_sha256(file), known_sha256(file)] == ["2", "2"]
    monkeypatch.chdir(tmp_path)
    assert known_sha256(Path("words.txt")) == "2"


def test_what_cannot_be_taken_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("one")
    recorded = file_hash(str(file), field="predictions")
    file.write_text("another")
    end = r"its hash is \w{12}…, not \w{12}…; put back what was there, or evaluate it as a new run\.$"
    with pytest.raises(BadInput, match=rf"^predictions='.*' has changed since the trial was recorded: {end}"):
        file_hash(str(file), recorded, field="predictions", otherwise="evaluate it as a new run")
    with pytest.raises(NotFound, match=r"^glove_file='nowhere/a': there is no such file; check the path\.$"):
        file_hash("nowhere/a", field="glove_file")
    with pytest.raises(NotFound, match="there is no such file"):
        file_hash(str(file / "below"), field="glove_file")
    with pytest.raises(BadInput, match=r"cannot be read \(Is a directory\); check the file\.$"):
        file_hash(str(tmp_path), field="glove_file")
