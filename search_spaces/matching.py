"""Which encoders, classifier and loss tell best whether a caption belongs to a picture?

The rows reproduce the experiments of the matching study that start from random weights, under its numbers, and those of
its pretrained experiments whose setting no other row has, from scratch here (``matching_pretrained`` has them as they
were): CNN or autoencoder's encoder, LSTM of one to three layers or MLP, classifiers with two outputs or with one and a
threshold. The search goes on over all of these, over rates and dropout, cleaning and stemming, and harder negatives.

The study counts a classifier's input too: its [1024, 512, 256, 2] is 512-256-2 here. Of its autoencoder only the 576
numbers that the encoder gives are known: ours gives them of pictures of 96 pixels. Its pairs are given with its data;
here captions of other pictures are the half that does not match. Its test accuracy fell from 0.70 to 0.52: choose by
validation, then let ``promote`` read the test split, and heed its warning.
"""

from typing import Any

from trainables.matching import Matching, MatchingConfig
from vltune.contract import Search

CLASSIFIERS = ("512-256-2", "64-32-2", "2", "512-256-1")


def define(trial: Any) -> MatchingConfig:
    """The study's models and their neighbours."""
    picture_encoder = trial.suggest_categorical("picture_encoder", ("resnet18", "autoencoder"))
    text_encoder = trial.suggest_categorical("text_encoder", ("lstm", "mlp"))
    word_width, text_layers = 32, 1
    if text_encoder == "lstm":
        word_width = 256
        text_layers = trial.suggest_int("text_layers", 1, 3)

    classifier_widths = trial.suggest_categorical("classifier_widths", CLASSIFIERS)
    classifier_activation, classifier_dropout, threshold = "relu", 0.0, 0.5
    if "-" in classifier_widths:
        classifier_activation = trial.suggest_categorical("classifier_activation", ("relu", "tanh"))
        classifier_dropout = trial.suggest_float("classifier_dropout", 0.0, 0.5)
    if classifier_widths.endswith("-1"):
        threshold = trial.suggest_float("threshold", 0.1, 0.9)

    negatives = trial.suggest_categorical("negatives", ("random", "hard"))
    hard_negative_share = 0.5
    if negatives == "hard":
        hard_negative_share = trial.suggest_float("hard_negative_share", 0.1, 1.0)

    return MatchingConfig(
        epochs=50,
        batch_size=64,
        optimizer=trial.suggest_categorical("optimizer", ("adam", "adamw")),
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True),
        schedule="constant",
        picture_encoder=picture_encoder,
        features="grid" if picture_encoder == "autoencoder" else "pooled",
        text_encoder=text_encoder,
        word_width=word_width,
        text_width=512,
        text_layers=text_layers,
        text_dropout=trial.suggest_float("text_dropout", 0.0, 0.5),
        stem_words=trial.suggest_categorical("stem_words", (True, False)),
        clean_text=trial.suggest_categorical("clean_text", (True, False)),
        negatives=negatives,
        hard_negative_share=hard_negative_share,
        classifier_widths=classifier_widths,
        classifier_activation=classifier_activation,
        classifier_dropout=classifier_dropout,
        threshold=threshold,
    )


_ROW = {
    "optimizer": "adam",
    "learning_rate": 2e-4,
    "text_dropout": 0.0,
    "stem_words": True,
    "clean_text": True,
    "negatives": "random",
}
_CNN, _AE = {"picture_encoder": "resnet18"}, {"picture_encoder": "autoencoder"}
_MLP = {"text_encoder": "mlp"}


def _lstm(layers: int = 1) -> dict[str, Any]:
    return {"text_encoder": "lstm", "text_layers": layers}


def _deep(widths: str = "512-256-2", activation: str = "relu") -> dict[str, Any]:
    return {"classifier_widths": widths, "classifier_activation": activation, "classifier_dropout": 0.0}


def _one_output(threshold: float, activation: str) -> dict[str, Any]:
    return {**_deep("512-256-1", activation), "threshold": threshold}


SEARCH = Search(
    name="matching",
    family=Matching,
    define=define,
    objective="accuracy",
    num_trials=60,
    rows={
        "1: CNN + LSTM": {**_ROW, **_CNN, **_lstm(), **_deep()},
        "2: rate 1e-4": {**_ROW, **_CNN, **_lstm(), **_deep(), "learning_rate": 1e-4},
        "12: LSTM of 2 layers": {**_ROW, **_CNN, **_lstm(2), **_deep()},
        "13: LSTM of 2 layers, 64-32-2": {**_ROW, **_CNN, **_lstm(2), **_deep("64-32-2")},
        "21 from scratch: LSTM of 2 layers, AdamW": {**_ROW, **_CNN, **_lstm(2), **_deep(), "optimizer": "adamw"},
        "24 from scratch: LSTM of 3 layers": {**_ROW, **_CNN, **_lstm(3), **_deep()},
        "25 from scratch: no hidden layer": {**_ROW, **_CNN, **_lstm(), "classifier_widths": "2"},
        "31: CNN + MLP": {**_ROW, **_CNN, **_MLP, **_deep()},
        "32 from scratch: CNN + MLP, rate 1e-3": {**_ROW, **_CNN, **_MLP, **_deep(), "learning_rate": 1e-3},
        "35 from scratch: AE + LSTM": {**_ROW, **_AE, **_lstm(), **_deep()},
        "36 from scratch: AE + MLP": {**_ROW, **_AE, **_MLP, **_deep()},
        "37: one output, threshold 0.5, tanh": {**_ROW, **_CNN, **_lstm(), **_one_output(0.5, "tanh")},
        "38: one output, threshold 0.5": {**_ROW, **_CNN, **_lstm(), **_one_output(0.5, "relu")},
        "42: one output, threshold 0.9, tanh": {**_ROW, **_CNN, **_lstm(), **_one_output(0.9, "tanh")},
        "44: one output, threshold 0.3, tanh": {**_ROW, **_CNN, **_lstm(), **_one_output(0.3, "tanh")},
    },
    base_row="1: CNN + LSTM",
    columns=("accuracy", "f1", "roc_auc", "val_loss", "false_positive_share", "false_negative_share"),
    pruner="successive_halving",
)
