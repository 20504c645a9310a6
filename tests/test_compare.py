import dataclasses
import math

import pytest

from vltune.compare import BEST, BEST_OF_GROUP, improvement, table_of
from vltune.contract import RunRow
from vltune.errors import BadInput, NotFound

DIRECTIONS = {"val_loss": "min", "cider": "max"}
CONFIG = {
    "data": "d",
    "data_hash": "abcdef0123456789",
    "objective": "cider",
    "epochs": 10,
    "heads": 4,
    "loss": "focal",
    "decoder": "lstm",
    "learning_rate": 0.001,
}


def run(name, cider=math.nan, val_loss=math.nan, *, state="finished", uid="", **changes):
    metrics = {"cider": cider, "val_loss": val_loss} if state not in ("failed", "waiting") else {}
    facts = {key: changes.pop(key) for key in ("error", "notes", "epochs", "parameters", "seconds") if key in changes}
    return RunRow(
        uid=uid or f"{name or 'nameless'}-0123456789",
        run=f"run of {name}",
        name=name,
        state=state,
        config={**CONFIG, **changes},
        searched=(),
        best_epoch=1,
        metrics=metrics,
        **{"epochs": 10, "parameters": 1_840_000, "seconds": 75.0} | facts,
    )


def table(rows, **options):
    return table_of(rows, **{"objective": "cider", "directions": DIRECTIONS} | options)


def keys(made):
    return [column.key for column in made.columns]


def test_rows_stand_best_first_and_what_has_no_value_last():
    rows = [
        run("nan"),
        run("low", 0.2, 1.0),
        run("failed", state="failed"),
        run("high", 0.9, 3.0),
        run("inf", math.inf),
    ]
    assert table(rows).column("name") == ["high", "low", "nan", "failed", "inf"]
    assert table(rows, sort_by="val_loss").column("name") == ["low", "high", "nan", "failed", "inf"]


def test_improvement_is_positive_where_a_row_is_better():
    rows = [run("base", 0.5, 4.0), run("better", 0.6, 3.0), run("worse", 0.25, 5.0)]
    made = dict(zip(*map(table(rows, base_row="base").column, ("name", "improvement")), strict=True))
    assert made == pytest.approx({"better": 20.0, "base": 0.0, "worse": -50.0})
    by_loss = table(rows, objective="val_loss", base_row="base")
    assert dict(zip(by_loss.column("name"), by_loss.column("improvement"), strict=True)) == pytest.approx(
        {"better": 25.0, "base": 0.0, "worse": -25.0}
    )
    assert any("val_loss is than that of base" in note for note in by_loss.notes)


@pytest.mark.parametrize(("value", "base"), [(math.nan, 1.0), (1.0, math.nan), (1.0, 0.0), (math.inf, 1.0)])
def test_no_improvement_where_it_means_nothing(value, base):
    assert improvement(value, base, "max") is None


def test_improvement_over_a_negative_base_keeps_its_sign():
    assert improvement(-1.0, -2.0, "max") == 50.0
    assert improvement(-1.0, -2.0, "min") == -50.0


def test_a_missing_base_row_is_said_instead_of_guessed():
    for rows in ([run("a", 1.0, 1.0)], [run("a", 1.0, 1.0), run("base", state="failed")]):
        made = table(rows, base_row="base")
        assert "improvement" not in keys(made)
        assert any("base row base is not here" in note for note in made.notes)


def test_of_several_base_rows_the_first_one_given_counts():
    a, b = run("base", 0.5, 4.0, uid="a"), run("base", 0.8, 3.0, uid="b")
    a, b = dataclasses.replace(a, run="one"), dataclasses.replace(b, run="two")
    for rows, name, expected in (([a, b], "one", {"a": 0.0, "b": 60.0}), ([b, a], "two", {"a": -37.5, "b": 0.0})):
        made = table(rows, base_row="base")
        found = {row.uid: cell for row, cell in zip(made.rows, made.column("improvement"), strict=True)}
        assert found == pytest.approx(expected)
        assert f"% over base: how much better cider is than that of base of the run {name}." in made.notes


