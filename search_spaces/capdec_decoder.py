"""Does a language model that others have trained write better from embeddings than a small decoder of one's own?

The rows are CapDec's two ways with GPT-2 (https://arxiv.org/abs/2211.00575, after ClipCap): fine-tuned behind an MLP,
or kept as it is behind a Transformer; and small decoders that learn to write from nothing. The search goes on over all
of them, with embeddings at their own length or at length 1. GPT-2 comes from the Hugging Face hub, or from a folder:
``--set language_model=FOLDER``; without it, ``--set decoder=transformer`` leaves only the small ones.
"""

from typing import Any

from trainables.capdec import Capdec, CapdecConfig
from vltune.contract import Search


def define(trial: Any) -> CapdecConfig:
    """A mapper and a decoder of one's own or of others, and CapDec's noise."""
    decoder = trial.suggest_categorical("decoder", ("transformer", "gru", "gpt2"))
    settings: dict[str, Any] = {}
    if decoder == "gpt2":
        # One choice: not searched, but asked, so that `--set` can name others.
        settings["language_model"] = trial.suggest_categorical("language_model", ("gpt2",))
        settings["train_language_model"] = trial.suggest_categorical("train_language_model", (True, False))
    else:
        settings["dropout"] = trial.suggest_float("dropout", 0.0, 0.4)
    mapper = trial.suggest_categorical("mapper", ("mlp", "transformer"))
    if mapper == "transformer":
        settings["mapper_layers"] = trial.suggest_categorical("mapper_layers", (4, 8))

    return CapdecConfig(
        epochs=10,
        batch_size=64,
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True),
        decoder=decoder,
        decoder_layers=2,
        mapper=mapper,
        noise="gaussian",
        noise_std=trial.suggest_float("noise_std", 0.01, 0.5, log=True),
        normalize=trial.suggest_categorical("normalize", (True, False)),
        **settings,
    )


_SAME = {"noise_std": 0.016**0.5, "normalize": True}
_GPT2 = {**_SAME, "decoder": "gpt2", "language_model": "gpt2", "learning_rate": 2e-5}
_OWN = {**_SAME, "mapper": "mlp", "dropout": 0.1, "learning_rate": 1e-3}

SEARCH = Search(
    name="capdec_decoder",
    family=Capdec,
    define=define,
    objective="cider",
    num_trials=24,
    rows={
        "GPT-2, fine-tuned": {**_GPT2, "mapper": "mlp", "train_language_model": True},
        "GPT-2, as it is": {**_GPT2, "mapper": "transformer", "mapper_layers": 8, "train_language_model": False},
        "small Transformer": {**_OWN, "decoder": "transformer"},
        "GRU": {**_OWN, "decoder": "gru"},
    },
    base_row="GPT-2, fine-tuned",
    group_by="decoder",
    columns=("cider", "bleu_4", "rouge_l", "text_val_loss", "trainable_parameters"),
    note="CapDec's noise has the variance 0.016. GPT-2 has tokens of its own: its losses do not compare with those "
    "of small decoders.",
    pruner="successive_halving",
)
