"""Optuna's part, with real studies on SQLite."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from vltune.contract import NotFound
from vltune.study import Study

ROWS = {"small": {"x": 0.25, "kind": "a"}, "big": {"x": 4.0, "kind": "b"}, "odd": {"x": 3.0, "kind": "a"}}


def open_study(folder: Path, **changes: Any) -> Study:
    options = {"direction": "min", "sampler": "tpe", "pruner": "none", "seed": 7, "num_trials": 12} | changes
    return Study(f"sqlite:///{folder}/study.db", "s", **options)


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


def search(study: Study, count: int) -> list[dict[str, Any]]:
    asked = []
    for _ in range(count):
        number, params, _ = ask(study)
        study.tell(number, "finished", (params["x"] - 2) ** 2)
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


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_search_is_the_same_in_one_go_and_in_two(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = search(open_study(tmp_path / "whole", sampler=sampler), 12)
    parts = search(open_study(tmp_path / "parts", sampler=sampler), 5)
    parts += search(open_study(tmp_path / "parts", sampler=sampler), 7)
    assert parts == whole
    assert len({params["x"] for params in parts}) == 12, "nothing is suggested twice"


def test_seed_decides_what_is_suggested(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 7), ("b", 8)):
        (tmp_path / name).mkdir()
        found.append(search(open_study(tmp_path / name, seed=seed), 3))
    assert not {p["x"] for p in found[0]} & {p["x"] for p in found[1]}


def test_tpe_learns_which_way_is_better(tmp_path: Path) -> None:
    for direction, good in (("min", 0.0), ("max", 5.0)):
        (tmp_path / direction).mkdir()
        study = open_study(tmp_path / direction, direction=direction, num_trials=16)
        for _ in range(30):
            number, params, _ = ask(study)
            study.tell(number, "finished", params["x"])
        late = [trial.params["x"] for trial in stored(tmp_path / direction).get_trials()[15:]]
        assert sum(abs(x - good) for x in late) / len(late) < 1.0, "2.5 by chance"


def test_pruner_stops_losers_but_never_rows(tmp_path: Path) -> None:
    study = open_study(tmp_path, pruner="successive_halving")
    study.add_rows({"bad row": {"x": 5.0, "kind": "a"}})
    verdicts = {}
    for quality in (100.0, 1.0, 2.0, 3.0, 200.0):
        number, _, row = ask(study)
        verdicts[row or quality] = [study.report(number, epoch, quality) for epoch in range(1, 9)]
        study.tell(number, "pruned" if any(verdicts[row or quality]) else "finished", quality)
    assert verdicts["bad row"] == [False] * 8
    assert not any(verdicts[1.0])
    assert verdicts[200.0].index(True) == 1, "stopped at the first rung, two epochs"
    last = stored(tmp_path).get_trials()[-1]
    assert last.state == TrialState.PRUNED
    assert last.intermediate_values[1] == 200.0


def test_no_pruner_stops_nothing(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for value in (1.0, 1e9):
        number, *_ = ask(study)
        assert not any(study.report(number, epoch, value) for epoch in range(1, 20))
        study.tell(number, "finished", value)


def test_every_end_has_its_state_and_comes_once(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    ends = {"finished": 3.0, "pruned": 1.0, "failed": 0.5, "stopped": 0.1}
    for state, value in ends.items():
        number, *_ = ask(study)
        study.report(number, 1, value)
        study.tell(number, state, value)
        study.tell(number, "finished", -99.0)
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert stored(tmp_path).best_value == 3.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_value_that_is_not_finite_is_never_best(tmp_path: Path, direction: str, value: float) -> None:
    study = open_study(tmp_path, direction=direction)
    for told in (2.0, value):
        number, *_ = ask(study)
        study.tell(number, "finished", told)
    assert states(tmp_path) == [TrialState.COMPLETE, TrialState.FAIL]
    assert stored(tmp_path).best_value == 2.0


def test_trial_goes_on_in_another_process(tmp_path: Path) -> None:
    first = open_study(tmp_path)
    number, params, _ = ask(first)
    first.report(number, 1, 5.0)
    second = open_study(tmp_path)
    second.reopen(number)
    second.report(number, 1, 5.0)
    second.report(number, 2, 4.0)
    second.tell(number, "finished", 4.0)
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
    with pytest.raises(NotFound, match="unknown pruner 'median'"):
        open_study(tmp_path, pruner="median")
