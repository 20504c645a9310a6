"""Which picture encoder and which decoder caption best, and what does each change to the plain Transformer bring?

The rows reproduce the model comparison of the COCO Transformer study: eleven models, validation loss after 14 epochs
(EfficientNet-B7: 5, what the same 3.2 hours on a T4 allow) and the improvement over a Transformer on a four-layer CNN.
The search goes on over encoders, widths, heads, layers, decoders and augmentation.

The study pools the CNN's maps into one vector, and so do all rows; the search tries the whole grid too. The study names
neither its learning rate, nor its number of heads, nor whether the EfficientNets were trained further: the rows take
3e-4, four (doubled: eight), and frozen ImageNet weights. It counts 4 M parameters for the CNN with doubled filters; by
arithmetic it has about 1.8 M; the rows do what their names say.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search

ENCODERS = (
    "cnn",
    "efficientnet_b0",
    "efficientnet_b7",
    "resnet18",
    "resnet50",
    "inception_v3",
    "densenet121",
    "vit_b_16",
    "convnext_tiny",
)


def define(trial: Any) -> CaptioningConfig:
    """The study's models and their neighbours."""
    picture_encoder = trial.suggest_categorical("picture_encoder", ENCODERS)
    weights, cnn_width, cnn_extra_layers, cnn_activation = "none", 32, 0, "relu"
    if picture_encoder == "cnn":
        cnn_width = trial.suggest_categorical("cnn_width", (32, 64))
        cnn_extra_layers = trial.suggest_int("cnn_extra_layers", 0, 2)
        cnn_activation = trial.suggest_categorical("cnn_activation", ("relu", "leaky_relu"))
    else:
        # One choice: not searched, but asked, so that `--set weights=none` also lets the encoder train.
        weights = trial.suggest_categorical("weights", ("imagenet",))

    decoder = trial.suggest_categorical("decoder", ("transformer", "lstm", "gru"))
    heads, encoder_layers, decoder_layers, feedforward_width, hidden_width = 4, 1, 1, 512, 512
    if decoder == "transformer":
        heads = trial.suggest_categorical("heads", (2, 4, 8, 16))
        encoder_layers = trial.suggest_int("encoder_layers", 1, 4)
        decoder_layers = trial.suggest_int("decoder_layers", 1, 6)
        feedforward_width = trial.suggest_categorical("feedforward_width", (512, 1024, 2048))
    else:
        hidden_width = trial.suggest_categorical("hidden_width", (256, 512, 1024))

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
        features=trial.suggest_categorical("features", ("pooled", "grid")),
        cnn_width=cnn_width,
        cnn_extra_layers=cnn_extra_layers,
        cnn_activation=cnn_activation,
        decoder=decoder,
        embedding_width=trial.suggest_categorical("embedding_width", (256, 512)),
        hidden_width=hidden_width,
        attention_width=hidden_width,
        heads=heads,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        feedforward_width=feedforward_width,
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
        augmentation=trial.suggest_categorical("augmentation", ("base", "improved")),
    )


_TRAINING = {
    "features": "pooled",
    "learning_rate": 3e-4,
    "dropout": 0.3,
    "augmentation": "base",
    "embedding_width": 512,
}
_CNN = {"picture_encoder": "cnn", "cnn_width": 32, "cnn_extra_layers": 0, "cnn_activation": "relu"}
_TRANSFORMER = {
    "decoder": "transformer",
    "heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "feedforward_width": 512,
}


def _transformer(**differences: Any) -> dict[str, Any]:
    return {**_TRAINING, **_CNN, **_TRANSFORMER, **differences}


def _pretrained(picture_encoder: str, **differences: Any) -> dict[str, Any]:
    return {**_TRAINING, **_TRANSFORMER, "picture_encoder": picture_encoder, "weights": "imagenet", **differences}


_STACKED = {"cnn_width": 64, "heads": 8, "cnn_activation": "leaky_relu"}

SEARCH = Search(
    name="captioning_architectures",
    family=Captioning,
    define=define,
    objective="val_loss",
    num_trials=60,
    # From the cheapest to the dearest, so that a search with few trials still has a base to compare with.
    rows={
        "Transformer": _transformer(),
        "LSTM": {**_TRAINING, **_CNN, "decoder": "lstm", "hidden_width": 512},
        "Transformer, EfficientNet-B0": _pretrained("efficientnet_b0"),
        "Transformer, half embedding": _transformer(embedding_width=256),
        "Transformer, leaky ReLU": _transformer(cnn_activation="leaky_relu"),
        "Transformer, double heads": _transformer(heads=8),
        "Transformer, two more convolutions": _transformer(cnn_extra_layers=2),
        "Transformer, double CNN filters": _transformer(cnn_width=64),
        "Transformer, double CNN, double heads, leaky ReLU": _transformer(**_STACKED),
        "Transformer, double CNN, double heads, leaky ReLU, improved augmentation": _transformer(
            **_STACKED, augmentation="improved"
        ),
        "Transformer, EfficientNet-B7": _pretrained("efficientnet_b7", epochs=5),
    },
    base_row="Transformer",
    columns=("val_loss", "perplexity", "token_accuracy", "bleu_4", "cider"),
    note="The published losses are on another scale: compare the order and the improvement over the base row. "
    "EfficientNet rows stand on frozen ImageNet weights, unless weights=none was set.",
    pruner="successive_halving",
)
