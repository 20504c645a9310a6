"""What several families make of their picture fields."""

from typing import Any

import pytest
import torch

from trainables.parts.picture_fields import PictureConfig, build_picture_encoder, frozen_encoder_key

FROZEN: dict[str, Any] = {"picture_size": 32, "cnn_width": 4, "embedding_width": 8, "train_encoder": False}


def key(**fields: Any) -> str:
    config = PictureConfig(**{**FROZEN, **fields})
    torch.manual_seed(config.seed)
    return frozen_encoder_key(build_picture_encoder(config), config)


@pytest.mark.parametrize(
    "change",
    [
        {"cnn_activation": "leaky_relu"},  # which leaves no trace among the weights
        {"seed": 1},
        {"picture_size": 40},
        {"features": "pooled"},
        {"cnn_width": 5},
    ],
)
def test_whatever_changes_features_changes_their_key(change: dict[str, Any]) -> None:
    assert key() == key()
    assert key(**change) != key()


def test_what_learns_or_is_augmented_has_no_key() -> None:
    assert key(train_encoder=True) == ""
    assert key(augmentation="base") == ""


def test_settings_of_training_do_not_change_the_key() -> None:
    assert key(learning_rate=0.5, epochs=3, batch_size=2) == key()
