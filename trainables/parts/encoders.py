"""Picture encoders behind one interface: pictures in, a vector for each position (or one for all of them) out."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision import models
from torchvision.models import WeightsEnum

from trainables.parts.autoencoder import AUTOENCODER_WIDTHS, autoencoder_layers
from trainables.parts.encoder_weights import HEAD, load_encoder_weights
from trainables.parts.imagenet import imagenet_file
from trainables.parts.recorded_files import known_sha256, refuse_changed
from trainables.parts.vision_transformer import vision_transformer
from vltune.checkpoints import read_foreign_weights
from vltune.errors import BadInput, NotFound, lookup

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    # Keras' slope: the COCO Transformer study names none and was made with Keras.
    "leaky_relu": functools.partial(nn.LeakyReLU, 0.3),
}


def grid(positions: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch positions width"]:
    """A vector for each position, row by row."""
    return positions


def pooled(positions: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch 1 width"]:
    """One vector: the mean over all positions."""
    return positions.mean(1, keepdim=True)


FEATURES = {f.__name__: f for f in (grid, pooled)}


class Body(NamedTuple):
    """What differs between the encoders."""

    layers: nn.Sequential
    """Normalised pictures to maps."""
    dense: nn.Module
    """Applied to each vector at the end."""
    width: int
    """Length of the vectors."""


class Encoder(nn.Module):
    """Normalises pictures, runs the layers, and gives the maps' positions as vectors."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: Body,
        *,
        features: str,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.width = body.width
        self.gather = lookup(FEATURES, features, "features")
        self.gradient_checkpointing = gradient_checkpointing
        self.frozen = False
        self.body = body.layers
        self.dense = body.dense
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch positions channels"]:
        """Vectors of a batch of pictures with values in [0, 1]."""
        maps = self.run(pictures, stages(self.body))
        return self.dense(self.gather(maps.flatten(2).transpose(1, 2)))

    def run(
        self, pictures: Float[Tensor, "batch 3 height width"], layers: Iterable[nn.Module]
    ) -> Float[Tensor, "batch ..."]:
        """What the first stages give, one behind the other: maps, or a vision Transformer's tokens."""
        maps = (pictures - self.mean) / self.std
        for stage in layers:
            if self.gradient_checkpointing and torch.is_grad_enabled() and not self.frozen:
                maps = checkpoint(stage, maps, use_reentrant=False, context_fn=functools.partial(_contexts, stage))
            else:
                maps = stage(maps)
        return maps

    def train(self, mode: bool = True) -> "Encoder":  # noqa: FBT001, FBT002 - as nn.Module has it
        """Sets the mode; a frozen encoder stays in evaluation."""
        return super().train(mode and not self.frozen)


def freeze(encoder: Encoder) -> Encoder:
    """Stops all learning of an encoder, and returns it.

    Beside the weights that is the statistics of its BatchNorm layers, and with them dropout: the features of a picture
    are the same in every epoch, and can be cached.
    """
    encoder.frozen = True
    encoder.requires_grad_(requires_grad=False)
    return encoder.eval()


def build_encoder(
    name: str,
    *,
    weights: str,
    weights_hash: str = "",
    picture_size: int,
    features: str,
    cnn_width: int,
    cnn_extra_layers: int,
    cnn_activation: str,
    cnn_batch_norm: bool = False,
    gradient_checkpointing: bool = False,
    embedding_width: int = 512,
) -> Encoder:
    """A picture encoder of the table.

    Args:
        weights: ``none`` (random), ``imagenet``, or the path of a state dict: ``.pth`` or ``.safetensors``.
        weights_hash: SHA-256 that the weights' file must have; empty: any.
        picture_size: side of the pictures that it will see, in pixels.
        features: ``grid`` or ``pooled``.
        cnn_width: for ``cnn``, channels of the first convolution; doubled in each of the next three.
        cnn_extra_layers: for ``cnn``, convolutions beyond the four.
        cnn_activation: for ``cnn``, ``relu`` or ``leaky_relu``.
        cnn_batch_norm: for ``cnn``, normalise over the batch after each convolution.
        gradient_checkpointing: recompute each stage in the backward pass instead of keeping its activations.
        embedding_width: for ``cnn``, width of the dense layer and so of the vectors.

    Raises:
        NotFound: an unknown name, or a missing file.
        BadInput: pictures that are too small, or weights of something else.
    """
    architecture = lookup(ENCODERS, name, "picture_encoder")
    check_picture_size(name, picture_size)
    lookup(FEATURES, features, "features")
    file, _ = weights_file(name, weights, weights_hash=weights_hash)
    body = architecture.build(
        cnn_width=cnn_width,
        cnn_extra_layers=cnn_extra_layers,
        cnn_activation=cnn_activation,
        cnn_batch_norm=cnn_batch_norm,
        embedding_width=embedding_width,
    )
    encoder = Encoder(
        body,
        features=features,
        mean=architecture.mean,
        std=architecture.std,
        gradient_checkpointing=gradient_checkpointing,
    )
    if file is not None:
        load_encoder_weights(encoder, read_foreign_weights(file), name=name, file=file)
    return encoder


