"""How well does a picture encoder learn to tell by how much a picture is turned?

The task with which the matching study pretrains its CNN: five angles, cross-entropy, Adam. Chance is one in five. The
rows differ in how many angles of a picture a batch holds, and in augmentation, of which the study says nothing. The
angles are not searched over, because fewer or larger ones are easier: ``--set rotation_degrees=-90,0,90,180``. Without
a GPU take a small network: ``--set picture_encoder=cnn``.

What is promoted gives other searches their first weights: ``init_from=picture_encoder=pretraining_rotation@champion``.
"""

from typing import Any

from trainables.pretraining_rotation import Rotation, RotationConfig
from vltune.contract import Search


def define(trial: Any) -> RotationConfig:
    """The study's CNN or a smaller one, and how it is trained."""
    return RotationConfig(
        epochs=20,
        batch_size=32,
        optimizer=trial.suggest_categorical("optimizer", ("adam", "adamw")),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_categorical("weight_decay", (0.0, 1e-4, 1e-2)),
        picture_encoder=trial.suggest_categorical("picture_encoder", ("resnet18", "cnn")),
        features="pooled",
        rotation_degrees="-60,-30,0,30,60",
        rotations_per_picture=trial.suggest_categorical("rotations_per_picture", (0, 1)),
        augmentation=trial.suggest_categorical("augmentation", ("none", "base", "improved")),
    )


_ROW = {
    "picture_encoder": "resnet18",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "rotations_per_picture": 0,
    "augmentation": "none",
}

SEARCH = Search(
    name="pretraining_rotation",
    family=Rotation,
    define=define,
    objective="accuracy",
    num_trials=16,
    rows={
        "all angles at once": _ROW,
        "one angle at a time": {**_ROW, "rotations_per_picture": 1},
        "all angles at once, augmented": {**_ROW, "augmentation": "improved"},
    },
    base_row="all angles at once",
    columns=("accuracy", "val_loss"),
    pruner="successive_halving",
)
