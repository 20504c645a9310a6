"""Encoders against torchvision's own models, hand-computed sizes and a network written out in functions."""

import copy
import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from trainables.parts.encoders import (
    ENCODERS,
    Architecture,
    Body,
    Encoder,
    build_encoder,
    freeze,
    vit_b_16,
    weights_file,
)
from trainables.parts.vision_transformer import vision_transformer
from vltune.errors import BadInput, NotFound

torch.set_num_threads(1)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SETTINGS = {"weights": "none", "picture_size": 96, "features": "grid"}
CNN = {"cnn_width": 32, "cnn_extra_layers": 0, "cnn_activation": "relu"}


@pytest.fixture(autouse=True)
def _small_vision_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one has 86 M parameters; two narrow layers of the same kind are compared in its place."""
    small = dataclasses.replace(
        ENCODERS["vit_b_16"],
        build=lambda **_: Body(vision_transformer(small_vision_transformer(64)), nn.Identity(), 24),
    )
    monkeypatch.setitem(ENCODERS, "vit_b_16", small)


def small_vision_transformer(size: int) -> models.VisionTransformer:
    model = models.VisionTransformer(size, patch_size=16, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48)
    for parameter in model.parameters():  # torchvision begins with zeros and ones here and there
        nn.init.normal_(parameter, std=0.3)
    return model


def build(name: str, **changes) -> Encoder:
    return build_encoder(name, **{**SETTINGS, **CNN, **changes})


def pictures(size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(size))


def reference(name: str) -> nn.Module:
    """One of torchvision's models whose BatchNorm statistics fit, so that its features depend on the pictures."""
    torch.manual_seed(0)
    extra = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    model = getattr(models, name)(weights=None, **extra)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    auxiliary = getattr(model, "AuxLogits", None)
    if auxiliary is not None:
        # It is for larger pictures, and part of the file all the same.
        model.register_module("AuxLogits", None)
    with torch.no_grad():
        model((pictures(107, batch=4) - MEAN) / STD)
    if auxiliary is not None:
        model.register_module("AuxLogits", auxiliary)
    return model.eval()


def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """Pooled features by torchvision's own forward pass, its classifier taken off."""
    if isinstance(model, models.ConvNeXt):
        with torch.no_grad():
            return model.double().avgpool(model.features((x.double() - MEAN) / STD)).flatten(1)
    if isinstance(model, models.EfficientNet | models.DenseNet):
        model.register_module("classifier", nn.Identity())
    else:
        model.register_module("fc", nn.Identity())
    with torch.no_grad():
        return model.double()((x.double() - MEAN) / STD)


@pytest.mark.parametrize(
    ("width", "extra", "parameters"),
    [
        # Convolutions 9 in out + out: 896 + 18496 + 73856 + 295168; dense 256 * 512 + 512 = 131584.
        (32, 0, 520_000),
        # 1792 + 73856 + 295168 + 1180160; dense 512 * 512 + 512 = 262656.
        (64, 0, 1_813_632),
        # Each further layer: 9 * 512 * 512 + 512 = 2359808, or with the narrow one 9 * 256 * 256 + 256 = 590080.
        (64, 1, 1_813_632 + 2_359_808),
        (64, 2, 1_813_632 + 2 * 2_359_808),
        (32, 2, 520_000 + 2 * 590_080),
    ],
)
def test_cnn_has_the_parameters_of_the_study(width: int, extra: int, parameters: int) -> None:
    encoder = build("cnn", cnn_width=width, cnn_extra_layers=extra)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.width == 512
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules())


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.3)])
def test_cnn_is_the_network_written_out(activation: str, slope: float) -> None:
    settings = {"cnn_width": 4, "cnn_extra_layers": 1, "cnn_activation": activation, "embedding_width": 10}
    torch.manual_seed(0)
    encoder = build("cnn", **settings)
    x = pictures(40)
    weights = list(encoder.parameters())
    maps = (x - MEAN) / STD
    for layer in range(5):
        maps = F.conv2d(maps, weights[2 * layer], weights[2 * layer + 1], padding=1)
        maps = torch.where(maps > 0, maps, slope * maps)
        if layer < 3:
            maps = F.max_pool2d(maps, 2)
    assert maps.shape == (2, 32, 5, 5)
    vectors = torch.stack([maps[:, :, row, column] for row in range(5) for column in range(5)], dim=1)
    torch.testing.assert_close(encoder(x), (vectors @ weights[-2].T + weights[-1]).relu())
    one = build("cnn", features="pooled", **settings)
    one.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(one(x), (maps.mean((2, 3)) @ weights[-2].T + weights[-1]).relu()[:, None])


