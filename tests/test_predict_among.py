"""``vltune predict --among``: pictures by text and texts by picture, as a command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.parts.text import CaptionTokenizer
from trainables.retrieval import Retrieval, RetrievalConfig
from vltune.checkpoints import seal
from vltune.cli import main
from vltune.models import read_model, write_model

TEXTS = ("a red circle", "a blue square on a grey ground", "two stars", "a circle")
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual encoder with random weights, pictures in a folder and its folders, and texts."""
    root = tmp_path_factory.mktemp("among")
    config = RetrievalConfig(picture_size=32, cnn_width=2, embedding_width=16, text_width=16)
    assets = {"tokenizer.json": CaptionTokenizer.fit(TEXTS, min_word_count=1).to_text()}
    torch.manual_seed(0)
    (root / "model").mkdir()
    record = {"family": "retrieval", "config": config.fields(), "assets": list(assets)}
    write_model(root / "model", Retrieval(config, assets), record=record, assets=assets)
    seal(root / "model")
    (root / "pictures" / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/c.PNG", "more/d.jpeg"):
        Image.fromarray(random.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(root / "pictures" / name)
    (root / "texts.txt").write_text("\n".join(("", *TEXTS, " ")), encoding="utf-8")
    (root / "latin.txt").write_bytes(b"caf\xe9\n")
    (root / "nothing").mkdir()
    return root


@pytest.fixture
def say(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*argv: object) -> tuple[int, str, str]:
        code = main(["predict", str(world / "model"), *map(str, argv), "--storage", str(tmp_path / "runs")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def embeddings(world: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Those of all pictures and texts, one at a time, past ``predict``."""
    model: Any = read_model(world / "model", {"retrieval": Retrieval})[0]
    pictures = [str(p) for p in (world / "pictures").rglob("*") if p.is_file()]
    seen = {path: model.encode_pictures(model.collate(model.read([path]), None))[0].numpy() for path in pictures}
    return seen, {text: model.encode_texts([text])[0].numpy() for text in TEXTS}


@pytest.mark.parametrize("query", ["text", "picture"])
def test_the_most_similar_come_first(world: Path, say: Say, query: str) -> None:
    seen, read = embeddings(world)
    sources, among, others, place = (
        (list(TEXTS[:2]), seen, read, world / "pictures")
        if query == "text"
        else (sorted(seen)[:2], read, seen, world / "texts.txt")
    )
    code, out, err = say(*sources, "--among", place, "--top", 3, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [found["id"] for found in document] == sources
    for found in document:
        cosines = {name: float(vector @ others[found["id"]]) for name, vector in among.items()}
        wanted = sorted(cosines, key=lambda name: -cosines[name])[:3]
        assert [best["id"] for best in found["best"]] == wanted
        assert [best["similarity"] for best in found["best"]] == pytest.approx([cosines[n] for n in wanted], abs=1e-5)
    shown = say(*sources, "--among", place, "--top", 3)[1].splitlines()
    assert shown[0] == f"{sources[0]}:"
    assert shown[1].endswith(document[0]["best"][0]["id"])


@pytest.mark.parametrize(
    ("among", "code", "words"),
    [
        ("gone", 3, "there is no such folder or file"),
        ("nothing", 2, "there is no picture"),
        ("latin.txt", 2, "give a folder of pictures, or a file with a text in each line"),
    ],
)
def test_one_line_where_there_is_nothing_to_find(world: Path, say: Say, among: str, code: int, words: str) -> None:
    found, out, err = say("a red circle", "--among", world / among)
    assert (found, out) == (code, "")
    (line,) = err.splitlines()
    assert words in line
