"""Pretraining by rotation: its batches, its records, and that it can learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainables.parts.rotation import read_degrees, rotate
from trainables.pretraining_rotation import Rotation, RotationConfig
from vltune.contract import Draws, Sample
from vltune.errors import BadInput

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"picture_size": 16, "cnn_width": 4, "cnn_batch_norm": True, "embedding_width": 12}


def samples(count: int = 6) -> list[Sample]:
    """Noise, brighter at the top: what is up can be seen."""
    made = []
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 120, (16, 16, 3))
        picture = noise + np.linspace(120, 0, 16)[:, None, None]
        made.append(Sample(f"p{i}", picture.astype(np.uint8), ("a caption",)))
    return made


def make(**changes: Any) -> Rotation:
    torch.manual_seed(0)
    return Rotation(RotationConfig.from_fields(SMALL | changes), {})


@torch.no_grad()
def test_records_hold_what_a_slow_computation_finds() -> None:
    model, degrees = make(features="grid").eval(), (-60.0, -30.0, 0.0, 30.0, 60.0)
    for sample, record in zip(samples(), model.predict(model.collate(samples(), None)), strict=True):
        picture = torch.tensor(sample.picture).permute(2, 0, 1)[None] / 255
        every = rotate(picture, torch.arange(5)[None], degrees=degrees, crop=True)
        for number in range(5):
            logits = model.classifier(model.picture_encoder(every[number : number + 1]).flatten(1))
            nll = F.cross_entropy(logits, torch.tensor([number]))
            assert record["nll"][number] == pytest.approx(nll.item(), rel=1e-4)
            assert record["guesses"][number] == degrees[int(logits.argmax())]
        assert (record["id"], record["degrees"]) == (sample.id, [*degrees])
        assert json.loads(json.dumps(record)) == record


@torch.no_grad()
def test_records_do_not_depend_on_the_batch() -> None:
    model = make().eval()
    together = model.predict(model.collate(samples(), None))
    apart = [model.predict(model.collate([sample], None))[0] for sample in samples()]
    assert [r["nll"] for r in apart] == [pytest.approx(r["nll"], rel=1e-4) for r in together]


def test_loss_is_a_sum_over_turned_pictures_and_splits_over_batches() -> None:
    model, draws = make(rotations_per_picture=2).eval(), Draws(0, 1)
    whole = model(model.collate(samples(), draws))
    parts = [model(model.collate(part, draws)) for part in (samples()[:1], samples()[1:])]
    assert whole.count == 12 == sum(part.count for part in parts)
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)


def test_angles_are_drawn_anew_each_epoch_and_evaluated_all() -> None:
    model = make(rotations_per_picture=2)
    epochs = [model.collate(samples(), Draws(0, epoch))["classes"] for epoch in range(1, 30)]
    assert all(len(set(row)) == 2 for classes in epochs for row in classes.tolist())
    assert {c for classes in epochs for c in classes[0].tolist()} == {0, 1, 2, 3, 4}
    assert torch.equal(model.collate(samples()[2:4], Draws(0, 1))["classes"], epochs[0][2:4])
    assert model.collate(samples(), None)["classes"].tolist() == [[0, 1, 2, 3, 4]] * 6
    assert [sorted(row) for row in make().collate(samples(), Draws(0, 1))["classes"].tolist()] == [[0, 1, 2, 3, 4]] * 6


def test_every_trainable_parameter_gets_a_gradient() -> None:
    model = make(augmentation="improved").train()
    model(model.collate(samples(), Draws(0, 1))).sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_up_is_told_from_down() -> None:
    model = make(rotation_degrees="-90,0,90,180").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    split = samples(24)
    for epoch in range(30):
        loss = model(model.collate(split[:16], Draws(0, epoch)))
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    scores = model.eval().score(model.predict(model.collate(split[16:], None)))
    assert scores.metrics["accuracy"] > 0.9


def test_scores_are_the_declared_metrics() -> None:
    records = [
        {"degrees": [-60, 0], "guesses": [-60, -60], "nll": [0.1, 0.5]},
        {"degrees": [-60, 0], "guesses": [-60, 0], "nll": [0.2, 0.4]},
    ]
    scores = make().score(records)
    assert scores.metrics == {"val_loss": pytest.approx(0.3), "accuracy": 0.75}
    assert scores.metrics.keys() == Rotation.metrics.keys()
    assert [r["accuracy"] for r in scores.records] == [0.5, 1.0]
    assert make().said({"degrees": [-60.0, 0.0], "guesses": [0.0, 0.0]}) == "-60° taken for 0°, 0° taken for 0°"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_turns_pictures_in_full(dtype: torch.dtype) -> None:
    pictures = torch.rand(2, 3, 16, 16)
    classes, degrees = torch.arange(5).repeat(2, 1), read_degrees("-60,-30,0,30,60")
    with torch.autocast("cpu", dtype=dtype):
        turned = rotate(pictures, classes, degrees=degrees, crop=True)
    assert torch.equal(turned, rotate(pictures, classes, degrees=degrees, crop=True))


def test_pictures_are_read_from_files(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((40, 20, 3), 200, np.uint8)).save(tmp_path / "a.png")
    (sample,) = make().read([str(tmp_path / "a.png")])
    assert sample.picture is not None
    assert sample.picture.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rotation_degrees": "30"}, r"rotation_degrees='30': write two or more different angles"),
        ({"rotations_per_picture": 6}, r"rotations_per_picture=6 is out of range: it must lie in \[0, 5\]"),
        ({"train_encoder": False}, r"train_encoder=False leaves nothing to pretrain"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        RotationConfig.from_fields(fields)