def test_cnn_starts_with_signals_of_even_size() -> None:
    torch.manual_seed(0)
    encoder = build("cnn", cnn_extra_layers=4)
    sizes = []
    for layer in encoder.body:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _m, _i, out: sizes.append(out.std().item()))
    encoder(pictures(64))
    assert 0.2 < sizes[-1] / sizes[0] < 5


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("resnet50", 64),
        ("efficientnet_b0", 64),
        ("densenet121", 64),
        ("inception_v3", 107),
        ("convnext_tiny", 64),
    ],
)
def test_features_are_those_of_torchvision(tmp_path: Path, name: str, size: int) -> None:
    """The file has the classification head (and Inception's auxiliary one), and goes the way that users' files go."""
    model = reference(name)
    if name == "inception_v3":
        # What torchvision sets for its ImageNet weights.
        assert isinstance(model, models.Inception3)
        model.transform_input = True
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    x = pictures(size)
    with torch.no_grad():
        vectors = build(name, weights=str(file), picture_size=size).double().eval()(x.double())
        one = build(name, weights=str(file), picture_size=size, features="pooled").double().eval()(x.double())
    expected = features_of(model, x)
    scale = expected.abs().mean().item()
    assert (expected[0] - expected[1]).abs().mean() > 0.01 * scale, "the comparison must mean something"
    assert vectors.shape[2] == build(name).width == expected.shape[1]
    assert vectors.shape[1] > 1
    torch.testing.assert_close(one[:, 0], expected, rtol=1e-4, atol=1e-6 * scale)
    torch.testing.assert_close(vectors.mean(1), expected, rtol=1e-4, atol=1e-6 * scale)


def resized(positions: Tensor, side: int) -> Tensor:
    """Position vectors of a 4 x 4 grid for another, each component a picture that Pillow resizes."""
    of_class, of_patches = positions[:, :1], positions[0, 1:].detach().unflatten(0, (4, 4))
    pictures = [Image.fromarray(channel.numpy()) for channel in of_patches.permute(2, 0, 1).contiguous()]
    maps = np.stack([np.asarray(p.resize((side, side), Image.Resampling.BICUBIC)) for p in pictures], -1)
    return torch.cat((of_class, torch.from_numpy(maps).flatten(0, 1)[None]), 1)


