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
    embedding_width = trial.suggest_categorical("embedding_width", (64, 128))
    heads, hidden_width = 4, 128
    if decoder == "transformer":
        heads = trial.suggest_categorical("heads", (2, 4, 8))
    else:
        hidden_width = trial.suggest_categorical("hidden_width", (64, 128, 256))
    return CaptioningConfig(
        epochs=6,
        batch_size=32,
        schedule="cosine",
        warmup_fraction=0.1,
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
        picture_size=64,
        max_tokens=24,
        picture_encoder="cnn",
        cnn_width=trial.suggest_int("cnn_width", 16, 32, step=8),
        decoder=decoder,
        embedding_width=embedding_width,
        hidden_width=hidden_width,
        attention_width=hidden_width,
        heads=heads,
        feedforward_width=2 * embedding_width,
        dropout=trial.suggest_float("dropout", 0.0, 0.3),
    )


def _row(**differences: Any) -> dict[str, Any]:
    return {"embedding_width": 128, "learning_rate": 2e-3, "cnn_width": 24, "dropout": 0.1, **differences}


SEARCH = Search(
    name="quickstart",
    family=Captioning,
    define=define,
    objective="cider",
    num_trials=9,
    rows={
        "GRU with attention": _row(decoder="gru", hidden_width=128),
        "LSTM with attention": _row(decoder="lstm", hidden_width=128),
        "Transformer": _row(decoder="transformer", heads=4, learning_rate=1e-3),
    },
    base_row="GRU with attention",
    group_by="decoder",
    columns=("cider", "bleu_4", "rouge_l", "val_loss", "token_accuracy"),
    pruner="successive_halving",
)
