"""Optuna's part, with real studies on SQLite."""

import functools
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from vltune.errors import NotFound
from vltune.strategies import PRUNERS, SAMPLERS
from vltune.study import Study

ROWS = {"small": {"x": 0.25, "kind": "a"}, "big": {"x": 4.0, "kind": "b"}, "odd": {"x": 3.0, "kind": "a"}}


def open_study(folder: Path, **changes: Any) -> Study:
    options = {"directions": ("min",), "sampler": "tpe", "pruner": "none", "seed": 7, "num_trials": 12}
    options |= {"epochs": 9} | changes
    if not (folder / "study.db").exists():
        (folder / "study.db").write_bytes(_empty())
    return Study(f"sqlite:///{folder}/study.db", "s", **options)


@functools.cache
def _empty() -> bytes:
    """A database with Optuna's tables and nothing in them: making them takes as long as many trials."""
    with tempfile.TemporaryDirectory() as folder:
        optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db").remove_session()
        return Path(folder, "study.db").read_bytes()


def ask(study: Study) -> tuple[int, dict[str, Any], str]:
    trial, row = study.ask()
    x, kind = trial.suggest_float("x", 0.0, 5.0), trial.suggest_categorical("kind", ("a", "b"))
    if kind == "b":
        trial.suggest_int("depth", 1, 9)
    return trial.number, {"x": x, **trial.params}, row


def states(folder: Path) -> list[TrialState]:
    return [trial.state for trial in stored(folder).get_trials()]


def stored(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")


def search(study: Study, count: int, *, objectives: int = 1) -> list[dict[str, Any]]:
    """Asks so many times; every fifth trial fails, every sixth is stopped if it may be."""
    asked = []
    for _ in range(count):
        number, params, _ = ask(study)
        values = ((params["x"] - 2) ** 2 + (params["kind"] == "a"), params["x"])[:objectives]
        stops = number % 6 == 5 and objectives == 1
        state = "failed" if number % 5 == 4 else "pruned" if stops else "finished"
        study.report(number, 1, values[0])
        study.tell(number, state, values)
        asked.append(params)
    return asked


def test_rows_come_first_in_their_order_with_their_values(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert not study.has_rows()
    study.add_rows(ROWS)
    for name, values in ROWS.items():
        assert study.has_rows()
        _, params, row = ask(study)
        assert row == name
        assert params.items() >= values.items()
    assert not study.has_rows()
    assert ask(study)[2] == ""


def test_rows_that_wait_are_not_queued_twice(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.add_rows({"small": ROWS["small"]})  # a kill came here
    study = open_study(tmp_path)
    study.add_rows(ROWS)
    assert [ask(study)[2] for _ in range(4)] == ["small", "big", "odd", ""]


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "nsga2"])
def test_search_is_the_same_in_one_go_and_in_two(tmp_path: Path, sampler: str, objectives: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    options = {"sampler": sampler, "num_trials": 16, "directions": ("min", "max")[:objectives]}
    whole = search(open_study(tmp_path / "whole", **options), 12, objectives=objectives)
    parts = search(open_study(tmp_path / "parts", **options), 5, objectives=objectives)
    parts += search(open_study(tmp_path / "parts", **options), 7, objectives=objectives)
    assert parts == whole
    assert len({tuple(params.values()) for params in parts}) >= 11, "a parent may be passed on as it is"
    assert {"a", "b"} == {params["kind"] for params in parts}
    assert all(("depth" in params) == (params["kind"] == "b") for params in parts)


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "nsga2"])
def test_several_questions_may_be_open_at_once(tmp_path: Path, sampler: str) -> None:
    study, seen = open_study(tmp_path, sampler=sampler, num_trials=12), set()
    for _ in range(4):
        asked = [ask(study) for _ in range(3)]
        for number, params, _ in reversed(asked):
            seen.add(tuple(params.values()))
            study.tell(number, "finished", [(params["x"] - 2) ** 2])
    assert len(seen) >= 11


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_sampler_finds_both_ends_of_a_front(tmp_path: Path, sampler: str) -> None:
    """x² against (x - 2)²: the front is [0, 2] of [0, 5]."""
    study, found = open_study(tmp_path, sampler=sampler, directions=("min", "min"), num_trials=20), []
    for _ in range(14 if sampler == "gp" else 28):
        trial, _ = study.ask()
        found.append(trial.suggest_float("x", 0.0, 5.0))
        study.tell(trial.number, "finished", [found[-1] ** 2, (found[-1] - 2) ** 2])
    late = found[len(found) // 2 :]
    assert sum(x <= 2.2 for x in late) / len(late) > 0.7, "0.44 by chance"
    assert min(late) < 0.7
    assert max(x for x in late if x < 2.3) > 1.3


def test_generations_of_nsga2_live_in_the_database(tmp_path: Path) -> None:
    for _ in range(4):  # each in a process of its own
        search(open_study(tmp_path, sampler="nsga2", directions=("min", "max"), num_trials=16), 4, objectives=2)
    finished = [trial for trial in stored(tmp_path).get_trials() if trial.state == TrialState.COMPLETE]
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in finished]
    assert generations == sorted(generations)
    assert [generations.count(number) for number in range(4)] == [4, 4, 4, 1], "a quarter of 16 each, three failed"


