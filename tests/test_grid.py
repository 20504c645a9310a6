"""The grid of a space, against itertools and against a list made by hand."""

import itertools
from typing import Any

import pytest

from tests.test_space import Small, SmallConfig
from vltune import grid
from vltune.contract import Search
from vltune.errors import BadInput
from vltune.grid import grid_points
from vltune.parameters import Parameter


def search_of(define: Any, **changes: Any) -> Search:
    return Search(name="small", family=Small, define=define, objective="cider", num_trials=9, sampler="grid", **changes)


def flat(trial: Any) -> SmallConfig:
    return SmallConfig(
        heads=trial.suggest_categorical("heads", (4, 2)),
        layers=trial.suggest_int("layers", 1, 7, step=3),
        dropout=trial.suggest_float("dropout", 0.1, 0.4, step=0.1),
        shared=trial.suggest_categorical("shared", (True, False)),
        width=trial.suggest_int("width", 5, 6, log=True),
        prompt=trial.suggest_categorical("prompt", ("only",)),
        learning_rate=trial.suggest_float("learning_rate", 0.25, 0.25),
    )


def branching(trial: Any) -> SmallConfig:
    decoder, heads, layers, dropout = trial.suggest_categorical("decoder", ("gru", "transformer")), 4, 1, 0.0
    if decoder == "transformer":
        layers = trial.suggest_int("layers", 1, 2)
        if layers == 2:
            heads = trial.suggest_categorical("heads", (2, 8))
    else:
        dropout = trial.suggest_categorical("dropout", (0.0, 0.5))
    return SmallConfig(decoder=decoder, heads=heads, layers=layers, dropout=dropout)


def test_a_flat_grid_is_the_product() -> None:
    names = ("heads", "layers", "dropout", "shared", "width", "prompt", "learning_rate")
    values = itertools.product((4, 2), (1, 4, 7), (0.1, 0.2, 0.3, 0.4), (True, False), (5, 6), ("only",), (0.25,))
    points = grid_points(search_of(flat))
    assert points == [dict(zip(names, point, strict=True)) for point in values]
    assert {tuple(map(type, point.values())) for point in points} == {(int, int, float, bool, int, str, float)}


def test_branches_are_followed() -> None:
    assert grid_points(search_of(branching)) == [
        {"decoder": "gru", "dropout": 0.0},
        {"decoder": "gru", "dropout": 0.5},
        {"decoder": "transformer", "layers": 1},
        {"decoder": "transformer", "layers": 2, "heads": 2},
        {"decoder": "transformer", "layers": 2, "heads": 8},
    ]


def test_pins_and_rows_make_it_smaller() -> None:
    search = search_of(branching)
    points = grid_points(search, pins={"layers": 2})
    assert points == [
        {"decoder": "gru", "dropout": 0.0},
        {"decoder": "gru", "dropout": 0.5},
        {"decoder": "transformer", "heads": 2},
        {"decoder": "transformer", "heads": 8},
    ]
    rows = {"a": {"decoder": "transformer", "layers": 1}, "b": {"decoder": "gru", "dropout": 0.5, "epochs": 99}}
    points = grid_points(search, rows=rows)
    assert len(points) == 4, "the row b is no point: it trains longer"
    assert {"decoder": "transformer", "layers": 1} not in points
    assert grid_points(search, pins={"decoder": "gru", "dropout": 0.5}) == [{}]


def test_what_cannot_be_counted_is_refused() -> None:
    def define(trial: Any) -> SmallConfig:
        return SmallConfig(
            decoder=(decoder := trial.suggest_categorical("decoder", ("gru", "transformer"))),
            dropout=trial.suggest_float("dropout", 0.0, 0.5) if decoder == "transformer" else 0.0,
        )

    with pytest.raises(BadInput, match=r"search 'small': a grid needs .*dropout is a float .*--set dropout=VALUE"):
        grid_points(search_of(define))
    assert len(grid_points(search_of(define), pins={"dropout": 0.1})) == 2


def test_a_large_grid_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grid_points(search_of(flat))
    monkeypatch.setattr(grid, "MOST_POINTS", 7)
    assert grid_points(search_of(flat)) == whole[:7]


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0.0, 1.0, 0.1), (1e-4, 9e-4, 1e-4), (-0.3, 0.3, 0.1), (0.0, 0.7, 0.35)]
)
def test_values_of_a_range_are_possible_answers_as_a_person_writes_them(low: float, high: float, step: float) -> None:
    parameter = Parameter(name="x", kind="float", low=low, high=high, step=step)
    values = parameter.values()
    assert all(parameter.holds(value) and len(repr(value)) <= 7 for value in values)
    assert (values[0], values[-1]) == (low, high)
    assert len(values) == round((high - low) / step) + 1
