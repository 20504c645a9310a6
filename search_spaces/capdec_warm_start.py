"""Does a captioner that learned from other texts before learn these better than one that starts anew?

The text-only captioning study starts all its runs from a pretrained CapDec. Here a promoted model of the family
``capdec`` takes that place: train it on much text first, promote it (``vltune promote capdec_noise``), then run this
search on the texts in question. Another model: ``--set init_from=mapper=NAME@ALIAS,decoder=NAME@ALIAS``. It must be
built as those of ``capdec_noise`` are, whose champion is the default, and brings its vocabulary.
"""

from typing import Any

from trainables.capdec import Capdec, CapdecConfig
from vltune.contract import Search

WHOLE = "mapper=capdec_noise@champion,decoder=capdec_noise@champion"
DECODER = "decoder=capdec_noise@champion"


def define(trial: Any) -> CapdecConfig:
    """The model of ``capdec_noise``, from its own weights or from others."""
    return CapdecConfig(
        epochs=10,
        batch_size=64,
        further_metrics="samples",  # what the study measured: five sampled captions against people's
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True),
        dropout=0.1,
        decoder_layers=2,
        noise="gaussian",
        noise_std=0.05,
        init_from=trial.suggest_categorical("init_from", ("", WHOLE, DECODER)),
    )


SEARCH = Search(
    name="capdec_warm_start",
    family=Capdec,
    define=define,
    objective="cider",
    num_trials=16,
    rows={
        "from scratch": {"init_from": "", "learning_rate": 1e-3},
        "pretrained": {"init_from": WHOLE, "learning_rate": 3e-4},
        "pretrained decoder": {"init_from": DECODER, "learning_rate": 3e-4},
    },
    base_row="from scratch",
    group_by="init_from",
    columns=("cider", "bleu_4", "rouge_l", "val_loss", "text_val_loss"),
    note="Vocabularies come with first weights: losses do not compare with the row from scratch.",
    pruner="successive_halving",
)
