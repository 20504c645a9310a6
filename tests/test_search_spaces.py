"""The contract of every search that comes with vltune, and the tables that their rows stand for."""

import dataclasses
from typing import Any

import optuna
import pytest

from search_spaces import SEARCHES
from vltune.contract import Search
from vltune.errors import BadInput
from vltune.search_files import load_search
from vltune.space import check, check_effect, describe, record_pins, resolve

every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def _study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def _row(name: str, row: str, **pins: Any) -> dict[str, Any]:
    return resolve(SEARCHES[name], None, row=SEARCHES[name].rows[row], pins=pins).config.fields()


def _differences(name: str, base: str, row: str) -> dict[str, Any]:
    left, right = _row(name, base), _row(name, row)
    return {key: value for key, value in right.items() if left[key] != value}


# --- every search


@every_search
def test_it_passes_its_checks(search: Search) -> None:
    check(search)
    assert search.num_trials >= len(search.rows) > 0
    assert search.base_row
    assert search.define.__module__ == f"search_spaces.{search.name}"
    assert load_search(search.name, SEARCHES).question.endswith("?")


@every_search
def test_rows_are_told_to_optuna_whole(search: Search) -> None:
    parameters = set(_searched(search))
    for row in search.rows.values():
        study = _study()
        study.enqueue_trial(dict(row))
        trial = study.ask()
        resolved = resolve(search, trial, row=row, defaults={"data": "x"})
        # Inside every range, so that the sampler learns from all that the row says.
        assert trial.params == resolved.searched
        assert resolved.searched.keys() == row.keys() & parameters
        assert row.items() <= resolved.config.fields().items()
        assert resolved.notes == ()


@every_search
def test_rows_differ_from_each_other(search: Search) -> None:
    configs = [resolve(search, None, row=row).config for row in search.rows.values()]
    assert len(set(configs)) == len(configs)


@every_search
def test_samples_replay_from_their_own_records(search: Search) -> None:
    study = _study()
    for _ in range(50):
        trial = study.ask()
        resolved = resolve(search, trial, defaults={"data": "x", "data_hash": "0" * 64, "seed": 7})
        assert resolved.config.objective == search.objective
        assert resolved.searched == trial.params
        assert resolve(search, None, pins=resolved.config.fields(), defaults={"seed": 8}).config == resolved.config


@every_search
def test_every_trial_can_be_trained_again(search: Search) -> None:
    study, defaults = _study(), {"data": "x", "data_hash": "0" * 64, "seed": 7}
    trials = [resolve(search, None, row=row, defaults=defaults) for row in search.rows.values()]
    trials += [resolve(search, study.ask(), defaults=defaults) for _ in range(6)]
    for trial in trials:
        pins = record_pins(search, trial.config.fields())
        alone = dataclasses.replace(search, rows={"again": {}}, base_row="", num_trials=1, population=None)
        assert check(alone, pins=pins) == [trial.config]
        assert resolve(alone, None, row={}, pins=pins, defaults={"seed": 8}).config == trial.config


@every_search
def test_every_choice_appears(search: Search) -> None:
    study, seen = _study(), {}
    for _ in range(300):
        for name, value in resolve(search, study.ask()).searched.items():
            seen.setdefault(name, set()).add(value)
    for parameter in describe(search).parameters:
        if parameter.kind == "categorical":
            assert seen[parameter.name] == set(parameter.choices)


@every_search
def test_it_is_described_in_lines(search: Search) -> None:
    described = describe(search)
    assert all(p.condition == "" or p.condition.startswith("only with ") for p in described.parameters)
    assert not any("\n" in str(p) for p in described.parameters)


# --- the tables


def test_architectures_are_the_base_row_with_what_their_names_say() -> None:
    name = "captioning_architectures"
    assert len(SEARCHES[name].rows) == 11
    base = _row(name, "Transformer")
    expected = {"picture_encoder": "cnn", "decoder": "transformer", "cnn_width": 32, "embedding_width": 512}
    expected |= {"epochs": 14, "optimizer": "adam", "dropout": 0.3, "augmentation": "base", "features": "pooled"}
    assert expected.items() <= base.items()
    stacked = {"cnn_width": 64, "heads": 2 * base["heads"], "cnn_activation": "leaky_relu"}
    pretrained = {"weights": "imagenet", "train_encoder": False}
    for row, changes in {
        "Transformer, EfficientNet-B0": {"picture_encoder": "efficientnet_b0", **pretrained},
        "Transformer, EfficientNet-B7": {"picture_encoder": "efficientnet_b7", "epochs": 5, **pretrained},
        "Transformer, double CNN, double heads, leaky ReLU, improved augmentation": {
            **stacked,
            "augmentation": "improved",
        },
        "Transformer, double CNN, double heads, leaky ReLU": stacked,
        "Transformer, double heads": {"heads": 2 * base["heads"]},
        "Transformer, double CNN filters": {"cnn_width": 64},
        "Transformer, leaky ReLU": {"cnn_activation": "leaky_relu"},
        "Transformer": {},
        "Transformer, two more convolutions": {"cnn_extra_layers": 2},
        "Transformer, half embedding": {"embedding_width": 256},
        "LSTM": {"decoder": "lstm"},
    }.items():
        assert _differences(name, "Transformer", row) == changes, row


