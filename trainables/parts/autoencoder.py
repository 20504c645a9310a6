"""A convolutional autoencoder: the layers that make a picture small, and the decoder that draws it again."""

import math
from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vltune.errors import BadInput

AUTOENCODER_WIDTHS = (32, 64, 128, 128, 64)
"""Channels of the encoder's convolutions, each of which halves the picture."""


def autoencoder_layers() -> nn.Sequential:
    """The encoder: five convolutions of stride 2, each with batch normalisation and ReLU.

    The matching study names the length of what its encoder gives, 576, and draws the rest. 64 channels at 3x3
    positions, as come of pictures of 96 pixels, are 576 numbers; the layers before are ours.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(pairwise((3, *AUTOENCODER_WIDTHS)), start=1):
        layers[f"convolution{number}"] = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers[f"normalization{number}"] = nn.BatchNorm2d(after)
        layers[f"activation{number}"] = nn.ReLU()
    return nn.Sequential(layers)


class PictureDecoder(nn.Module):
    """Draws pictures from vectors of their positions: transposed convolutions, each of which doubles the side."""

    def __init__(self, *, width: int, positions: int, picture_size: int, channels: int) -> None:
        """The decoder for what one encoder gives.

        Args:
            width: length of the vectors.
            positions: how many there are of a picture; a square number, row by row.
            picture_size: side of the pictures, in pixels.
            channels: of the last layer before colours; doubled in each layer before, up to eight times.

        Raises:
            BadInput: the positions are no square.
        """
        super().__init__()
        self._side, self._size = math.isqrt(positions), picture_size
        if self._side**2 != positions:
            raise BadInput(
                f"a picture cannot be drawn from {positions} positions, which make no square: take another "
                "picture_encoder or picture_size."
            )
        doublings = max(0, math.ceil(math.log2(picture_size / self._side)))
        widths = [channels * min(8, 2 ** (doublings - layer)) for layer in range(doublings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(width, widths[0], 1), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(
        self, features: Float[Tensor, "pictures positions width"]
    ) -> Float[Tensor, "pictures 3 height_drawn width_drawn"]:
        """Pictures with values in [0, 1]."""
        maps = features.transpose(1, 2).unflatten(2, (self._side, self._side))
        drawn = self.layers(maps)
        if drawn.shape[-1] != self._size:
            drawn = F.interpolate(drawn.float(), (self._size, self._size), mode="bilinear", antialias=True)
        return torch.sigmoid(drawn)