def check_picture_size(name: str, picture_size: int) -> None:
    """Checks the side of pictures, in pixels, for an encoder of the table.

    Raises:
        BadInput: it is too small, or no multiple of the encoder's patches.
    """
    known, rule = ENCODERS[name], ""
    if picture_size < known.smallest:
        rule = f"is too small for picture_encoder={name!r}: it needs at least {known.smallest} pixels"
    elif picture_size % known.patch:
        rule = f"does not fit picture_encoder={name!r}: it must be a multiple of its patches' {known.patch} pixels"
    if rule:
        raise BadInput(f"picture_size={picture_size} {rule}; {known.native} is its native size.")


def cnn(
    *, cnn_width: int, cnn_extra_layers: int, cnn_activation: str, cnn_batch_norm: bool, embedding_width: int
) -> Body:
    """The COCO Transformer study's own network: 3x3 convolutions with max-pooling between the first four.

    Pooled, it is the study's: global average, then a dense layer with ReLU. With ``grid`` the dense layer sees each
    position. Where the study says nothing: convolutions keep the size, and weights start as He et al. propose
    (https://arxiv.org/abs/1502.01852). Batch normalisation after each convolution is ours: it learns much faster.
    """
    activation = lookup(ACTIVATIONS, cnn_activation, "cnn_activation")
    widths = [cnn_width * 2 ** min(layer, 3) for layer in range(4 + cnn_extra_layers)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(zip([3, *widths], widths, strict=False), start=1):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=not cnn_batch_norm)
        nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        layers[f"convolution{number}"] = convolution
        if cnn_batch_norm:
            layers[f"normalization{number}"] = nn.BatchNorm2d(after)
        layers[f"activation{number}"] = activation()
        if number <= 3:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
    dense = nn.Sequential(nn.Linear(widths[-1], embedding_width), nn.ReLU())
    return Body(nn.Sequential(layers), dense, embedding_width)


def autoencoder(**_: object) -> Body:
    """The encoder of the matching study's autoencoder."""
    return Body(autoencoder_layers(), nn.Identity(), AUTOENCODER_WIDTHS[-1])


def vit_b_16(**_: object) -> Body:
    """Torchvision's vision Transformer; its maps are the tokens of the patches, whose mean is ``pooled``.

    Its ImageNet weights were trained to classify by the class token, which is no position of the picture.
    """
    return Body(vision_transformer(models.vit_b_16(weights=None)), nn.Identity(), 768)


def _from_torchvision(
    build: Callable[..., nn.Module], width: int, *, relu: bool = False, **settings: bool
) -> Callable[..., Body]:
    """A builder of the features of one of torchvision's models, with its names of the layers, so that files fit."""

    def body(**_: object) -> Body:
        model = build(weights=None, **settings)
        layers = OrderedDict((name, child) for name, child in model.named_children() if name not in HEAD)
        if relu:
            layers["relu"] = nn.ReLU()
        return Body(nn.Sequential(layers), nn.Identity(), width)

    return body


def stages(body: nn.Sequential) -> Iterator[nn.Sequential]:
    """The layers in groups, each of which begins with a convolution or a block of them.

    BatchNorm and layers without weights join the layer before them: what checkpointing keeps is the input of each
    group, and a ReLU in place would overwrite it.
    """
    layers = [
        layer
        for name, child in body.named_children()
        for layer in (child.children() if name == "features" else [child])
    ]
    group: list[nn.Module] = []
    for layer in layers:
        if group and not isinstance(layer, _BatchNorm) and any(True for _ in layer.parameters()):
            yield nn.Sequential(*group)
            group = []
        group.append(layer)
    yield nn.Sequential(*group)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(stage)


