"""A vision Transformer for pictures of any size: torchvision's layers, with position vectors that are resized."""

import re
from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import VisionTransformer


class Patches(nn.Module):
    """A class token, then a vector for each patch of a picture, row by row; each knows its place.

    As in https://arxiv.org/abs/2010.11929. For pictures of another size than the model's the position vectors are
    resized bicubically in each pass: the weights, and so the files, are the same for all sizes. Unlike torchvision's
    own way, resizing smooths where it shrinks, so that no position vector is left out.
    """

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.pos_embedding = model.encoder.pos_embedding

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens channels"]:
        """The class token and the patches."""
        patches = self.conv_proj(pictures)
        rows, columns = patches.shape[2:]
        tokens = torch.cat((self.class_token.expand(len(pictures), -1, -1), patches.flatten(2).transpose(1, 2)), 1)
        return tokens + self._places(rows, columns)

    def _places(self, rows: int, columns: int) -> Float[Tensor, "1 tokens channels"]:
        of_class, of_patches = self.pos_embedding.split((1, self.pos_embedding.shape[1] - 1), 1)
        side = round(of_patches.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return self.pos_embedding
        maps = of_patches.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(maps, (rows, columns), mode="bicubic", antialias=True)
        return torch.cat((of_class, resized.flatten(2).transpose(1, 2)), 1)


class PatchMaps(nn.Module):
    """Normalised tokens of the patches, channels first as convolutions have them; the class token has done its work."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.ln = model.encoder.ln

    def forward(self, tokens: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch channels patches"]:
        """One vector for each patch, as columns."""
        return self.ln(tokens)[:, 1:].transpose(1, 2)


def vision_transformer(model: VisionTransformer) -> nn.Sequential:
    """The layers of one of torchvision's vision Transformers, without its head: pictures to maps of the patches."""
    blocks = cast(nn.Sequential, model.encoder.layers).named_children()
    return nn.Sequential(OrderedDict([("patches", Patches(model)), *blocks, ("maps", PatchMaps(model))]))


def own_name(key: str) -> str:
    """The name here of a weight that torchvision's file names so; other names stay as they are."""
    for theirs, ours in NAMES.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
    # Torchvision's files are older than its code.
    return re.sub(r"^(encoder_layer_\d+\.mlp)\.linear_([12])\.", lambda m: f"{m[1]}.{'03'[int(m[2]) - 1]}.", key)


NAMES = {
    "class_token": "patches.class_token",
    "conv_proj.": "patches.conv_proj.",
    "encoder.pos_embedding": "patches.pos_embedding",
    "encoder.layers.": "",
    "encoder.ln.": "maps.ln.",
}
"""How names begin in torchvision's files -> here."""
