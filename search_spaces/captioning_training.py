"""Do averaged weights, training on one's own words, or pieces of words make better captions?

Three things that change how a captioner is trained, not what it is: an exponential moving average of the weights,
scheduled sampling (https://arxiv.org/abs/1506.03099), by which the decoder reads its own words more and more often in
training, and byte-pair tokens in place of words. The rows add one of them each to the same GRU with attention. No
document has this table; the search goes on over all three together. Without a GPU: ``--set picture_encoder=cnn``.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search


def define(trial: Any) -> CaptioningConfig:
    """A recurrent captioner, and how it is trained."""
    picture_encoder = trial.suggest_categorical("picture_encoder", ("efficientnet_b0", "cnn"))
    weights = "none"
    if picture_encoder != "cnn":
        # One choice: not searched, but asked, so that `--set weights=none` also lets the encoder train.
        weights = trial.suggest_categorical("weights", ("imagenet",))
    tokens = trial.suggest_categorical("tokens", ("words", "byte_pair"))
    settings: dict[str, Any] = {}
    if tokens == "byte_pair":
        settings["vocabulary_size"] = trial.suggest_categorical("vocabulary_size", (1000, 2000, 4000))

    return CaptioningConfig(
        epochs=12,
        batch_size=64,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        picture_size=224,
        picture_encoder=picture_encoder,
        weights=weights,
        train_encoder=weights == "none",
        features="grid",
        decoder="gru",
        dropout=0.3,
        max_tokens=40 if tokens == "byte_pair" else 30,
        tokens=tokens,
        ema_decay=trial.suggest_categorical("ema_decay", (0.0, 0.99, 0.999)),
        scheduled_sampling=trial.suggest_float("scheduled_sampling", 0.0, 0.5),
        **settings,
    )


_ROW = {
    "picture_encoder": "efficientnet_b0",
    "weights": "imagenet",
    "tokens": "words",
    "learning_rate": 1e-3,
    "ema_decay": 0.0,
    "scheduled_sampling": 0.0,
}

SEARCH = Search(
    name="captioning_training",
    family=Captioning,
    define=define,
    objective="cider",
    num_trials=24,
    rows={
        "none of them": _ROW,
        "average of the weights": {**_ROW, "ema_decay": 0.999},
        "scheduled sampling": {**_ROW, "scheduled_sampling": 0.25},
        "byte pairs": {**_ROW, "tokens": "byte_pair", "vocabulary_size": 2000},
    },
    base_row="none of them",
    columns=("cider", "bleu_4", "rouge_l", "val_loss"),
    note="val_loss counts tokens: words and byte pairs do not compare by it.",
    pruner="successive_halving",
)
