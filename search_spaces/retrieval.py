"""Which encoders, loss, temperature and learning rate find pictures by text, and texts by picture, from scratch?

The rows reproduce the hyperparameter table of the image-text study (training from scratch: learning rate, weight decay,
epochs and temperature of four runs) and the run from scratch to which it compares fine-tuning. The study's score is not
defined; ours is the mean of recall at 1, 5 and 10 in both directions, over the whole validation split. The study names
no networks; ours are a small CNN and a Transformer of one layer. The search goes on over encoders, widths and losses.
"""

from typing import Any

from trainables.retrieval import Retrieval, RetrievalConfig
from vltune.contract import Search


def define(trial: Any) -> RetrievalConfig:
    """A dual encoder that starts from random weights."""
    text_encoder = trial.suggest_categorical("text_encoder", ("transformer", "gru", "lstm", "mlp"))
    text_layers = 1
    if text_encoder == "transformer":
        text_layers = trial.suggest_int("text_layers", 1, 4)

    picture_encoder = trial.suggest_categorical("picture_encoder", ("cnn", "resnet18", "efficientnet_b0"))
    settings: dict[str, Any] = {}
    if picture_encoder == "cnn":
        settings["cnn_width"] = trial.suggest_categorical("cnn_width", (32, 64))

    contrastive_loss = trial.suggest_categorical("contrastive_loss", ("infonce", "sigmoid"))
    sigmoid_bias = -4.0
    if contrastive_loss == "sigmoid":
        sigmoid_bias = trial.suggest_float("sigmoid_bias", -10.0, 0.0)

    return RetrievalConfig(
        epochs=trial.suggest_categorical("epochs", (3, 5, 8)),
        batch_size=trial.suggest_categorical("batch_size", (32, 64, 128)),
        optimizer="adamw",
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 5e-1, log=True),
        weight_decay=trial.suggest_categorical("weight_decay", (0.0, 1e-4, 1e-3, 1e-2)),
        ema_decay=trial.suggest_categorical("ema_decay", (0.0, 0.99)),
        picture_encoder=picture_encoder,
        text_encoder=text_encoder,
        text_layers=text_layers,
        text_dropout=trial.suggest_float("text_dropout", 0.0, 0.3),
        projection_width=trial.suggest_categorical("projection_width", (128, 256, 512)),
        contrastive_loss=contrastive_loss,
        sigmoid_bias=sigmoid_bias,
        temperature=trial.suggest_float("temperature", 0.01, 0.2, log=True),
        learn_temperature=trial.suggest_categorical("learn_temperature", (False, True)),
        captions_per_picture=trial.suggest_int("captions_per_picture", 1, 5),
        **settings,
    )


_ROW = {
    "picture_encoder": "cnn",
    "ema_decay": 0.0,
    "text_encoder": "transformer",
    "text_layers": 1,
    "text_dropout": 0.1,
    "contrastive_loss": "infonce",
    "learn_temperature": False,
    "batch_size": 64,
    "cnn_width": 32,
    "projection_width": 256,
    "captions_per_picture": 1,
}


def _row(learning_rate: float, weight_decay: float, epochs: int, temperature: float) -> dict[str, Any]:
    """A line of the study's table."""
    settings = {"learning_rate": learning_rate, "weight_decay": weight_decay, "epochs": epochs}
    return {**_ROW, **settings, "temperature": temperature}


SEARCH = Search(
    name="retrieval",
    family=Retrieval,
    define=define,
    objective="mean_recall",
    num_trials=40,
    rows={
        "from scratch": _row(1e-3, 1e-3, 5, 0.1),
        "learning rate 1e-5": _row(1e-5, 0.0, 5, 0.1),
        "learning rate 0.5": _row(5e-1, 1e-3, 5, 0.05),
        "learning rate 5e-3, 8 epochs": _row(5e-3, 1e-4, 8, 0.1),
        "learning rate 1e-3, 8 epochs": _row(1e-3, 0.0, 8, 0.05),
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
    note="Recall falls with the number of pictures that are searched: compare rows of one data set only.",
    pruner="successive_halving",
)
