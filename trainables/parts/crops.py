"""Crops of pictures whose every position is known in the picture: drawn for each sample, cut on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vltune.contract import Draws
from vltune.errors import lookup


class Crop(NamedTuple):
    """What a setting does to the window that it cuts out."""

    enlarged: bool
    """To the picture's size; else it keeps its scale."""
    scaled: bool
    """Its side is drawn; else it is the smallest."""
    mirrored: bool
    """Some windows are mirrored."""


CROPS = {
    "shift": Crop(enlarged=False, scaled=False, mirrored=False),
    "zoom": Crop(enlarged=True, scaled=False, mirrored=False),
    "scale": Crop(enlarged=True, scaled=True, mirrored=False),
    "flip": Crop(enlarged=True, scaled=True, mirrored=True),
}
"""The crop settings. The windows of all four lie anywhere in the picture."""

EVALUATION = Draws(seed=0, epoch=0)
"""What evaluation draws from: all trials see the same crops, whatever their seed."""


def crop_pixels(crop: str, *, side: float, picture_size: int) -> int:
    """Side of the crops of a setting, in pixels."""
    return picture_size if CROPS[crop].enlarged else max(1, round(side * picture_size))


def draw_crops(
    draws: Draws | None, ids: Sequence[str], *, crop: str, side: float, flip: float, picture_size: int
) -> Float[Tensor, "pictures 4"]:
    """Windows for ``cut_crops``: each row is a function of seed, epoch and sample id alone.

    All settings draw the same numbers, so that ``scale`` and ``flip`` show the same windows.

    Args:
        draws: None when evaluating; the windows of a sample are always the same then.
        ids: the samples, one for each picture.
        crop: a key of ``CROPS``.
        side: smallest side of a window, as a share of the picture's; in (0, 1].
        flip: probability that ``flip`` mirrors, in [0, 1].
        picture_size: side of the pictures in pixels; ``shift`` cuts at whole ones.

    Raises:
        NotFound: there is no such setting.
    """
    kind = lookup(CROPS, crop, "crop")
    uniform = np.stack([(draws or EVALUATION).generator(name, "crop").random(4) for name in ids])
    if kind.enlarged:
        sides = side + (1 - side) * uniform[:, 2] * kind.scaled
        left, top = uniform[:, 0] * (1 - sides), uniform[:, 1] * (1 - sides)
    else:
        pixels = crop_pixels(crop, side=side, picture_size=picture_size)
        sides = np.full(len(ids), pixels / picture_size)
        left, top = np.floor(uniform[:, :2].T * (picture_size - pixels + 1)) / picture_size
    mirrored = (uniform[:, 3] < flip) & kind.mirrored
    return torch.from_numpy(np.stack((left, top, sides, mirrored), axis=1)).float()


def cut_crops(
    pictures: Float[Tensor, "pictures 3 height width"], windows: Float[Tensor, "pictures 4"], *, size: int
) -> Float[Tensor, "pictures 3 size size"]:
    """The windows of pictures, each resized bilinearly to a square.

    Args:
        pictures: any values.
        windows: for each picture left, top and side of its window as shares of the picture's side, and 1 if it is
            mirrored, else 0.
        size: side of the crops in pixels.
    """
    places = crop_positions(windows.to(pictures.device), size).unflatten(1, (size, size))
    cut = F.grid_sample(pictures.float(), 2 * places - 1, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.to(pictures.dtype)


def crop_positions(windows: Float[Tensor, "pictures 4"], side: int) -> Float[Tensor, "pictures positions 2"]:
    """Where in the picture the cells of a crop have their centres: shares of the picture's width and height.

    Args:
        windows: as for ``cut_crops``.
        side: cells along each side of the crop; they come row by row.
    """
    left, top, sides, mirrored = windows[:, :, None].unbind(1)
    across, down = grid_positions(side, device=windows.device).unbind(1)
    across = torch.where(mirrored > 0, 1 - across, across)
    return torch.stack((left + sides * across, top + sides * down), 2)


def grid_positions(side: int, *, device: torch.device) -> Float[Tensor, "positions 2"]:
    """Centres of the cells of a square, row by row: shares of its width and height.

    Args:
        side: cells along each side.
        device: where they are to lie.
    """
    centres = (torch.arange(side, device=device) + 0.5) / side
    return torch.cartesian_prod(centres, centres).flip(1)
