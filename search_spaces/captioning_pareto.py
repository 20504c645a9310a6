"""Which small captioners are best for their size and their speed?

CIDEr against the number of parameters and the time of captioning one picture, with NSGA-II. The answer is no single
model but the Pareto front of the table: captioners of which none is better in one of the three and as good in the
others. It reproduces no published table. Made for ``scenes``, the generated pictures.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search


def define(trial: Any) -> CaptioningConfig:
    """A CNN from scratch with a recurrent decoder or a Transformer, and how it writes captions."""
    decoder = trial.suggest_categorical("decoder", ("lstm", "gru", "transformer"))
    decoding = trial.suggest_categorical("decoding", ("greedy", "beam"))
    branch: dict[str, Any] = {}
    if decoder == "transformer":
        for name in ("encoder_layers", "decoder_layers"):
            branch[name] = trial.suggest_int(name, 1, 3)
        branch["feedforward_width"] = trial.suggest_categorical("feedforward_width", (64, 128, 256, 512))
    else:
        for name in ("hidden_width", "attention_width"):
            branch[name] = trial.suggest_categorical(name, (32, 64, 128, 256))
    if decoding == "beam":
        branch["beam_width"] = trial.suggest_int("beam_width", 2, 4)
    return CaptioningConfig(
        epochs=8,
        batch_size=16,
        schedule="cosine",
        warmup_fraction=0.1,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        picture_size=48,
        max_tokens=24,
        picture_encoder="cnn",
        cnn_width=trial.suggest_int("cnn_width", 4, 32, step=4),
        cnn_batch_norm=True,
        decoder=decoder,
        decoding=decoding,
        embedding_width=trial.suggest_categorical("embedding_width", (32, 64, 128, 256)),
        dropout=trial.suggest_float("dropout", 0.0, 0.2),
        measure_latency=True,
        **branch,
    )


_SMALL = {"decoding": "greedy", "learning_rate": 5e-3, "cnn_width": 8, "embedding_width": 32, "dropout": 0.0}
_LARGE = {"decoding": "greedy", "learning_rate": 2e-3, "cnn_width": 32, "embedding_width": 256, "dropout": 0.1}

SEARCH = Search(
    name="captioning_pareto",
    family=Captioning,
    define=define,
    objective="cider",
    further_objectives=("parameters", "latency_ms"),
    num_trials=40,
    rows={
        "small GRU": {**_SMALL, "decoder": "gru", "hidden_width": 32, "attention_width": 32},
        "large GRU": {**_LARGE, "decoder": "gru", "hidden_width": 256, "attention_width": 256},
        "large GRU, beam of 3": {
            **_LARGE,
            "decoder": "gru",
            "hidden_width": 256,
            "attention_width": 256,
            "decoding": "beam",
            "beam_width": 3,
        },
        "small Transformer": {
            **_SMALL,
            "decoder": "transformer",
            "encoder_layers": 1,
            "decoder_layers": 1,
            "feedforward_width": 64,
        },
        "large Transformer": {
            **_LARGE,
            "decoder": "transformer",
            "learning_rate": 1e-3,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "feedforward_width": 512,
        },
    },
    base_row="large GRU",
    columns=("cider", "parameters", "latency_ms", "bleu_4", "val_loss"),
    note="latency_ms is that of a machine which may have trained other trials meanwhile: run with --concurrent 1 where "
    "it has to be exact.",
    sampler="nsga2",
)