def test_seed_decides_what_is_suggested(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 7), ("b", 8)):
        (tmp_path / name).mkdir()
        found.append(search(open_study(tmp_path / name, seed=seed), 3))
    assert not {p["x"] for p in found[0]} & {p["x"] for p in found[1]}


def test_tpe_learns_which_way_is_better(tmp_path: Path) -> None:
    for direction, good in (("min", 0.0), ("max", 5.0)):
        (tmp_path / direction).mkdir()
        study = open_study(tmp_path / direction, directions=(direction,), num_trials=16)
        for _ in range(30):
            number, params, _ = ask(study)
            study.tell(number, "finished", [params["x"]])
        late = [trial.params["x"] for trial in stored(tmp_path / direction).get_trials()[15:]]
        assert sum(abs(x - good) for x in late) / len(late) < 1.0, "2.5 by chance"


def race(study: Study, qualities: list[float], *, epochs: int = 4) -> dict[float | str, list[bool]]:
    """Trials one after another, each with the same value in all its epochs, and what is said after each."""
    verdicts: dict[float | str, list[bool]] = {}
    for quality in qualities:
        number, _, row = ask(study)
        said = verdicts[row or quality] = []
        for epoch in range(1, epochs + 1):
            said.append(study.report(number, epoch, quality))
            if said[-1]:
                break
        study.tell(number, "pruned" if said[-1] else "finished", [quality])
    return verdicts


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband", "median"])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_pruner_stops_losers_but_never_rows(tmp_path: Path, pruner: str, direction: str) -> None:
    sign = 1.0 if direction == "min" else -1.0
    options = {"pruner": pruner, "directions": (direction,)}
    study = open_study(tmp_path, **options)
    study.add_rows({name: {"x": 5.0, "kind": "a"} for name in ("one", "two", "three", "four", "bad row")})
    verdicts = race(study, [sign * q for q in (5.0, 4.9, 4.8, 4.7, 300.0, 201.0, 202.0)])
    study = open_study(tmp_path, **options)  # in another process
    verdicts |= race(study, [sign * q for q in (1.0, 203.0, 0.5, 204.0)])
    assert verdicts["bad row"] == [False] * 4
    for good in (1.0, 0.5):
        assert verdicts[sign * good] == [False] * 4, "the best so far goes on"
    # rows that were as bad would have been stopped
    bad = [verdicts[sign * quality] for quality in (201.0, 202.0, 203.0, 204.0)]
    # of Hyperband's brackets, some begin later than all this
    assert sum(said == [False, True] for said in bad) >= (1 if pruner == "hyperband" else 4)
    ends = [(trial.state, list(trial.intermediate_values.values())) for trial in stored(tmp_path).get_trials()[-4:]]
    assert ends[0] == (TrialState.COMPLETE, [sign * 1.0] * 4)
    assert ends[3] == (
        (TrialState.PRUNED, [sign * 204.0] * 2) if bad[3][-1] else (TrialState.COMPLETE, [sign * 204.0] * 4)
    )


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband", "median"])
def test_verdicts_are_the_same_in_one_go_and_in_two(tmp_path: Path, pruner: str) -> None:
    qualities = [float(7 * i % 10) for i in range(10)]
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole_study = open_study(tmp_path / "whole", pruner=pruner)
    whole = race(whole_study, qualities[:1], epochs=2)  # it stops by itself, and says nothing of how long others are
    whole |= race(whole_study, qualities[1:], epochs=6)
    parts = race(open_study(tmp_path / "parts", pruner=pruner), qualities[:1], epochs=2)
    parts |= race(open_study(tmp_path / "parts", pruner=pruner), qualities[1:5], epochs=6)
    parts |= race(open_study(tmp_path / "parts", pruner=pruner), qualities[5:], epochs=6)
    assert parts == whole
    assert sum(said[-1] for said in whole.values()) >= 2


@pytest.mark.parametrize("epochs", [0, 1, 2, 6, 19])
def test_hyperband_takes_any_number_of_epochs(tmp_path: Path, epochs: int) -> None:
    study = open_study(tmp_path, pruner="hyperband", epochs=epochs)
    for _ in range(3):
        number, *_ = ask(study)
        for epoch in range(min(epochs, 1), min(epochs, 6) + 1):
            study.report(number, epoch, 1.0)
        study.tell(number, "finished", [1.0])


