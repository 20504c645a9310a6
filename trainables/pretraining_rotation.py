"""Pretraining by rotation: by how much is this picture turned?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainables.parts.picture_fields import (
    WIDTH_ONLY_WITH,
    PictureConfig,
    build_picture_encoder,
    collate_pictures,
    open_pictures,
    shown_pictures,
)
from trainables.parts.picture_vectors import count_positions, side_by_side
from trainables.parts.pictures import read_picture
from trainables.parts.pretraining import check_learns, mean_scores
from trainables.parts.pretraining_drawings import MOST_ANGLES, ROTATED, rotation_drawings
from trainables.parts.rotation import read_degrees, rotate
from vltune.configuration import TrialConfig, in_range, only_with
from vltune.contract import NO_MODELS, Assets, Batch, Data, Direction, Draws, Family, Loss, Record, Sample, Scores
from vltune.devices import to_device
from vltune.drawings import Drawing


@dataclass(frozen=True, kw_only=True)
class RotationConfig(PictureConfig):
    """Everything that can be chosen about telling rotations apart."""

    features: str = "pooled"
    """What the classifier sees: ``pooled``, the mean of all positions, or ``grid``, all of them side by side."""
    cnn_batch_norm: bool = True
    """``cnn``: whether each convolution is followed by batch normalisation; without it, it hardly learns this task."""
    rotation_degrees: str = "-60,-30,0,30,60"
    """The classes: angles in [-180, 180], anticlockwise. At least two."""
    rotations_per_picture: int = 0
    """Angles of each picture in a training batch, drawn anew each epoch; evaluation sees all. 0: all."""
    rotation_crop: bool = True
    """Shows the largest square that lies inside the picture at every angle, so that neither corners nor scale tell the
    angle; without it corners are filled by reflection, which a network can learn to see."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "rotations_per_picture", 0, len(read_degrees(self.rotation_degrees)))
        only_with(self, WIDTH_ONLY_WITH)
        check_learns(self, "train_encoder")


class Rotation(Family):
    """Turns pictures and tells by how much, after Gidaris et al. (https://arxiv.org/abs/1803.07728).

    There, angles are multiples of 90 degrees, which need no interpolation, and a batch holds each picture at all of
    them. ``init_from=picture_encoder=…`` of other families takes what it trained.
    """

    name: ClassVar[str] = "pretraining_rotation"
    Config: ClassVar[type[TrialConfig]] = RotationConfig
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min", "accuracy": "max"}
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(metrics, ("rotation_degrees", "rotation_crop"))

    @classmethod
    def load(cls, config: RotationConfig, cache: str) -> Data:
        """A folder of pictures with captions, which are not looked at."""
        return open_pictures(config, cache)

    @classmethod
    def prepare(cls, config: RotationConfig, data: Data) -> Assets:  # noqa: ARG003 - nothing is fitted
        """Nothing."""
        return {}

    def __init__(self, config: RotationConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.degrees = read_degrees(config.rotation_degrees)
        self.picture_encoder = build_picture_encoder(config)
        positions = count_positions(self.picture_encoder, picture_size=config.picture_size)
        self.classifier = nn.Linear(positions * self.picture_encoder.width, len(self.degrees))

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes, and which of the angles each is turned by."""
        every = len(self.degrees)
        count = self.config.rotations_per_picture or every
        classes = [
            np.arange(every)
            if draws is None
            else draws.generator(s.id, "rotations").choice(every, count, replace=False)
            for s in samples
        ]
        return {
            "ids": [s.id for s in samples],
            "classes": torch.from_numpy(np.stack(classes)),
            **collate_pictures(self.config, samples, draws),
        }

    def forward(self, batch: Batch) -> Loss:
        """Cross-entropy of the angles, summed over all turned pictures."""
        nll = F.cross_entropy(self._logits(batch).float(), batch["classes"].flatten(), reduction="none")
        return Loss(nll.sum(), torch.tensor(len(nll), device=nll.device))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """For each picture and each angle what it seems to be turned by."""
        assert not self.training, "dropout and batch statistics would make records depend on chance"
        logits = self._logits(batch).float()
        nll = F.cross_entropy(logits, batch["classes"].flatten(), reduction="none").view_as(batch["classes"])
        guesses = logits.argmax(-1).view_as(nll)
        return [
            {"id": name, "degrees": [*self.degrees], "guesses": [self.degrees[i] for i in guessed], "nll": row}
            for name, guessed, row in zip(batch["ids"], guesses.tolist(), nll.tolist(), strict=True)
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        """Loss and accuracy, over all pictures, each at all angles, and for each."""
        return mean_scores(
            [
                {
                    "val_loss": float(np.mean(r["nll"])),
                    "accuracy": float(np.mean(np.equal(r["degrees"], r["guesses"]))),
                }
                for r in records
            ]
        )

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Turned pictures with what their angles were taken for, and the confusion matrix."""
        shown = [samples[i] for i in range(min(ROTATED, len(samples)))]
        batch = to_device(self.collate(shown, None), self.classifier.weight.device)
        batch["classes"] = batch["classes"][:, :MOST_ANGLES]
        return rotation_drawings(self._turned(batch).unflatten(0, batch["classes"].shape), records)

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files; a file's path is its sample's id."""
        return [Sample(s, read_picture(s, size=self.config.picture_size), ()) for s in sources]

    def said(self, record: Record) -> str:
        """Each angle, and what it was taken for."""
        pairs = zip(record["degrees"], record["guesses"], strict=True)
        return ", ".join(f"{degrees:g}° taken for {guess:g}°" for degrees, guess in pairs)

    def _logits(self, batch: Batch) -> Float[Tensor, "turned classes"]:
        return self.classifier(side_by_side(self.picture_encoder(self._turned(batch))))

    def _turned(self, batch: Batch) -> Float[Tensor, "turned 3 side side"]:
        pictures = shown_pictures(batch, self.classifier.weight.dtype)
        return rotate(pictures, batch["classes"], degrees=self.degrees, crop=self.config.rotation_crop)
