"""The tables of the text-only captioning study: what their rows change."""

from typing import Any

import pytest

from search_spaces import SEARCHES
from trainables.capdec import CapdecConfig
from vltune.space import check, resolve, whole_rows


def _row(name: str, row: str, **pins: Any) -> dict[str, Any]:
    return resolve(SEARCHES[name], None, row=SEARCHES[name].rows[row], pins=pins).config.fields()


def _differences(name: str, row: str, *, base: str = "") -> dict[str, Any]:
    left = _row(name, base or SEARCHES[name].base_row)
    return {key: value for key, value in _row(name, row).items() if left[key] != value}


def test_noise_rows_are_those_of_the_study() -> None:
    rows = {row: _differences("capdec_noise", row) for row in SEARCHES["capdec_noise"].rows}
    assert rows.pop("Gaussian, standard deviation 0.05") == {}
    assert rows.pop("Gaussian, variance 0.05") == {"noise_std": pytest.approx(0.2236, abs=1e-4)}
    assert rows.pop("no noise") == {"noise": "none", "noise_std": CapdecConfig.noise_std}
    tails = {row: changed for row, changed in rows.items() if changed["noise"] == "student_t"}
    # Five degrees of freedom are the field's own default, and no difference.
    assert [changed.get("noise_df", 5.0) for changed in tails.values()] == [3, 5, 7, 10, 15, 20]
    assert not any("noise_std" in changed for changed in tails.values())
    steps = [changed for row, changed in rows.items() if row not in tails]
    assert [changed.get("noise_epsilon", 0.05) for changed in steps] == [0.1, 0.05, 0.01]
    assert {changed["noise"] for changed in steps} == {"gradient"}


def test_architecture_rows_change_heads_or_layers_of_the_mapper() -> None:
    rows = {row: _differences("capdec_architecture", row) for row in SEARCHES["capdec_architecture"].rows}
    assert list(rows.values()) == [
        {},
        *({"mapper_heads": heads} for heads in (2, 4, 16)),
        *({"mapper_layers": layers} for layers in (4, 6, 10, 16, 24)),
    ]
    base = _row("capdec_architecture", "8 heads, 8 layers")
    assert (base["mapper"], base["mapper_heads"], base["mapper_layers"]) == ("transformer", 8, 8)


def test_directed_rows_change_one_setting_each() -> None:
    search, seen = SEARCHES["capdec_directed"], {}
    for row in [*search.rows][1:]:
        changed = _differences("capdec_directed", row, base="100 candidates")
        assert len(changed) == (row != "100 candidates"), row
        for key, value in changed.items():
            seen.setdefault(key, []).append(value)
    assert seen == {
        "noise_candidates": [30, 50, 200, 300, 400, 500],
        "noise_beta": [0.01, 0.1, 0.2, 0.5],
        "noise_threshold": [0.75, 0.8, 0.85, 0.9],
    }
    assert _row("capdec_directed", "100 candidates")["noise_threshold"] == 0.7


def test_a_warm_start_goes_on_from_what_the_noise_search_promotes() -> None:
    """As it is built there, or the weights would not fit."""
    cold, warm = (_row("capdec_warm_start", row) for row in ("from scratch", "pretrained"))
    assert (cold["init_from"], warm["init_from"].count("capdec_noise@champion")) == ("", 2)
    theirs = _row("capdec_noise", SEARCHES["capdec_noise"].base_row)
    free = {"init_from", "learning_rate"}
    assert {k for k, v in warm.items() if v != theirs[k]} <= free
    assert {k for k, v in cold.items() if v != theirs[k]} <= free


def test_decoder_rows_are_capdecs_two_ways_with_gpt2_and_small_decoders() -> None:
    keys = ("decoder", "language_model", "train_language_model", "mapper")
    assert [tuple(_row("capdec_decoder", row)[k] for k in keys) for row in SEARCHES["capdec_decoder"].rows] == [
        ("gpt2", "gpt2", True, "mlp"),
        ("gpt2", "gpt2", False, "transformer"),
        ("transformer", "", True, "mlp"),
        ("gru", "", True, "mlp"),
    ]
    kept, left_out = whole_rows(SEARCHES["capdec_decoder"], {"decoder": "transformer"})
    assert [*kept] == ["small Transformer", "GRU"]
    assert len(left_out) == 2


@pytest.mark.parametrize("name", ["capdec_noise", "capdec_architecture", "capdec_directed"])
def test_any_embedder_and_a_language_model_can_be_set(name: str) -> None:
    search = SEARCHES[name]
    assert {_row(name, row)["embedder"] for row in search.rows} == {"retrieval@champion"}
    pins = {"embedder": "openai/clip-vit-base-patch32", "decoder": "gpt2", "language_model": "gpt2"}
    check(search, pins={**pins, "text_file": "/texts.txt"})
    assert pins.items() <= _row(name, next(iter(search.rows)), **pins).items()
