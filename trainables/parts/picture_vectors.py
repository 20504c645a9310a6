"""One vector for each picture, for classifiers: an encoder's vectors side by side."""

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.parts.encoders import Encoder


@torch.no_grad()
def count_positions(encoder: Encoder, *, picture_size: int) -> int:
    """How many vectors an encoder gives of a picture; 1 if they are pooled.

    Args:
        encoder: is left in its mode.
        picture_size: side of the pictures, in pixels.
    """
    was_training = encoder.training
    black = next(encoder.parameters()).new_zeros(1, 3, picture_size, picture_size)
    # In evaluation mode, in which statistics of batches stay as they are.
    positions = encoder.eval()(black).shape[1]
    encoder.train(was_training)
    return positions


def side_by_side(features: Float[Tensor, "pictures positions width"]) -> Float[Tensor, "pictures whole_width"]:
    """All vectors of each picture as one, so that a classifier knows which is from where."""
    return features.flatten(1)