def test_without_pretrained_weights_the_encoder_trains_and_the_row_says_so() -> None:
    search = SEARCHES["captioning_architectures"]
    row = search.rows["Transformer, EfficientNet-B0"]
    resolved = resolve(search, None, row=row, pins={"weights": "none"})
    fields = resolved.config.fields()
    assert (fields["weights"], fields["train_encoder"]) == ("none", True)
    assert resolved.notes == ("weights=none was set, in place of imagenet",)
    check(search, pins={"weights": "none"})
    assert resolve(search, None, row=search.rows["Transformer"], pins={"weights": "none"}).notes == ()


@pytest.mark.parametrize("pin", [{"heads": 8}, {"cnn_width": 64}, {"hidden_width": 256}, {"weights": "none"}])
def test_pins_of_one_branch_leave_the_others_alone(pin: dict[str, Any]) -> None:
    check(SEARCHES["captioning_architectures"], pins=pin)


def test_a_pin_without_effect_on_a_row_that_is_trained_alone_is_refused() -> None:
    search = SEARCHES["captioning_architectures"]
    with pytest.raises(BadInput, match=r"heads=8 has no effect on row 'LSTM'.*only with decoder=transformer"):
        check_effect(search, "LSTM", {"heads": 8})
    check_effect(search, "Transformer", {"heads": 8, "epochs": 1})
    check_effect(search, "LSTM", {"heads": 4, "weights": "none"})  # it has what was set


def test_losses_are_three_for_each_of_two_encoders() -> None:
    search = SEARCHES["captioning_losses"]
    fields = [_row("captioning_losses", row) for row in search.rows]
    losses, encoders = ("focal", "kl_divergence", "cross_entropy"), ("efficientnet_b0", "cnn")
    assert [(f["picture_encoder"], f["loss"]) for f in fields] == [(e, loss) for e in encoders for loss in losses]
    assert {(f["label_smoothing"], f["focal_alpha"], f["focal_gamma"]) for f in fields} == {(0.0, 0.25, 2.0)}
    assert search.group_by == "picture_encoder"
    assert len(search.columns) == 7
    assert "one-hot" in search.note


def test_recurrent_rows_differ_in_the_decoder_alone() -> None:
    assert _differences("captioning_rnn", "LSTM", "GRU") == {"decoder": "gru"}
    lstm = _row("captioning_rnn", "LSTM")
    assert (lstm["picture_encoder"], lstm["train_encoder"], lstm["features"]) == ("inception_v3", False, "grid")


def test_overfitting_rows_differ_in_one_penalty_on_the_picture_encoder() -> None:
    search = SEARCHES["captioning_overfit"]
    base = _row("captioning_overfit", "no penalty")
    assert base["train_pictures"] > 0
    assert base["epochs"] * base["train_pictures"] >= 5000
    assert base["penalty_part"] == "picture_encoder"
    assert (base["dropout"], base["weight_decay"], base["augmentation"], base["patience"]) == (0.0, 0.0, "none", 0)
    for row in search.rows:
        changed = _differences("captioning_overfit", "no penalty", row)
        assert list(changed) == ([] if row == "no penalty" else [f"l{row[1]}_penalty"])
        assert [float(row.split()[1])] == list(changed.values()) if changed else True


def test_the_population_changes_what_its_first_generation_asks_for() -> None:
    search = SEARCHES["captioning_pbt"]
    assert search.population is not None
    asked = {parameter.name: parameter for parameter in describe(search).parameters}
    assert asked.keys() == search.population.perturbed.keys() == {"learning_rate", "dropout", "augmentation_rotation"}
    for name, (low, high) in search.population.perturbed.items():
        assert low <= asked[name].low, "first values lie in the range of later ones"
        assert asked[name].high <= high
    fields = _row("captioning_pbt", "usual values")
    assert (search.population.size, search.population.segment_epochs) == (8, 2)
    assert (fields["augmentation"], fields["schedule"]) == ("improved", "constant")


def test_quickstart_is_small_and_shows_every_decoder() -> None:
    search = SEARCHES["quickstart"]
    assert search.num_trials <= 10
    decoders = {_row("quickstart", row)["decoder"] for row in search.rows}
    assert decoders == {"lstm", "gru", "transformer"}
    fields = {f.name for f in dataclasses.fields(search.family.Config)}
    assert {"decoder", "learning_rate", "cnn_width", "dropout", "heads"} <= fields & set(_searched(search))


def _searched(search: Search) -> list[str]:
    return [p.name for p in describe(search).parameters]
