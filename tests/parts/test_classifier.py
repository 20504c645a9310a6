"""Classifiers from their widths."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainables.parts.classifier import build_classifier, read_widths
from vltune.errors import BadInput


@pytest.mark.parametrize(("text", "widths"), [("512-256-2", (512, 256, 2)), ("2", (2,)), ("64-32-1", (64, 32, 1))])
def test_widths(text: str, widths: tuple[int, ...]) -> None:
    assert read_widths(text) == widths


@pytest.mark.parametrize("text", ["", "512-", "-2", "512--2", "512,2", "0-2", "a-2", "2.5", "٣-2", " 2"])
def test_what_is_no_list_of_widths(text: str) -> None:
    with pytest.raises(BadInput, match="is no list of widths") as caught:
        read_widths(text)
    assert "\n" not in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize(("activation", "function"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_it_is_linear_layers_with_activations_between(activation: str, function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(6, widths=(5, 4, 2), activation=activation, dropout=0.5).eval()
    first, second, last = (layer for layer in classifier if isinstance(layer, nn.Linear))
    given = torch.randn(3, 6)
    hidden = function(second(function(first(given))))
    torch.testing.assert_close(classifier(given), last(hidden))


def test_dropout_spares_the_outputs() -> None:
    assert [type(m) for m in build_classifier(6, widths=(2,), activation="relu", dropout=0.5)] == [nn.Linear]
    deep = build_classifier(6, widths=(3, 2), activation="tanh", dropout=0.5)
    assert [type(m) for m in deep] == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]
