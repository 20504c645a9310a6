"""The fields that every family with a picture encoder has, and what is made of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trainables.parts.augmentation import AUGMENTATIONS, IMPROVED, augment, draw_augmentation
from trainables.parts.encoders import (
    ACTIVATIONS,
    ENCODERS,
    FEATURES,
    Encoder,
    build_encoder,
    check_picture_size,
    freeze,
    weights_file,
)
from trainables.parts.kept_folders import open_kept_folder
from vltune.checkpoints import hash_tensors
from vltune.configuration import Library, TrialConfig, in_range, one_of, only_with
from vltune.contract import Batch, Data, Draws, Features, Sample, fingerprint
from vltune.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class PictureConfig(TrialConfig):
    """How pictures are read, changed and encoded."""

    picture_size: int = 96
    """Side of the square pictures that the encoder sees, in pixels. At least what the encoder needs."""
    picture_encoder: str = "cnn"
    """``cnn`` (small, from scratch), ``autoencoder``, ``efficientnet_b0``, ``efficientnet_b7``, ``resnet18``,
    ``resnet50``, ``inception_v3``, ``densenet121``, ``vit_b_16`` or ``convnext_tiny``."""
    weights: str = "none"
    """First weights of the encoder: ``none`` (random), ``imagenet``, or the path of a file."""
    weights_hash: str = ""
    """SHA-256 of the file of first weights; filled in when the search starts, and checked when they are read."""
    train_encoder: bool = True
    """Whether the encoder learns; without it, its weights and statistics stay as they are."""
    features: str = "grid"
    """``grid``: a vector for each position of the picture; ``pooled``: one, their mean."""
    cnn_width: int = 32
    """``cnn``: channels of the first convolution, doubled in each of the next three. At least 1."""
    cnn_extra_layers: int = 0
    """``cnn``: convolutions beyond the four. At least 0."""
    cnn_activation: str = "relu"
    """``cnn``: ``relu`` or ``leaky_relu``."""
    cnn_batch_norm: bool = False
    """``cnn``: whether each convolution is followed by batch normalisation, which the study's network has not."""
    embedding_width: int = 256
    """Length of the vectors of words and of picture positions; a Transformer's width. At least 1."""
    augmentation: str = "none"
    """Changes of training pictures: ``none``, ``base`` (flip, rotation, contrast), ``improved`` (all five)."""
    augmentation_flip: float = 0.5
    """Probability of a mirror image. In [0, 1]."""
    augmentation_rotation: float = 0.2
    """Largest rotation either way, in radians. In [0, 3.2]."""
    augmentation_contrast: float = 0.3
    """Largest change of the contrast's factor 1, either way. In [0, 1]."""
    augmentation_zoom: float = 0.2
    """Largest change of the zoom's factor 1, either way. In [0, 1)."""
    augmentation_brightness: float = 0.2
    """Largest share of the range of values that is added or taken away. In [0, 1]."""
    allow_leakage: bool = False
    """Takes data whose splits share pictures, and says so in the notes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "picture_encoder": ENCODERS,
            "features": FEATURES,
            "cnn_activation": ACTIVATIONS,
            "augmentation": AUGMENTATIONS,
        }
        for key, table in choices.items():
            one_of(self, key, table)
        for key, low in {"cnn_width": 1, "cnn_extra_layers": 0, "embedding_width": 1, "picture_size": 1}.items():
            in_range(self, key, low)
        for key in ("augmentation_flip", "augmentation_contrast", "augmentation_brightness"):
            in_range(self, key, 0, 1)
        in_range(self, "augmentation_zoom", 0, 1, below=True)
        in_range(self, "augmentation_rotation", 0, 3.2)
        check_picture_size(self.picture_encoder, self.picture_size)
        if self.weights == "imagenet" and ENCODERS[self.picture_encoder].imagenet is None:
            raise BadInput(f"weights='imagenet' does not exist for {self.picture_encoder!r}; take weights='none'.")
        if self.weights_hash and self.weights == "none":
            raise BadInput(f"weights_hash={self.weights_hash!r} has no effect with weights='none': leave it out.")
        only_with(self, ONLY_WITH)

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the encoder's first weights made absolute."""
        weights = fields.get("weights", "none")
        whole = {} if weights in ("none", "imagenet") else {"weights": str(Path(weights).expanduser().absolute())}
        return {**super().with_absolute_paths(fields), **whole}

    def find_sources(self, library: Library) -> "PictureConfig":
        """The same, with the path and the hash of the encoder's first weights, which are fetched if need be."""
        found = super().find_sources(library)
        file, weights_hash = weights_file(self.picture_encoder, self.weights, weights_hash=self.weights_hash)
        if file is None:
            return found
        weights = self.with_absolute_paths({"weights": self.weights})["weights"]
        return dataclasses.replace(found, weights=weights, weights_hash=weights_hash)

    def without_sources(self) -> "PictureConfig":
        """The same, for a model whose weights come from a checkpoint: the encoder's first weights are not read."""
        return dataclasses.replace(super().without_sources(), weights="none", weights_hash="")


