"""Augmentation against Pillow's geometry, Keras' formulas, and properties of the draws."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from scipy import stats

from trainables.parts.augmentation import augment, draw_augmentation
from vltune.contract import Draws
from vltune.errors import NotFound

torch.set_num_threads(1)
RANGES = {"flip": 0.5, "rotation": 0.2, "contrast": 0.3, "zoom": 0.2, "brightness": 0.25}
IDENTITY = [0.0, 0.0, 1.0, 1.0, 0.0]


def smooth(height: int, width: int) -> torch.Tensor:
    """A picture of slow waves, unlike its mirror image, so that interpolation hardly matters."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    channels = [0.5 + 0.3 * torch.sin(a * x + b * y + c) for a, b, c in ((3, 2, 0.1), (-2, 4, 1), (5, -1, 2))]
    return torch.stack(channels)[None]


def row(**changes: float) -> torch.Tensor:
    names = ["flip", "rotation", "contrast", "zoom", "brightness"]
    return torch.tensor([[changes.get(name, value) for name, value in zip(names, IDENTITY, strict=True)]])


def pillow(picture: torch.Tensor, change) -> torch.Tensor:
    """Applies a change to each channel as a picture of floats."""
    return torch.stack([torch.from_numpy(np.array(change(Image.fromarray(c.numpy())))) for c in picture[0]])[None]


def middle(pictures: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """The part that no border has reached."""
    height, width = pictures.shape[2:]
    top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
    return pictures[:, :, top : height - top, left : width - left]


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.sampled_from(["f4", "f8", "f2"]),
)
@settings(max_examples=40, deadline=None)
def test_identity_gives_the_identical_picture(batch: int, height: int, width: int, seed: int, kind: str) -> None:
    values = np.random.default_rng(seed).random((batch, 3, height, width)).astype(kind)
    pictures = torch.from_numpy(values).clamp(0, 1)
    changed = augment(pictures, torch.tensor([IDENTITY]).repeat(batch, 1))
    assert changed.dtype == pictures.dtype
    # Computed in float32, whatever the pictures are.
    assert torch.equal(changed, pictures.float().to(pictures.dtype))


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_any_parameters_stay_in_range_and_leave_other_rows_alone(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pictures = torch.from_numpy(generator.random((2, 3, 9, 14), dtype=np.float32))
    wild = torch.from_numpy(generator.uniform([0, -4, 0, 0.3, -1], [1, 4, 2, 3, 1]).astype(np.float32)).round(
        decimals=1
    )
    wild[0] = wild[0].round()
    changed = augment(pictures, torch.stack([wild, torch.tensor(IDENTITY)]))
    assert changed.isfinite().all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(changed[1], pictures[1])


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 40)])
def test_flip_is_a_mirror_image(height: int, width: int) -> None:
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(augment(picture, row(flip=1)), picture.flip(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
@pytest.mark.parametrize("angle", [0.2, -0.2, 0.6])
def test_rotation_is_that_of_pillow(height: int, width: int, angle: float) -> None:
    picture = smooth(height, width)
    expected = pillow(picture, lambda p: p.rotate(math.degrees(angle), Image.Resampling.BILINEAR))
    actual = augment(picture, row(rotation=angle))
    torch.testing.assert_close(middle(actual), middle(expected), rtol=0, atol=2e-3)
    assert (middle(augment(picture, row(rotation=-angle))) - middle(expected)).abs().max() > 0.02


@pytest.mark.parametrize("zoom", [0.8, 1.2])
def test_zoom_is_that_of_pillow(zoom: float) -> None:
    picture = smooth(60, 90)
    h, w = 60, 90
    box = (zoom, 0, w / 2 * (1 - zoom), 0, zoom, h / 2 * (1 - zoom))
    expected = pillow(picture, lambda p: p.transform(p.size, Image.Transform.AFFINE, box, Image.Resampling.BILINEAR))
    torch.testing.assert_close(middle(augment(picture, row(zoom=zoom))), middle(expected), rtol=0, atol=1e-4)


def test_flip_comes_before_rotation_and_zoom() -> None:
    picture = smooth(40, 56)
    both = augment(picture, row(flip=1, rotation=0.3, zoom=0.9))
    torch.testing.assert_close(both, augment(picture.flip(3), row(rotation=0.3, zoom=0.9)), rtol=0, atol=1e-5)


def test_the_border_is_reflected() -> None:
    """Zoomed out by two, the picture's middle half is the picture and the rest is its mirror images."""
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 2)
    picture = picture.repeat_interleave(4, 3)
    reflected = np.pad(picture[0].numpy(), ((0, 0), (16, 16), (16, 16)), mode="symmetric")
    expected = torch.from_numpy(reflected).unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))[None]
    torch.testing.assert_close(augment(picture, row(zoom=2.0)), expected, rtol=0, atol=1e-4)


