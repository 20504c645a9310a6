"""Pretraining by reconstruction: its records, and that it learns to draw."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from trainables.pretraining_reconstruction import Reconstruction, ReconstructionConfig
from vltune.contract import Draws, Sample
from vltune.errors import BadInput

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"picture_size": 32, "picture_decoder_width": 4}


PALETTE = np.array([[220, 30, 30], [30, 200, 40], [40, 50, 220], [240, 240, 230]])


def samples(count: int = 6) -> list[Sample]:
    """Two of four colours, one above the other, and noise."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        halves = PALETTE[rng.choice(4, 2, replace=False)][:, None].repeat(16, axis=0).repeat(32, axis=1)
        picture = (halves + rng.normal(0, 5, halves.shape)).clip(0, 255).astype(np.uint8)
        made.append(Sample(f"p{i}", picture, ("a caption",)))
    return made


def make(**changes: Any) -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction(ReconstructionConfig.from_fields(SMALL | changes), {})


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["autoencoder", "cnn", "resnet18"])
@pytest.mark.parametrize("features", ["grid", "pooled"])
def test_errors_by_hand(encoder: str, features: str) -> None:
    model = make(picture_encoder=encoder, features=features).eval()
    for sample, record in zip(samples(2), model.predict(model.collate(samples(2), None)), strict=True):
        assert sample.picture is not None
        picture = torch.tensor(sample.picture).permute(2, 0, 1)[None] / 255
        error = (model.picture_decoder(model.picture_encoder(picture)) - picture).numpy()
        assert record["id"] == sample.id
        assert record["absolute_error"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        assert record["squared_error"] == pytest.approx(np.square(error).mean(), rel=1e-4)
        assert json.loads(json.dumps(record)) == record


def test_loss_is_a_sum_over_pictures_and_splits_over_batches() -> None:
    model, draws = make().eval(), Draws(0, 1)
    whole = model(model.collate(samples(), draws))
    parts = [model(model.collate(part, draws)) for part in (samples()[:1], samples()[1:])]
    assert whole.count == 6
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    errors = [record["absolute_error"] for record in model.predict(model.collate(samples(), None))]
    assert whole.sum.item() == pytest.approx(sum(errors), rel=1e-5)


def test_every_trainable_parameter_gets_a_gradient() -> None:
    model = make(augmentation="improved", features="pooled").train()
    model(model.collate(samples(), Draws(0, 1))).sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_new_pictures_are_drawn_better_than_in_their_own_mean_colour() -> None:
    model = make().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    split = samples(72)
    for step in range(80):
        some = split[step % 4 * 16 :][:16]
        loss = model(model.collate(some, Draws(0, 1)))
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    unseen = split[64:]
    pictures = np.stack([s.picture for s in unseen if s.picture is not None]) / 255
    in_own_mean = np.abs(pictures - pictures.mean((1, 2), keepdims=True)).mean()
    found = model.eval().score(model.predict(model.collate(unseen, None))).metrics["val_loss"]
    assert found < 0.8 * in_own_mean, (found, in_own_mean)


def test_scores_are_the_declared_metrics() -> None:
    records = [{"absolute_error": 0.1, "squared_error": 0.01}, {"absolute_error": 0.3, "squared_error": 0.0}]
    scores = make().score(records)
    assert scores.metrics == pytest.approx({"val_loss": 0.2, "psnr": (20 + 100) / 2})
    assert scores.metrics.keys() == Reconstruction.metrics.keys()
    assert scores.records[0]["psnr"] == pytest.approx(10 * math.log10(1 / 0.01))
    assert make().said(records[0]) == "drawn with a mean absolute error of 0.100 of 1"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"picture_decoder_width": 0}, r"picture_decoder_width=0 is out of range"),
        ({"train_encoder": False}, r"train_encoder=False leaves nothing to pretrain"),
        ({"picture_size": 16}, r"picture_size=16 is too small for picture_encoder='autoencoder'"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        ReconstructionConfig.from_fields(fields)
