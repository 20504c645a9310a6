"""Pictures turned by known angles, for a network that is to tell by how much."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vltune.errors import BadInput

_BLUR = 1.0
"""Standard deviation of the blur before turning, in pixels."""


def read_degrees(text: str) -> tuple[float, ...]:
    """Angles in degrees, anticlockwise.

    Args:
        text: such as ``-60,-30,0,30,60``: at least two, all different, in [-180, 180].

    Raises:
        BadInput: it is no such text.
    """
    rule = f"rotation_degrees={text!r}: write two or more different angles in [-180, 180], such as -60,-30,0,30,60."
    try:
        degrees = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(rule) from error
    # -180 and 180 are the same angle.
    different = len({angle % 360 for angle in degrees})
    if different < max(2, len(degrees)) or not all(-180 <= angle <= 180 for angle in degrees):
        raise BadInput(rule)
    return degrees


def inscribed_share(degrees: Sequence[float]) -> float:
    """Side of the upright square that lies inside a unit square turned by any of the angles, in (0.7, 1]."""
    turns = [math.radians(angle) for angle in degrees]
    return min(1 / (abs(math.sin(turn)) + abs(math.cos(turn))) for turn in turns)


def rotate(
    pictures: Float[Tensor, "pictures 3 side side"],
    classes: Int[Tensor, "pictures turns"],
    *,
    degrees: Sequence[float],
    crop: bool,
) -> Float[Tensor, "turned 3 side side"]:
    """Each picture turned by some of the angles, picture after picture.

    The angle must be seen in what the picture shows, not in how it was computed. Pixels lie in rows and columns, and a
    turn turns these: the angle can be read from a picture's noise alone. So pictures are blurred first, alike in all
    directions, at every angle, and sampled by bicubic interpolation.

    Args:
        pictures: values in [0, 1].
        classes: for each picture, which of the angles.
        degrees: the angles, anticlockwise.
        crop: show the largest square that lies inside the picture at every angle, for all angles the same part, so
            that neither corners nor scale tell the angle; else the corners are filled by reflection.
    """
    side, device = pictures.shape[-1], pictures.device
    radians = torch.tensor([math.radians(angle) for angle in degrees], device=device)[classes.flatten()][:, None, None]
    scale = (inscribed_share(degrees) if crop else 1.0) * 2 / side
    # Distances of pixel centres from the middle.
    along = torch.arange(side, device=device) - (side - 1) / 2
    right, down = along[None, None, :], along[None, :, None]
    cos, sin = scale * radians.cos(), scale * radians.sin()
    grid = torch.stack((right * cos - down * sin, right * sin + down * cos), dim=-1)
    with torch.autocast(device.type, enabled=False):
        blurred = gaussian_blur(pictures.float(), [2 * round(3 * _BLUR) + 1] * 2, [_BLUR] * 2)
        repeated = blurred.repeat_interleave(classes.shape[1], 0)
        turned = F.grid_sample(repeated, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return turned.clamp(0, 1).to(pictures.dtype)
