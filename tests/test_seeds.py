"""Seeds of one configuration as one row, by hand."""

import dataclasses

import numpy as np
import pytest

from tests.test_compare import keys, run, table
from tests.test_significance import drawn
from vltune.contract import Resampled
from vltune.forms import as_columns, as_json, texts_of
from vltune.seeds import fold


def seeded(name, values, **options):
    return [run(name, value, 2.0, uid=f"{name}{seed}", seed=seed, **options) for seed, value in enumerate(values)]


def test_means_and_deviations_by_hand():
    rows = [
        dataclasses.replace(row, epochs=epochs, seconds=seconds, notes=notes)
        for row, epochs, seconds, notes in zip(
            seeded("a", [0.1, 0.2, 0.6]), (3, 4, 3), (10.0, 20.0, 60.0), (("x",), ("x", "y"), ()), strict=True
        )
    ]
    (row,) = fold(rows)
    assert row.metrics == pytest.approx({"cider": 0.3, "val_loss": 2.0})
    # deviations -0.2, -0.1, 0.3: squares sum to 0.14, over two
    assert row.deviations == pytest.approx({"cider": 0.07**0.5, "val_loss": 0.0})
    assert (row.epochs, row.seconds) == pytest.approx((10 / 3, 30.0))
    assert (row.uid, row.seeds, row.notes) == ("a0", (0, 1, 2), ("x", "y"))


def test_only_what_differs_in_its_seed_alone_is_folded():
    a, b = seeded("a", [0.1, 0.2]), seeded("b", [0.3, 0.4])
    other = run("a", 0.9, 1.0, uid="a-other", seed=5, heads=8)
    failed = run("a", uid="a-failed", seed=6, state="failed")
    assert [row.uid for row in fold([a[0], b[0], other, a[1], failed, b[1]])] == ["a0", "b0", "a-other", "a-failed"]
    again = run("a", 0.7, 1.0, uid="a-again", seed=0)
    assert len(fold([*a, again])) == 3, "repeats of a seed tell nothing about seeds"
    confirmed = [dataclasses.replace(row, run="confirmed") for row in seeded("a", [0.3, 0.4, 0.5])[1:]]
    assert [row.seeds for row in fold([a[0], *confirmed])] == [(0, 1, 2)]
    apart = fold([*a, *confirmed], apart=["confirmed"])
    assert [(row.run, row.seeds) for row in apart] == [("run of a", (0, 1)), ("confirmed", (1, 2))]
    moved = [run("c", v, 1.0, uid=f"c{s}", seed=s, data=place) for s, v, place in ((0, 0.1, "here"), (1, 0.2, "there"))]
    assert len(fold(moved)) == 1, "the data has a hash"


def test_resamples_of_a_mean_are_the_mean_of_resamples():
    values = np.random.default_rng(0).normal(size=(2, 200))
    rows = [
        dataclasses.replace(drawn("a", v, uid=f"a{s}", seed=s), config={**run("a").config, "seed": s})
        for s, v in enumerate(values)
    ]
    (row,) = fold(rows)
    expected = drawn("a", values.mean(0))
    assert row.resampled is not None
    np.testing.assert_allclose(row.resampled.values["cider"], expected.resampled.values["cider"])
    elsewhere = dataclasses.replace(rows[1], resampled=Resampled(rows[1].resampled.values, 200, "other"))
    assert fold([rows[0], elsewhere])[0].resampled is None
    assert fold([rows[0], dataclasses.replace(rows[1], resampled=None)])[0].resampled is None


def test_a_table_of_seeds_says_how_many_and_how_far_they_are_apart():
    rows = [*seeded("a", [0.1, 0.2, 0.6]), run("alone", 0.25, 1.0, seed=0)]
    made = table(fold(rows), intervals="objective")
    assert keys(made)[:3] == ["name", "seeds", "epochs"]
    assert made.column("seeds") == [3, 1]
    assert "seed" not in keys(made)
    assert [row[3] for row in texts_of(made)] == ["0.3000 ±0.265", "0.2500"]
    assert any(note.startswith("±: standard deviation over the seeds") for note in made.notes)
    columns = as_columns(made)
    assert columns["cider_deviation"] == [pytest.approx(0.07**0.5), None]
    assert as_json(made)["rows"][0]["deviations"]["cider"] == pytest.approx(0.07**0.5)
    apart = table([dataclasses.replace(row, name="") for row in rows])
    assert sorted(apart.column("seed")) == [0, 0, 1, 2]
    assert "seeds" not in keys(apart)


def test_one_seed_of_all_rows_is_said_once():
    made = table([run("a", 0.1, 1.0, seed=7), run("b", 0.2, 1.0, seed=7)])
    assert made.notes[0].startswith("All rows: validation split of data abcdef012345, seed 7.")
