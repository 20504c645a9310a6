"""Turned pictures: by how much, which part, and that the angle cannot be read from how it was computed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.parts.rotation import inscribed_share, read_degrees, rotate
from vltune.errors import BadInput


def test_degrees() -> None:
    assert read_degrees("-60,-30,0,30,60") == (-60, -30, 0, 30, 60)
    assert read_degrees("0, 22.5") == (0, 22.5)


@pytest.mark.parametrize("text", ["", "30", "0,0", "-180,180", "0,x", "0,200", "0,,30", "0,nan", "0,inf"])
def test_what_is_no_list_of_angles(text: str) -> None:
    with pytest.raises(BadInput, match="write two or more different angles") as caught:
        read_degrees(text)
    assert "\n" not in str(caught.value)


def test_the_inscribed_square_by_its_corners() -> None:
    for degrees in [(0.0, 90.0), (45.0,), (-60.0, 0.0, 30.0), (10.0, 20.0)]:
        half = inscribed_share(degrees) / 2
        for angle in np.radians(degrees):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            corners = np.abs(turn @ (half * np.array([[1, 1, -1, -1], [1, -1, 1, -1]])))
            assert corners.max() <= 0.5 + 1e-12
    assert inscribed_share((0.0, 90.0)) == 1
    assert inscribed_share((45.0, 0.0)) == pytest.approx(2**-0.5)


def picture(side: int = 32) -> Tensor:
    """Smooth, and without symmetry."""
    across = torch.linspace(0, 1, side)
    red = across[None, :].expand(side, side)
    green = across[:, None].expand(side, side) ** 2
    return torch.stack((red, green, 0.3 * red + 0.2))[None]


def test_right_angles_are_right_angles() -> None:
    given, degrees = picture(), (0.0, 90.0, 180.0, -90.0)
    turned = rotate(given, torch.arange(4)[None], degrees=degrees, crop=True)
    for turn, found in zip((0, 1, 2, 3), turned, strict=True):
        expected = torch.rot90(given[0], turn, (1, 2))
        # Not at the border, where a blur knows nothing of what lies beyond.
        torch.testing.assert_close(found[:, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], atol=5e-3, rtol=0)


def test_the_classes_say_which_picture_is_turned_how() -> None:
    given = torch.cat((picture(), 1 - picture()))
    degrees = (0.0, 90.0, 180.0)
    turned = rotate(given, torch.tensor([[2, 0], [1, 2]]), degrees=degrees, crop=True)
    every = rotate(given, torch.arange(3).repeat(2, 1), degrees=degrees, crop=True)
    torch.testing.assert_close(turned, every[[2, 0, 4, 5]])


def test_a_crop_shows_nothing_but_the_picture_and_at_one_scale() -> None:
    degrees = (-45.0, 0.0, 45.0)
    side = 64
    given = torch.zeros(1, 3, side, side)
    along = torch.arange(side) - (side - 1) / 2
    distance = (along[:, None].square() + along[None, :].square()).sqrt()
    given[:, 0] = (distance < side / 4).float()  # a disc, the same at every angle
    given[:, 1, [0, -1], :] = given[:, 1, :, [0, -1]] = 1  # a frame
    cropped = rotate(given, torch.arange(3)[None], degrees=degrees, crop=True)
    sizes = cropped[:, 0].sum((1, 2))
    torch.testing.assert_close(sizes, sizes[:1].expand(3), rtol=0.01, atol=0)
    assert sizes[0] == pytest.approx(given[0, 0].sum().item() * 2, rel=0.05)  # (1 / 0.707)^2 as large
    # Nothing of the frame but the corners' tips at 45 degrees, and all of it without the crop.
    assert cropped[1, 1].max() == 0
    whole = rotate(given, torch.arange(3)[None], degrees=degrees, crop=False)
    assert whole[1, 1].max() > 0.3
    assert whole[1, 0].sum() == pytest.approx(given[0, 0].sum().item(), rel=0.05)


def test_noise_does_not_tell_the_angle() -> None:
    """Pixels of white noise covary alike in all directions at every angle, or the noise would give the angle away."""
    rng = torch.Generator().manual_seed(0)
    given = 0.5 + 0.1 * torch.randn(400, 3, 32, 32, generator=rng)
    turned = rotate(given, torch.arange(5).repeat(400, 1), degrees=read_degrees("-60,-30,0,30,60"), crop=True)
    inner = turned.unflatten(0, (400, 5))[..., 4:-4, 4:-4] - 0.5

    def covariance(down: int, right: int) -> Tensor:
        shifted = inner.roll((-down, -right), (-2, -1))[..., : 24 - 3, 3 : 24 - 3]
        return (inner[..., : 24 - 3, 3 : 24 - 3] * shifted).mean((0, 2, 3, 4))

    variance = covariance(0, 0)
    for down, right in [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 1), (1, 2)]:
        relative = covariance(down, right) / variance
        assert relative.max() - relative.min() < 0.03, (down, right, relative)
    assert variance.max() / variance.min() < 1.05
    # Nor does the noise come and go from place to place, in stripes along the pixels' old rows: what of 1,200 numbers
    # each is chance makes a spread of 0.04.
    by_place = inner.square().mean((0, 2))
    assert (by_place.std((1, 2)) / by_place.mean((1, 2))).max() < 0.052
