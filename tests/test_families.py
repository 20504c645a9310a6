"""What every model family owes the engine, whatever it models: one table of small set-ups, the same tests for all."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_captioners
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainables import FAMILIES
from trainables.parts.scenes import write_scenes
from vltune import checkpoints
from vltune.columns import read_records
from vltune.configuration import TrialConfig
from vltune.contract import Draws, EpochReport, Family
from vltune.errors import BadInput
from vltune.library import PromotedModels
from vltune.models import read_model, stood_on
from vltune.runtime import LocalRuntime, Progress
from vltune.statistics import resample
from vltune.train import Trial, evaluate, fit

torch.set_num_threads(1)

PICTURES: dict[str, Any] = {"picture_size": 32, "cnn_width": 4, "cnn_batch_norm": True, "embedding_width": 12}
TEXTS: dict[str, Any] = {"text_width": 12, "word_width": 8, "min_word_count": 1, "max_tokens": 16}
RECURRENT: dict[str, Any] = {"text_encoder": "lstm", "text_layers": 2, "text_dropout": 0.2}
WRITTEN: dict[str, Any] = {
    "min_word_count": 1,
    "max_tokens": 16,
    "embedding_width": 12,
    "hidden_width": 12,
    "attention_width": 8,
    "dropout": 0.2,
}
SHARED: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3}


@dataclass
class World:
    """Generated pictures, and the promoted models that some families stand on."""

    folder: Path

    @property
    def scenes(self) -> str:
        return str(self.folder / "scenes")

    def model(self, family: str) -> str:
        """The folder of a model that was trained a little."""
        place = self.folder / "models" / family
        if not place.exists():
            run(self, family, place)
        return str(kept(place)[0])

    def captioner(self) -> str:
        """The folder of a small pretrained captioner."""
        place = self.folder / "blip"
        if not place.exists():
            tiny_captioners.write_captioner("blip", place)
        return str(place)

    def predictions(self) -> str:
        """A results file: the first caption that people wrote of each picture, and an empty one."""
        place, found = self.folder / "predictions.json", {}
        if place.exists():  # two workers that write it anew would read it half-written
            return str(place)
        for file in sorted((self.folder / "scenes" / "annotations").glob("captions_*.json")):
            for entry in json.loads(file.read_text())["annotations"]:
                found.setdefault(entry["image_id"], entry["caption"])
        found[next(reversed(found))] = ""
        place.write_text(json.dumps([{"image_id": key, "caption": text} for key, text in found.items()]))
        return str(place)


FIELDS: dict[str, Callable[[World], dict[str, Any]]] = {
    "captioning": lambda _: {**PICTURES, **WRITTEN, "objective": "val_loss", "augmentation": "improved"},
    "retrieval": lambda _: {**PICTURES, **TEXTS, **RECURRENT, "objective": "val_loss", "projection_width": 8},
    "matching": lambda _: {**PICTURES, **TEXTS, "classifier_widths": "8-2"},
    "pretraining_rotation": lambda _: {**PICTURES},
    "pretraining_masked_word": lambda _: {**TEXTS},
    "pretraining_reconstruction": lambda _: {"picture_size": 32},
    "correspondence": lambda _: {**PICTURES, "objective": "val_loss"},
    "correspondence_transfer": lambda _: {**PICTURES, "objective": "val_loss"},
    "capdec": lambda world: {**WRITTEN, "embedder": world.model("retrieval"), "noise": "gaussian"},
    "pretrained": lambda world: {"captioner_model": world.captioner(), "finetune": "lora", "lora_dropout": 0.1},
    "decoding": lambda world: {"captioner": world.model("captioning"), "max_tokens": 16, "epochs": 0},
    "predictions": lambda world: {"predictions": world.predictions(), "objective": "cider", "epochs": 0},
}
"""Family -> fields of a small configuration with everything random that it can have."""

DRAWN: dict[str, set[str]] = {
    "captioning": {"captions", "attention"},
    "retrieval": {"pictures_by_text", "texts_by_picture", "similarity", "modality_gap"},
    "matching": {"confusion", "wrong_pairs"},
    "pretraining_rotation": {"rotations", "confusion"},
    "pretraining_masked_word": {"hidden_words"},
    "pretraining_reconstruction": {"reconstructions"},
    "correspondence": {"matches", "error_by_rank"},
    "correspondence_transfer": {"carried_labels"},
    "capdec": {"captions", "similarity", "modality_gap"},
    "pretrained": {"captions", "attention"},
    "decoding": {"captions"},
    "predictions": {"captions"},
}
"""Family -> its drawings."""

UNTRAINED = {"decoding", "predictions"}
"""Families that train nothing."""

every_family = pytest.mark.parametrize("name", sorted(FAMILIES))
every_trained = pytest.mark.parametrize("name", sorted(set(FAMILIES) - UNTRAINED))


def configured(world: World, name: str, **changes: Any) -> TrialConfig:
    config = FAMILIES[name].Config
    fields = {**SHARED, "data": world.scenes, **FIELDS[name](world), **changes}
    if "objective" not in fields:
        fields["objective"] = next(iter(FAMILIES[name].metrics))
    return config.from_fields(config.with_absolute_paths(fields)).find_sources(PromotedModels(world.folder))


def run(world: World, name: str, folder: Path, *, runtime: LocalRuntime | None = None, **changes: Any) -> LocalRuntime:
    runtime = runtime or LocalRuntime(cache=str(world.folder / "cache"))
    fit(Trial("t", FAMILIES[name], configured(world, name, **changes), folder), runtime)
    return runtime


def kept(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "checkpoints").iterdir() if p.name.startswith("epoch-"))


def built(world: World, name: str, **changes: Any) -> tuple[Family, Any]:
    """An untrained model and its data."""
    config, family, cache = configured(world, name, **changes), FAMILIES[name], str(world.folder / "cache")
    data = family.load(config, cache)
    torch.manual_seed(0)
    return family(config, family.prepare(config, data), stood_on(family, config, cache=cache)), data


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_flush", lambda path: None)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    write_scenes(str(folder / "scenes"), pictures=32, picture_size=32)
    masks(folder / "scenes")
    return World(folder)


def masks(folder: Path) -> None:
    """A box of one of two categories on each picture, as COCO's files of instances have them."""
    for file in sorted((folder / "annotations").glob("captions_*.json")):
        images = json.loads(file.read_text())["images"]
        boxes = [
            {
                "id": number,
                "image_id": image["id"],
                "category_id": 1 + number % 2,
                "segmentation": [[4, 4, 4, 24, 24, 24, 24, 4]],
                "area": 400,
                "bbox": [4, 4, 20, 20],
                "iscrowd": 0,
            }
            for number, image in enumerate(images, start=1)
        ]
        named = [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]
        content = {"images": images, "annotations": boxes, "categories": named}
        (folder / "annotations" / file.name.replace("captions", "instances")).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, LocalRuntime]]:
    """Family -> the folder and the reports of an undisturbed run."""
    done: dict[str, tuple[Path, LocalRuntime]] = {}

    def get(name: str) -> tuple[Path, LocalRuntime]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = folder, run(world, name, folder)
        return done[name]

    return get


