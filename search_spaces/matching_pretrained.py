"""Does pretraining on pictures alone, or on captions alone, help to tell whether a caption belongs to a picture?

The rows reproduce the matching study's experiments with pretrained parts, under its numbers, beside the two from
scratch that they are compared with. They start from what three other searches promoted on the same data::

    vltune search pretraining_rotation --data FOLDER
    vltune promote pretraining_rotation
    vltune search pretraining_masked_word --data FOLDER
    vltune promote pretraining_masked_word
    vltune search pretraining_reconstruction --data FOLDER
    vltune promote pretraining_reconstruction
    vltune search matching_pretrained --data FOLDER
    vltune promote matching_pretrained

Which parts are pretrained decides which encoders they are: ResNet-18 by rotation, an LSTM of one layer by masked words,
which brings its vocabulary, the autoencoder's encoder by reconstruction. The search goes on over the rest.
"""

from typing import Any

from trainables.matching import Matching, MatchingConfig
from vltune.contract import Search

CNN = "picture_encoder=pretraining_rotation@champion"
AE = "picture_encoder=pretraining_reconstruction@champion"
LSTM = "text_encoder=pretraining_masked_word@champion"
PRETRAINED = ("", CNN, LSTM, f"{CNN},{LSTM}", AE, f"{AE},{LSTM}")


def define(trial: Any) -> MatchingConfig:
    """The study's models, with some parts pretrained."""
    init_from = trial.suggest_categorical("init_from", PRETRAINED)
    if "picture_encoder" in init_from:
        picture_encoder = "autoencoder" if AE in init_from else "resnet18"
    else:
        picture_encoder = trial.suggest_categorical("picture_encoder", ("resnet18", "autoencoder"))

    text_encoder, text_layers = "lstm", 1
    if "text_encoder" not in init_from:
        text_encoder = trial.suggest_categorical("text_encoder", ("lstm", "mlp"))
        if text_encoder == "lstm":
            text_layers = trial.suggest_int("text_layers", 1, 3)

    return MatchingConfig(
        epochs=50,
        batch_size=64,
        init_from=init_from,
        optimizer=trial.suggest_categorical("optimizer", ("adam", "adamw")),
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True),
        schedule="constant",
        picture_encoder=picture_encoder,
        features="grid" if picture_encoder == "autoencoder" else "pooled",
        text_encoder=text_encoder,
        word_width=256 if text_encoder == "lstm" else 32,
        text_width=512,
        text_layers=text_layers,
        text_dropout=trial.suggest_float("text_dropout", 0.0, 0.5),
        stem_words=True,
        classifier_widths=trial.suggest_categorical("classifier_widths", ("512-256-2", "64-32-2", "2")),
    )


_ROW = {"optimizer": "adam", "learning_rate": 2e-4, "text_dropout": 0.0, "classifier_widths": "512-256-2"}
_SCRATCH = {"init_from": "", "picture_encoder": "resnet18"}
_MLP = {"text_encoder": "mlp"}


def _lstm(layers: int = 1) -> dict[str, Any]:
    return {"text_encoder": "lstm", "text_layers": layers}


SEARCH = Search(
    name="matching_pretrained",
    family=Matching,
    define=define,
    objective="accuracy",
    num_trials=40,
    rows={
        "1: CNN + LSTM": {**_ROW, **_SCRATCH, **_lstm()},
        "31: CNN + MLP": {**_ROW, **_SCRATCH, **_MLP},
        "17: pretrained CNN + LSTM": {**_ROW, "init_from": CNN, **_lstm()},
        "21: pretrained CNN + LSTM of 2 layers, AdamW": {
            **_ROW,
            "init_from": CNN,
            **_lstm(2),
            "optimizer": "adamw",
        },
        "24: pretrained CNN + LSTM of 3 layers": {**_ROW, "init_from": CNN, **_lstm(3)},
        "25: pretrained CNN + LSTM, no hidden layer": {
            **_ROW,
            "init_from": CNN,
            **_lstm(),
            "classifier_widths": "2",
        },
        "28: pretrained CNN + pretrained LSTM, no hidden layer": {
            **_ROW,
            "init_from": f"{CNN},{LSTM}",
            "classifier_widths": "2",
        },
        "30: pretrained CNN + MLP": {**_ROW, "init_from": CNN, **_MLP},
        "32: pretrained CNN + MLP, rate 1e-3": {**_ROW, "init_from": CNN, **_MLP, "learning_rate": 1e-3},
        "34: pretrained CNN + MLP, rate 1e-4": {**_ROW, "init_from": CNN, **_MLP, "learning_rate": 1e-4},
        "35: pretrained AE + LSTM": {**_ROW, "init_from": AE, **_lstm()},
        "36: pretrained AE + MLP": {**_ROW, "init_from": AE, **_MLP},
    },
    base_row="1: CNN + LSTM",
    group_by="init_from",
    columns=("accuracy", "f1", "roc_auc", "val_loss", "false_positive_share", "false_negative_share"),
    pruner="successive_halving",
)
