"""Dense features: a vector for each position of a picture, from any layer of an encoder, and what teaches them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trainables.parts.encoders import Encoder, freeze, stages
from vltune.contract import Loss
from vltune.errors import BadInput

LAST, COLOURS = "last", "colours"
"""Layers that have no number: what the encoder gives in the end, and the normalised picture itself."""


def dense_features(
    encoder: Encoder, pictures: Float[Tensor, "pictures 3 height width"], *, layer: str, side: int
) -> Float[Tensor, "pictures positions channels"]:
    """Vectors of square pictures on a grid of ``side`` x ``side`` positions, row by row.

    Maps that are finer are averaged, coarser ones interpolated: so that layers and encoders are compared by the same
    number of positions.

    Args:
        encoder: with the features ``grid``.
        pictures: values in [0, 1].
        layer: ``last``, ``colours``, or the number of a stage of the encoder, from 1.
        side: positions along each side.
    """
    maps = _maps(encoder, pictures, layer)
    if maps.shape[2] > side:
        maps = F.adaptive_avg_pool2d(maps, side)
    elif maps.shape[2] < side:
        maps = F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def keep_layers_before(encoder: Encoder, layer: str) -> None:
    """Stops the learning of all layers behind one: they run no more.

    They stay, so that a whole encoder's weights fit, and an encoder that learnt here fits elsewhere.

    Args:
        encoder: is changed.
        layer: as for ``dense_features``.

    Raises:
        BadInput: the encoder has no such layer.
    """
    if layer == COLOURS:
        freeze(encoder)
    elif layer != LAST:
        layers = list(stages(encoder.body))
        if int(layer) > len(layers):
            raise BadInput(f"feature_layer={layer!r} is not in this encoder: its layers are 1 to {len(layers)}.")
        if int(layer) < len(layers):
            for later in (*layers[int(layer) :], encoder.dense):
                later.requires_grad_(requires_grad=False)


def contrast(
    source: Float[Tensor, "pictures positions channels"],
    target: Float[Tensor, "pictures places channels"],
    *,
    truth: Float[Tensor, "pictures positions 2"],
    temperature: float,
) -> tuple[Loss, Float[Tensor, " pictures"]]:
    """InfoNCE over positions: each vector of the source is to be most like the target's at its true place.

    As DenseCL (https://arxiv.org/abs/2011.09157), with differences: which positions belong together is known from the
    crop's geometry, as in PixPro (https://arxiv.org/abs/2011.10043), and shared bilinearly among the up to four
    nearest cells; negatives are the other positions of the same picture, so that the loss is what matching needs and
    depends on no other picture; there is no head, since the features themselves are matched.

    Args:
        source: vectors of crops.
        target: vectors of the pictures, on a square grid.
        truth: where the source's positions lie in the target: shares of its width and height.
        temperature: what cosines are divided by. Above 0.

    Returns:
        The sum over all positions with their number, and the sum for each picture.
    """
    side = math.isqrt(target.shape[1])
    assert side * side == target.shape[1], "the target's positions must make a square"
    cells = (truth * side - 0.5).clamp(0, side - 1)
    across, down = (1 - (cells[..., None] - torch.arange(side, device=cells.device)).abs()).clamp(min=0).unbind(2)
    wanted = (down[..., :, None] * across[..., None, :]).flatten(2)
    with torch.autocast(source.device.type, enabled=False):
        cosines = F.normalize(source.float(), dim=2) @ F.normalize(target.float(), dim=2).mT
        sums = -(wanted * (cosines / temperature).log_softmax(2)).sum((1, 2))
    return Loss(sums.sum(), torch.tensor(source.shape[0] * source.shape[1], device=source.device)), sums


def _maps(
    encoder: Encoder, pictures: Float[Tensor, "pictures 3 height width"], layer: str
) -> Float[Tensor, "pictures channels rows columns"]:
    if layer == COLOURS:
        return encoder.run(pictures, ())
    layers = list(stages(encoder.body))
    if layer in (LAST, str(len(layers))):
        columns = encoder(pictures).mT
    else:
        output = encoder.run(pictures, layers[: int(layer)])
        if output.ndim == 4:
            return output
        # A vision Transformer's tokens; the first, of the class, lies nowhere in the picture.
        columns = output[:, 1:].mT
    side = math.isqrt(columns.shape[2])
    return columns.unflatten(2, (side, side))
