"""Crops against slices and Pillow's resizing, and properties of what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.parts.crops import CROPS, crop_pixels, crop_positions, cut_crops, draw_crops, grid_positions
from vltune.contract import Draws
from vltune.errors import NotFound

torch.set_num_threads(1)
IDS = [f"p{i}" for i in range(200)]
every_crop = pytest.mark.parametrize("crop", CROPS)


def windows(crop: str, draws: Draws | None = None, ids: list[str] = IDS, side: float = 0.4) -> torch.Tensor:
    return draw_crops(draws, ids, crop=crop, side=side, flip=0.5, picture_size=30)


def positions_picture(size: int) -> torch.Tensor:
    """A picture whose red is x and whose green is y, as shares of its sides."""
    places = grid_positions(size, device=torch.device("cpu")).T.reshape(1, 2, size, size)
    return torch.cat((places, torch.zeros(1, 1, size, size)), 1)


@every_crop
def test_windows_lie_in_the_picture_and_reach_its_borders(crop: str) -> None:
    left, top, side, mirrored = windows(crop).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + side <= 1 + 1e-6).all()
    assert (top + side <= 1 + 1e-6).all()
    assert left.min() < 0.05
    assert (left + side).max() > 0.95
    if CROPS[crop].scaled:
        assert 0.4 <= side.min() < 0.45 < 0.95 < side.max() <= 1
    else:
        torch.testing.assert_close(side, torch.full((200,), 0.4))
    assert mirrored.mean().item() == pytest.approx(0.5 if crop == "flip" else 0, abs=0.12)


@every_crop
def test_draws_follow_the_sample_the_epoch_and_the_seed_alone(crop: str) -> None:
    draws = Draws(1, 2)
    torch.testing.assert_close(windows(crop, draws)[3:5], windows(crop, draws, IDS[3:5]))
    for other in (Draws(1, 3), Draws(2, 2), None):
        assert not torch.equal(windows(crop, other)[:, :2], windows(crop, draws)[:, :2])
    assert torch.equal(windows(crop), windows(crop))


def test_flip_shows_the_windows_of_scale() -> None:
    assert torch.equal(windows("flip")[:, :3], windows("scale")[:, :3])


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(NotFound, match="unknown crop 'shft'; did you mean 'shift'"):
        windows("shft")


def test_crops_that_are_only_shifted_are_slices() -> None:
    pictures = torch.from_numpy(np.random.default_rng(0).random((8, 3, 30, 30))).float()
    given = windows("shift", ids=IDS[:8])
    assert crop_pixels("shift", side=0.4, picture_size=30) == 12
    assert crop_pixels("zoom", side=0.4, picture_size=30) == 30
    for picture, window, crop in zip(pictures, given, cut_crops(pictures, given, size=12), strict=True):
        left, top = (round(30 * share.item()) for share in window[:2])
        torch.testing.assert_close(crop, picture[:, top : top + 12, left : left + 12])


@pytest.mark.parametrize("mirrored", [False, True])
def test_enlarged_crops_are_pillows(mirrored: bool) -> None:
    picture = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    window = torch.tensor([[0.1, 0.3, 0.5, float(mirrored)]])
    (crop,) = cut_crops(torch.from_numpy(picture).expand(1, 3, 20, 20), window, size=20)
    image = Image.fromarray(picture).resize((20, 20), Image.Resampling.BILINEAR, box=(2, 6, 12, 16))
    expected = np.array(image)[:, ::-1] if mirrored else np.array(image)
    # Pillow stops at the window's edge, where ours sees the pixels beyond it.
    np.testing.assert_allclose(crop[0, 1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-5)


@every_crop
def test_positions_are_where_the_pixels_come_from(crop: str) -> None:
    given = windows(crop, ids=IDS[:6])
    size = crop_pixels(crop, side=0.4, picture_size=30)
    seen = cut_crops(positions_picture(30).expand(6, 3, 30, 30), given, size=size)
    told = crop_positions(given, size)
    # Within half a pixel of the border a picture has no other colour than its last.
    expected = told.clamp(0.5 / 30, 1 - 0.5 / 30)
    torch.testing.assert_close(seen[:, :2].flatten(2).mT, expected, atol=1e-5, rtol=0)


def test_a_grid_goes_row_by_row() -> None:
    found = grid_positions(2, device=torch.device("cpu"))
    assert found.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
