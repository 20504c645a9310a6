"""Intervals, deviations and p-values in a table, from resamples made by hand."""

import dataclasses
import math

import numpy as np
import pytest

from tests.test_compare import keys, run, table
from vltune.console import as_text
from vltune.contract import Resampled
from vltune.forms import as_columns, as_json, texts_of
from vltune.statistics import RESAMPLES, draws, holm, p_value

SAMPLES = 200
RANDOM = np.random.default_rng(0)
COUNTS = np.concatenate([*draws(SAMPLES)])
BASE = RANDOM.normal(0.5, 0.2, SAMPLES)


def drawn(name, values, *, key="k", **changes):
    """A row whose cider is the mean of values of single samples."""
    made = run(name, float(values.mean()), 2.0, **changes)
    resampled = Resampled({"cider": COUNTS @ values / SAMPLES}, SAMPLES, key)
    return dataclasses.replace(made, resampled=resampled)


def rows():
    return [
        drawn("base", BASE),
        drawn("better", BASE + RANDOM.normal(0.1, 0.1, SAMPLES)),
        drawn("alike", BASE + RANDOM.normal(0, 0.1, SAMPLES)),
        drawn("worse", BASE - 0.05 + RANDOM.normal(0, 0.1, SAMPLES)),
    ]


def sure(made, **options):
    return table(made, **{"base_row": "base", "intervals": "objective"} | options)


def test_differences_to_the_base_row_have_p_values_corrected_for_their_number():
    given = rows()
    made = sure(given)
    assert keys(made) == [*("name", "epochs", "cider", "val_loss", "improvement", "p_value", "parameters", "seconds")]
    values = {r.name: r.resampled.values["cider"] for r in given}
    names = ["better", "alike", "worse"]
    raw = [
        p_value(r.metrics["cider"] - given[0].metrics["cider"], values[r.name] - values["base"])
        for r in given
        if r.name in names
    ]
    expected = {**dict(zip(names, holm(raw), strict=True)), "base": None}
    assert dict(zip(made.column("name"), made.column("p_value"), strict=True)) == expected
    texts = {row[0]: row[5] for row in texts_of(made)}
    assert texts["better"] == texts["worse"] == "<0.001"
    assert texts["alike"] == f"{expected['alike']:.3f} n.s."
    assert texts["base"] == "–"
    (note,) = [note for note in made.notes if note.startswith("p: ")]
    assert "in cider to base" in note
    assert "corrected for 3 rows (Holm)" in note


def test_intervals_are_those_of_the_resamples_and_shown_where_they_are_asked_for():
    given = rows()
    made = sure(given)
    place = made.column("name").index("base")
    low, high = np.quantile(given[0].resampled.values["cider"], [0.025, 0.975])
    assert made.spreads[place, "cider"].interval == pytest.approx((low, high))
    assert texts_of(made)[place][2] == f"{BASE.mean():.4f} [{low:.3f}, {high:.3f}]"
    assert "[…]: 95 % bootstrap interval over 200 samples." in made.notes
    hidden = sure(given, intervals="none")
    assert texts_of(hidden)[place][2] == f"{BASE.mean():.4f}"
    assert hidden.spreads == made.spreads
    assert not any("interval" in note for note in hidden.notes)
    said = sure(given, drawn_with={"cider": "words stay as rare", "val_loss": "not shown"})
    assert any(note.endswith("over 200 samples; cider: words stay as rare.") for note in said.notes)


@pytest.mark.parametrize(("objective", "sign"), [("cider", 1), ("val_loss", -1)])
def test_the_improvement_has_an_interval_of_its_own(objective, sign):
    given = [
        dataclasses.replace(r, resampled=dataclasses.replace(r.resampled, values={objective: values}))
        for r, values in ((row, row.resampled.values["cider"]) for row in rows())
    ]
    given = [dataclasses.replace(r, metrics={**r.metrics, objective: r.metrics["cider"]}) for r in given]
    made = sure(given, objective=objective, intervals="all")
    place = made.column("name").index("better")
    gain = sign * 100 * (given[1].resampled.values[objective] - given[0].resampled.values[objective]) / BASE.mean()
    assert made.spreads[place, "improvement"].interval == pytest.approx(tuple(np.quantile(gain, [0.025, 0.975])))
    low, high = made.spreads[place, "improvement"].interval
    assert low < made.column("improvement")[place] < high
    text = texts_of(made)[place][keys(made).index("improvement")]
    assert text.endswith(f" [{low:.1f}, {high:.1f}]")


def test_a_metric_of_the_whole_split_alone_has_no_interval_and_that_is_said():
    made = sure(rows(), intervals="all")
    assert "val_loss has no interval: it is made of the whole split, not of its samples." in made.notes
    assert all("[" not in row[3] for row in texts_of(made))


def test_a_checkpoint_that_is_gone_is_said():
    given = [*rows(), run("gone", 0.4, 1.0), run("failed", state="failed")]
    made = sure(given)
    assert "No interval: the checkpoint of gone is gone." in made.notes
    assert made.column("p_value")[made.column("name").index("gone")] is None
    assert "corrected for 3 rows" in " ".join(made.notes)
    none = sure([run("base", 0.4, 1.0), run("gone", 0.5, 1.0)])
    assert "p_value" not in keys(none)
    assert "No intervals: no checkpoint that they come from is left." in none.notes


def test_other_samples_are_not_paired():
    given = [*rows()[:2], drawn("elsewhere", BASE + 1, key="other")]
    made = sure(given)
    p_values = dict(zip(made.column("name"), made.column("p_value"), strict=True))
    assert p_values["elsewhere"] is None
    assert p_values["better"] is not None
    assert made.spreads[made.column("name").index("elsewhere"), "cider"].interval is not None


def test_csv_and_json_have_all_that_is_known():
    made = sure(rows(), intervals="none")
    columns, document = as_columns(made), as_json(made)
    place = made.column("name").index("better")
    for key in ("cider", "improvement"):
        low, high = made.spreads[place, key].interval
        assert (columns[f"{key}_low"][place], columns[f"{key}_high"][place]) == (low, high)
        assert document["rows"][place]["intervals"][key] == (low, high)
    assert columns["improvement_low"][made.column("name").index("base")] is None
    assert "val_loss_low" not in columns


def test_a_narrow_terminal_keeps_the_interval_longer_than_other_metrics_and_p_longest():
    made = sure(rows())
    wide, narrow, narrowest = (" ".join(as_text(made, width=width).split()) for width in (100, 50, 34))
    assert "Left out" not in wide
    assert "Left out for want of width: time, epochs, parameters, % over base, val_loss." in narrow
    assert "[" in narrow.split("All rows")[0]
    assert "% over base, val_loss, intervals." in narrowest
    assert "n.s." in narrowest.split("All rows")[0]


def test_resamples_without_a_number_have_no_interval():
    empty = Resampled({"cider": np.full(RESAMPLES, math.nan)}, SAMPLES, "k")
    made = sure([dataclasses.replace(run("base", 0.4, 1.0), resampled=empty)])
    assert (0, "cider") not in made.spreads
