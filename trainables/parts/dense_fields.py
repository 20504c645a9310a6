"""The fields of families that compare dense features of two pictures, and what comes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from trainables.parts.correspondences import DISTANCES, Matches, in_order, match, principal_components
from trainables.parts.crops import CROPS, crop_pixels, crop_positions, cut_crops, draw_crops, grid_positions
from trainables.parts.dense import COLOURS, LAST, contrast, dense_features
from trainables.parts.encoders import Encoder, check_picture_size
from trainables.parts.masks import PicturePair
from trainables.parts.picture_fields import WIDTH_ONLY_WITH, PictureConfig, collate_pictures, shown_pictures, to_unit
from trainables.parts.pictures import read_picture
from vltune.configuration import in_range, one_of, only_with
from vltune.contract import Batch, Draws, Loss, Record, Sample
from vltune.errors import BadInput

CROP_FIELDS = ("crop", "crop_side", "crop_flip", "grid_side")
"""Fields that decide how hard a crop is to find."""


@dataclass(frozen=True, kw_only=True)
class DenseConfig(PictureConfig):
    """How dense features are made, learnt and compared."""

    epochs: int = 0
    """Passes over the training split; 0 evaluates the encoder as it is."""
    feature_layer: str = "last"
    """Layer whose features are compared: the number of a stage of the encoder, from ``1``; ``last``: what it gives in
    the end; ``colours``: the picture itself, without the encoder."""
    grid_side: int = 12
    """Positions along each side of a picture at which features are compared; finer maps are averaged, coarser ones
    interpolated. In [2, 64]."""
    pca_components: int = 0
    """Principal components of each pair's features that are kept; 0: the features as they are. At least 0."""
    distance: str = "cosine"
    """Of two vectors: ``cosine`` or ``euclidean``."""
    crop: str = "scale"
    """``shift`` (a window of a fixed side, at its own scale), ``zoom`` (enlarged to the picture's size), ``scale`` (and
    its side varies) or ``flip`` (and some are mirrored). It lies anywhere in the picture."""
    crop_side: float = 0.5
    """Smallest side of a crop's window, as a share of the picture's. In (0, 1]."""
    crop_flip: float = 0.5
    """``flip``: probability that a crop is mirrored. In [0, 1]."""
    temperature: float = 0.1
    """What cosines are divided by in the contrastive loss. Above 0."""
    shown_matches: int = 10
    """Matches that a record lists, the best-scored. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, table in {"distance": DISTANCES, "crop": CROPS}.items():
            one_of(self, key, table)
        layer = self.feature_layer
        if layer not in (LAST, COLOURS) and not (layer.isascii() and layer.isdigit() and int(layer) > 0):
            raise BadInput(f"feature_layer={layer!r} is not possible; choose last, colours, or a number from 1.")
        in_range(self, "grid_side", 2, 64)
        in_range(self, "pca_components", 0)
        in_range(self, "crop_side", 0, 1, above=True)
        in_range(self, "crop_flip", 0, 1)
        in_range(self, "temperature", 0, above=True)
        in_range(self, "shown_matches", 1)
        only_with(self, {"crop_flip": ("crop", ("flip",)), **WIDTH_ONLY_WITH})
        if self.features != "grid":
            raise BadInput(f"features={self.features!r} has no positions to compare: leave features at 'grid'.")
        if self.epochs and (layer == COLOURS or not self.train_encoder):
            reason = "feature_layer='colours'" if layer == COLOURS else "train_encoder=false"
            raise BadInput(f"epochs={self.epochs} has no effect with {reason}, which trains nothing: set epochs=0.")
        if layer != COLOURS:
            self._check_crop_size()

    def _check_crop_size(self) -> None:
        pixels = crop_pixels(self.crop, side=self.crop_side, picture_size=self.picture_size)
        try:
            check_picture_size(self.picture_encoder, pixels)
        except BadInput as error:
            raise BadInput(
                f"crop={self.crop!r} with crop_side={self.crop_side} makes crops of {pixels} pixels: {error}"
            ) from error


def collate_crops(config: DenseConfig, samples: Sequence[Sample], draws: Draws | None) -> Batch:
    """Pictures as bytes, and the windows of their crops."""
    ids = [s.id for s in samples]
    windows = draw_crops(
        draws,
        ids,
        crop=config.crop,
        side=config.crop_side,
        flip=config.crop_flip,
        picture_size=config.picture_size,
    )
    return {"ids": ids, "windows": windows, **collate_pictures(config, samples, draws)}


def collate_pairs(pairs: Sequence[PicturePair]) -> Batch:
    """Pictures and their partners as bytes."""
    pictures = {"pictures": [p.picture for p in pairs], "others": [p.other for p in pairs]}
    return {"ids": [p.id for p in pairs]} | {
        key: torch.from_numpy(np.stack([p for p in given if p is not None])) for key, given in pictures.items()
    }


def encode_crops(
    encoder: Encoder, config: DenseConfig, batch: Batch
) -> tuple[Float[Tensor, "pictures positions channels"], Float[Tensor, "pictures places channels"]]:
    """Features of crops and of the whole pictures."""
    crops, pictures = crops_and_pictures(config, batch, next(encoder.parameters()).dtype)
    size, layer, side = crops.shape[-1], config.feature_layer, config.grid_side
    if size == config.picture_size:
        both = dense_features(encoder, torch.cat((crops, pictures)), layer=layer, side=side)
        return both[: len(crops)], both[len(crops) :]
    # At its own scale a crop has as many positions as its window in the picture has.
    fewer = max(1, round(side * size / config.picture_size))
    return (
        dense_features(encoder, crops, layer=layer, side=fewer),
        dense_features(encoder, pictures, layer=layer, side=side),
    )


def crops_and_pictures(
    config: DenseConfig, batch: Batch, dtype: torch.dtype
) -> tuple[Float[Tensor, "pictures 3 size size"], Float[Tensor, "pictures 3 height width"]]:
    """Crops and the whole pictures, as the encoder sees them."""
    pictures = shown_pictures(batch, dtype)
    size = crop_pixels(config.crop, side=config.crop_side, picture_size=config.picture_size)
    return cut_crops(pictures, batch["windows"], size=size), pictures


def encode_whole(
    encoder: Encoder, config: DenseConfig, pictures: UInt8[Tensor, "pictures height width 3"]
) -> Float[Tensor, "pictures positions channels"]:
    """Features of pictures given as bytes."""
    shown = to_unit(pictures, next(encoder.parameters()).dtype)
    return dense_features(encoder, shown, layer=config.feature_layer, side=config.grid_side)


def true_places(
    crops: Float[Tensor, "pictures positions channels"], batch: Batch
) -> Float[Tensor, "pictures positions 2"]:
    """Where the positions of crops lie in their pictures: shares of the sides."""
    return crop_positions(batch["windows"], math.isqrt(crops.shape[1]))


def crop_loss(
    config: DenseConfig,
    crops: Float[Tensor, "pictures positions channels"],
    pictures: Float[Tensor, "pictures places channels"],
    batch: Batch,
) -> tuple[Loss, Float[Tensor, " pictures"]]:
    """The contrastive loss, summed over the positions of all crops, and for each picture."""
    return contrast(crops, pictures, truth=true_places(crops, batch), temperature=config.temperature)


def find_matches(
    config: DenseConfig,
    source: Float[Tensor, "pairs positions channels"],
    target: Float[Tensor, "pairs places channels"],
) -> Matches:
    """The nearest neighbours, among principal components if the configuration says so."""
    if config.pca_components:
        source, target = principal_components(source, target, count=config.pca_components)
    return match(source, target, distance=config.distance)


def rank_matches(
    config: DenseConfig, matches: Matches, *, score: str
) -> tuple[Int[Tensor, "pairs positions"], list[list[list[float]]]]:
    """The order of matches by score, and the best of each pair.

    Of each the list tells x, y in the first picture, x, y in the second, all in percent of the sides, and the score.
    """
    of_source, of_target = (
        grid_positions(side, device=matches.places.device)
        for side in (math.isqrt(matches.places.shape[1]), config.grid_side)
    )
    order, scores = in_order(matches, of_source, score=score)
    best = order[:, : config.shown_matches]
    places = 100 * torch.cat((of_source[best], of_target[matches.places.gather(1, best)]), 2)
    rows = torch.cat((places, scores[:, : best.shape[1], None]), 2)
    return order, [[[round(value, 4) for value in row] for row in pair] for pair in rows.tolist()]


def match_pairs(encoder: Encoder, config: DenseConfig, batch: Batch, *, score: str) -> list[Record]:
    """Where the positions of each first picture lie in the second."""
    first, second = (encode_whole(encoder, config, batch[key]) for key in ("pictures", "others"))
    _, best = rank_matches(config, find_matches(config, first, second), score=score)
    return [{"id": i, "matches": rows} for i, rows in zip(batch["ids"], best, strict=True)]


def mean_loss(records: Sequence[Record]) -> dict[str, float]:
    """``val_loss``: the contrastive loss for each position of a crop."""
    return {"val_loss": sum(r["nll"] for r in records) / sum(r["positions"] for r in records)}


def read_pairs(sources: Sequence[str], *, size: int) -> list[Sample]:
    """Pairs of pictures from files: the first and the second, the third and the fourth.

    Raises:
        NotFound: a file is not there.
        BadInput: a file is no picture, or one has no partner.
    """
    if len(sources) % 2:
        raise BadInput(f"{sources[-1]}: has no partner; places are found again from one picture to another: give two.")
    return [
        PicturePair(f"{one} -> {two}", read_picture(one, size=size), (), other=read_picture(two, size=size))
        for one, two in zip(sources[::2], sources[1::2], strict=True)
    ]


def said_matches(record: Record) -> str:
    """The best matches of a pair in one line."""
    told = (f"({x:.0f}, {y:.0f}) -> ({u:.0f}, {v:.0f})" for x, y, u, v, _ in record["matches"])
    return f"{', '.join(told)} (percent of width and height, the best-scored first)"
