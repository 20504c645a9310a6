"""Several objectives: the front against brute force, and what a search with them must keep to."""

import dataclasses
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from search_spaces import SEARCHES
from vltune.contract import Search
from vltune.errors import BadInput
from vltune.objectives import (
    check_objectives,
    columns_of,
    directions_of,
    measured_alike,
    pareto_front,
    with_objectives,
)

QUICK = SEARCHES["quickstart"]
few = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0, float("inf"), float("nan")])
"""Few values, so that many are equal."""


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[few] * n), max_size=12)), st.data())
def test_front_is_what_brute_force_finds(points: list[tuple[float, ...]], data: st.DataObject) -> None:
    width = len(points[0]) if points else 1
    directions = data.draw(st.lists(st.sampled_from(["min", "max"]), min_size=width, max_size=width))

    def at_least_as_good(one: float, other: float, direction: str) -> bool:
        return one >= other if direction == "max" else one <= other

    finite = [point for point in points if all(-10 < value < 10 for value in point)]
    expected = [
        point in finite
        and not any(
            all(map(at_least_as_good, rival, point, directions))
            and not all(map(at_least_as_good, point, rival, directions))
            for rival in finite
        )
        for point in points
    ]
    assert pareto_front(points, directions) == expected


@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=1, max_size=15))
def test_front_is_the_one_of_optuna(points: list[tuple[float, float, float]]) -> None:
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"])
    study.add_trials([create_trial(state=TrialState.COMPLETE, values=list(point)) for point in points])
    best = {trial.number for trial in study.best_trials}
    assert pareto_front(points, ["min", "max", "min"]) == [number in best for number in range(len(points))]


def test_the_engine_s_metrics_have_their_direction() -> None:
    found = directions_of(("cider", "latency_ms", "parameters"), {"cider": "max"})
    assert found == {"cider": "max", "latency_ms": "min", "parameters": "min"}
    assert list(found) == ["cider", "latency_ms", "parameters"]


def test_any_search_may_have_other_objectives() -> None:
    for search in SEARCHES.values():
        *_, last = search.family.metrics
        changed = with_objectives(search, f"{last}, parameters,training_seconds")
        assert (changed.objective, changed.further_objectives) == (last, ("parameters", "training_seconds"))
        assert with_objectives(changed, last).further_objectives == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "with commas between them"),
        ("cider,,parameters", "with commas between them"),
        ("cidr,parameters", "'cidr'; did you mean 'cider'"),
        ("cider,latency", "unknown metric 'latency'; did you mean 'latency_ms'"),
        ("parameters,cider", "which the first objective is, 'parameters'"),
        ("cider,parameters,parameters", "'parameters' is named twice"),
    ],
)
def test_bad_objectives_are_one_line(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        with_objectives(QUICK, text)
    assert "\n" not in str(caught.value)


def check(**changes: Any) -> None:
    search: Search = dataclasses.replace(QUICK, **changes)
    check_objectives(search, search.objective, [search.family.Config(), search.family.Config(measure_latency=True)])


def test_what_does_not_go_together_is_refused() -> None:
    check(pruner="none", further_objectives=("parameters", "training_seconds"))
    check(pruner="median")
    with pytest.raises(BadInput, match=r"pruner='median' is not possible with several objectives \(cider, p"):
        check(pruner="median", further_objectives=("parameters",))
    with pytest.raises(BadInput, match="--set measure_latency=true"):  # one of two would have none
        check(pruner="none", further_objectives=("latency_ms",))
    with pytest.raises(BadInput, match="'cider' is named twice"):
        check(pruner="none", further_objectives=("cider",))


def test_an_objective_that_is_not_measured_names_what_asks_for_it() -> None:
    def asked(objective: str, *further: str, metrics: str = "") -> None:
        configs = [QUICK.family.Config(further_metrics=metrics)]
        changed = dataclasses.replace(QUICK, pruner="none", further_objectives=further)
        check_objectives(changed, objective, configs)

    asked("similarity", "self_bleu", metrics="diversity,similarity")
    with pytest.raises(BadInput, match=r"bert_score_f1 is measured only .*--set further_metrics=meteor,bert_score\.$"):
        asked("bert_score_f1", metrics="meteor")
    with pytest.raises(BadInput, match=r"meteor is measured only .*--set further_metrics=meteor\.$"):
        asked("cider", "meteor")


def test_what_was_asked_for_becomes_columns() -> None:
    config = QUICK.family.Config
    usual = dataclasses.replace(QUICK, columns=("cider", "meteor", "parameters"))
    assert columns_of(usual, "cider", [config()]) == ("cider", "parameters"), "a column that nobody measures"
    asked = [config(further_metrics="similarity,meteor")]
    assert columns_of(usual, "cider", asked) == ("cider", "meteor", "parameters", "similarity")
    bare = dataclasses.replace(QUICK, columns=(), further_objectives=("parameters",))
    assert columns_of(bare, "bleu_4", asked) == ("bleu_4", "parameters", "val_loss", "meteor", "similarity")
    assert columns_of(bare, "bleu_4", [config()]) == ()
    with pytest.raises(BadInput, match=r"meteor is measured in some trials only.*one further_metrics"):
        measured_alike(QUICK.family, [config(), *asked])
