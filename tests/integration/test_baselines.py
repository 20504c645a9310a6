"""Every family learns: on the test split of generated pictures it beats what needs no learning.

The models are as small as it takes. Each trains on one processor, and ``make proof`` trains one on each that there is.
The quickstart's captioner has a proof of its own in ``test_proofs.py``.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_captioners
import torch

from trainables import FAMILIES
from trainables.parts.datasets import open_folder
from trainables.parts.masks import PicturePair, intersections_over_unions
from trainables.parts.metrics import score_captions
from trainables.parts.scenes import write_scenes
from vltune.contract import Data, Family, Sample
from vltune.library import PromotedModels
from vltune.models import read_model
from vltune.runtime import LocalRuntime
from vltune.train import Trial, evaluate, fit

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]

SEEDS = (0, 1, 2)
PICTURES: dict[str, Any] = {"picture_size": 48, "cnn_width": 16, "cnn_batch_norm": True, "embedding_width": 128}
every_seed = pytest.mark.parametrize("seed", SEEDS)
every_embedder = pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.xdist_group(f"embedder {seed}")) for seed in SEEDS]
)
"""What needs the same retrieval model runs in the same process, which trains it once."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    write_scenes(str(folder / "scenes"), pictures=1200)
    return folder


def train(storage: Path, name: str, seed: int, **fields: Any) -> Path:
    """Trains one configuration, once; the folder of its best model."""
    place = storage / f"{name}-{seed}"
    if not place.exists():
        config = FAMILIES[name].Config.from_fields({"data": str(storage / "scenes"), "seed": seed, **fields})
        runtime = LocalRuntime(cache=str(storage / "cache"), threads=1)
        fit(Trial(name, FAMILIES[name], config.find_sources(PromotedModels(storage)), place), runtime)
    return next(p for p in (place / "checkpoints").iterdir())


def test_scores(storage: Path, folder: Path) -> tuple[Family, Data, dict[str, float]]:
    """A model, its data, and what it scores on the test split."""
    cache = str(storage / "cache")
    model, config = read_model(folder, FAMILIES, cache=cache)
    data = type(model).load(config, cache)
    scores, _ = evaluate(model, data.splits["test"], batch_size=32)
    print({name: round(value, 3) for name, value in scores.metrics.items()})
    return model, data, scores.metrics


test_scores.__test__ = False  # pyright: ignore[reportFunctionMemberAccess] - not one of pytest's


def most_frequent(data: Data, split: str = "train") -> str:
    return Counter(text for sample in data.splits[split] for text in sample.captions).most_common(1)[0][0]


def cider(captions: Sequence[str], samples: Sequence[Sample]) -> float:
    return score_captions(list(captions), [s.captions for s in samples])[0]["cider"]


def retrieval(storage: Path, seed: int) -> Path:
    fields = {**PICTURES, "objective": "mean_recall", "epochs": 6, "batch_size": 32, "learning_rate": 2e-3}
    return train(storage, "retrieval", seed, **fields, captions_per_picture=3, text_width=128, projection_width=128)


@every_embedder
def test_retrieval_finds_more_than_chance(storage: Path, seed: int) -> None:
    _, data, metrics = test_scores(storage, retrieval(storage, seed))
    pictures = len(data.splits["test"])
    captions = sum(len(sample.captions) for sample in data.splits["test"])
    for k in (1, 5, 10):
        assert metrics[f"text_to_picture_recall_at_{k}"] > 3 * k / pictures
        # the best of a picture's five captions among all
        assert metrics[f"picture_to_text_recall_at_{k}"] > 2 * (1 - (1 - k / captions) ** 5)
    assert metrics["mean_recall"] > 0.35
    assert metrics["text_to_picture_median_rank"] < pictures / 8


@every_embedder
def test_captions_learned_from_texts_alone_beat_the_most_frequent_one(storage: Path, seed: int) -> None:
    folder = train(
        storage,
        "capdec",
        seed,
        embedder=str(retrieval(storage, seed)),
        noise="gaussian",
        noise_std=0.03,
        correct_offset=True,
        objective="cider",
        epochs=3,
        batch_size=64,
        learning_rate=2e-3,
        min_word_count=1,
        embedding_width=128,
        feedforward_width=256,
        dropout=0.1,
    )
    _, data, metrics = test_scores(storage, folder)
    test = data.splits["test"]
    frequent = Counter(text for sample in data.splits["train"] for text in sample.captions).most_common(1)[0][0]
    assert metrics["cider"] > cider([frequent] * len(test), [test[i] for i in range(len(test))]) + 0.3


@every_seed
def test_matching_beats_the_toss_of_a_coin(storage: Path, seed: int) -> None:
    fields = {**PICTURES, "text_encoder": "lstm", "text_width": 128, "word_width": 64, "min_word_count": 1}
    fields |= {"epochs": 8, "batch_size": 32, "learning_rate": 2e-3, "objective": "accuracy"}
    _, _, metrics = test_scores(storage, train(storage, "matching", seed, **fields, classifier_widths="128-2"))
    assert metrics["accuracy"] > 0.5 + 0.1
    assert metrics["roc_auc"] > 0.5 + 0.1


@every_seed
def test_rotations_are_told_apart(storage: Path, seed: int) -> None:
    fields = {**PICTURES, "picture_size": 32, "epochs": 8, "batch_size": 16}
    fields |= {"learning_rate": 2e-3, "objective": "accuracy"}
    _, _, metrics = test_scores(storage, train(storage, "pretraining_rotation", seed, **fields))
    assert metrics["accuracy"] > 1 / 5 + 0.15


