"""Does fine-tuning pretrained encoders find more than training the same kind of model from scratch?

The rows reproduce the fine-tuning table of the image-text study: one run from scratch, and two that fine-tune for three
epochs with a learning rate of 1e-5, with and without weight decay. The study names no networks; ours are a ResNet-50
with ImageNet weights and the sentence encoder all-MiniLM-L6-v2. The search goes on over picture encoders, learning
rate, temperature, and what of the two learns. Encoders of one's own come in with ``--set weights=none --set
init_from=picture_encoder=NAME@champion`` and the fields that their model was trained with.
"""

from typing import Any

from trainables.retrieval import Retrieval, RetrievalConfig
from vltune.contract import Search


def define(trial: Any) -> RetrievalConfig:
    """A dual encoder that starts from pretrained weights, or for comparison from random ones."""
    text_encoder = trial.suggest_categorical("text_encoder", ("pretrained", "transformer"))
    pretrained = text_encoder == "pretrained"
    text_model, train_text_encoder, weights, train_encoder = "", True, "none", True
    init_from = trial.suggest_categorical("init_from", ("",))
    if pretrained:
        # One choice each: not searched, but asked, so that `--set` can name others.
        text_model = trial.suggest_categorical("text_model", ("all-MiniLM-L6-v2",))
        weights = trial.suggest_categorical("weights", ("imagenet",))
        train_text_encoder = trial.suggest_categorical("train_text_encoder", (True, False))
        if weights != "none" or "picture_encoder=" in init_from:  # one with random weights has to learn
            train_encoder = trial.suggest_categorical("train_encoder", (True, False))

    return RetrievalConfig(
        epochs=trial.suggest_categorical("epochs", (3, 5, 8)),
        batch_size=64,
        optimizer="adamw",
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
        weight_decay=trial.suggest_categorical("weight_decay", (0.0, 1e-4, 1e-3)),
        picture_size=224,
        init_from=init_from,
        picture_encoder=trial.suggest_categorical(
            "picture_encoder", ("resnet50", "efficientnet_b0", "vit_b_16", "convnext_tiny")
        ),
        weights=weights,
        train_encoder=train_encoder,
        text_encoder=text_encoder,
        text_model=text_model,
        train_text_encoder=train_text_encoder,
        projection_width=trial.suggest_categorical("projection_width", (256, 512)),
        temperature=trial.suggest_float("temperature", 0.01, 0.2, log=True),
        learn_temperature=trial.suggest_categorical("learn_temperature", (False, True)),
        captions_per_picture=trial.suggest_int("captions_per_picture", 1, 5),
    )


_ROW = {
    "init_from": "",
    "picture_encoder": "resnet50",
    "temperature": 0.1,
    "learn_temperature": False,
    "projection_width": 256,
    "captions_per_picture": 1,
}
_FINE_TUNED = {
    **_ROW,
    "text_encoder": "pretrained",
    "text_model": "all-MiniLM-L6-v2",
    "weights": "imagenet",
    "train_text_encoder": True,
    "train_encoder": True,
    "learning_rate": 1e-5,
    "epochs": 3,
}

SEARCH = Search(
    name="retrieval_finetune",
    family=Retrieval,
    define=define,
    objective="mean_recall",
    num_trials=24,
    rows={
        "from scratch": {
            **_ROW,
            "text_encoder": "transformer",
            "learning_rate": 1e-3,
            "weight_decay": 1e-3,
            "epochs": 5,
        },
        "fine-tuned, weight decay 1e-3": {**_FINE_TUNED, "weight_decay": 1e-3},
        "fine-tuned, no weight decay": {**_FINE_TUNED, "weight_decay": 0.0},
    },
    base_row="from scratch",
    columns=(
        "mean_recall",
        "text_to_picture_recall_at_1",
        "text_to_picture_recall_at_10",
        "picture_to_text_recall_at_1",
        "picture_to_text_recall_at_10",
        "text_to_picture_median_rank",
        "val_loss",
    ),
    note="Recall falls with the number of pictures that are searched: compare rows of one data set only. "
    "Fine-tuned rows stand on ImageNet weights, unless weights=none was set.",
    pruner="successive_halving",
)
