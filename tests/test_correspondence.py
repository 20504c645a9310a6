"""The correspondence families: known shifts, records, transfer, and that they learn from crops alone."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from search_spaces.correspondence import SEARCH
from trainables.correspondence import Correspondence, CorrespondenceConfig, CorrespondenceTransfer
from trainables.parts.crops import CROPS, crop_positions, draw_crops, grid_positions
from trainables.parts.dense_fields import DenseConfig
from trainables.parts.masks import PicturePair, carried_labels
from trainables.parts.scenes import write_scenes
from vltune.contract import Data, Draws, Record, Sample
from vltune.errors import BadInput, NotFound
from vltune.space import resolve

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"picture_size": 16, "cnn_width": 4, "embedding_width": 16, "grid_side": 4}
every_crop = pytest.mark.parametrize("crop", CROPS)


def samples(count: int = 8, *, size: int = 16) -> list[Sample]:
    """Random pictures, smooth enough for a crop to show the same."""
    made = []
    for i in range(count):
        small = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))
        made.append(Sample(f"p{i}", picture, ()))
    return made


def make(**changes: Any) -> Correspondence:
    torch.manual_seed(0)
    return Correspondence(CorrespondenceConfig.from_fields(SMALL | changes), {})


def make_transfer(**changes: Any) -> CorrespondenceTransfer:
    torch.manual_seed(0)
    return CorrespondenceTransfer(DenseConfig.from_fields(SMALL | changes), {})


def evaluate(model: Correspondence | CorrespondenceTransfer, split: Any, *, at_once: int = 16) -> list[Record]:
    model.eval()
    parts = [range(i, min(i + at_once, len(split))) for i in range(0, len(split), at_once)]
    return [r for part in parts for r in model.predict(model.collate([split[i] for i in part], None))]


def labelled_pairs(count: int = 4) -> list[PicturePair]:
    """Blocks of two colours on a dark ground; the other picture has the same blocks elsewhere."""
    made = []
    for i in range(count):
        maps = [np.zeros((16, 16), np.uint8) for _ in range(2)]
        for number, labels in enumerate(maps):
            labels[:4, 4 * (i % 3 + number) :][:, :4] = 1
            labels[8:12, 4 * number : 4 * number + 8] = 2
        colours = np.array([[10, 10, 10], [220, 30, 30], [30, 30, 220]], np.uint8)
        one, two = maps
        names = {1: "dog", 2: "cat"}
        made.append(
            PicturePair(
                f"p{i}",
                colours[one],
                (),
                other=colours[two],
                other_id=f"p{i}b",
                labels=one,
                other_labels=two,
                categories=names,
            )
        )
    return made


# --- matching with a crop


@pytest.mark.parametrize("score", ["feature", "cycle"])
@pytest.mark.parametrize("components", [0, 2])
def test_an_exact_shift_of_pixels_that_are_all_different_is_found_exactly(score: str, components: int) -> None:
    random = np.random.default_rng(0)
    pictures = [Sample(f"p{i}", random.permutation(768).reshape(16, 16, 3) // 3, ()) for i in range(6)]
    pictures = [Sample(s.id, np.asarray(s.picture, np.uint8), ()) for s in pictures]
    shift = {"crop": "shift", "feature_layer": "colours", "distance": "euclidean", "grid_side": 16}
    model = make(score=score, pca_components=components, kept_matches=1.0, **shift)
    records = evaluate(model, pictures)
    assert all(record["errors"] == [0] * 64 for record in records)
    windows = draw_crops(None, [s.id for s in pictures], crop="shift", side=0.5, flip=0.0, picture_size=16)
    assert len(set(map(tuple, windows.tolist()))) > 1
    for record, window in zip(records, windows.tolist(), strict=True):
        for x, y, u, v, told in record["matches"]:
            assert u == pytest.approx(100 * window[0] + x / 2, abs=1e-3)
            assert v == pytest.approx(100 * window[1] + y / 2, abs=1e-3)
            assert told == pytest.approx(0, abs=1e-3)
    assert model.score(records).metrics["crop_error_mean"] == 0


def test_errors_are_distances_from_the_true_place_in_percent_best_scored_first() -> None:
    # Four cells: red, red, blue, green. The second red is matched with the first, which comes back to itself.
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8, :, 0] = picture[8:, :8, 2] = picture[8:, 8:, 1] = 255
    fields = {"crop": "shift", "crop_side": 1.0, "feature_layer": "colours", "distance": "euclidean", "grid_side": 2}
    model = make(**fields)
    (record,) = evaluate(model, [Sample("p", picture, ())])
    assert record["errors"] == [0, 50, 0, 0]
    model = make(**fields, score="cycle")
    (record,) = evaluate(model, [Sample("p", picture, ())])
    assert record["errors"] == [0, 0, 0, 50]
    assert [row[4] for row in record["matches"]] == [0, 0, 0, -0.5]
    assert [row[:4] for row in record["matches"]][3] == [75, 25, 25, 25]
    assert model.score([record]).metrics["crop_error_mean"] == 0
    assert model.score([record]).metrics["crop_error_top_100"] == 12.5


@every_crop
@pytest.mark.parametrize("score", ["feature", "cycle"])
def test_records_do_not_depend_on_the_batch(crop: str, score: str) -> None:
    model = make(crop=crop, score=score, pca_components=5)
    together = evaluate(model, samples())
    assert json.loads(json.dumps(together)) == together
    for size in (1, 3):
        apart = evaluate(model, samples(), at_once=size)
        assert [r["nll"] for r in apart] == pytest.approx([r["nll"] for r in together], rel=1e-4)
        assert [r["errors"] for r in apart] == [r["errors"] for r in together]
        for one, two in zip(apart, together, strict=True):
            np.testing.assert_allclose(one["matches"], two["matches"], atol=1e-3)


def test_all_seeds_are_scored_on_the_same_crops() -> None:
    model = make(feature_layer="colours")
    assert evaluate(model, samples()) == evaluate(make(feature_layer="colours", seed=5), samples())
    one, other = (model.collate(samples(), Draws(0, epoch))["windows"] for epoch in (1, 2))
    assert not torch.equal(one, other)


@every_crop
def test_the_loss_is_a_sum_over_positions_and_splits_over_batches(crop: str) -> None:
    model, draws = make(crop=crop).eval(), Draws(0, 1)
    whole = model(model.collate(samples(), draws))
    assert whole.count == 8 * (4 if crop == "shift" else 16)
    parts = [model(model.collate(part, draws)) for part in (samples()[:1], samples()[1:6], samples()[6:])]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count


@pytest.mark.parametrize("layer", ["1", "2", "last"])
@pytest.mark.parametrize("family", [make, make_transfer])
def test_every_trainable_parameter_gets_a_gradient(layer: str, family: Any) -> None:
    model = family(feature_layer=layer, epochs=1, augmentation="improved").train()
    model(model.collate(samples(), Draws(0, 1))).sum.backward()
    assert any(p.requires_grad for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


def test_scores_are_the_declared_metrics() -> None:
    records = [
        {"id": "a", "errors": [1.0, 3.0, 5.0, 7.0], "nll": 8.0, "positions": 4},
        {"id": "b", "errors": [0.0, 2.0, 0.0, 6.0], "nll": 4.0, "positions": 4},
    ]
    scores = make(kept_matches=0.75).score(records)
    assert list(scores.metrics) == [*Correspondence.metrics]
    assert scores.metrics == {
        "val_loss": 1.5,
        "crop_error_mean": 11 / 6,
        "crop_error_median": 1.5,
        "crop_error_top_10": 0.5,
        "crop_error_top_25": 0.5,
        "crop_error_top_50": 1.5,
        "crop_error_top_100": 3,
    }
    assert [r["crop_error_mean"] for r in scores.records] == [3, pytest.approx(2 / 3)]
    assert [r["val_loss"] for r in scores.records] == [2, 1]


def test_mirrored_crops_are_found_by_colours_that_do_not_mind() -> None:
    errors = {}
    for crop in ("scale", "flip"):
        model = make(crop=crop, feature_layer="colours", distance="euclidean", grid_side=16, kept_matches=1.0)
        errors[crop] = model.score(evaluate(model, samples(16))).metrics["crop_error_mean"]
    assert errors["flip"] == pytest.approx(errors["scale"], rel=0.05)


# --- pairs of pictures


def test_places_are_found_in_another_picture(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    Image.fromarray(np.roll(picture, 4, axis=1)).save(tmp_path / "two.png")
    paths = [str(tmp_path / f"{name}.png") for name in ("one", "two")]
    colours = {"feature_layer": "colours", "distance": "euclidean"}
    for model in (make(**colours, score="cycle", shown_matches=100), make_transfer(**colours, shown_matches=100)):
        (record,) = evaluate(model, model.read(paths))
        assert record["id"] == " -> ".join(paths)
        assert len(record["matches"]) == 16
        for x, y, u, v, told in record["matches"]:
            assert ((u - x) % 100, v - y) == (25, 0)
            assert told == pytest.approx(0, abs=1e-3)
        assert "(12, 12) -> (38, 12)" in model.said(record)
        with pytest.raises(BadInput, match=r"one\.png: has no partner"):
            model.read(paths[:1])
        with pytest.raises(NotFound, match=r"three\.png"):
            model.read([paths[0], str(tmp_path / "three.png")])


# --- transfer


def test_labels_of_colours_are_carried_exactly() -> None:
    # Blocks that lie on the grid, each label a colour of its own: nearest neighbours make no mistake.
    model = make_transfer(feature_layer="colours", distance="euclidean")
    records = evaluate(model, labelled_pairs())
    assert [r["iou"] for r in records] == [{"background": 1.0, "dog": 1.0, "cat": 1.0}] * 4
    assert [r["other"] for r in records] == ["p0b", "p1b", "p2b", "p3b"]
    scores = model.score(records)
    assert list(scores.metrics) == [*CorrespondenceTransfer.metrics]
    assert scores.metrics["mean_iou"] == 1.0
    assert scores.metrics["val_loss"] == pytest.approx(
        sum(r["nll"] for r in records) / sum(r["positions"] for r in records)
    )


def test_the_mean_is_over_shared_categories_of_each_pair() -> None:
    pairs = labelled_pairs(2)
    # The second picture of the first pair shows no cat: what lies there is told by its ground's label.
    lacking = np.where(pairs[0].other_labels == 2, 0, pairs[0].other_labels).astype(np.uint8)
    pairs[0] = PicturePair(**vars(pairs[0]) | {"other_labels": lacking})
    records = evaluate(make_transfer(feature_layer="colours", distance="euclidean"), pairs)
    assert records[0]["iou"].keys() == {"background", "dog"}
    ground = (pairs[0].labels == 0).sum()
    assert records[0]["iou"]["background"] == pytest.approx(ground / (ground + 32))
    means = [(1 + ground / (ground + 32)) / 2, 1]
    scores = make_transfer().score(records)
    assert scores.metrics["mean_iou"] == pytest.approx(sum(means) / 2)
    assert [r["mean_iou"] for r in scores.records] == pytest.approx(means)


def test_records_of_transfer_do_not_depend_on_the_batch() -> None:
    model = make_transfer(pca_components=3)
    together, apart = evaluate(model, labelled_pairs()), evaluate(model, labelled_pairs(), at_once=1)
    assert json.loads(json.dumps(together)) == together
    assert [r | {"nll": pytest.approx(r["nll"], rel=1e-4)} for r in apart] == together
    training = model.collate(labelled_pairs(), Draws(0, 1))
    assert "others" not in training
    assert training.keys() == make().collate(samples(), Draws(0, 1)).keys()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_convolutions_carry_labels_better_than_chance(seed: int) -> None:
    """Margin: twice what labels reach that are carried from places drawn at random."""
    random = np.random.default_rng(seed)
    pairs = []
    for pair in labelled_pairs(12):
        noisy = {
            key: (vars(pair)[key] + random.integers(0, 30, (16, 16, 3))).astype(np.uint8)
            for key in ("picture", "other")
        }
        pairs.append(PicturePair(**vars(pair) | noisy))
    torch.manual_seed(seed)
    fields = SMALL | {"feature_layer": "1", "grid_side": 8}
    model = CorrespondenceTransfer(DenseConfig.from_fields(fields), {})
    found = model.score(evaluate(model, pairs)).metrics["mean_iou"]
    assert found > 2 * np.mean([chance_iou(pair) for pair in pairs])


def chance_iou(pair: PicturePair) -> float:
    """What labels carried from places drawn at random reach, by the areas of both maps."""
    assert pair.labels is not None
    assert pair.other_labels is not None
    values = []
    for label in set(np.unique(pair.labels)) & set(np.unique(pair.other_labels)) | {0}:
        own, carried = float((pair.labels == label).mean()), float((pair.other_labels == label).mean())
        both = own * carried
        values.append(both / (own + carried - both))
    return float(np.mean(values))


def test_real_masks_are_carried_to_the_same_picture(shared_data: Path, tmp_path: Path) -> None:
    fields = {"data": str(shared_data / "coco-mini"), "picture_size": 48, "grid_side": 24}
    config = DenseConfig.from_fields(fields | {"picture_encoder": "resnet18", "feature_layer": "1"})
    data = CorrespondenceTransfer.load(config, str(tmp_path))
    torch.manual_seed(0)
    model = CorrespondenceTransfer(config, {})
    pairs = [
        PicturePair(**vars(p) | {"other": p.picture, "other_labels": p.labels})
        for p in (data.splits["validation"][i] for i in range(8))
        if isinstance(p, PicturePair)
    ]
    perfect = np.arange(24 * 24)
    for record, pair in zip(evaluate(model, pairs), pairs, strict=True):
        best = carried_labels(pair.labels, perfect)
        for label, name in {0: "background", **pair.categories}.items():
            if name in record["iou"]:
                expected = ((best == label) & (pair.labels == label)).sum() / (
                    (best == label) | (pair.labels == label)
                ).sum()
                assert record["iou"][name] == pytest.approx(expected, abs=0.02)


# --- learning


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("correspondence")
    write_scenes(str(folder / "scenes"), pictures=100, seed=0, picture_size=32)
    return str(folder / "scenes"), str(folder / "cache")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_crops_of_unseen_scenes_are_found_after_training_on_crops(scenes: tuple[str, str], seed: int) -> None:
    """Margins, on the test split: half the error of a guess, 80 % of that of the same place in the picture."""
    config = CorrespondenceConfig(
        data=scenes[0],
        picture_size=32,
        grid_side=8,
        cnn_width=8,
        cnn_batch_norm=True,
        embedding_width=32,
        crop="zoom",
        epochs=10,
        kept_matches=1.0,
        seed=seed,
    )
    data = Correspondence.load(config, scenes[1])
    torch.manual_seed(seed)
    model = Correspondence(config, Correspondence.prepare(config, data))
    before = model.score(evaluate(model, data.splits["test"])).metrics
    train(model, data, config)
    after = model.score(evaluate(model, data.splits["test"])).metrics
    ids = [s.id for s in data.splits["test"]]
    truth = crop_positions(draw_crops(None, ids, crop="zoom", side=0.5, flip=0.5, picture_size=32), 8)
    places = grid_positions(8, device=truth.device)
    guess = 100 * torch.cdist(truth, places.expand(len(ids), 64, 2)).mean().item()
    same = 100 * (truth - places).square().sum(2).sqrt().mean().item()
    assert guess > 40
    assert after["crop_error_mean"] < guess / 2
    assert after["crop_error_mean"] < 0.8 * same
    assert after["crop_error_mean"] < before["crop_error_mean"]
    assert after["val_loss"] < before["val_loss"] - 0.5
    assert before["val_loss"] < math.log(64) + 0.5


def train(model: Correspondence, data: Data, config: CorrespondenceConfig) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    split = data.splits["train"]
    for epoch in range(1, config.epochs + 1):
        model.train()
        order = np.random.default_rng(epoch).permutation(len(split))
        for start in range(0, len(split), 8):
            chosen = [split[int(i)] for i in order[start : start + 8]]
            loss = model(model.collate(chosen, Draws(config.seed, epoch)))
            optimizer.zero_grad()
            (loss.sum / loss.count).backward()
            optimizer.step()


# --- configurations and the table


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"feature_layer": "0"}, r"feature_layer='0' is not possible; choose last, colours, or a number from 1"),
        ({"feature_layer": "layer3"}, r"feature_layer='layer3' is not possible"),
        ({"score": "cicle"}, r"score='cicle' is not possible; did you mean 'cycle'"),
        ({"crop": "rotate"}, r"crop='rotate' is not possible"),
        ({"distance": "l1"}, r"distance='l1' is not possible"),
        ({"crop_side": 0.0}, r"crop_side=0.0 is out of range: it must lie in \(0, 1\]"),
        ({"kept_matches": 0.0}, r"kept_matches=0.0 is out of range: it must lie in \(0, 1\]"),
        ({"grid_side": 1}, r"grid_side=1 is out of range: it must lie in \[2, 64\]"),
        ({"pca_components": -1}, r"pca_components=-1 is out of range"),
        ({"temperature": 0.0}, r"temperature=0.0 is out of range: it must lie in \(0"),
        ({"crop_flip": 0.2}, r"crop_flip=0.2 has no effect with crop='scale': set crop to flip"),
        ({"features": "pooled"}, r"features='pooled' has no positions to compare: leave features at 'grid'"),
        ({"feature_layer": "colours", "epochs": 2}, r"epochs=2 has no effect with feature_layer='colours'"),
        ({"train_encoder": False, "epochs": 2}, r"epochs=2 has no effect with train_encoder=false"),
        (
            {"picture_encoder": "resnet18", "picture_size": 48, "crop": "shift"},
            r"crop='shift' with crop_side=0.5 makes crops of 24 pixels: picture_size=24 .* at least 32",
        ),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        CorrespondenceConfig.from_fields(fields)
    assert "\n" not in str(caught.value)


def test_a_layer_that_an_encoder_lacks_is_named() -> None:
    with pytest.raises(BadInput, match="feature_layer='7' is not in this encoder: its layers are 1 to 4"):
        make(feature_layer="7")


def test_rows_are_two_scores_with_and_without_components_for_four_crops() -> None:
    fields = [resolve(SEARCH, None, row=row).config.fields() for row in SEARCH.rows.values()]
    matched = [f for f in fields if f["picture_encoder"] == "resnet18"]
    settings = {(f["crop"], f["score"], f["pca_components"]) for f in matched}
    assert settings == {(c, s, n) for c in CROPS for s in ("feature", "cycle") for n in (0, 10)}
    assert len(matched) == 16
    keys = [k for k in matched[0] if len({f[k] for f in matched}) > 1]
    assert keys == ["pca_components", "crop", "score"]
    assert {f["epochs"] for f in matched} == {0}