def open_pictures(config: PictureConfig, cache: str) -> Data:
    """A folder of pictures with captions. Its splits do not depend on the seed: all trials share them."""
    size, leakage = config.picture_size, config.allow_leakage
    return open_kept_folder(config.data, picture_size=size, cache=cache, allow_leakage=leakage)


def build_picture_encoder(config: PictureConfig) -> Encoder:
    """The encoder that a configuration describes, frozen if it is not to learn."""
    encoder = build_encoder(
        config.picture_encoder,
        weights=config.weights,
        weights_hash=config.weights_hash,
        picture_size=config.picture_size,
        features=config.features,
        cnn_width=config.cnn_width,
        cnn_extra_layers=config.cnn_extra_layers,
        cnn_activation=config.cnn_activation,
        cnn_batch_norm=config.cnn_batch_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        embedding_width=config.embedding_width,
    )
    return encoder if config.train_encoder else freeze(encoder)


def picture_features(encoder: Encoder, config: PictureConfig, *, fixed: bool = False) -> Features | None:
    """An encoder's vectors of pictures, (pictures, positions, width), where they are the same in all epochs.

    Args:
        encoder: made by ``build_picture_encoder``.
        config: its configuration.
        fixed: nothing of the model learns, and nothing is augmented, whatever the configuration says.
    """
    if not fixed and (config.train_encoder or config.augmentation != "none"):
        return None

    def key() -> str:
        settings = [config.picture_encoder, config.picture_size, config.features, config.embedding_width]
        # An activation leaves no trace among the weights.
        settings += [config.cnn_width, config.cnn_extra_layers, config.cnn_activation, config.cnn_batch_norm]
        return fingerprint([*settings, hash_tensors(encoder.state_dict())])

    return Features(key, lambda samples: _encode(encoder, samples))


@torch.no_grad()
def _encode(encoder: Encoder, samples: Sequence[Sample]) -> np.ndarray:
    weight = next(encoder.parameters())
    stacked = torch.from_numpy(np.stack([s.picture for s in samples if s.picture is not None]))
    return encoder(to_unit(stacked.to(weight.device), weight.dtype)).float().cpu().numpy()


def collate_pictures(config: PictureConfig, samples: Sequence[Sample], draws: Draws | None) -> Batch:
    """Pictures as bytes, and in training what augmentation does to each of them; features, where samples have them."""
    if samples and all(s.features is not None for s in samples):
        return {"features": torch.from_numpy(np.stack([s.features for s in samples if s.features is not None]))}
    pictures = [s.picture for s in samples if s.picture is not None]
    assert len(pictures) == len(samples), "every sample needs a picture"
    batch: Batch = {"pictures": torch.from_numpy(np.stack(pictures))}
    if draws is not None and config.augmentation != "none":
        batch["augmentation"] = draw_augmentation(
            draws,
            [s.id for s in samples],
            augmentation=config.augmentation,
            flip=config.augmentation_flip,
            rotation=config.augmentation_rotation,
            contrast=config.augmentation_contrast,
            zoom=config.augmentation_zoom,
            brightness=config.augmentation_brightness,
        )
    return batch


def to_unit(
    pictures: UInt8[Tensor, "pictures height width 3"], dtype: torch.dtype
) -> Float[Tensor, "pictures 3 height width"]:
    """Bytes as numbers in [0, 1], channels first. Bytes travel to the device, a quarter of the floats' size."""
    return pictures.permute(0, 3, 1, 2).to(dtype) / 255


def shown_pictures(batch: Batch, dtype: torch.dtype) -> Float[Tensor, "pictures 3 height width"]:
    """The pictures of a batch as the encoder sees them: numbers in [0, 1], augmented in training."""
    pictures = to_unit(batch["pictures"], dtype)
    return augment(pictures, batch["augmentation"]) if "augmentation" in batch else pictures


WIDTH_ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "embedding_width": ("picture_encoder", ("cnn", "autoencoder"))
}
"""For families in which nothing but the picture encoder has that width."""

ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "cnn_width": ("picture_encoder", ("cnn",)),
    "cnn_extra_layers": ("picture_encoder", ("cnn",)),
    "cnn_activation": ("picture_encoder", ("cnn",)),
    "cnn_batch_norm": ("picture_encoder", ("cnn",)),
    **{
        f"augmentation_{c}": ("augmentation", tuple(n for n in AUGMENTATIONS if c in AUGMENTATIONS[n]))
        for c in IMPROVED
    },
}
"""Fields that are read only if another field has one of these values."""
