import io
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainables.parts import metrics, ptb, references
from trainables.parts.metrics import score_captions
from trainables.parts.references import reference_statistics
from vltune.errors import BadInput

CAPTIONS = ["a dog runs", "the cat", "two men"]
TEXTS = [["a dog runs on grass", "dog"], ["the cat", "", "a cat 1 1/2"], ["two men walk"]]


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(references, "_HELD", {})


@pytest.fixture
def tokenised(monkeypatch):
    """How many texts were tokenised at each call; as if all were their own tokens."""
    calls = []

    def tokenise(texts):
        calls.append(len(texts))
        return [" ".join(text.split()) for text in texts]

    monkeypatch.setattr(references, "ptb_tokenize", tokenise)
    monkeypatch.setattr(metrics, "ptb_tokenize", tokenise)
    return calls


def test_references_are_tokenised_once_in_a_process(tokenised):
    first = score_captions(CAPTIONS, TEXTS)
    again = score_captions(CAPTIONS, tuple(map(tuple, TEXTS)))
    assert first == again
    assert tokenised == [6, 3, 3]
    for number in range(5):
        score_captions(["a"], [[str(number)]])
    assert len(references._HELD) == 4


def test_what_lies_on_disk_gives_the_same_scores(tokenised, tmp_path):
    without = score_captions(CAPTIONS, TEXTS)
    references._HELD.clear()
    tokenised.clear()
    assert score_captions(CAPTIONS, TEXTS, cache=str(tmp_path)) == without
    references._HELD.clear()
    assert score_captions(CAPTIONS, TEXTS, cache=str(tmp_path)) == without
    assert tokenised == [6, 3, 3]
    assert len(list(tmp_path.glob("references-*.bin"))) == 1
    # other references, another grouping of the same ones: other files
    score_captions(["a", "b"], [["a dog"], ["b", "c"]], cache=str(tmp_path))
    score_captions(["a", "b"], [["a dog", "b"], ["c"]], cache=str(tmp_path))
    assert len(list(tmp_path.glob("references-*.bin"))) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "old version"])
def test_a_damaged_file_is_made_anew(tokenised, tmp_path, monkeypatch, damage):
    expected = score_captions(CAPTIONS, TEXTS, cache=str(tmp_path))
    (path,) = tmp_path.glob("*.bin")
    data = path.read_bytes()
    if damage == "old version":
        monkeypatch.setattr(references, "_VERSION", references._VERSION + 1)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:-100], "flipped": flipped, "empty": b""}[damage])
    references._HELD.clear()
    tokenised.clear()
    assert score_captions(CAPTIONS, TEXTS, cache=str(tmp_path)) == expected
    assert tokenised == [6, 3]
    if damage != "old version":
        assert path.read_bytes() == data


def test_a_folder_that_cannot_be_written(tokenised, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/references-.*: the cache cannot be written \(File exists\); choose"):
        score_captions(CAPTIONS, TEXTS, cache=str(tmp_path / "file"))


def test_refusals():
    with pytest.raises(BadInput, match="no pictures"):
        reference_statistics([], [])
    with pytest.raises(BadInput, match="picture 1 of the split has no reference"):
        reference_statistics(["a", "b"], [["a"], []])


def test_a_lone_surrogate_has_a_key(tmp_path, tokenised, monkeypatch):
    monkeypatch.setattr(references, "ptb_tokenize", lambda texts: ["a"] * len(texts))
    assert reference_statistics(["a"], [["\ud800"]], cache=str(tmp_path)).tokens == [["a"]]


SECOND = """
import sys
from trainables.parts import java
from trainables.parts.metrics import score_captions
java.JAVA = "/there/is/no/java"
texts = [["A dog runs.", "It's a dog"], ["The cat!"]]
print(repr(score_captions(["a dog runs", "the cat"], texts, cache=sys.argv[1])))
"""


@pytest.mark.integration
def test_a_second_process_needs_no_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(ptb, "_REMEMBERED", {})
    texts = [["A dog runs.", "It's a dog"], ["The cat!"]]
    expected = score_captions(["a dog runs", "the cat"], texts, cache=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SECOND, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(expected)
    # without the file it would have needed Java
    done = subprocess.run([sys.executable, "-c", SECOND, tmp_path / "other"], capture_output=True, text=True)
    assert "Java, which the PTB tokenizer needs, does not start" in done.stderr


def _score(folder):
    return score_captions(CAPTIONS, [["a dog"], ["the cat"], ["two men"]], cache=folder)[0]["cider"]


def test_processes_at_once(tmp_path_factory, tmp_path, monkeypatch):
    tokenised = tmp_path_factory.mktemp("count") / "tokenised"

    def tokenise(texts):
        with tokenised.open("a") as file:
            file.write("once\n")
        return list(texts)

    monkeypatch.setattr(references, "ptb_tokenize", tokenise)
    monkeypatch.setattr(metrics, "ptb_tokenize", list)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.map(_score, [str(tmp_path)] * 6)
    assert len(set(found)) == 1
    assert tokenised.read_text() == "once\n"
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".bin"]


def test_arrays_only(tokenised, tmp_path):
    score_captions(CAPTIONS, TEXTS, cache=str(tmp_path))
    (path,) = Path(tmp_path).glob("*.bin")
    with np.load(io.BytesIO(path.read_bytes()[32:]), allow_pickle=False) as found:
        assert {found[name].dtype.kind for name in found} <= set("iuf")