@pytest.mark.parametrize("size", [64, 16, 48, 112])
def test_patches_are_those_of_torchvision(tmp_path: Path, size: int) -> None:
    """Torchvision's model, built for the size, with positions that were resized outside; its file's old names."""
    torch.manual_seed(0)
    made = small_vision_transformer(64)
    expected_model = small_vision_transformer(size)
    state = made.state_dict()
    file = tmp_path / "weights.pth"
    old = {k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v for k, v in state.items()}
    assert "encoder.layers.encoder_layer_1.mlp.linear_2.bias" in old
    torch.save(old, file)
    expected_model.load_state_dict(
        {**state, "encoder.pos_embedding": resized(state["encoder.pos_embedding"], size // 16)}
    )
    x = pictures(size)
    with torch.no_grad():
        vectors = build("vit_b_16", weights=str(file), picture_size=size).eval()(x)
        pooled = build("vit_b_16", weights=str(file), picture_size=size, features="pooled").eval()(x)
        patches = expected_model._process_input((x - MEAN) / STD)
        tokens = torch.cat((expected_model.class_token.expand(2, -1, -1), patches), 1)
        expected = expected_model.eval().encoder(tokens)[:, 1:]
    assert expected.shape == (2, (size // 16) ** 2, 24)
    assert (expected[0] - expected[1]).abs().mean() > 0.01 * expected.abs().mean(), "the comparison must mean something"
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, expected.mean(1, keepdim=True), rtol=1e-4, atol=1e-4)


def test_own_weights_of_a_vision_transformer_serve_any_size(tmp_path: Path) -> None:
    encoder = build("vit_b_16")
    file = tmp_path / "vit.safetensors"
    save_file(encoder.state_dict(), file)
    again = build("vit_b_16", weights=str(file), picture_size=32)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in encoder.state_dict().items())
    with pytest.raises(BadInput, match=r"picture_size=100 does not fit .*: it must be a multiple of .* 16 pixels; 224"):
        build("vit_b_16", picture_size=100)


@pytest.mark.parametrize(
    ("name", "positions", "parameters"),
    # Torchvision's documented sizes, less the heads: 768 * 1000 + 1000, and 2 * 768 for ConvNeXt's normalisation.
    [("vit_b_16", 14 * 14, 86_567_656 - 769_000), ("convnext_tiny", 7 * 7, 28_589_128 - 769_000 - 1536)],
)
def test_large_ones_without_memory(monkeypatch: pytest.MonkeyPatch, name: str, positions: int, parameters: int) -> None:
    monkeypatch.setitem(ENCODERS, "vit_b_16", Architecture(build=vit_b_16))
    with torch.device("meta"):
        encoder = build(name, picture_size=224)
        assert encoder(torch.rand(1, 3, 224, 224)).shape == (1, positions, 768)
    assert encoder.width == 768
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_efficientnet_b7_without_memory() -> None:
    with torch.device("meta"):
        encoder = build("efficientnet_b7", picture_size=600)
        vectors = encoder(torch.rand(1, 3, 600, 600))
    assert vectors.shape == (1, 19 * 19, 2560)
    assert encoder.width == 2560
    # Torchvision's documented size, less the head of 2560 * 1000 + 1000.
    assert sum(p.numel() for p in encoder.parameters()) == 66_347_960 - 2_561_000


@pytest.mark.parametrize("name", ENCODERS)
def test_smallest_picture(name: str) -> None:
    architecture = ENCODERS[name]
    with torch.device("meta"):
        encoder = build(name, picture_size=architecture.smallest)
        smallest = torch.rand(2, 3, architecture.smallest, architecture.smallest)
        assert encoder(smallest).shape == (2, 1, encoder.width)
    with pytest.raises(BadInput) as error:
        build(name, picture_size=architecture.smallest - 1)
    assert f"at least {architecture.smallest} pixels; {architecture.native} is its native size" in str(error.value)
    assert "\n" not in str(error.value)


def test_native_sizes_are_those_of_torchvision() -> None:
    for architecture in ENCODERS.values():
        if architecture.imagenet is not None:
            assert architecture.imagenet.transforms().crop_size == [architecture.native]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("cnn", 64), ("resnet18", 64), ("efficientnet_b0", 64), ("densenet121", 64), ("convnext_tiny", 64)),
        *(("vit_b_16", size) for size in (16, 48, 64, 160)),
    ],
)
def test_every_parameter_gets_a_gradient(name: str, size: int) -> None:
    torch.manual_seed(0)
    encoder = build(name, cnn_width=8, cnn_extra_layers=1, picture_size=size)
    encoder(pictures(size)).square().mean().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
        if key == "body.patches.pos_embedding":
            assert parameter.grad.any(2).all(), "each place counts, however small the picture"


@pytest.mark.parametrize("name", ["cnn", "resnet18", "efficientnet_b0", "densenet121", "vit_b_16", "convnext_tiny"])
def test_checkpointing_changes_nothing(name: str) -> None:
    """EfficientNet has random depth as well: what is computed again must draw the same."""
    torch.manual_seed(0)
    plain = build(name, cnn_width=8)
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing = True
    calls = []
    for encoder, which in ((plain, "plain"), (saving, "saving")):
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(lambda *_, which=which: calls.append(which))
    x = pictures(32, batch=4)
    for encoder in (plain, saving):
        for step in range(2):
            torch.manual_seed(step)
            encoder.zero_grad()
            encoder(x).square().mean().backward()
    assert calls.count("saving") == 2 * calls.count("plain"), "each convolution is computed twice"
    for (key, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-7, msg=key)
    for (key, one), (_, other) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(one, other), key


def test_checkpointing_keeps_fewer_activations() -> None:
    def kept(encoder: Encoder) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            encoder(pictures(64, batch=4))
        return sum(sizes)

    torch.manual_seed(0)
    encoder = build("resnet18")
    weights = sum(p.numel() for p in encoder.parameters())
    plain = kept(encoder) - weights
    encoder.gradient_checkpointing = True
    assert kept(encoder) < plain / 10


def test_checkpointing_rests_without_gradients() -> None:
    encoder = build("cnn", cnn_width=4, gradient_checkpointing=True)
    with torch.no_grad():
        assert not encoder(pictures(32)).requires_grad


def test_a_frozen_encoder_learns_nothing_in_a_training_model() -> None:
    torch.manual_seed(0)
    encoder = freeze(build("efficientnet_b0", picture_size=32))
    model = nn.Sequential(encoder, nn.Dropout(0.5))
    before = copy.deepcopy(encoder.state_dict())
    model.train()
    assert model[1].training
    torch.manual_seed(1)
    once = encoder(pictures(32, batch=4))
    torch.manual_seed(2)
    # Random depth is off too.
    assert torch.equal(encoder(pictures(32, batch=4)), once)
    assert not once.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert not any(p.requires_grad for p in encoder.parameters())
    # A copy is frozen by itself.
    assert not copy.deepcopy(encoder).train().body.training


