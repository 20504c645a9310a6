"""Does focal loss or the Kullback-Leibler divergence train better captions than cross-entropy?

The rows reproduce the loss comparison of the COCO Transformer study: three losses on a frozen EfficientNet-B0 and on a
four-layer CNN, seven metrics, the best of each encoder marked. The search goes on over the losses' own parameters.
The study's perplexity of about 5,200 cannot stand beside its token accuracy of 48 %; ours is the exponential of the
unsmoothed cross-entropy, whatever was trained on.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search


def define(trial: Any) -> CaptioningConfig:
    """The study's Transformer, with a loss and that loss's parameters."""
    picture_encoder = trial.suggest_categorical("picture_encoder", ("efficientnet_b0", "cnn"))
    weights = "none"
    if picture_encoder != "cnn":
        # One choice: not searched, but asked, so that `--set weights=none` also lets the encoder train.
        weights = trial.suggest_categorical("weights", ("imagenet",))

    loss = trial.suggest_categorical("loss", ("focal", "kl_divergence", "cross_entropy"))
    focal_alpha, focal_gamma, label_smoothing = 0.25, 2.0, 0.0
    if loss == "focal":
        focal_alpha = trial.suggest_float("focal_alpha", 0.1, 1.0)
        focal_gamma = trial.suggest_float("focal_gamma", 0.5, 5.0)
    else:
        label_smoothing = trial.suggest_float("label_smoothing", 0.0, 0.2)

    return CaptioningConfig(
        epochs=14,
        batch_size=64,
        optimizer="adam",
        schedule="cosine",
        learning_rate=trial.suggest_float("learning_rate", 5e-5, 2e-3, log=True),
        picture_size=224,
        picture_encoder=picture_encoder,
        weights=weights,
        train_encoder=weights == "none",
        features="pooled",
        decoder="transformer",
        embedding_width=512,
        heads=4,
        feedforward_width=512,
        dropout=0.3,
        augmentation="base",
        loss=loss,
        label_smoothing=label_smoothing,
        focal_alpha=focal_alpha,
        focal_gamma=focal_gamma,
    )


_ENCODERS = {
    "EfficientNet-B0": {"picture_encoder": "efficientnet_b0", "weights": "imagenet"},
    "CNN": {"picture_encoder": "cnn"},
}
_LOSSES = {
    "focal": {"loss": "focal", "focal_alpha": 0.25, "focal_gamma": 2.0},
    "KL divergence": {"loss": "kl_divergence", "label_smoothing": 0.0},
    "cross-entropy": {"loss": "cross_entropy", "label_smoothing": 0.0},
}

SEARCH = Search(
    name="captioning_losses",
    family=Captioning,
    define=define,
    objective="rouge_l_f1",
    num_trials=30,
    rows={
        f"{loss}, {encoder}": {**_LOSSES[loss], **_ENCODERS[encoder], "learning_rate": 3e-4}
        for encoder in _ENCODERS
        for loss in _LOSSES
    },
    base_row="cross-entropy, EfficientNet-B0",
    group_by="picture_encoder",
    columns=(
        "bleu_1",
        "bleu_4",
        "rouge_l_precision",
        "rouge_l_recall",
        "rouge_l_f1",
        "perplexity",
        "token_accuracy",
    ),
    note="Without label smoothing the targets are one-hot, and the Kullback-Leibler divergence is cross-entropy: "
    "what differs between those two rows of a group is chance. "
    "EfficientNet rows stand on frozen ImageNet weights, unless weights=none was set.",
    pruner="successive_halving",
)
