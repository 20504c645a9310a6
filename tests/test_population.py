"""Population-based training: who is copied, what changes, which rules hold, and that a killed driver does the same."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from families import Line, LineConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from vltune.contract import Population, Search
from vltune.errors import BadInput
from vltune.population import (
    Segment,
    Step,
    by_generation,
    check_population,
    due,
    explored,
    generations,
    lineage,
    schedule,
    schedule_table,
    spent,
    winner,
    with_constants,
)
from vltune.space import check

PERTURBED = {"learning_rate": (1e-4, 1.0), "dropout": (0.0, 0.6)}


def population(**changes: Any) -> Population:
    return dataclasses.replace(Population(size=4, segment_epochs=2, perturbed=PERTURBED), **changes)


def entered(step: Step, number: int, *, epochs: int, value: float, ended: bool = True) -> Segment:
    """A step as the ledger has it later. First members begin with values that tell them apart."""
    first = {"learning_rate": 0.01 * (number + 1), "dropout": 0.1, "epochs": epochs, "until_epoch": step.until_epoch}
    config = step.config() if step.parent else first
    return Segment(uid=f"t{number}", name=step.name, config=config, ended=ended, value=value if ended else math.nan)


def generation(values: Sequence[float], *, epochs: int = 6) -> list[Segment]:
    steps = due(population(size=len(values)), [], direction="max", seed=0)
    return [entered(step, n, epochs=epochs, value=v) for n, (step, v) in enumerate(zip(steps, values, strict=True))]


# --- who is copied


def test_the_worst_become_copies_of_the_best_and_the_others_go_on_unchanged() -> None:
    values = [0.5, 0.9, 0.1, 0.4, 0.8, 0.3, 0.2, 0.6]
    rules, ended = population(size=8), generation(values)
    for seed in range(20):
        steps = due(rules, ended, direction="max", seed=seed)
        parents = [step.parent.uid if step.parent else "" for step in steps]
        for member, parent in enumerate(parents):
            assert parent in ({"t1", "t4"} if member in (2, 6) else {f"t{member}"})
        for member, step in enumerate(steps):
            assert (set(step.changes) == set(PERTURBED)) == (member in (2, 6))
            assert step.config()["until_epoch"] == 4
    steps = [due(rules, ended, direction="max", seed=seed)[2] for seed in range(20)]
    chosen = {step.parent.uid for step in steps if step.parent}
    assert len(chosen) == 2, "all copies are of one member"


def test_the_lowest_is_best_where_the_objective_is_to_fall() -> None:
    steps = due(population(), generation([0.5, 0.1, 0.9, 0.4]), direction="min", seed=0)
    assert [step.parent and step.parent.uid for step in steps] == ["t0", "t1", "t1", "t3"]


def test_failed_members_are_replaced_however_many_they_are() -> None:
    steps = due(population(), generation([math.nan, 0.2, math.inf, math.nan]), direction="min", seed=0)
    assert [step.parent and step.parent.uid for step in steps] == ["t1"] * 4
    assert [bool(step.changes) for step in steps] == [True, False, True, True]


def test_a_member_that_could_not_be_configured_is_replaced() -> None:
    ended = generation([0.1, 0.2, 0.3, 0.4])
    ended[2] = dataclasses.replace(ended[2], config={}, value=math.nan)
    steps = due(population(), ended, direction="max", seed=0)
    assert [step.parent and step.parent.uid for step in steps] == ["t0", "t1", "t3", "t3"]


def test_a_generation_that_failed_as_a_whole_ends_the_search() -> None:
    with pytest.raises(BadInput, match="all 4 members of generation 1 failed"):
        due(population(), generation([math.nan] * 4), direction="max", seed=0)


# --- whole runs, without training


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_generation_is_whole_and_in_range_and_a_kill_changes_nothing(data: st.DataObject) -> None:
    size, length = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 3))
    epochs = data.draw(st.integers(length + 1, 3 * length))
    seed = data.draw(st.integers(0, 99))
    quantile, resample = data.draw(st.floats(0.05, 0.5)), data.draw(st.sampled_from((0.0, 0.3, 1.0)))
    rules = population(size=size, segment_epochs=length, quantile=quantile, resample=resample)
    values = st.one_of(st.floats(0, 1), st.just(math.nan), st.sampled_from((0.0, 0.5)))
    segments: list[Segment] = []
    for count in range(1, generations(rules, epochs) + 1):
        steps = due(rules, segments, direction="max", seed=seed)
        assert len(steps) == size
        for member, step in enumerate(steps):
            # what was entered is all that a new driver knows
            rest = due(rules, segments, direction="max", seed=seed)
            assert rest == steps[member:]
            segments.append(entered(step, len(segments), epochs=epochs, value=math.nan, ended=False))
            assert step.until_epoch == min(count * length, epochs)
            if step.changes:
                assert all(low <= step.changes[key] <= high for key, (low, high) in PERTURBED.items())
        assert due(rules, segments, direction="max", seed=seed) == [], "a generation is not left before it ended"
        found = [data.draw(values) for _ in range(size)]
        found[0] = 0.25  # somebody is left
        for member, value in enumerate(found):
            number = len(segments) - size + member
            segments[number] = dataclasses.replace(segments[number], ended=True, value=value)
    assert due(rules, segments, direction="max", seed=seed) == []
    assert [len(members) for members in by_generation(segments)] == [size] * generations(rules, epochs)
    assert segments[-1].config["until_epoch"] == epochs
    best = winner(rules, segments, direction="max")
    assert best is not None
    assert best.value == np.nanmax([segment.value for segment in segments[-size:]])
    assert len(lineage(segments, best.uid)) == generations(rules, epochs)


# --- how values change


def test_values_are_multiplied_inside_their_range() -> None:
    random = np.random.default_rng(0)
    found = {round(explored(0.1, 0.05, 0.5, resample=0.0, random=random), 9) for _ in range(50)}
    assert found == {0.08, 0.12}
    assert {explored(0.5, 0.05, 0.5, resample=0.0, random=random) for _ in range(50)} == {0.4, 0.5}
    assert explored(0.0, 0.0, 1.0, resample=0.0, random=random) == 0.0


@pytest.mark.parametrize(
    ("low", "high", "reference"),
    [(1e-4, 1e-1, scipy.stats.loguniform(1e-4, 1e-1)), (0.1, 0.6, scipy.stats.uniform(0.1, 0.5))],
)
def test_new_values_are_drawn_evenly_or_evenly_in_their_logarithm(low: float, high: float, reference: Any) -> None:
    random = np.random.default_rng(1)
    drawn = [explored(low, low, high, resample=1.0, random=random) for _ in range(2000)]
    assert scipy.stats.kstest(drawn, reference.cdf).pvalue > 0.01


def test_the_share_of_new_values_is_as_said() -> None:
    random = np.random.default_rng(2)
    drawn = [explored(0.1, 1e-4, 1.0, resample=0.25, random=random) for _ in range(2000)]
    anew = sum(not any(math.isclose(value, known) for known in (0.08, 0.12)) for value in drawn)
    assert scipy.stats.binomtest(anew, 2000, 0.25).pvalue > 0.01


# --- what is kept, and what was found


def line_of(*links: tuple[str, str, bool, float]) -> list[Segment]:
    return [
        Segment(uid=uid, name=uid, config={"start_from": parent, "epochs": 6}, ended=ended, value=value)
        for uid, parent, ended, value in links
    ]


def test_a_state_is_spent_when_its_generation_is_copied_and_its_children_have_ended() -> None:
    segments = line_of(("a", "", True, 1), ("b", "", True, 0), ("a2", "a", True, 1), ("b2", "a", False, 0))
    assert [s.uid for s in spent(segments, size=2)] == ["b"], "one child of a still runs, and b has none"
    assert spent(segments[:3], size=2) == [], "the second member may yet become a copy of either"
    segments[3] = dataclasses.replace(segments[3], ended=True)
    assert [s.uid for s in spent(segments, size=2)] == ["a", "b"]
    replayed = line_of(("r1", "", True, 1), ("r2", "r1", True, 1), ("r3", "r2", False, 1))
    assert [s.uid for s in spent(replayed, size=1)] == ["r1"]


def test_the_schedule_is_the_line_of_the_member_that_ended_best() -> None:
    rules = population(size=2, segment_epochs=3, perturbed={"learning_rate": (0.0, 1.0)})
    first = {"epochs": 6, "until_epoch": 3}
    segments = [
        Segment(uid="a", name="base", config={**first, "learning_rate": 0.1}, ended=True, value=0.9),
        Segment(uid="b", name="m02.g1", config={**first, "learning_rate": 0.2}, ended=True, value=0.3),
    ]
    assert winner(rules, segments, direction="max") is None, "the end is not reached"
    then = {"epochs": 6, "until_epoch": 6, "start_from": "a"}
    segments += [
        Segment(uid="c", name="m01.g2", config={**then, "learning_rate": 0.1}, ended=True, value=0.5),
        Segment(uid="d", name="m02.g2", config={**then, "learning_rate": 0.12}, ended=True, value=0.6),
    ]
    best = winner(rules, segments, direction="max")
    assert best is segments[3]
    assert winner(rules, segments, direction="min") is segments[2]
    found = schedule(rules, lineage(segments, best.uid), objective="score")
    assert found == [
        {"uid": "a", "name": "base", "epochs": [1, 3], "values": {"learning_rate": 0.1}, "score": 0.9},
        {"uid": "d", "name": "m02.g2", "epochs": [4, 6], "values": {"learning_rate": 0.12}, "score": 0.6},
    ]
    assert json.loads(json.dumps(found)) == found
    assert schedule_table(found, objective="score").splitlines() == [
        "| epochs | segment | learning_rate | score |",
        "| --- | --- | --- | --- |",
        "| 1 to 3 | base | 0.1 | 0.9 |",
        "| 4 to 6 | m02.g2 | 0.12 | 0.6 |",
    ]


# --- rules of a search


def define(trial: Any) -> LineConfig:
    """A rate and a dropout."""
    rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
    return LineConfig(epochs=6, learning_rate=rate, dropout=trial.suggest_float("dropout", 0.0, 0.5))


def search(**changes: Any) -> Search:
    base = Search(
        name="line",
        family=Line,
        define=define,
        objective="val_loss",
        num_trials=12,
        sampler="random",
        rows={"base": {"learning_rate": 0.01, "dropout": 0.1}},
        base_row="base",
        population=population(),
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": population(size=1)}, r"size=1 is out of range: it must be at least 2"),
        ({"population": population(segment_epochs=0)}, r"segment_epochs=0 must be at least 1"),
        ({"population": population(segment_epochs=6)}, r"segment_epochs=6 of epochs=6 leaves no generation"),
        ({"population": population(quantile=0.6)}, r"quantile=0.6 is out of range: it must lie in \(0, 0.5\]"),
        ({"population": population(resample=1.5)}, r"resample=1.5 is out of range"),
        ({"population": population(perturbed={})}, r"nothing is perturbed"),
        ({"population": population(perturbed={"dropuot": (0.0, 1.0)})}, r"unknown field 'dropuot'; did you mean 'drop"),
        (
            {"population": population(perturbed={"batch_size": (1, 9)})},
            r"'batch_size' cannot be perturbed: only fields",
        ),
        ({"population": population(perturbed={"dropout": (0.5, 0.1)})}, r"dropout has the range \(0.5, 0.1\)"),
        ({"population": population(perturbed={"learning_rate": (0.0, 0.1)})}, r"learning_rate of .*0.0.* out of range"),
        ({"pruner": "successive_halving"}, r"pruner='successive_halving' with a population: its worst members are rep"),
        ({"sampler": "grid"}, r"sampler='grid' with a population"),
        ({"further_objectives": ("score",)}, r"further_objectives: members are copied by one value"),
        ({"num_trials": 9}, r"num_trials=9, but 4 members in 3 generations make 12 trials"),
        ({"rows": {f"r{i}": {"learning_rate": i / 9} for i in range(1, 6)}}, r"5 rows for a population of 4"),
    ],
)
def test_a_broken_rule_is_one_line(changes: dict[str, Any], message: str) -> None:
    broken = search(**changes)
    with pytest.raises(BadInput, match=message) as caught:
        check_population(broken, [LineConfig(epochs=6)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"patience": 2}, r"patience=2 with a population: a member's end is its generation's"),
        ({"until_epoch": 3}, r"until_epoch=3 with a population"),
        ({"epochs": 2}, r"segment_epochs=2 of epochs=2 leaves no generation"),
    ],
)
def test_what_a_person_sets_is_checked_too(pins: dict[str, Any], message: str) -> None:
    check(search())
    with pytest.raises(BadInput, match=message):
        check(search(), pins=pins)


def test_what_a_person_sets_is_not_perturbed_and_more_epochs_are_more_generations() -> None:
    changed = with_constants(search(), {"dropout": 0.2, "epochs": 9}, epochs=9)
    assert changed.population is not None
    assert changed.population.perturbed == {"learning_rate": PERTURBED["learning_rate"]}
    assert changed.num_trials == 20
    check(changed, pins={"dropout": 0.2, "epochs": 9})
