"""Do features that match a picture with its crop also carry labels from one picture to another?

The study of self-supervised matching names segmentation as what its features are for, and gives no table of it. Each
validation picture takes its labels, position by position, from another that shows things of the same category; the
score is the mean intersection over union. Needs a COCO folder with instance masks.
"""

from typing import Any

from trainables.correspondence import CorrespondenceTransfer
from trainables.parts.dense_fields import DenseConfig
from vltune.contract import Search


def define(trial: Any) -> DenseConfig:
    """A layer of an ImageNet encoder as it is, or of a small network that learns from crops."""
    picture_encoder = trial.suggest_categorical(
        "picture_encoder", ("resnet18", "resnet50", "convnext_tiny", "vit_b_16", "cnn")
    )
    weights = "none"
    if picture_encoder != "cnn":
        weights = trial.suggest_categorical("weights", ("imagenet",))
    return DenseConfig(
        epochs=20 if picture_encoder == "cnn" else 0,
        batch_size=32,
        learning_rate=2e-3,
        picture_size=224,
        picture_encoder=picture_encoder,
        weights=weights,
        cnn_batch_norm=picture_encoder == "cnn",
        feature_layer=trial.suggest_categorical("feature_layer", ("2", "3", "4", "last")),
        grid_side=28,
        pca_components=trial.suggest_categorical("pca_components", (0, 5, 10, 20, 50)),
        distance=trial.suggest_categorical("distance", ("cosine", "euclidean")),
    )


def _row(**differences: Any) -> dict[str, Any]:
    base = {"picture_encoder": "resnet18", "weights": "imagenet", "feature_layer": "last", "pca_components": 0}
    return {**base, "distance": "cosine", **differences}


SEARCH = Search(
    name="correspondence_transfer",
    family=CorrespondenceTransfer,
    define=define,
    objective="mean_iou",
    num_trials=32,
    rows={
        "ResNet-18, last layer": _row(),
        "ResNet-18, last layer, 10 components": _row(pca_components=10),
        "ResNet-18, layer 4": _row(feature_layer="4"),
        "ResNet-18, layer 4, 10 components": _row(feature_layer="4", pca_components=10),
        "CNN taught by crops": {
            "picture_encoder": "cnn",
            "feature_layer": "last",
            "pca_components": 0,
            "distance": "cosine",
        },
    },
    base_row="ResNet-18, last layer",
    group_by="picture_encoder",
    columns=("mean_iou", "val_loss"),
    note="Of each pair the intersection over union is averaged over the categories that both pictures show, and the "
    "background. The loss of matching a picture with its own crop stands beside it.",
)