@every_seed
def test_hidden_words_are_guessed_better_than_by_frequency(storage: Path, seed: int) -> None:
    fields = {"text_width": 256, "word_width": 128, "min_word_count": 1, "epochs": 5, "batch_size": 32}
    folder = train(storage, "pretraining_masked_word", seed, **fields, learning_rate=3e-3, objective="token_accuracy")
    _, data, metrics = test_scores(storage, folder)
    words = Counter(word for s in data.splits["test"] for text in s.captions for word in text.split())
    share = max(words.values()) / words.total()
    assert metrics["token_accuracy"] > share + 0.15


@every_seed
def test_pictures_are_drawn_again_better_than_their_mean(storage: Path, seed: int) -> None:
    fields = {"picture_size": 48, "epochs": 16, "batch_size": 16, "learning_rate": 2e-3, "objective": "val_loss"}
    _, data, metrics = test_scores(storage, train(storage, "pretraining_reconstruction", seed, **fields))
    train_pictures = np.stack([s.picture for s in data.splits["train"] if s.picture is not None]) / 255
    test = np.stack([s.picture for s in data.splits["test"] if s.picture is not None]) / 255
    of_each = np.abs(test - test.mean((1, 2), keepdims=True)).mean()
    of_all = np.abs(test - np.median(train_pictures, 0)).mean()
    assert metrics["val_loss"] < 0.9 * min(of_each, of_all)


@every_seed
def test_correspondences_are_nearer_than_a_guess(storage: Path, seed: int) -> None:
    fields = {**PICTURES, "crop": "zoom", "epochs": 4, "batch_size": 32, "learning_rate": 2e-3}
    folder = train(storage, "correspondence", seed, **fields, objective="val_loss", train_pictures=300)
    _, _, metrics = test_scores(storage, folder)
    # Two points of a unit square drawn at random are 52 % of its side apart; the crop is smaller than the picture.
    assert metrics["crop_error_mean"] < 0.5 * 46


def mean_iou(pairs: Sequence[Sample], label_maps: Sequence[np.ndarray]) -> float:
    """What the family would score if it told these labels of the first pictures."""
    means = []
    for pair, told in zip(pairs, label_maps, strict=True):
        assert isinstance(pair, PicturePair)
        assert pair.labels is not None
        assert pair.other_labels is not None
        shared = {0} | {*np.unique(pair.labels).tolist()} & {*np.unique(pair.other_labels).tolist()}
        means.append(np.mean([*intersections_over_unions(told, pair.labels, shared).values()]))
    return float(np.mean(means))


@every_seed
def test_labels_carried_along_correspondences_beat_those_of_the_same_place(storage: Path, seed: int) -> None:
    fields = {**PICTURES, "crop": "zoom", "epochs": 3, "batch_size": 32, "learning_rate": 2e-3}
    folder = train(storage, "correspondence_transfer", seed, **fields, objective="mean_iou", train_pictures=300)
    _, data, metrics = test_scores(storage, folder)
    pairs = [data.splits["test"][i] for i in range(len(data.splits["test"]))]
    in_place = [pair.other_labels for pair in pairs if isinstance(pair, PicturePair) and pair.other_labels is not None]
    nothing = [np.zeros_like(labels) for labels in in_place]
    assert metrics["mean_iou"] > max(mean_iou(pairs, in_place), mean_iou(pairs, nothing)) + 0.1


@every_seed
def test_a_beam_beats_captions_drawn_at_random(storage: Path, seed: int) -> None:
    fields = {**PICTURES, "min_word_count": 1, "max_tokens": 24, "hidden_width": 128, "attention_width": 128}
    fields |= {"epochs": 5, "batch_size": 16, "learning_rate": 3e-3, "objective": "cider", "decoder": "gru"}
    captioner = str(train(storage, "captioning", seed, **fields))
    shared = {"captioner": captioner, "max_tokens": 24, "objective": "cider"}
    _, data, beam = test_scores(storage, train(storage, "decoding", 10 + seed, **shared, decoding="beam"))
    _, _, drawn = test_scores(storage, train(storage, "decoding", 20 + seed, **shared, decoding="sample"))
    test = data.splits["test"]
    assert beam["cider"] > drawn["cider"] + 0.1
    assert beam["cider"] > cider([most_frequent(data)] * len(test), [test[i] for i in range(len(test))]) + 0.3


@every_seed
def test_a_foreign_captioner_learns_the_scenes(storage: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small ViT with a GPT-2 behind it, of random weights; what is downloaded learns in the same way."""
    data = open_folder(str(storage / "scenes"), picture_size=48, cache=str(storage / "cache"))
    folder = storage / f"vit_gpt2-{seed}"
    if not folder.exists():
        size = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4}
        monkeypatch.setattr(tiny_captioners, "SIZE", 48)
        monkeypatch.setattr(tiny_captioners, "SPREAD", 0.02)
        monkeypatch.setattr(tiny_captioners, "VISION", {**tiny_captioners.VISION, **size, "image_size": 48})
        monkeypatch.setattr(tiny_captioners, "TEXT", {**tiny_captioners.TEXT, **size})
        monkeypatch.setattr(tiny_captioners, "SENTENCES", [t for s in data.splits["train"] for t in s.captions])
        torch.manual_seed(seed)
        tiny_captioners.KINDS["vit_gpt2"](folder)
    fields = {"captioner_model": str(folder), "finetune": "full", "epochs": 7, "batch_size": 16, "max_tokens": 24}
    fields |= {"learning_rate": 1e-3, "objective": "cider", "captions_per_picture": 5}
    _, _, metrics = test_scores(storage, train(storage, "pretrained", seed, **fields))
    test = data.splits["test"]
    assert metrics["cider"] > cider([most_frequent(data)] * len(test), [test[i] for i in range(len(test))]) + 0.5
