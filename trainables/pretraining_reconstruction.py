"""Pretraining by reconstruction: can the picture be drawn again from what the encoder sees?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.parts.autoencoder import PictureDecoder
from trainables.parts.picture_fields import (
    WIDTH_ONLY_WITH,
    PictureConfig,
    build_picture_encoder,
    collate_pictures,
    open_pictures,
    shown_pictures,
)
from trainables.parts.picture_vectors import count_positions
from trainables.parts.pictures import read_picture
from trainables.parts.pretraining import check_learns, mean_scores
from trainables.parts.pretraining_drawings import RECONSTRUCTED, reconstruction_drawing
from vltune.configuration import TrialConfig, in_range, only_with
from vltune.contract import NO_MODELS, Assets, Batch, Data, Direction, Draws, Family, Loss, Record, Sample, Scores
from vltune.devices import to_device
from vltune.drawings import Drawing

LEAST_ERROR = 1e-10
"""Squared error below which a picture counts as drawn without one: 100 decibels."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(PictureConfig):
    """Everything that can be chosen about drawing pictures again."""

    picture_encoder: str = "autoencoder"
    """As in all families. The fewer numbers it gives, the more it must understand: ``autoencoder`` gives 576 of a
    picture of 96 pixels, ``cnn`` more numbers than the picture has."""
    picture_decoder_width: int = 16
    """Channels of the decoder's last layer, doubled in each layer before, up to eight times. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "picture_decoder_width", 1)
        only_with(self, WIDTH_ONLY_WITH)
        check_learns(self, "train_encoder")


class Reconstruction(Family):
    """An autoencoder: an encoder, and a decoder that draws the picture from what it gives.

    ``init_from=picture_encoder=…`` of other families takes the encoder that it trained.
    """

    name: ClassVar[str] = "pretraining_reconstruction"
    Config: ClassVar[type[TrialConfig]] = ReconstructionConfig
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min", "psnr": "max"}
    """``val_loss`` is the mean absolute error of values in [0, 1]; ``psnr`` the mean over pictures of how much larger
    1 is than their mean squared error, in decibels."""
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(metrics, ("picture_size",))

    @classmethod
    def load(cls, config: ReconstructionConfig, cache: str) -> Data:
        """A folder of pictures with captions, which are not looked at."""
        return open_pictures(config, cache)

    @classmethod
    def prepare(cls, config: ReconstructionConfig, data: Data) -> Assets:  # noqa: ARG003 - nothing is fitted
        """Nothing."""
        return {}

    def __init__(self, config: ReconstructionConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.picture_encoder = build_picture_encoder(config)
        self.picture_decoder = PictureDecoder(
            width=self.picture_encoder.width,
            positions=count_positions(self.picture_encoder, picture_size=config.picture_size),
            picture_size=config.picture_size,
            channels=config.picture_decoder_width,
        )

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes."""
        return {"ids": [s.id for s in samples], **collate_pictures(self.config, samples, draws)}

    def forward(self, batch: Batch) -> Loss:
        """The mean absolute error of each picture, summed over the pictures."""
        error = self._error(batch).abs().mean((1, 2, 3))
        return Loss(error.sum(), torch.tensor(len(error), device=error.device))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """How far each picture drawn is from the one seen."""
        assert not self.training, "dropout and batch statistics would make records depend on chance"
        error = self._error(batch).double()
        absolute, squared = error.abs().mean((1, 2, 3)).tolist(), error.square().mean((1, 2, 3)).tolist()
        return [
            {"id": name, "absolute_error": a, "squared_error": s}
            for name, a, s in zip(batch["ids"], absolute, squared, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        """Mean absolute error and signal-to-noise ratio, over all pictures and for each."""
        return mean_scores(
            [
                {"val_loss": r["absolute_error"], "psnr": -10 * math.log10(max(r["squared_error"], LEAST_ERROR))}
                for r in records
            ]
        )

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:  # noqa: ARG002
        """Pictures, what was drawn of them, and where that is off."""
        shown = [samples[i] for i in range(min(RECONSTRUCTED, len(samples)))]
        pictures = self._seen(to_device(self.collate(shown, None), next(self.parameters()).device))
        return [reconstruction_drawing(pictures, self.picture_decoder(self.picture_encoder(pictures)).float())]

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files; a file's path is its sample's id."""
        return [Sample(s, read_picture(s, size=self.config.picture_size), ()) for s in sources]

    def said(self, record: Record) -> str:
        """How far off the drawn picture is."""
        return f"drawn with a mean absolute error of {record['absolute_error']:.3f} of 1"

    def _error(self, batch: Batch) -> Float[Tensor, "pictures 3 height width"]:
        pictures = self._seen(batch)
        return self.picture_decoder(self.picture_encoder(pictures)).float() - pictures

    def _seen(self, batch: Batch) -> Float[Tensor, "pictures 3 height width"]:
        return shown_pictures(batch, next(self.picture_decoder.parameters()).dtype)
