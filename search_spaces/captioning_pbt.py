"""Which learning rate, dropout and rotation does a captioner want at which epoch?

Population-based training (Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846): eight small captioners train side
by side; after every second epoch the two worst become copies of two of the best and change their values. It reproduces
no published table. It ends in the schedule of the best member, ``schedule.json`` and ``schedule.md`` beside the table;
``vltune rerun`` trains it again.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Population, Search


def define(trial: Any) -> CaptioningConfig:
    """A small CNN from scratch with an attending GRU, and the values that it begins with."""
    return CaptioningConfig(
        epochs=12,
        batch_size=16,
        schedule="constant",  # what falls and rises is what the population finds
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 1e-2, log=True),
        picture_size=48,
        max_tokens=24,
        picture_encoder="cnn",
        cnn_width=16,
        cnn_batch_norm=True,
        decoder="gru",
        embedding_width=128,
        hidden_width=128,
        attention_width=128,
        dropout=trial.suggest_float("dropout", 0.02, 0.5),
        augmentation="improved",
        augmentation_flip=0.0,  # captions may say left and right
        augmentation_rotation=trial.suggest_float("augmentation_rotation", 0.01, 0.5, log=True),
    )


SEARCH = Search(
    name="captioning_pbt",
    family=Captioning,
    define=define,
    objective="cider",
    num_trials=48,
    rows={
        "usual values": {"learning_rate": 3e-3, "dropout": 0.1, "augmentation_rotation": 0.2},
        "no care": {"learning_rate": 3e-3, "dropout": 0.02, "augmentation_rotation": 0.01},
    },
    base_row="usual values",
    columns=("cider", "bleu_4", "rouge_l", "val_loss", "token_accuracy"),
    note="Each row is a segment: m03.g2 is member 3 in generation 2; its epochs include those of the segments that it "
    "goes on from. The base row is the first segment of one member: what later rows gain over it is training too.",
    sampler="random",
    population=Population(
        size=8,
        segment_epochs=2,
        perturbed={
            "learning_rate": (1e-4, 2e-2),
            "dropout": (0.01, 0.6),
            "augmentation_rotation": (0.005, 0.8),
        },
    ),
)
