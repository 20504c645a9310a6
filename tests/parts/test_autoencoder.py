"""The autoencoder's two halves."""

import pytest
import torch

from trainables.parts.autoencoder import PictureDecoder, autoencoder_layers
from trainables.parts.encoders import Encoder, build_encoder
from trainables.parts.picture_vectors import count_positions, side_by_side
from vltune.errors import BadInput


def encoder(*, features: str = "grid") -> Encoder:
    return build_encoder(
        "autoencoder",
        weights="none",
        picture_size=96,
        features=features,
        cnn_width=4,
        cnn_extra_layers=0,
        cnn_activation="relu",
    )


@torch.no_grad()
def test_the_encoder_gives_the_576_numbers_of_the_study() -> None:
    assert autoencoder_layers()(torch.rand(2, 3, 96, 96)).shape == (2, 64, 3, 3)
    assert encoder()(torch.rand(2, 3, 96, 96)).flatten(1).shape == (2, 576)
    assert encoder(features="pooled")(torch.rand(2, 3, 96, 96)).shape == (2, 1, 64)


@torch.no_grad()
@pytest.mark.parametrize(
    ("positions", "size"), [(1, 32), (9, 96), (9, 80), (16, 16), (49, 30), (4, 33)], ids=lambda value: str(value)
)
def test_pictures_of_any_size_from_any_square_of_positions(positions: int, size: int) -> None:
    decoder = PictureDecoder(width=5, positions=positions, picture_size=size, channels=2).eval()
    drawn = decoder(torch.randn(2, positions, 5))
    assert drawn.shape == (2, 3, size, size)
    assert 0 <= drawn.min() < drawn.max() <= 1


@torch.no_grad()
def test_a_position_is_drawn_where_it_is() -> None:
    torch.manual_seed(0)
    decoder = PictureDecoder(width=5, positions=16, picture_size=64, channels=2).eval()
    given = torch.randn(1, 16, 5)
    changed = given.clone()
    changed[0, 7] += 3  # row 1, column 3 of four
    rows, columns = ((decoder(given) - decoder(changed)).abs().sum((0, 1)) > 1e-6).nonzero().unbind(1)
    middle = (rows.float().mean().item() / 64, columns.float().mean().item() / 64)
    assert middle == pytest.approx((1.5 / 4, 3.2 / 4), abs=0.1)


def test_positions_that_are_no_square_are_refused() -> None:
    with pytest.raises(BadInput, match="from 8 positions, which make no square") as caught:
        PictureDecoder(width=5, positions=8, picture_size=32, channels=2)
    assert "\n" not in str(caught.value)


def test_positions_are_counted_without_a_trace() -> None:
    model = encoder().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert count_positions(model, picture_size=96) == 9
    assert count_positions(model, picture_size=70) == 9
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor)
    assert count_positions(encoder(features="pooled"), picture_size=96) == 1


def test_vectors_lie_side_by_side_in_order() -> None:
    features = torch.arange(12.0).reshape(2, 3, 2)
    assert side_by_side(features).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