def test_equal_names_of_several_runs_are_told_apart():
    given = (("x", 0.1, "one"), ("x", 0.9, "two"), ("y", 0.5, "two"))
    a, b, c = (dataclasses.replace(run(n, v, 1.0, uid=n + r), run=r) for n, v, r in given)
    made = table([a, b, c], base_row="x")
    assert keys(made)[:2] == ["name", "run"]
    assert list(zip(made.column("name"), made.column("run"), strict=True)) == [("x", "two"), ("y", "two"), ("x", "one")]
    assert "run" not in keys(table([b, c]))
    assert "run" not in keys(table([a, dataclasses.replace(b, run="one")]))


def test_seeds_that_stand_by_themselves_are_told_apart():
    made = table([run("x", 0.1, 1.0, seed=4, uid="a"), run("x", 0.2, 1.0, seed=5, uid="b")], base_row="x")
    assert made.column("seed") == [5, 4]
    assert "% over base: how much better cider is than that of x, seed 4." in made.notes


def test_metrics_that_measure_something_else_are_named_where_rows_differ():
    measured = {"val_loss": ("heads", "loss"), "perplexity": ("heads",)}
    alike = table([run("a", 0.1, 1.0), run("b", 0.2, 2.0, decoder="gru")], measured_by=measured)
    assert not any("differ" in note for note in alike.notes)
    rows = [run("a", 0.1, 1.0, heads=2), run("b", 0.2, 2.0, heads=8)]
    (note,) = [note for note in table(rows, measured_by=measured).notes if "differ" in note]
    assert note.startswith("Rows differ in heads, which changes what val_loss measures:")
    rows = [run("a", 0.1, 1.0, loss="x"), run("b", 0.2, 2.0, loss="y")]
    assert not any("differ" in note for note in table(rows, measured_by=measured, columns=["cider"]).notes)


def test_hashes_make_no_column():
    rows = [run("", 0.1, 1.0, heads=2, weights_hash="a" * 64), run("", 0.2, 1.0, heads=8, weights_hash="b" * 64)]
    assert "weights_hash" not in keys(table(rows))


def test_parameter_columns_only_where_rows_differ():
    rows = [run("", 0.1, 1.0, heads=2, uid="aa"), run("", 0.2, 1.0, heads=8, epochs=3, uid="bb")]
    made = table(rows)
    assert keys(made) == ["name", "heads", "epochs", "cider", "val_loss", "parameters", "seconds"]
    assert made.column("heads") == [8, 2]
    assert made.column("epochs") == [3, 10]


def test_named_rows_speak_for_themselves_unless_asked():
    rows = [run("a", 0.1, 1.0, heads=2), run("b", 0.2, 1.0, heads=8, loss="cross_entropy")]
    assert "heads" not in keys(table(rows))
    assert "loss" in keys(table(rows, group_by="loss"))
    assert keys(table(rows, parameters="all"))[1:3] == ["heads", "loss"]
    rows.append(run("", 0.3, 1.0))
    assert "heads" in keys(table(rows))
    assert "heads" not in keys(table(rows, parameters="none"))


def test_best_of_all_and_of_each_group_whichever_way_a_metric_goes():
    rows = [
        run("a", 0.9, 3.0, decoder="lstm"),
        run("b", 0.5, 2.0, decoder="lstm"),
        run("c", 0.4, 2.5, decoder="gru"),
        run("d", 0.3, 2.6, decoder="gru"),
        run("e", 5.0, 0.1, decoder="gru", state="failed"),
        run("f", 9.0, 0.1, decoder="gru", state="running"),
        run("g", 0.1, 1.0, decoder="alone"),
    ]
    made = table(rows, group_by="decoder")
    names = made.column("name")
    marks = {(names[row], key): mark for (row, key), mark in made.marks.items()}
    assert marks == {
        ("a", "cider"): BEST,
        ("c", "cider"): BEST_OF_GROUP,
        ("b", "val_loss"): BEST_OF_GROUP,
        ("c", "val_loss"): BEST_OF_GROUP,
        ("g", "val_loss"): BEST,
    }
    assert "● best of all, ○ best of its decoder" in made.notes[0]


