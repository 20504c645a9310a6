"""How good are captions that another program has written?

``vltune evaluate`` runs this: one row, whose captions come from a results file. Nothing is trained and no model runs,
so that it needs no cluster either.
"""

from typing import Any

from trainables.predictions import Predictions, PredictionsConfig
from vltune.contract import Search


def define(trial: Any) -> PredictionsConfig:  # noqa: ARG001 - there is nothing to choose
    """The file, which is set by hand."""
    return PredictionsConfig()


SEARCH = Search(
    name="predictions",
    family=Predictions,
    define=define,
    objective="cider",
    num_trials=1,
    rows={"captions": {}},
    base_row="captions",
    columns=("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"),
)
