"""Which small captioner learns the generated scenes best within six epochs?

Runs on ``scenes``, the generated pictures, in a few minutes on two processors and without any download: three decoders
over the same small convolutional network. It reproduces no published table; it shows every part of a search at work.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search


def define(trial: Any) -> CaptioningConfig:
    """A small CNN from scratch with an attending LSTM, an attending GRU, or a Transformer."""
    decoder = trial.suggest_categorical("decoder", ("lstm", "gru", "transformer"))
    heads, hidden_width = 4, 128
    if decoder == "transformer":
        heads = trial.suggest_categorical("heads", (2, 4, 8))
    else:
        hidden_width = trial.suggest_categorical("hidden_width", (96, 128, 192))
    return CaptioningConfig(
        epochs=6,
        batch_size=16,
        schedule="cosine",
        warmup_fraction=0.1,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 6e-3, log=True),
        picture_size=48,
        max_tokens=24,
        picture_encoder="cnn",
        cnn_width=trial.suggest_int("cnn_width", 16, 32, step=8),
        cnn_batch_norm=True,
        decoder=decoder,
        embedding_width=128,
        hidden_width=hidden_width,
        attention_width=hidden_width,
        heads=heads,
        feedforward_width=256,
        dropout=trial.suggest_float("dropout", 0.0, 0.2),
    )


def _row(**differences: Any) -> dict[str, Any]:
    return {"learning_rate": 3e-3, "cnn_width": 16, "dropout": 0.05, **differences}


SEARCH = Search(
    name="quickstart",
    family=Captioning,
    define=define,
    objective="cider",
    num_trials=8,
    rows={
        "GRU with attention": _row(decoder="gru", hidden_width=128),
        "LSTM with attention": _row(decoder="lstm", hidden_width=128),
        "Transformer": _row(decoder="transformer", heads=4, learning_rate=2e-3),
    },
    base_row="GRU with attention",
    group_by="decoder",
    columns=("cider", "bleu_4", "rouge_l", "val_loss", "token_accuracy"),
    pruner="successive_halving",
)