def test_contrast_is_about_the_mean_of_each_channel() -> None:
    """Channel of 0.2 and 0.6: mean 0.4; factor 1.5 gives 0.1 and 0.7, factor 0 the mean."""
    picture = torch.tensor([0.2, 0.6]).repeat(1, 3, 2, 1)
    picture[:, 1] += 0.1
    expected = torch.tensor([0.1, 0.7]).repeat(1, 3, 2, 1)
    expected[:, 1] += 0.1
    torch.testing.assert_close(augment(picture, row(contrast=1.5)), expected)
    torch.testing.assert_close(
        augment(picture, row(contrast=0.0)), picture.mean((2, 3), keepdim=True).expand_as(picture)
    )


def test_brightness_is_added_and_clamped() -> None:
    picture = torch.tensor([0.0, 0.5, 0.9]).repeat(1, 3, 2, 1)
    torch.testing.assert_close(augment(picture, row(brightness=0.2))[0, 0, 0], torch.tensor([0.2, 0.7, 1.0]))
    torch.testing.assert_close(augment(picture, row(brightness=-0.2))[0, 0, 0], torch.tensor([0.0, 0.3, 0.7]))


def draw(ids: list[str], augmentation: str, *, seed: int = 0, epoch: int = 1) -> torch.Tensor:
    return draw_augmentation(Draws(seed=seed, epoch=epoch), ids, augmentation=augmentation, **RANGES)


def test_draws_fill_their_ranges_evenly() -> None:
    drawn = draw([str(i) for i in range(2000)], "improved").double().numpy()
    assert set(drawn[:, 0]) == {0.0, 1.0}
    assert stats.binomtest(int(drawn[:, 0].sum()), 2000, 0.5).pvalue > 1e-3
    for column, middle_value, name in ((1, 0, "rotation"), (2, 1, "contrast"), (3, 1, "zoom"), (4, 0, "brightness")):
        low, width = middle_value - RANGES[name], 2 * RANGES[name]
        assert drawn[:, column].min() >= low - 1e-6
        assert drawn[:, column].max() <= low + width + 1e-6
        assert stats.kstest(drawn[:, column], "uniform", (low, width)).pvalue > 1e-3
    correlation = np.corrcoef(drawn.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.1


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    ids = ["a", "b", "c"]
    whole = draw(ids, "improved")
    assert torch.equal(whole, torch.cat([draw([name], "improved") for name in ids]))
    assert torch.equal(whole.flip(0), draw(ids[::-1], "improved"))
    for other in (draw(ids, "improved", seed=1), draw(ids, "improved", epoch=2), draw(["d", "e", "f"], "improved")):
        assert (whole[:, 1:] != other[:, 1:]).all()


def test_what_an_augmentation_does_not_use_stays() -> None:
    ids = [str(i) for i in range(20)]
    assert torch.equal(draw(ids, "none"), torch.tensor([IDENTITY]).repeat(20, 1))
    base, improved = draw(ids, "base"), draw(ids, "improved")
    assert torch.equal(base[:, :3], improved[:, :3])
    assert torch.equal(base[:, 3:], torch.tensor([IDENTITY[3:]]).repeat(20, 1))
    assert (improved[:, 3:] != base[:, 3:]).all()
    assert draw([], "base").shape == (0, 5)
    with pytest.raises(NotFound, match="unknown augmentation 'better'"):
        draw(ids, "better")


def test_flip_probability_bounds() -> None:
    ids = [str(i) for i in range(50)]
    for flip in (0.0, 1.0):
        drawn = draw_augmentation(Draws(seed=0, epoch=0), ids, augmentation="base", **{**RANGES, "flip": flip})
        assert (drawn[:, 0] == flip).all()
