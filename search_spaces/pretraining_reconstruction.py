"""How well can a picture be drawn again from the few numbers that an autoencoder keeps of it?

The task with which the matching study pretrains its autoencoder: mean absolute error, Adam. The rows differ in the
width of the decoder, which is thrown away afterwards, and in augmentation, of which the study says nothing.

What is promoted gives other searches their first weights:
``init_from=picture_encoder=pretraining_reconstruction@champion``.
"""

from typing import Any

from trainables.pretraining_reconstruction import Reconstruction, ReconstructionConfig
from vltune.contract import Search


def define(trial: Any) -> ReconstructionConfig:
    """The autoencoder, and how it is trained."""
    return ReconstructionConfig(
        epochs=30,
        batch_size=16,
        optimizer=trial.suggest_categorical("optimizer", ("adam", "adamw")),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_categorical("weight_decay", (0.0, 1e-4, 1e-2)),
        picture_encoder="autoencoder",
        features="grid",
        picture_decoder_width=trial.suggest_categorical("picture_decoder_width", (8, 16, 32)),
        augmentation=trial.suggest_categorical("augmentation", ("none", "base", "improved")),
    )


_ROW = {
    "optimizer": "adam",
    "learning_rate": 2e-3,
    "weight_decay": 0.0,
    "picture_decoder_width": 16,
    "augmentation": "none",
}

SEARCH = Search(
    name="pretraining_reconstruction",
    family=Reconstruction,
    define=define,
    objective="val_loss",
    num_trials=16,
    rows={
        "decoder of 16 channels": _ROW,
        "decoder of 8 channels": {**_ROW, "picture_decoder_width": 8},
        "decoder of 32 channels": {**_ROW, "picture_decoder_width": 32},
        "decoder of 16 channels, augmented": {**_ROW, "augmentation": "base"},
    },
    base_row="decoder of 16 channels",
    columns=("val_loss", "psnr"),
    pruner="successive_halving",
)
