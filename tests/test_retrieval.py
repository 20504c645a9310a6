"""The retrieval family: its batches, its loss, its records, what it finds for people, and that it learns."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import NoLibrary
from parts.test_pretrained_text import save as save_text_model
from PIL import Image

from trainables.parts.scenes import write_scenes
from trainables.retrieval import Retrieval, RetrievalConfig
from vltune import checkpoints
from vltune.contract import Batch, Data, Draws, Sample
from vltune.errors import BadInput, NotFound
from vltune.models import read_model, write_model
from vltune.train import evaluate

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "picture_size": 16,
    "min_word_count": 1,
    "cnn_width": 4,
    "embedding_width": 12,
    "text_width": 16,
    "text_feedforward_width": 32,
    "text_dropout": 0.0,
    "projection_width": 8,
}
COLOURS, THINGS = ("red", "green", "blue", "white"), ("dog", "cat")


def samples(count: int = 8, *, captions: Sequence[int] = (2, 1, 3)) -> list[Sample]:
    """Random pictures with captions of unequal numbers and lengths."""
    made = []
    for i in range(count):
        picture = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        colour, thing = COLOURS[i % 4], THINGS[i // 4 % 2]
        texts = (f"A {colour} {thing}.", f"a {thing} that is {colour} all over", f"{colour}, the {thing} of mine")
        made.append(Sample(f"p{i}", picture, texts[: captions[i % len(captions)]]))
    return made


def make(split: Sequence[Sample] | None = None, **changes: Any) -> Retrieval:
    config = RetrievalConfig.from_fields(SMALL | changes).find_sources(NoLibrary())
    split = samples(captions=(3,)) if split is None else split
    torch.manual_seed(0)
    return Retrieval(config, Retrieval.prepare(config, Data("", "", {"train": split, "validation": split[:1]})))


def embeddings(model: Retrieval, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """From the layers themselves."""
    pictures = batch["pictures"].permute(0, 3, 1, 2) / 255
    seen = model.picture_projection(model.picture_encoder(pictures).squeeze(1))
    read = model.text_projection(model.text_encoder(batch["tokens"]).vectors)
    return seen / seen.norm(dim=1, keepdim=True), read / read.norm(dim=1, keepdim=True)


# --- configuration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, r"temperature=0.0 is out of range: it must lie in \(0"),
        ({"temperature": 0.001}, "temperature=0.001 is out of range"),
        ({"contrastive_loss": "triplet"}, "contrastive_loss='triplet' is not possible"),
        ({"sigmoid_bias": -10.0}, "sigmoid_bias=-10.0 has no effect with contrastive_loss='infonce'"),
        ({"projection_width": 0}, "projection_width=0 is out of range"),
        ({"captions_per_picture": 0}, "captions_per_picture=0 is out of range"),
        ({"batch_size": 1}, "batch_size=1 is out of range"),
        ({"text_heads": 5}, "text_heads=5 does not divide text_width=256"),
        ({"picture_encoder": "resnet18", "embedding_width": 64}, "embedding_width=64 has no effect"),
        ({"micro_batch_size": 8}, "would change the contrastive loss, whose negatives are the rest of the batch"),
        ({"text_encoder": "gru", "text_layers": 0}, "text_layers=0 is out of range"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        RetrievalConfig.from_fields(fields)
    assert "\n" not in str(error.value)


def test_a_fixed_temperature_may_be_lower() -> None:
    assert RetrievalConfig(temperature=0.001, learn_temperature=False).temperature == 0.001


# --- batches


def test_a_caption_of_each_picture_is_drawn_anew_each_epoch() -> None:
    model, given = make(), samples(captions=(3,))
    epochs = [model.collate(given, Draws(0, epoch)) for epoch in range(6)]
    for batch in epochs:
        assert batch["owners"].tolist() == list(range(8))
        assert all(set(drawn) < set(sample.captions) for drawn, sample in zip(batch["captions"], given, strict=True))
    assert len({str(batch["captions"]) for batch in epochs}) == 6
    assert model.collate(given, Draws(0, 3))["captions"] == epochs[3]["captions"]
    assert model.collate(given[2:3], Draws(0, 3))["captions"] == epochs[3]["captions"][2:3]


def test_evaluation_reads_all_captions() -> None:
    batch = make().collate(samples(), None)
    assert batch["owners"].tolist() == [0, 0, 1, 2, 2, 2, 3, 3, 4, 5, 5, 5, 6, 6, 7]
    assert len(batch["tokens"]) == 15


# --- training


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_the_loss_is_that_of_the_cosines(loss: str) -> None:
    model = make(contrastive_loss=loss, temperature=0.1).eval()
    batch = model.collate(samples(captions=(1,)), None)
    seen, read = embeddings(model, batch)
    logits, target = seen @ read.T / 0.1, torch.arange(8)
    if loss == "infonce":
        wanted = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    else:
        wanted = F.binary_cross_entropy_with_logits(logits - 4, torch.eye(8), reduction="sum") / 8
    found = model(batch)
    torch.testing.assert_close(found.sum / found.count, wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text_encoder": "gru", "contrastive_loss": "sigmoid"},
        {"text_encoder": "lstm", "learn_temperature": False, "features": "grid"},
        {"text_encoder": "mlp", "captions_per_picture": 3},
    ],
)
def test_every_trainable_weight_gets_a_gradient(changes: dict[str, Any]) -> None:
    fields = {"text_feedforward_width": 1024} if "text_encoder" in changes else {}
    model = make(**fields, **changes).train()
    loss = model(model.collate(samples(), Draws(0, 1)))
    loss.sum.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.log_scale.requires_grad is changes.get("learn_temperature", True)


def test_a_learned_temperature_stays_at_a_hundredth_or_above() -> None:
    model = make(temperature=0.01).train()
    with torch.no_grad():
        model.log_scale += 3
    records = model.eval().predict(model.collate(samples(), None))
    at_bound = make(temperature=0.01).eval().score(records).metrics["val_loss"]
    assert model.score(records).metrics["val_loss"] == pytest.approx(at_bound)
    model.train()(model.collate(samples(), Draws(0, 1))).sum.backward()
    assert model.log_scale.exp().item() == pytest.approx(100)
    assert model.log_scale.grad is not None
    assert model.log_scale.grad.abs() > 0  # it may come back


def test_half_precision_computes_the_loss_in_single() -> None:
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(model.collate(samples(), Draws(0, 1)))
    assert loss.sum.dtype == torch.float32


# --- evaluation


def test_records_do_not_depend_on_the_batch() -> None:
    model, given = make().eval(), samples()
    together = model.predict(model.collate(given, None))
    alone = [model.predict(model.collate([sample], None))[0] for sample in given]
    for one, other, sample in zip(together, alone, given, strict=True):
        assert (one["id"], one["captions"]) == (sample.id, [*sample.captions])
        np.testing.assert_allclose(one["_picture"], other["_picture"], atol=1e-5)
        np.testing.assert_allclose(one["_texts"], other["_texts"], atol=1e-5)
        assert one["_texts"].shape == (len(sample.captions), 8)
        json.dumps({key: value for key, value in one.items() if not key.startswith("_")})
    seen, read = embeddings(model, model.collate(given, None))
    np.testing.assert_allclose([r["_picture"] for r in together], seen.detach(), atol=1e-5)
    np.testing.assert_allclose(np.concatenate([r["_texts"] for r in together]), read.detach(), atol=1e-5)


def test_scores_are_the_declared_metrics_of_each_and_all() -> None:
    model = make().eval()
    scores, records = evaluate(model, samples(), batch_size=3)
    assert scores.metrics.keys() == Retrieval.metrics.keys()
    assert all(math.isfinite(value) for value in scores.metrics.values())
    assert len(scores.records) == len(records) == 8
    assert all(each.keys() <= Retrieval.metrics.keys() for each in scores.records)


def test_the_validation_loss_is_the_training_loss_of_the_whole_split() -> None:
    model = make(captions_per_picture=3).eval()
    loss = model(model.collate(samples(), None))
    scores, _ = evaluate(model, samples(), batch_size=3)
    assert scores.metrics["val_loss"] == pytest.approx((loss.sum / loss.count).item(), rel=1e-5)


# --- frozen encoders


def test_features_of_a_frozen_encoder_change_nothing() -> None:
    model, given = make(train_encoder=False), samples()
    model.eval()
    encoder = model.features()
    assert encoder is not None
    features = encoder.encode(given)
    kept = [dataclasses.replace(s, picture=None, features=f) for s, f in zip(given, features, strict=True)]
    assert make().features() is None
    plain, cached = (model.predict(model.collate(split, None)) for split in (given, kept))
    np.testing.assert_allclose([r["_picture"] for r in cached], [r["_picture"] for r in plain], atol=1e-5)
    loss = model.train()(model.collate(kept, Draws(0, 1)))
    loss.sum.backward()
    assert all(p.grad is None for p in model.picture_encoder.parameters())


@pytest.mark.parametrize("train", [True, False])
def test_a_saved_model_says_the_same(tmp_path: Path, train: bool) -> None:
    text_model = save_text_model(tmp_path / "text")
    fields = {k: v for k, v in SMALL.items() if not k.startswith(("text_", "min_"))}
    config = RetrievalConfig.from_fields(
        {
            **fields,
            "text_encoder": "pretrained",
            "text_model": str(text_model),
            "max_tokens": 20,
            "train_text_encoder": train,
        }
    ).find_sources(NoLibrary())
    assets = Retrieval.prepare(config, Data("", "", {"train": samples()}))
    model = Retrieval(config, assets).eval()
    (tmp_path / "model").mkdir()
    record = {"family": "retrieval", "config": config.fields(), "assets": [*assets]}
    write_model(tmp_path / "model", model, record=record, assets=assets)
    checkpoints.seal(tmp_path / "model")
    stored = checkpoints.read_tensors(tmp_path / "model" / checkpoints.MODEL)
    assert any(name.startswith("text_encoder.") for name in stored) is train
    if train:
        text_model.rename(tmp_path / "gone")
    again, _ = read_model(tmp_path / "model", {"retrieval": Retrieval})
    assert isinstance(again, Retrieval)
    texts = ["a red dog", "the cat runs"]
    torch.testing.assert_close(again.encode_texts(texts), model.encode_texts(texts))


# --- people and other families


def test_encoding_is_open_to_other_families() -> None:
    model, given = make().eval(), samples()
    records = model.predict(model.collate(given, None))
    seen = model.encode_pictures(model.collate(given, None))
    texts = [text for sample in given for text in sample.captions]
    read = model.encode_texts(texts * 40)  # more than are read at once
    assert seen.shape == (8, model.width)
    np.testing.assert_allclose(seen, np.stack([r["_picture"] for r in records]), atol=1e-5)
    np.testing.assert_allclose(read, np.tile(np.concatenate([r["_texts"] for r in records]), (40, 1)), atol=1e-5)
    assert model.encode_texts([]).shape == (0, model.width)


def test_texts_rank_pictures_and_pictures_rank_texts(tmp_path: Path) -> None:
    model = make().eval()
    pictures = []
    for sample in samples(4):
        assert sample.picture is not None
        pictures.append(str(tmp_path / f"{sample.id}.png"))
        Image.fromarray(sample.picture).save(pictures[-1])
    texts = ["a red dog", "blue, the cat", "white dog of mine"]
    sides = [model.predict(model.collate(model.read(sources), None)) for sources in (pictures, texts)]
    seen = model.encode_pictures(model.collate(samples(4), None)).numpy()
    cosines = seen @ model.encode_texts(texts).numpy().T
    for (queries, among), matrix in zip((sides, sides[::-1]), (cosines, cosines.T), strict=True):
        for row, found in enumerate(model.rank(queries, among, top=2)):
            order = np.argsort(-matrix[row])[:2]
            assert found["id"] == queries[row]["id"]
            assert [best["id"] for best in found["best"]] == [among[i]["id"] for i in order]
            assert [best["similarity"] for best in found["best"]] == pytest.approx(
                matrix[row, order].tolist(), abs=1e-5
            )
            json.dumps(found)
    assert len(model.rank(sides[1], sides[0], top=9)[0]["best"]) == 4
    assert "--among" in model.said(sides[1][0])


def test_pictures_and_texts_are_read_side_by_side(tmp_path: Path) -> None:
    model, path = make().eval(), tmp_path / "a dog.PNG"
    Image.new("RGB", (16, 16), "red").save(path)
    first, second = model.read(["a red dog. Really!", str(path)])
    assert (first.picture, first.captions) == (None, ("a red dog. Really!",))
    assert second.captions == ()
    records = model.predict(model.collate([first, second], None))
    assert [sorted(key for key in record if key.startswith("_")) for record in records] == [
        ["_texts"],
        ["_picture", "_texts"],
    ]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no/such/picture.jpg", NotFound, "there is no such picture"),
        ("", BadInput, "a text to be found is empty"),
        (" \n", BadInput, "a text to be found is empty"),
    ],
)
def test_sources_that_cannot_be_read_are_named(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().read(["a dog", source])


# --- learning


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_unseen_scenes_far_above_chance(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "retrieval-scenes"
    write_scenes(str(folder), pictures=400, picture_size=32)
    sizes = {"cnn_width": 16, "embedding_width": 64, "text_width": 64, "text_feedforward_width": 128}
    config = RetrievalConfig(data=str(folder), seed=seed, picture_size=32, projection_width=64, batch_size=32, **sizes)
    data = Retrieval.load(config, str(folder.parent / "retrieval-cache"))
    torch.manual_seed(seed)
    model, training = Retrieval(config, Retrieval.prepare(config, data)), [*data.splits["train"]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(6):
        model.train()
        order = np.random.default_rng([seed, epoch]).permutation(len(training))
        for start in range(0, len(order), 32):
            batch = model.collate([training[i] for i in order[start : start + 32]], Draws(seed, epoch))
            loss = model(batch)
            (loss.sum / loss.count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    scores, _ = evaluate(model, data.splits["test"], batch_size=64)
    # By chance: (1 + 5 + 10) / 3 of 50 pictures, and about as much of 250 captions with five right ones.
    assert scores.metrics["mean_recall"] > 0.11 + 0.15