def test_equal_values_are_all_best_and_a_single_row_is_not():
    assert len(table([run("a", 0.5, 1.0), run("b", 0.5, 2.0), run("c", 0.1, 3.0)]).marks) == 3
    assert not table([run("a", 0.5, 1.0)]).marks
    assert not table([run("a"), run("b")]).marks


def test_states_are_remarks():
    error = "CUDA out of memory.\nTried to allocate " + "9" * 100 + "\x1b[31m"
    rows = [
        run("good", 0.9, 1.0),
        run("cut", 0.8, 1.0, state="pruned", epochs=3),
        run("early", 0.7, 1.0, notes=("stopped early after epoch 4 of 10",)),
        run("bad", state="failed", error=error),
        run("later", state="waiting"),
    ]
    made = table(rows)
    remarks = dict(zip(made.column("name"), made.column("remark"), strict=True))
    assert remarks.pop("bad").startswith("failed: CUDA out of memory. Tried to allocate 999")
    assert remarks == {
        "good": "",
        "cut": "pruned after epoch 3",
        "early": "stopped early after epoch 4 of 10",
        "later": "waiting",
    }
    assert max(len(str(text)) for text in made.column("remark")) <= 90
    assert any("not final" in note for note in made.notes)
    assert "remark" not in keys(table(rows[:1]))


def test_refusals_are_one_line():
    cases = {
        "no trial matches": ([], {}),
        "run b has data other: scores on different data": (
            [run("a", 1.0, 1.0), run("b", 1.0, 1.0, data_hash="other")],
            {},
        ),
        "has no metric bleu_4: it is of another": (
            [run("a", 1.0, 1.0)],
            {"directions": {**DIRECTIONS, "bleu_4": "max"}},
        ),
    }
    for text, (rows, options) in cases.items():
        with pytest.raises(BadInput, match=text) as caught:
            table(rows, **options)
        assert "\n" not in str(caught.value)
    for options in ({"columns": ("cidr",)}, {"sort_by": "cidr"}, {"group_by": "head"}, {"objective": "cidr"}):
        with pytest.raises(NotFound, match="did you mean"):
            table([run("a", 1.0, 1.0)], **options)


def test_a_record_from_before_a_field_stands_beside_newer_ones():
    old = run("old", 0.5, 1.0)
    alike = [run("a", 0.9, 1.0, temperature=1.0), run("b", 0.3, 1.0, temperature=1.0)]
    made = table([old, *alike])
    assert made.column("name") == ["a", "old", "b"]
    assert any(note == "Recorded by an earlier version, which had no temperature: run of old." for note in made.notes)
    assert not any("earlier version" in note for note in table(alike).notes)

    nameless = dataclasses.replace(old, name="")
    assert "temperature" not in keys(table([nameless, *alike])), "the rows that have it are equal in it"
    made = table([nameless, alike[0], run("b", 0.3, 1.0, temperature=2.0)])
    assert made.column("temperature") == [1.0, None, 2.0]
    assert table([nameless, *alike], group_by="temperature").marks[0, "cider"] == BEST


def test_a_field_that_a_record_lacks_is_no_other_way_of_measuring():
    old, new, other = run("old", 0.5, 1.0), run("new", 0.9, 1.0, stem=True), run("other", 0.3, 1.0, stem=False)
    measured_by = {"cider": ("stem",)}
    assert not any("differ" in note for note in table([old, new], measured_by=measured_by).notes)
    assert any("differ in stem" in note for note in table([old, new, other], measured_by=measured_by).notes)