def test_an_encoder_that_is_not_frozen_trains_its_statistics() -> None:
    encoder = build("resnet18").train()
    before = encoder.get_buffer("body.bn1.running_mean").clone()
    encoder(pictures(32))
    assert not torch.equal(encoder.get_buffer("body.bn1.running_mean"), before)


def test_normalisation_is_not_part_of_the_weights() -> None:
    assert not {"mean", "std"} & set(build("cnn").state_dict())


def test_old_densenet_names_and_missing_counters_are_read(tmp_path: Path) -> None:
    """Torchvision's file says ``norm.1`` for ``norm1`` and knows no ``num_batches_tracked``."""
    model = reference("densenet121")
    old = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        if "denselayer" in key:
            for part in ("norm1", "norm2", "conv1", "conv2"):
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    file = tmp_path / "old.pth"
    torch.save(old, file)
    encoder = build("densenet121", weights=str(file))
    for key, value in model.get_submodule("features").state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(
            encoder.state_dict()[f"body.features.{key}"], value
        ), key


def test_own_weights_are_read_back(tmp_path: Path) -> None:
    encoder = build("cnn", cnn_width=4)
    file = tmp_path / "cnn.safetensors"
    save_file(encoder.state_dict(), file)
    again = build("cnn", cnn_width=4, weights=str(file))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in encoder.state_dict().items())


def drop(key: str):
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "resnet50",
            lambda s: s,
            "layer1.0.conv1.weight is of shape (64, 64, 3, 3) in the file and of shape (64, 64, 1, 1)",
        ),
        ("densenet121", lambda s: s, "conv1.weight is of shape (64, 3, 7, 7) in the file and unknown in the encoder"),
        (
            "resnet18",
            drop("layer2.0.bn1.running_var"),
            "layer2.0.bn1.running_var is missing in the file and of shape (128,)",
        ),
        (
            "cnn",
            lambda s: s,
            "the picture_encoder cnn with this cnn_width, cnn_extra_layers and embedding_width: conv1",
        ),
        ("resnet18", lambda s: {}, "is missing in the file"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, name: str, change, words: str) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(change(models.resnet18(weights=None).state_dict()), file)
    with pytest.raises(BadInput) as error:
        build(name, weights=str(file))
    assert words in str(error.value)
    assert f"{file} seems not to hold weights of the picture_encoder {name}" in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(NotFound, match="unknown picture_encoder 'resnet19'; did you mean 'resnet18'"):
        build("resnet19")
    with pytest.raises(NotFound, match="unknown features 'grids'; did you mean 'grid'"):
        build("cnn", features="grids")
    with pytest.raises(NotFound, match="unknown cnn_activation 'leaky'"):
        build("cnn", cnn_activation="leaky")
    with pytest.raises(NotFound, match=r"weights='there\.pth' is no file: use none, imagenet or the path"):
        build("resnet18", weights="there.pth")
    with pytest.raises(BadInput, match="weights=imagenet does not exist for picture_encoder='cnn'"):
        build("cnn", weights="imagenet")


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.pth"
    torch.save(reference("resnet18").state_dict(), file)
    found, digest = weights_file("resnet18", str(file))
    assert (found, digest) == (file, hashlib.sha256(file.read_bytes()).hexdigest())
    build("resnet18", weights=str(file), weights_hash=digest)
    torch.save({k: v + 1 for k, v in reference("resnet18").state_dict().items()}, file)
    os.utime(file, (1, 1))  # another time, whatever the grain of the clock
    with pytest.raises(BadInput, match=r"own\.pth has changed since the trial was recorded") as caught:
        build("resnet18", weights=str(file), weights_hash=digest)
    assert "\n" not in str(caught.value)


def test_imagenet_weights_are_checked_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file under torchvision's name but of other content is refused; with its hash in the name it is loaded."""
    monkeypatch.setenv("VLTUNE_WEIGHTS", str(tmp_path))
    model = reference("resnet18")
    file = tmp_path / "resnet18-f37072fd.pth"
    torch.save(model.state_dict(), file)
    with pytest.raises(BadInput, match=r"resnet18-f37072fd\.pth has SHA-256 .* expected f37072fd"):
        build("resnet18", weights="imagenet")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    named = file.rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr("trainables.parts.encoders.imagenet_file", lambda url: (named, digest[:8]))
    encoder = build("resnet18", weights="imagenet")
    assert torch.equal(encoder.state_dict()["body.layer4.1.conv2.weight"], model.state_dict()["layer4.1.conv2.weight"])
