import csv
import importlib.resources
import json
import stat
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer_tokens
from pycocoevalcap.tokenizer import ptbtokenizer

from trainables.parts import java, ptb
from trainables.parts.ptb import ptb_tokenize
from vltune.errors import TrainingFailure


@pytest.fixture
def forgetful(monkeypatch):
    monkeypatch.setattr(ptb, "_REMEMBERED", {})


@pytest.fixture
def no_java(monkeypatch):
    def refuse(*args):
        raise AssertionError("Java was started")

    monkeypatch.setattr(ptb, "_java", refuse)


def reference(texts, patch, tmp_path):
    """pycocoevalcap's own tokenizer, its temporary file led into ``tmp_path``."""
    jar = importlib.resources.files("pycocoevalcap") / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    patch.setattr(ptbtokenizer, "STANFORD_CORENLP_3_4_1_JAR", str(jar))
    patch.setattr(ptbtokenizer, "__file__", str(tmp_path / "here"))
    return peer_tokens([texts], patch)[0]


AWKWARD = {
    "": "",
    " \t\n ": "",
    "dog": "dog",
    "Dog.": "dog",
    "dog dog dog": "dog dog dog",
    "it's": "it 's",
    "it isn't the boys' ball": "it is n't the boys ball",
    "cannot": "can not",
    "we cannot , gonna wanna": "we can not gon na wan na",
    'a "quoted" word': "a quoted word",
    "a “curly” word": "a curly word",
    "well-known t-shirt - there": "well-known t-shirt there",
    "3 dogs and 12.5 cats at 1,000 feet": "3 dogs and 12.5 cats at 1,000 feet",
    "one\u2028two\u2029three\x0bfour\x85five\nsix": "one two three four five six",
    "Ünïcode café 犬": "ünïcode café 犬",
    "... !! ; :": "!!",
    "it is no. ": "it is no",
}


@pytest.mark.integration
def test_awkward_texts(forgetful):
    assert dict(zip(AWKWARD, ptb_tokenize(list(AWKWARD)), strict=True)) == AWKWARD


@pytest.mark.integration
def test_a_text_has_the_same_tokens_alone_and_between_others(forgetful, monkeypatch, tmp_path):
    texts = ["it is no.", "5 dogs", "plan a.", "The dog", "1 1/2 men", "\U0001f600 x"]
    together = ptb_tokenize(texts)
    for text, tokens in zip(texts, together, strict=True):
        assert reference([text], monkeypatch, tmp_path) == [tokens]
        ptb._REMEMBERED.clear()
        assert ptb_tokenize([text]) == [tokens]


@pytest.mark.integration
@pytest.mark.shared_data
def test_real_captions_equal_pycocoevalcap(shared_data, forgetful, monkeypatch, tmp_path):
    texts = []
    for name in ("captions.txt", "captions_text_only.txt"):
        with (shared_data / "flickr8k" / name).open(newline="") as file:
            texts += [row["caption"] for row in csv.DictReader(file)]
    for path in (shared_data / "coco-mini" / "annotations").glob("captions_*.json"):
        texts += [entry["caption"] for entry in json.loads(path.read_text())["annotations"]]
    assert len(texts) > 35_000
    expected = reference([" ".join(text.split()) for text in texts], monkeypatch, tmp_path)
    assert ptb_tokenize(texts) == expected
    words = sorted({word for text in expected for word in text.split() if word.isascii() and word.isalpha()})
    kept = [word for word in words if ptb._is_trivial(word)]
    assert len(kept) > 8_000
    assert reference(kept, monkeypatch, tmp_path) == kept


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=30))
@pytest.mark.integration
def test_any_text_keeps_its_place(texts):
    marked = [text for index, text in enumerate(texts) for text in (text, f"Mark {index}")]
    assert ptb_tokenize(marked)[1::2] == [f"mark {index}" for index in range(len(texts))]


@pytest.mark.integration
def test_a_long_text_and_a_lone_surrogate(forgetful):
    assert ptb_tokenize(["Dog " * 200, "a \ud800 B"]) == [" ".join(["dog"] * 200), "a b"]


def test_plain_words_start_no_java(no_java):
    assert ptb_tokenize(["a red circle", "  left   of ", "", "cat"]) == ["a red circle", "left of", "", "cat"]


def test_results_are_remembered_up_to_the_bound(forgetful, monkeypatch):
    asked = []

    def java(text, timeout):
        asked.append(text)
        return text.lower().removesuffix("\n").split("\n")

    monkeypatch.setattr(ptb, "_java", java)
    monkeypatch.setattr(ptb, "_MEMORY", 3)
    assert ptb_tokenize(["A B", "C", "A B"]) == ["a b", "c", "a b"]
    assert ptb_tokenize(["A B", "C"]) == ["a b", "c"]
    assert asked == ["A B\nzz\nC\nzz\n"]
    ptb_tokenize(["D", "E"])
    assert list(ptb._REMEMBERED) == ["C", "D", "E"]


def test_output_out_of_step_is_found_and_mended(forgetful, monkeypatch):
    def java(text, timeout):
        return text.replace("Two", "t\nwo").lower().removesuffix("\n").split("\n")

    monkeypatch.setattr(ptb, "_java", java)
    assert ptb_tokenize(["One", "Two", "Three", "Four"]) == ["one", "t wo", "three", "four"]


def program(tmp_path, body):
    path = tmp_path / "java"
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_java_that_is_missing_fails_or_hangs_gives_one_line(forgetful, monkeypatch, tmp_path):
    monkeypatch.setattr(java, "JAVA", tmp_path / "nothing")
    with pytest.raises(TrainingFailure, match=r"^Java, which the PTB tokenizer needs, does not start: .*nothing'$"):
        ptb_tokenize(["Dog"])
    monkeypatch.setattr(java, "JAVA", program(tmp_path, "import sys; sys.exit('no memory\\nand more')"))
    with pytest.raises(TrainingFailure, match=r"^the PTB tokenizer failed with exit status 1: no memory$"):
        ptb_tokenize(["Dog"])
    monkeypatch.setattr(java, "JAVA", program(tmp_path, "import time; time.sleep(60)"))
    with pytest.raises(TrainingFailure, match=r"^the PTB tokenizer did not answer in 0.5 s and was stopped\.$"):
        ptb_tokenize(["Dog"], timeout=0.5)
    assert not ptb._REMEMBERED
