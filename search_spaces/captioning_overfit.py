"""Does an L1 or an L2 penalty on the CNN hold back a captioner that is made to overfit?

The rows repeat the regularization check of the COCO Transformer study: few pictures, many epochs, no dropout and no
augmentation, and penalties over all layers of the CNN. The study saw no substantial differences. Read it from the
curves of ``train_loss`` and ``val_loss``: their gap is the overfitting. The search tries both penalties together.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search


def define(trial: Any) -> CaptioningConfig:
    """The study's Transformer on a hundred pictures, with penalties on its CNN."""
    return CaptioningConfig(
        epochs=60,
        train_pictures=100,
        batch_size=20,
        optimizer="adam",
        schedule="constant",
        learning_rate=3e-4,
        l1_penalty=trial.suggest_categorical("l1_penalty", (0.0, 1e-6, 1e-5, 1e-4)),
        l2_penalty=trial.suggest_categorical("l2_penalty", (0.0, 1e-5, 1e-4, 1e-3)),
        penalty_part="picture_encoder",
        picture_size=96,
        min_word_count=1,
        picture_encoder="cnn",
        features="pooled",
        decoder="transformer",
        embedding_width=256,
        heads=4,
        feedforward_width=512,
        dropout=0.0,
        augmentation="none",
    )


def _row(*, l1_penalty: float = 0.0, l2_penalty: float = 0.0) -> dict[str, Any]:
    return {"l1_penalty": l1_penalty, "l2_penalty": l2_penalty}


SEARCH = Search(
    name="captioning_overfit",
    family=Captioning,
    define=define,
    objective="val_loss",
    num_trials=12,
    rows={
        "no penalty": _row(),
        "L1 1e-6": _row(l1_penalty=1e-6),
        "L1 1e-5": _row(l1_penalty=1e-5),
        "L1 1e-4": _row(l1_penalty=1e-4),
        "L2 1e-5": _row(l2_penalty=1e-5),
        "L2 1e-4": _row(l2_penalty=1e-4),
        "L2 1e-3": _row(l2_penalty=1e-3),
    },
    base_row="no penalty",
    columns=("val_loss", "perplexity", "token_accuracy"),
    note="The table shows each trial's best epoch; how far it overfits afterwards is in the curves.",
)
