"""Does an LSTM or a GRU with attention caption better on frozen features of a large CNN?

The rows reproduce the recurrent columns of the CNN-RNN study's comparison (Flickr8k, Flickr30k or COCO): LSTM and GRU
with additive attention over the grid of a frozen Inception-V3, ten epochs, teacher forcing, Adam. The study's third
column, BLIP, is a row of ``pretrained_captioners`` with the same metrics: ``vltune compare captioning_rnn
pretrained_captioners`` sets them side by side. The search goes on over DenseNet-121 and the widths. Published
captioners of this kind stay far below the study's CIDEr of 1.2 on Flickr8k: compare the decoders, not the level.

All eight metrics of the study are columns. Its semantic similarity is by GloVe's vectors, which vltune does not bring:
``similarity`` is by sentence embeddings, and ``--set further_metrics=meteor,similarity,glove glove_file=FILE`` adds the
study's own. METEOR runs Java beside each trial (about 0.6 GB) and takes seconds per epoch: ``--set
further_metrics=similarity`` leaves it out.
"""

from typing import Any

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search


def define(trial: Any) -> CaptioningConfig:
    """A frozen encoder, attention, and a recurrent decoder."""
    # One choice: not searched, but asked, so that `--set weights=none` also lets the encoder train.
    weights = trial.suggest_categorical("weights", ("imagenet",))
    hidden_width = trial.suggest_categorical("hidden_width", (256, 512, 1024))
    return CaptioningConfig(
        epochs=10,
        batch_size=64,
        further_metrics="meteor,similarity",
        optimizer="adam",
        schedule="plateau",
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        picture_size=299,
        picture_encoder=trial.suggest_categorical("picture_encoder", ("inception_v3", "densenet121")),
        weights=weights,
        train_encoder=weights == "none",
        features="grid",
        decoder=trial.suggest_categorical("decoder", ("lstm", "gru")),
        embedding_width=trial.suggest_categorical("embedding_width", (128, 256, 512)),
        hidden_width=hidden_width,
        attention_width=hidden_width,
        dropout=trial.suggest_float("dropout", 0.0, 0.6),
    )


_ROW = {
    "picture_encoder": "inception_v3",
    "weights": "imagenet",
    "embedding_width": 256,
    "hidden_width": 512,
    "dropout": 0.3,
    "learning_rate": 4e-4,
}

SEARCH = Search(
    name="captioning_rnn",
    family=Captioning,
    define=define,
    objective="cider",
    num_trials=24,
    rows={"LSTM": {**_ROW, "decoder": "lstm"}, "GRU": {**_ROW, "decoder": "gru"}},
    base_row="LSTM",
    columns=("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider", "rouge_l"),
    note="The encoders stand on frozen ImageNet weights, unless weights=none was set.",
    pruner="successive_halving",
)
