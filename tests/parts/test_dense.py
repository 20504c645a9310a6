"""Dense features of every encoder, which layers learn, and the loss against a slow computation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import VisionTransformer

from trainables.parts.crops import crop_positions, grid_positions
from trainables.parts.dense import contrast, dense_features, keep_layers_before
from trainables.parts.encoders import Body, Encoder, build_encoder
from trainables.parts.vision_transformer import vision_transformer
from vltune.errors import BadInput

torch.set_num_threads(1)


def encoder(name: str = "cnn", **changes: Any) -> Encoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"weights": "none", "picture_size": 32, "features": "grid", "cnn_width": 4}
    settings |= {"cnn_extra_layers": 0, "cnn_activation": "relu", "embedding_width": 8}
    return build_encoder(name, **settings | changes).eval()


def pictures(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((count, 3, size, size))).float()


@torch.no_grad()
def test_layers_of_the_cnn_are_what_its_convolutions_give() -> None:
    model = encoder()
    maps = (pictures() - model.mean) / model.std
    for number in (1, 2, 3, 4):
        for name in ("convolution", "activation", "pool"):
            maps = getattr(model.body, f"{name}{number}", torch.nn.Identity())(maps)
        found = dense_features(model, pictures(), layer=str(number), side=maps.shape[2])
        expected = maps.flatten(2).mT
        torch.testing.assert_close(found, model.dense(expected) if number == 4 else expected)
    torch.testing.assert_close(found, dense_features(model, pictures(), layer="last", side=4))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [("resnet18", "3", 128), ("resnet18", "5", 512), ("efficientnet_b0", "4", 40), ("densenet121", "2", 256)],
)
def test_convolutional_layers(name: str, layer: str, width: int) -> None:
    assert dense_features(encoder(name), pictures(), layer=layer, side=5).shape == (2, 25, width)


@torch.no_grad()
def test_layers_of_a_vision_transformer_are_its_patches() -> None:
    torch.manual_seed(0)
    small = VisionTransformer(image_size=48, patch_size=16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)
    model = Encoder(Body(vision_transformer(small), torch.nn.Identity(), 8), features="grid").eval()
    tokens = model.body.encoder_layer_0(model.body.patches((pictures(1, 48) - model.mean) / model.std))
    torch.testing.assert_close(dense_features(model, pictures(1, 48), layer="2", side=3), tokens[:, 1:])
    last = dense_features(model, pictures(1, 48), layer="last", side=3)
    torch.testing.assert_close(dense_features(model, pictures(1, 48), layer="4", side=3), last)
    assert not torch.equal(dense_features(model, pictures(1, 48), layer="3", side=3), last)


@torch.no_grad()
def test_colours_are_the_normalised_picture() -> None:
    model = encoder()
    found = dense_features(model, pictures(), layer="colours", side=32)
    expected = (pictures() - torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)) / model.std
    torch.testing.assert_close(found, expected.flatten(2).mT)
    fewer = dense_features(model, pictures(), layer="colours", side=8)
    torch.testing.assert_close(fewer, expected.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).flatten(2).mT)


@torch.no_grad()
def test_a_finer_grid_lies_between_the_coarse_positions() -> None:
    ramp = torch.linspace(0.1, 0.9, 4).expand(1, 3, 4, 4).repeat_interleave(8, 3).repeat_interleave(8, 2)
    found = dense_features(encoder(), ramp, layer="colours", side=64)
    rows = found[0, :, 0].unflatten(0, (64, 64))
    assert (rows[0].diff() >= 0).all()
    torch.testing.assert_close(rows[0], rows[63])


def test_only_the_layers_before_learn() -> None:
    for layer, learns in {
        "1": ["convolution1"],
        "3": ["convolution1", "convolution2", "convolution3"],
        "4": ["convolution1", "convolution2", "convolution3", "convolution4", "dense"],
        "last": ["convolution1", "convolution2", "convolution3", "convolution4", "dense"],
        "colours": [],
    }.items():
        model = encoder()
        keep_layers_before(model, layer)
        free = {n.removeprefix("body.").split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
        assert sorted(free) == learns
        if learns:
            dense_features(model, pictures(), layer=layer, side=6).square().sum().backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    with pytest.raises(BadInput, match="feature_layer='5' is not in this encoder: its layers are 1 to 4"):
        keep_layers_before(encoder(), "5")


def test_the_loss_is_that_of_a_slow_computation() -> None:
    random = np.random.default_rng(0)
    source, target = (torch.from_numpy(random.normal(size=(2, n, 5))).float() for n in (4, 9))
    truth = torch.from_numpy(random.random((2, 4, 2))).float()
    loss, sums = contrast(source, target, truth=truth, temperature=0.2)
    assert loss.count == 8
    total = 0.0
    for pair in range(2):
        for i in range(4):
            log = (F.cosine_similarity(source[pair, i], target[pair], dim=1) / 0.2).log_softmax(0).reshape(1, 1, 3, 3)
            place = 2 * truth[pair, i].reshape(1, 1, 1, 2) - 1
            total -= F.grid_sample(log, place, padding_mode="border", align_corners=False).item()
        assert sums[: pair + 1].sum().item() == pytest.approx(total, rel=1e-4)
    assert loss.sum.item() == pytest.approx(total, rel=1e-4)


def test_the_loss_of_features_that_tell_nothing_is_the_logarithm_of_the_positions() -> None:
    truth = crop_positions(torch.tensor([[0.2, 0.3, 0.5, 0.0]]), 3)
    loss, _ = contrast(torch.ones(1, 9, 4), torch.ones(1, 36, 4), truth=truth, temperature=0.1)
    assert (loss.sum / loss.count).item() == pytest.approx(math.log(36), rel=1e-4)


def test_the_loss_of_perfect_features_vanishes() -> None:
    own = torch.eye(9)[None]
    truth = grid_positions(3, device=torch.device("cpu"))[None]
    loss, _ = contrast(own, own, truth=truth, temperature=0.05)
    assert loss.sum.item() == pytest.approx(0, abs=1e-4)
    wrong, _ = contrast(own, own.flip(1), truth=truth, temperature=0.05)
    assert wrong.sum.item() > 100
