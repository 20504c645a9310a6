"""The rows of the retrieval searches against the study's two tables."""

from typing import Any

from search_spaces import SEARCHES
from vltune.space import check, resolve


def table(name: str, *keys: str, **pins: Any) -> list[tuple[Any, ...]]:
    search = SEARCHES[name]
    fields = [resolve(search, None, row=row, pins=pins).config.fields() for row in search.rows.values()]
    return [tuple(f[key] for key in keys) for f in fields]


def test_rows_from_scratch_are_the_studys_four_and_its_comparison() -> None:
    assert table("retrieval", "learning_rate", "weight_decay", "epochs", "temperature") == [
        (1e-3, 1e-3, 5, 0.1),
        (1e-5, 0.0, 5, 0.1),
        (5e-1, 1e-3, 5, 0.05),
        (5e-3, 1e-4, 8, 0.1),
        (1e-3, 0.0, 8, 0.05),
    ]
    assert set(table("retrieval", "weights", "init_from", "learn_temperature")) == {("none", "", False)}


def test_fine_tuned_rows_are_the_studys() -> None:
    found = table(
        "retrieval_finetune", "text_encoder", "weights", "learning_rate", "weight_decay", "epochs", "temperature"
    )
    assert found == [
        ("transformer", "none", 1e-3, 1e-3, 5, 0.1),
        ("pretrained", "imagenet", 1e-5, 1e-3, 3, 0.1),
        ("pretrained", "imagenet", 1e-5, 0.0, 3, 0.1),
    ]


def test_an_encoder_with_random_weights_learns() -> None:
    search = SEARCHES["retrieval_finetune"]
    assert all(config.fields()["train_encoder"] for config in check(search, pins={"weights": "none"}))
    own = {"weights": "none", "init_from": "picture_encoder=rotation@champion"}
    assert {config.fields()["train_encoder"] for config in check(search, pins=own)} == {False, True}


def test_ones_own_encoders_come_in_by_name() -> None:
    pins = {"weights": "none", "init_from": "picture_encoder=rotation@champion"}
    assert set(table("retrieval_finetune", "weights", "init_from", **pins)) == {tuple(pins.values())}
