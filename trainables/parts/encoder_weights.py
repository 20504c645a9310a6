"""First weights of picture encoders from state dicts, torchvision's or our own."""

import re
from pathlib import Path

from torch import Tensor, nn

from trainables.parts.vision_transformer import own_name
from vltune.errors import BadInput

HEAD = ("fc", "classifier", "heads", "avgpool", "dropout", "AuxLogits")
"""What torchvision's models have behind their features."""


def load_encoder_weights(encoder: nn.Module, state: dict[str, Tensor], *, name: str, file: Path) -> None:
    """Loads a state dict with torchvision's names, or with our own, less the classification head.

    Raises:
        BadInput: a name or a shape differs.
    """
    given = {_modern(key).removeprefix("body."): value for key, value in state.items() if key.split(".")[0] not in HEAD}
    wanted = {key.removeprefix("body."): (key, value) for key, value in encoder.state_dict().items()}
    # Older files lack BatchNorm's number of batches, which nothing here reads.
    required = {key for key in wanted if not key.endswith("num_batches_tracked")}
    for key in [*given, *sorted(required)]:
        there, here = given.get(key), wanted.get(key, (None, None))[1]
        if there is None or here is None or there.shape != here.shape:
            in_file = "missing" if there is None else f"of shape {tuple(there.shape)}"
            in_encoder = "unknown" if here is None else f"of shape {tuple(here.shape)}"
            also = " with this cnn_width, cnn_extra_layers and embedding_width" if name == "cnn" else ""
            raise BadInput(
                f"{file} seems not to hold weights of the picture_encoder {name}{also}: "
                f"{key} is {in_file} in the file and {in_encoder} in the encoder."
            )
    encoder.load_state_dict({wanted[key][0]: value for key, value in given.items()}, strict=False)


def _modern(key: str) -> str:
    """The name of a weight as it is here: torchvision's DenseNet files still say ``norm.1`` for ``norm1``."""
    return own_name(re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key))
