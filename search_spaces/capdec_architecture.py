"""How many attention heads and Transformer layers does captioning from embeddings want?

The rows reproduce the architecture comparison of the text-only captioning study: CapDec's 8 heads and 8 layers, then
other numbers of one or the other. They are those of the Transformer that turns an embedding into a prefix, which is
what CapDec's own settings number; its GPT-2 always has 12 of each. The search goes on over both together, the prefix's
length, and the MLP in the Transformer's place.
"""

from typing import Any

from trainables.capdec import Capdec, CapdecConfig
from vltune.contract import Search

HEADS = (2, 4, 8, 16)
LAYERS = (4, 6, 8, 10, 16, 24)


def define(trial: Any) -> CapdecConfig:
    """A mapper of a certain depth before a small Transformer, and CapDec's noise."""
    mapper = trial.suggest_categorical("mapper", ("transformer", "mlp"))
    settings: dict[str, Any] = {}
    if mapper == "transformer":
        settings["mapper_heads"] = trial.suggest_categorical("mapper_heads", HEADS)
        settings["mapper_layers"] = trial.suggest_categorical("mapper_layers", LAYERS)

    return CapdecConfig(
        epochs=10,
        batch_size=64,
        further_metrics="samples",  # what the study measured: five sampled captions against people's
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        dropout=0.1,
        decoder_layers=2,
        noise="gaussian",
        noise_std=0.05,
        mapper=mapper,
        prefix_length=trial.suggest_categorical("prefix_length", (10, 5, 20, 40)),
        **settings,
    )


def _row(*, heads: int = 8, layers: int = 8) -> dict[str, Any]:
    sizes = {"mapper_heads": heads, "mapper_layers": layers, "prefix_length": 10}
    return {"mapper": "transformer", "learning_rate": 3e-4, **sizes}


SEARCH = Search(
    name="capdec_architecture",
    family=Capdec,
    define=define,
    objective="cider",
    num_trials=20,
    rows={
        "8 heads, 8 layers": _row(),
        **{f"{heads} heads": _row(heads=heads) for heads in HEADS if heads != 8},
        **{f"{layers} layers": _row(layers=layers) for layers in LAYERS if layers != 8},
    },
    base_row="8 heads, 8 layers",
    columns=("cider", "bleu_4", "rouge_l", "val_loss", "text_val_loss"),
    note="Heads and layers are those of the mapper, from the embedding to the prefix; the decoder stays the same.",
    pruner="successive_halving",
)
