"""How well does a text encoder learn to guess the word that is missing in a caption?

The task with which the matching study pretrains its LSTM: one word of a caption is hidden, cross-entropy over the whole
vocabulary, Adam. The rows hide one word, or more of them at once; each evaluation hides one, always the same.

What is promoted gives other searches their first weights, and brings its vocabulary:
``init_from=text_encoder=pretraining_masked_word@champion``.
"""

from typing import Any

from trainables.pretraining_masked_word import MaskedWord, MaskedWordConfig
from vltune.contract import Search


def define(trial: Any) -> MaskedWordConfig:
    """The study's LSTM or another text encoder, and how it is trained."""
    return MaskedWordConfig(
        epochs=20,
        batch_size=32,
        optimizer=trial.suggest_categorical("optimizer", ("adam", "adamw")),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_categorical("weight_decay", (0.0, 1e-4, 1e-2)),
        text_encoder=trial.suggest_categorical("text_encoder", ("lstm", "gru", "transformer")),
        word_width=256,
        text_width=512,
        text_layers=1,
        text_dropout=trial.suggest_float("text_dropout", 0.0, 0.5),
        stem_words=True,
        mask_share=trial.suggest_float("mask_share", 0.0, 0.5),
    )


_ROW = {
    "text_encoder": "lstm",
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
    "text_dropout": 0.0,
    "mask_share": 0.0,
}

SEARCH = Search(
    name="pretraining_masked_word",
    family=MaskedWord,
    define=define,
    objective="val_loss",
    num_trials=16,
    rows={
        "one word": _ROW,
        "15 % of the words": {**_ROW, "mask_share": 0.15},
        "30 % of the words": {**_ROW, "mask_share": 0.3},
        "one word, dropout 0.2": {**_ROW, "text_dropout": 0.2},
    },
    base_row="one word",
    columns=("val_loss", "perplexity", "token_accuracy"),
    pruner="successive_halving",
)