def test_every_family_is_set_up_here() -> None:
    assert set(FIELDS) == set(FAMILIES)


@every_family
def test_names_and_docstrings(name: str) -> None:
    family = FAMILIES[name]
    assert family.name == name
    assert family.Config.__doc__
    assert set(family.measured_by) <= set(family.metrics)
    fields = {f.name for f in dataclasses.fields(family.Config)}
    assert {field for some in family.measured_by.values() for field in some} <= fields
    assert set(family.asked_by) | set(family.relative) <= set(family.metrics)
    assert {field for field, _ in family.asked_by.values()} <= fields
    assert set(family.metrics.values()) <= {"max", "min"}
    assert not any("@" in metric for metric in family.metrics), "MLflow refuses it"


@every_trained
def test_every_trainable_parameter_gets_a_gradient(world: World, name: str) -> None:
    model, data = built(world, name)
    model.train()
    split = data.splits["train"]
    loss = model(model.collate([split[i] for i in range(8)], Draws(0, 1)))
    assert loss.sum.dim() == loss.count.dim() == 0
    assert float(loss.count) > 0
    loss.sum.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@every_family
def test_scores_are_exactly_the_declared_metrics(
    name: str, trained: Callable[[str], tuple[Path, LocalRuntime]], world: World
) -> None:
    folder, runtime = trained(name)
    family = FAMILIES[name]
    model, config = read_model(kept(folder)[0], FAMILIES, cache=str(world.folder / "cache"))
    split = family.load(config, str(world.folder / "cache")).splits["validation"]
    scores, records = evaluate(model, split, batch_size=3)
    assert scores.metrics.keys() == family.measures(config).keys()
    assert all(math.isfinite(value) for value in scores.metrics.values())
    assert len(scores.records) == len(records) == len(split)
    assert [r["id"] for r in records] == [s.id for s in split]
    public = [{k: v for k, v in r.items() if not k.startswith("_")} for r in records]
    assert json.loads(json.dumps(public)) == public
    for record, values in zip(public, scores.records, strict=True):
        assert model.said(record | values).strip() or name == "predictions"
        assert "\n" not in model.said(record | values)
    best = max((r for r in runtime.reports if r.best), key=lambda r: r.epoch)
    for metric, value in scores.metrics.items():
        assert value == pytest.approx(best.metrics[metric], rel=1e-4, abs=1e-5), metric


