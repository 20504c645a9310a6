"""What several families make of their picture fields."""

from typing import Any

import pytest
import torch

from trainables.parts.picture_fields import PictureConfig, build_picture_encoder, picture_features

FROZEN: dict[str, Any] = {"picture_size": 32, "cnn_width": 4, "embedding_width": 8, "train_encoder": False}


def key(*, fixed: bool = False, **fields: Any) -> str:
    config = PictureConfig(**{**FROZEN, **fields})
    torch.manual_seed(config.seed)
    features = picture_features(build_picture_encoder(config), config, fixed=fixed)
    return features.key() if features else ""


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


def test_what_stays_as_it_is_has_a_key_however_it_was_trained() -> None:
    assert key(train_encoder=True, augmentation="base", fixed=True) == key() != ""


def test_settings_of_training_do_not_change_the_key() -> None:
    assert key(learning_rate=0.5, epochs=3, batch_size=2) == key()
