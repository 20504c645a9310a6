"""Random changes of training pictures: parameters drawn for each sample, applied to whole batches on their device."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vltune.contract import Draws
from vltune.errors import lookup

BASE = ("flip", "rotation", "contrast")
IMPROVED = (*BASE, "zoom", "brightness")
AUGMENTATIONS: dict[str, tuple[str, ...]] = {"none": (), "base": BASE, "improved": IMPROVED}
"""The changes of each augmentation; ``base`` and ``improved`` are those of the COCO Transformer study."""


def draw_augmentation(
    draws: Draws,
    ids: Sequence[str],
    *,
    augmentation: str,
    flip: float,
    rotation: float,
    contrast: float,
    zoom: float,
    brightness: float,
) -> Float[Tensor, "batch 5"]:
    """Parameters for ``augment``: each row is a function of seed, epoch and sample id alone.

    All five numbers are drawn whatever the augmentation uses, so that ``base`` and ``improved`` flip and turn a picture
    alike.

    Args:
        ids: the samples, one for each picture of the batch.
        augmentation: a key of ``AUGMENTATIONS``; what it does not use stays as it is.
        flip: probability of a mirror image, in [0, 1].
        rotation: largest angle in radians, either way; at least 0.
        contrast: largest change of the contrast's factor 1, either way; in [0, 1].
        zoom: largest change of the zoom's factor 1, either way; in [0, 1).
        brightness: largest share of the range of values that is added or taken away; in [0, 1].

    Raises:
        NotFound: there is no such augmentation.
    """
    used = lookup(AUGMENTATIONS, augmentation, "augmentation")
    if not used or not ids:
        return torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).repeat(len(ids), 1)
    uniform = np.stack([draws.generator(name, "augmentation").random(5) for name in ids])
    flipped, signed = uniform[:, 0] < flip, 2 * uniform - 1
    columns = (
        flipped * ("flip" in used),
        signed[:, 1] * rotation * ("rotation" in used),
        1 + signed[:, 2] * contrast * ("contrast" in used),
        1 + signed[:, 3] * zoom * ("zoom" in used),
        signed[:, 4] * brightness * ("brightness" in used),
    )
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def augment(
    pictures: Float[Tensor, "batch 3 height width"], parameters: Float[Tensor, "batch 5"]
) -> Float[Tensor, "batch 3 height width"]:
    """Mirrors, then turns and zooms about the centre, then changes contrast and brightness.

    The geometry is one bilinear sampling; beyond its border the picture is reflected. Parameters that change nothing
    give the very same picture.

    Args:
        pictures: values in [0, 1].
        parameters: for each picture (flip, rotation, contrast, zoom, brightness). Flip: 0 or 1. Rotation:
            anticlockwise, radians. Contrast: factor of the distance to the mean of each channel, as Keras'
            ``RandomContrast``. Zoom: factor of the visible part's sides, so above 1 things become smaller, as Keras'
            ``RandomZoom``. Brightness: what is added to the values, as Keras' ``RandomBrightness``.
    """
    flip, rotation, contrast, zoom, brightness = (
        parameters.to(pictures.device).float()[:, :, None, None, None].unbind(1)
    )
    moved = _sample(pictures.float(), flip[..., 0], rotation[..., 0], zoom[..., 0])
    # Sampling rounds even where nothing moves.
    still = (flip == 0) & (rotation == 0) & (zoom == 1)
    changed = torch.where(still, pictures.float(), moved)
    mean = changed.mean((2, 3), keepdim=True)
    # Added to the picture, not multiplied out, so that factor 1 is exact.
    changed = changed + (changed - mean) * (contrast - 1) + brightness
    return changed.clamp(0, 1).to(pictures.dtype)


def _sample(
    pictures: Float[Tensor, "batch 3 height width"],
    flip: Float[Tensor, "batch 1 1"],
    rotation: Float[Tensor, "batch 1 1"],
    zoom: Float[Tensor, "batch 1 1"],
) -> Float[Tensor, "batch 3 height width"]:
    """Reads each output pixel where it comes from.

    Not ``affine_grid``: it is a matrix product, which TF32 and autocast would round to whole pixels.
    """
    height, width = pictures.shape[2:]
    # Distances of pixel centres from the middle, in pixels: only there is a turn a turn if the picture is no square.
    down = torch.arange(height, device=pictures.device)[None, :, None] - (height - 1) / 2
    right = torch.arange(width, device=pictures.device)[None, None, :] - (width - 1) / 2
    cos, sin = zoom * rotation.cos(), zoom * rotation.sin()
    from_right = (1 - 2 * flip) * (right * cos - down * sin)
    from_down = right * sin + down * cos
    grid = torch.stack((from_right * (2 / width), from_down * (2 / height)), dim=-1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
