"""Which features find the places of a picture again in its crop, and which score tells good matches from bad?

The rows are those of a study of self-supervised matching: nearest neighbours ranked by feature distance or by cycle
distance, with all components or with ten, for four crop settings, which it shows as four curves and does not name. Its
errors are pixels of pictures whose size it does not tell, ours percent of the picture's side: the order of the rows
compares, the numbers do not. Two rows show what needs no learning, the colours themselves, and what a small network
learns from crops alone.

The search goes on over encoders, layers, distances and components. It is about one crop setting, ``scale``: were the
setting searched, the easiest would win.
"""

from typing import Any

from trainables.correspondence import Correspondence, CorrespondenceConfig
from vltune.contract import Search


def define(trial: Any) -> CorrespondenceConfig:
    """A layer of an ImageNet encoder as it is, of a small network that learns from crops, or the colours alone."""
    feature_layer = trial.suggest_categorical("feature_layer", ("2", "3", "4", "last", "colours"))
    # Colours need no encoder: the smallest stands in its place.
    picture_encoder, weights, epochs, pca_components = "cnn", "none", 0, 0
    if feature_layer != "colours":
        picture_encoder = trial.suggest_categorical(
            "picture_encoder", ("resnet18", "resnet50", "convnext_tiny", "vit_b_16", "cnn")
        )
        if picture_encoder == "cnn":
            epochs = 20
        else:
            weights = trial.suggest_categorical("weights", ("imagenet",))
        pca_components = trial.suggest_categorical("pca_components", (0, 5, 10, 20, 50))
    return CorrespondenceConfig(
        epochs=epochs,
        batch_size=32,
        learning_rate=2e-3,
        picture_size=224,
        picture_encoder=picture_encoder,
        weights=weights,
        cnn_batch_norm=picture_encoder == "cnn",
        feature_layer=feature_layer,
        grid_side=28,
        pca_components=pca_components,
        distance=trial.suggest_categorical("distance", ("cosine", "euclidean")),
        score=trial.suggest_categorical("score", ("feature", "cycle")),
    )


def _row(**differences: Any) -> dict[str, Any]:
    """A ResNet-18 up to the fourth of its five stages: of 224 pixels it makes 14 positions a side, the fifth 7."""
    base = {"feature_layer": "4", "picture_encoder": "resnet18", "weights": "imagenet", "pca_components": 0}
    return {**base, "distance": "euclidean", "score": "feature", **differences}


_COLOURS = {"feature_layer": "colours", "distance": "euclidean", "score": "cycle"}
_LEARNT = {"feature_layer": "last", "picture_encoder": "cnn", "pca_components": 0, "distance": "cosine"}

SEARCH = Search(
    name="correspondence",
    family=Correspondence,
    define=define,
    objective="crop_error_mean",
    num_trials=48,
    rows={
        **{
            f"{score} distance{', 10 components' if components else ''}, {crop}": _row(
                crop=crop, score=score, pca_components=components
            )
            for crop in ("shift", "zoom", "scale", "flip")
            for score in ("feature", "cycle")
            for components in (0, 10)
        },
        "colours, scale": {**_COLOURS, "crop": "scale"},
        "CNN taught by crops, scale": {**_LEARNT, "score": "cycle", "crop": "scale"},
    },
    base_row="feature distance, scale",
    group_by="crop",
    columns=("crop_error_mean", "crop_error_median", *(f"crop_error_top_{top}" for top in (10, 25, 50, 100))),
    note="Errors are percent of the picture's side; a guess is 45 to 50 off. Mean and median count the better half of "
    "each pair's matches by the row's score; crop_error_top_100 counts all, and is the same for both scores.",
)
