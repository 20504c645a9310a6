"""Fully connected classifiers, described by their widths as text."""

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from vltune.errors import BadInput, lookup

CLASSIFIER_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def read_widths(text: str) -> tuple[int, ...]:
    """The widths of a classifier's layers, the last of which is its outputs.

    Args:
        text: such as ``512-256-2``.

    Raises:
        BadInput: it is no such text.
    """
    parts = text.split("-")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise BadInput(
            f"classifier_widths={text!r} is no list of widths: write whole numbers above 0 joined by '-', the outputs "
            "last, such as 512-256-2."
        )
    return tuple(map(int, parts))


def build_classifier(width: int, *, widths: tuple[int, ...], activation: str, dropout: float) -> nn.Sequential:
    """Linear layers, with activation and dropout between them.

    Args:
        width: length of what is classified.
        widths: of the layers, the outputs last.
        activation: a key of ``CLASSIFIER_ACTIVATIONS``.
        dropout: share of the hidden activations that are zeroed in training, in [0, 1).

    Raises:
        NotFound: there is no such activation.
    """
    act = lookup(CLASSIFIER_ACTIVATIONS, activation, "classifier_activation")
    layers: list[nn.Module] = []
    for before, after in pairwise((width, *widths)):
        layers += [nn.Linear(before, after), act(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