def test_what_orders_the_rows_has_a_column():
    rows = [run("a", 0.9, 2.0), run("b", 0.3, 1.0)]
    made = table(rows, columns=("cider",), sort_by="val_loss")
    assert made.column("val_loss") == [1.0, 2.0]
    assert "val_loss" not in keys(table(rows, columns=("cider",)))


def test_shared_facts_are_said_once():
    made = table([run("a", 1.0, 1.0), run("b", 0.5, 1.0)], split="test", notes=("Weights are random.",))
    assert made.notes == ("All rows: test split of data abcdef012345. ● best of all.", "Weights are random.")


def test_what_all_rows_have_to_say_is_said_once():
    rows = [
        run("a", 0.3, 1.0, notes=("epochs=2 was set, in place of 14", "weights=none was set")),
        run("b", 0.2, 1.0, notes=("epochs=2 was set, in place of 14",)),
    ]
    made = table(rows)
    assert made.column("remark") == ["weights=none was set", ""]
    assert "In all rows epochs=2 was set, in place of 14." in made.notes
    assert table(rows[:1]).column("remark") == ["epochs=2 was set, in place of 14; weights=none was set"]


def test_a_field_that_repeats_a_searched_one_is_left_out():
    rows = [dataclasses.replace(run("", v, 1.0, heads=h, loss=h), searched=("heads",)) for v, h in ((0.3, 2), (0.2, 4))]
    assert "heads" in keys(table(rows))
    assert "loss" not in keys(table(rows))


def measured(name, cider, parameters, latency_ms=1.0, **changes):
    row = run(name, cider, 4.0 - cider, parameters=parameters, **changes)
    further = {"parameters": parameters, "latency_ms": latency_ms, "training_seconds": 70.0}
    return dataclasses.replace(row, metrics={**row.metrics, **further} if row.metrics else {})


def test_several_objectives_have_columns_and_a_front():
    rows = [
        measured("large", 0.9, 2_000_000),
        measured("small", 0.5, 1_000),
        measured("between", 0.6, 1_000_000),
        measured("too large", 0.6, 1_500_000),
        measured("as between", 0.6, 1_000_000),
        measured("fast", 0.1, 2_000_000, 0.5),
        measured("unmeasured", 0.8, 1_000, math.nan),
        measured("running", 2.0, 10, state="running"),
        measured("failed", 9.0, 1, state="failed"),
    ]
    made = table(rows, further_objectives=("parameters", "latency_ms"), columns=("val_loss",))
    assert keys(made)[:6] == ["name", "epochs", "front", "val_loss", "cider", "parameters"]
    assert keys(made)[6:] == ["latency_ms", "seconds", "remark"]
    assert made.objectives == ("cider", "parameters", "latency_ms")
    front = dict(zip(made.column("name"), made.column("front"), strict=True))
    assert {name for name, is_on in front.items() if is_on} == {"large", "small", "between", "as between", "fast"}
    assert made.column("name")[0] == "running", "the first objective orders"
    names = made.column("name")
    assert {(names[row], key) for (row, key), mark in made.marks.items() if mark == BEST} == {
        ("large", "cider"),
        ("large", "val_loss"),
        ("small", "parameters"),
        ("unmeasured", "parameters"),
        ("fast", "latency_ms"),
    }
    assert any(note.startswith("◆ Pareto front of cider (max), parameters (min)") for note in made.notes)


def test_one_objective_has_no_front_but_may_be_sorted_by_what_the_engine_measured():
    rows = [measured("large", 0.9, 2_000_000), measured("small", 0.5, 1_000, 3.0)]
    made = table(rows, sort_by="parameters", columns=("cider", "training_seconds", "peak_memory_mb"))
    assert made.column("name") == ["small", "large"]
    assert keys(made) == [*("name", "epochs", "cider", "training_seconds", "peak_memory_mb", "parameters", "seconds")]
    assert made.column("peak_memory_mb") == [None, None]
    assert made.column("training_seconds") == [70.0, 70.0]
    assert not any("Pareto" in note for note in made.notes)