NOT_DRAWN = {"distinct_captions", "crop_error_median"}
"""Metrics without an interval: captions that are drawn twice are no longer distinct; a median over too many values."""


@every_family
def test_all_metrics_can_be_drawn_again(
    name: str, trained: Callable[[str], tuple[Path, LocalRuntime]], world: World
) -> None:
    folder, _ = trained(name)
    model, config = read_model(kept(folder)[0], FAMILIES, cache=str(world.folder / "cache"))
    split = FAMILIES[name].load(config, str(world.folder / "cache")).splits["validation"]
    scores, records = evaluate(model, split, batch_size=3)
    assert set(FAMILIES[name].drawn_with) <= set(FAMILIES[name].metrics)
    drawn = resample(scores, [r["id"] for r in records]).values
    assert scores.metrics.keys() - drawn.keys() == NOT_DRAWN & scores.metrics.keys()
    further = scores.resample(np.ones((1, len(records)))) if scores.resample else {}
    for metric, (value,) in further.items():  # each sample once: the split itself
        assert value == pytest.approx(scores.metrics[metric], rel=1e-6, abs=1e-9), metric
    if scores.resample and not any(metric.endswith("median_rank") for metric in further):
        # each sample as often as it was drawn, scored as a split of its own
        times = [2, 0, *[1] * (len(records) - 2)]
        again = model.score([r for r, count in zip(records, times, strict=True) for _ in range(count)]).metrics
        for metric, (value,) in scores.resample(np.array([times], float)).items():
            assert value == pytest.approx(again[metric], rel=1e-6, abs=1e-9), metric


@every_family
def test_embeddings_are_kept_on_request(name: str, world: World, tmp_path: Path) -> None:
    family = FAMILIES[name]
    if not family.embeddings:
        with pytest.raises(BadInput, match="has no embeddings to keep; leave it out"):
            run(world, name, tmp_path, epochs=0, keep_embeddings=True)
        return
    run(world, name, tmp_path, epochs=1, keep_embeddings=True)
    (folder,) = kept(tmp_path)
    model, config = read_model(folder, FAMILIES, cache=str(world.folder / "cache"))
    split = family.load(config, str(world.folder / "cache")).splits["validation"]
    _, records = evaluate(model, split, batch_size=3)
    stored = read_records(folder / checkpoints.RECORDS, embeddings=True)
    assert len(stored) == len(records)
    for key, column in family.embeddings.items():
        for row, record in zip(stored, records, strict=True):
            np.testing.assert_allclose(row[column], record[key], rtol=1e-4, atol=1e-5)
        assert len({str(row[column]) for row in stored}) > 1, "of each sample its own"
    assert not any(key.startswith("_") for key in stored[0])


@every_family
def test_predictions_do_not_depend_on_the_batch_they_are_in(
    name: str, trained: Callable[[str], tuple[Path, LocalRuntime]], world: World
) -> None:
    folder, _ = trained(name)
    model, config = read_model(kept(folder)[0], FAMILIES, cache=str(world.folder / "cache"))
    split = FAMILIES[name].load(config, str(world.folder / "cache")).splits["validation"]
    together, apart = (evaluate(model, split, batch_size=size) for size in (len(split), 1))
    for metric, value in together[0].metrics.items():
        assert apart[0].metrics[metric] == pytest.approx(value, rel=1e-4, abs=1e-5), metric


def _listed(folder: Path) -> set[str]:
    listed = json.loads((folder / "illustrations" / "figures" / "figures.json").read_text())
    assert all(entry["title"] and entry["reads"].endswith(".") for entry in listed)
    return {entry["file"].removesuffix(".png") for entry in listed}


@every_family
def test_every_trial_ends_with_drawings(name: str, trained: Callable[[str], tuple[Path, LocalRuntime]]) -> None:
    folder, runtime = trained(name)
    assert _listed(folder) == DRAWN[name]
    assert not [note for note in runtime.reports[-1].notes if note.startswith("no ")]
    total = int(runtime.reports[-1].metrics.get("parameters", 0))
    assert f"\n{total:,} parameters" in (folder / "illustrations" / "model.txt").read_text()