def test_no_pruner_stops_nothing(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for value in (1.0, 1e9):
        number, *_ = ask(study)
        assert not any(study.report(number, epoch, value) for epoch in range(1, 20))
        study.tell(number, "finished", [value])


def test_every_end_has_its_state_and_comes_once(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    ends = {"finished": 3.0, "pruned": 1.0, "failed": 0.5, "stopped": 0.1}
    for state, value in ends.items():
        number, *_ = ask(study)
        study.report(number, 1, value)
        study.tell(number, state, [value])
        study.tell(number, "finished", [-99.0])
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert stored(tmp_path).best_value == 3.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_value_that_is_not_finite_is_never_best(tmp_path: Path, direction: str, value: float) -> None:
    study = open_study(tmp_path, directions=(direction,))
    for told in (2.0, value):
        number, *_ = ask(study)
        study.tell(number, "finished", [told])
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.FAIL]
    assert stored(tmp_path).best_value == 2.0


def test_all_objectives_are_told_and_no_epochs(tmp_path: Path) -> None:
    study = open_study(tmp_path, directions=("max", "min"), pruner="median")
    for values in ((0.5, 100.0), (0.6, 200.0), (0.4, 300.0), (0.7, math.nan)):
        number, *_ = ask(study)
        assert not any(study.report(number, epoch, -1e9) for epoch in range(1, 9))
        study.tell(number, "finished", values)
    assert states(tmp_path) == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    assert [trial.values for trial in stored(tmp_path).best_trials] == [[0.5, 100.0], [0.6, 200.0]]


POINTS = [{"x": float(x), "kind": kind} for x in (1, 2) for kind in ("a", "c")]


def next_point(study: Study) -> tuple[int, dict[str, Any], str]:
    trial, row = study.ask()
    trial.suggest_float("x", 0.0, 5.0)
    trial.suggest_categorical("kind", ("a", "b", "c"))
    return trial.number, trial.params, row


def test_points_of_a_grid_come_after_the_rows_each_once_whatever_happens(tmp_path: Path) -> None:
    study = open_study(tmp_path, sampler="grid")
    study.add_rows({"small": ROWS["small"]})
    study.add_points(POINTS, known=[])
    assert next_point(study)[2] == "small"
    done = [next_point(study) for _ in range(2)]
    study.tell(done[0][0], "failed")
    next_point(study)  # a kill came before it was entered
    study = open_study(tmp_path, sampler="grid")
    known = [0, *(number for number, *_ in done)]
    study.drop_unknown(known)
    study.add_points(POINTS, known=known)
    done += [next_point(study) for _ in range(2)]
    assert [params for _, params, _ in done] == POINTS
    assert {row for *_, row in done} == {""}
    study = open_study(tmp_path, sampler="grid")
    study.add_points(POINTS, known=range(len(states(tmp_path))))
    assert next_point(study)[1] not in POINTS, "nothing is left"


def test_trial_goes_on_in_another_process(tmp_path: Path) -> None:
    first = open_study(tmp_path)
    number, params, _ = ask(first)
    first.report(number, 1, 5.0)
    second = open_study(tmp_path)
    second.reopen(number)
    second.report(number, 1, 5.0)
    second.report(number, 2, 4.0)
    second.tell(number, "finished", [4.0])
    (trial,) = stored(tmp_path).get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 4.0)
    assert trial.intermediate_values == {1: 5.0, 2: 4.0}
    assert trial.params["x"] == params["x"]


def test_questions_that_the_ledger_never_got_are_dropped_and_their_rows_come_again(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.add_rows(ROWS)
    known, *_ = ask(study)
    ask(study)  # the row "big", and a kill before it was entered
    study = open_study(tmp_path)
    study.drop_unknown([known])
    assert states(tmp_path) == [TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING]
    study.add_rows({name: values for name, values in ROWS.items() if name != "small"})
    rows = [ask(study) for _ in range(3)]
    assert [row for *_, row in rows] == ["odd", "big", ""]
    assert rows[1][1].items() >= ROWS["big"].items()


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="unknown sampler 'tpee'; did you mean 'tpe'"):
        open_study(tmp_path, sampler="tpee")
    with pytest.raises(NotFound, match="unknown pruner 'medain'; did you mean 'median'"):
        open_study(tmp_path, pruner="medain")


def test_every_name_that_is_offered_is_there(tmp_path: Path) -> None:
    assert (len(SAMPLERS), len(PRUNERS)) == (5, 4)
    for sampler, pruner in itertools.zip_longest(SAMPLERS, PRUNERS, fillvalue="none"):
        study = open_study(tmp_path, sampler=sampler, pruner=pruner)
        study.tell(ask(study)[0], "finished", [1.0])