@contextmanager
def _statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Lets BatchNorm write into copies while a stage is computed again, or it would count each batch twice."""
    kept = [
        (layer, name, buffer)
        for layer in stage.modules()
        if isinstance(layer, _BatchNorm)
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    for layer, name, buffer in kept:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)


def weights_file(name: str, weights: str, *, weights_hash: str = "") -> tuple[Path | None, str]:
    """The file of an encoder's first weights, downloaded if need be, and its SHA-256.

    Raises:
        NotFound: there is no such file.
        BadInput: ImageNet weights do not exist for this encoder, cannot be downloaded or are damaged; the file is not
            the one that ``weights_hash`` was taken of.
    """
    file, prefix = _weights_file(name, weights)
    if file is None:
        return None, ""
    found = known_sha256(file)
    if not found.startswith(prefix):
        raise BadInput(f"{file} has SHA-256 {found[:12]}…, expected {prefix}…; remove it and fetch it again.")
    refuse_changed(str(file), found, weights_hash)
    return file, found


def _weights_file(name: str, weights: str) -> tuple[Path | None, str]:
    """The file, and how its hash must begin."""
    if weights == "none":
        return None, ""
    if weights == "imagenet":
        known = ENCODERS[name].imagenet
        if known is None:
            raise BadInput(f"weights=imagenet does not exist for picture_encoder={name!r}: use none or a file's path.")
        return imagenet_file(known.url)
    file = Path(weights).expanduser()
    if not file.is_file():
        raise NotFound(f"weights={weights!r} is no file: use none, imagenet or the path of a state dict.")
    return file, ""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A member of the table: how to build it, and what it takes."""

    build: Callable[..., Body]
    imagenet: WeightsEnum | None = None
    smallest: int = 32
    """Smallest side of a picture, in pixels."""
    native: int = 224
    """Side of the pictures that it was made for, in pixels."""
    patch: int = 1
    """Side of the patches into which it cuts pictures, in pixels; what is left at the border would not be seen."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


ENCODERS: dict[str, Architecture] = {
    "cnn": Architecture(build=cnn, smallest=8, native=96),
    "autoencoder": Architecture(build=autoencoder, native=96),
    "efficientnet_b0": Architecture(
        build=_from_torchvision(models.efficientnet_b0, 1280), imagenet=models.EfficientNet_B0_Weights.IMAGENET1K_V1
    ),
    "efficientnet_b7": Architecture(
        build=_from_torchvision(models.efficientnet_b7, 2560),
        imagenet=models.EfficientNet_B7_Weights.IMAGENET1K_V1,
        native=600,
    ),
    "resnet18": Architecture(
        build=_from_torchvision(models.resnet18, 512), imagenet=models.ResNet18_Weights.IMAGENET1K_V1
    ),
    # Not V2: recipes with label smoothing win on ImageNet, but their frozen features serve other tasks less well
    # (https://arxiv.org/abs/2010.16402).
    "resnet50": Architecture(
        build=_from_torchvision(models.resnet50, 2048), imagenet=models.ResNet50_Weights.IMAGENET1K_V1
    ),
    # Mean and std are of the network that the weights were converted from: torchvision's transform_input undoes
    # ImageNet's and applies these.
    "inception_v3": Architecture(
        build=_from_torchvision(models.inception_v3, 2048, aux_logits=False, transform_input=False, init_weights=True),
        imagenet=models.Inception_V3_Weights.IMAGENET1K_V1,
        smallest=75,
        native=299,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    # torchvision applies the last ReLU of a DenseNet in its forward pass.
    "densenet121": Architecture(
        build=_from_torchvision(models.densenet121, 1024, relu=True),
        imagenet=models.DenseNet121_Weights.IMAGENET1K_V1,
    ),
    "vit_b_16": Architecture(build=vit_b_16, imagenet=models.ViT_B_16_Weights.IMAGENET1K_V1, smallest=16, patch=16),
    # Without the normalisation that torchvision's classifier begins with: the pooled vector's, not the positions'.
    "convnext_tiny": Architecture(
        build=_from_torchvision(models.convnext_tiny, 768), imagenet=models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1
    ),
}