@every_trained
def test_an_interrupted_trial_ends_as_one_that_was_not(
    tmp_path: Path, name: str, trained: Callable[[str], tuple[Path, LocalRuntime]], world: World
) -> None:
    class Killed(BaseException):
        """The worker is gone."""

    class Dies(LocalRuntime):
        def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
            if epoch == 2:
                raise Killed
            return super().exchange(epoch, told)

    with pytest.raises(Killed):
        run(world, name, tmp_path, runtime=Dies(cache=str(world.folder / "cache")))
    run(world, name, tmp_path)
    wanted, found = (checkpoints.read_tensors(kept(f)[0] / checkpoints.MODEL) for f in (trained(name)[0], tmp_path))
    assert found.keys() == wanted.keys()
    assert checkpoints.hash_tensors(found) == checkpoints.hash_tensors(wanted)


@every_trained
def test_training_lowers_the_loss(name: str, trained: Callable[[str], tuple[Path, LocalRuntime]]) -> None:
    losses = [report.metrics["train_loss"] for report in trained(name)[1].reports]
    assert min(losses[1:]) < losses[0]


@every_family
def test_an_unknown_key_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        FAMILIES[name].Config.from_fields({"learning_rat": 1.0})


@pytest.mark.parametrize("name", ["captioning", "capdec", "pretrained", "decoding"])
def test_captioners_are_scored_by_what_is_asked_for(name: str, world: World, tmp_path: Path) -> None:
    epochs = 0 if name in UNTRAINED else 1
    asked = {"further_metrics": "samples,diversity", "samples_per_picture": 2, "temperature": 2.0, "epochs": epochs}
    runtime = run(world, name, tmp_path, **asked)
    family, cache = FAMILIES[name], str(world.folder / "cache")
    model, config = read_model(kept(tmp_path)[0], FAMILIES, cache=cache)
    assert family.measures(config).keys() <= runtime.reports[-1].metrics.keys()
    assert {"samples_similarity", "samples_distinct_2", "self_bleu"} <= family.measures(config).keys()
    split = family.load(config, cache).splits["validation"]
    told = [record["samples"] for record in read_records(kept(tmp_path)[0] / checkpoints.RECORDS)]
    together, apart = ([r["samples"] for r in evaluate(model, split, batch_size=size)[1]] for size in (len(split), 1))
    assert told == together == apart, "a draw is of the picture, not of its batch"
    assert all(len(texts) == 2 for texts in told)
    assert any(first != second for first, second in told)


# -- two workers


@dataclass
class Together(LocalRuntime):
    """One of two workers; what rank 0 tells reaches the other."""

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
        if told is not None and self.rank == 0:
            self.reports.append(told[0])
        said = [told[1] if told is not None and self.rank == 0 else None]
        dist.broadcast_object_list(said, src=0)
        assert said[0] is not None
        return True, said[0]


SAME = {"text_dropout": 0.0, "dropout": 0.0, "lora_dropout": 0.0, "classifier_dropout": 0.0}
"""Dropout is drawn for each worker: without it, two workers do what one does."""


def _without_dropout(name: str) -> dict[str, Any]:
    fields = {f.name for f in dataclasses.fields(FAMILIES[name].Config)}
    return {"epochs": 0 if name in UNTRAINED else 2} | {k: v for k, v in SAME.items() if k in fields}


def _work(rank: int, folder: Path, world: World) -> None:
    torch.set_num_threads(1)
    checkpoints._flush = lambda path: None
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    told: dict[str, Any] = {}
    for name in sorted(FAMILIES):
        runtime = Together(str(world.folder / "cache"), rank=rank, world_size=2)
        run(world, name, folder / name, runtime=runtime, **_without_dropout(name))  # one that fails stops both
        told[name] = [dict(report.metrics) for report in runtime.reports]
        assert rank or _listed(folder / name) == DRAWN[name]
    if rank == 0:
        (folder / "told.json").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, world: World) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    for name in sorted(FAMILIES):
        configured(world, name)  # the models below are there before two want them
        FAMILIES[name].load(configured(world, name), str(world.folder / "cache"))
    mp.spawn(_work, args=(folder, world), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return json.loads((folder / "told.json").read_text())


@pytest.mark.timeout(900)  # two processes train every family: a minute on an idle machine, more on a busy one
@every_family
def test_two_workers_train_as_one(tmp_path: Path, name: str, two: dict[str, Any], world: World) -> None:
    one = run(world, name, tmp_path, **_without_dropout(name))
    assert len(two[name]) == len(one.reports)
    for report, wanted in zip(two[name], one.reports, strict=True):
        for metric in {"train_loss", "val_loss", *FAMILIES[name].metrics} & wanted.metrics.keys():
            assert report[metric] == pytest.approx(wanted.metrics[metric], rel=5e-3, abs=1e-3), metric
