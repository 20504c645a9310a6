import csv
import io
import json
import math

import pytest

from tests.test_compare import keys, measured, run, table
from vltune.forms import amount, as_csv, as_json, as_markdown, duration, folded, texts_of


def test_markdown():
    rows = [run("a|b", 0.51234, 2.0), run("c", 0.25, 12.5, seconds=8.26, parameters=950)]
    assert as_markdown(table(rows, base_row="c")) == (
        "| name | epochs | cider | val_loss | % over base | parameters | time |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n"
        "| a\\|b | 10 | **0.5123** ● | **2.00** ● | +104.94 | 1.84 M | 1 m 15 s |\n"
        "| c | 10 | 0.2500 | 12.50 | +0.00 | 950 | 8.3 s |\n"
        "\n"
        "- All rows: validation split of data abcdef012345. ● best of all.\n"
        "- % over base: how much better cider is than that of c.\n"
    )


def test_csv_reads_back_with_full_numbers():
    rows = [run('say "hi", you', 1 / 3, 2.0, decoder="gru"), run("b\nc", math.nan, 1.5, notes=("x",))]
    text = as_csv(table(rows))
    assert text.count("\r\n") == 3
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert first["name"] == 'say "hi", you'
    assert float(first["cider"]) == 1 / 3
    assert second["name"] == "b\nc"
    assert (first["best"], second["best"]) == ("cider", "val_loss")
    assert (first["state"], second["remark"]) == ("finished", "x")


def test_json_is_strict():
    made = as_json(table([run("a", 0.5, 2.0), run("b", math.nan, 1.5)]))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert [row["cider"] for row in made["rows"]] == [0.5, None]
    assert [row["best"] for row in made["rows"]] == [["cider"], ["val_loss"]]
    assert made["rows"][0]["uid"] == "a-0123456789"


def test_folded_names_what_is_unlike_most_rows():
    rows = [
        run("", value, 1.0, heads=heads, loss=loss, learning_rate=rate, uid=f"u{value}")
        for value, heads, loss, rate in [(0.3, 4, "focal", 1e-3), (0.2, 8, "focal", 2e-3), (0.1, 4, "kl", 3e-3)]
    ]
    made = folded(table(rows))
    assert keys(made)[:3] == ["name", "settings", "epochs"]
    assert made.column("settings") == [
        "learning_rate=0.001",
        "heads=8 learning_rate=0.002",
        "loss=kl learning_rate=0.003",
    ]
    assert made.notes[-1] == "Where a row does not say otherwise: heads=4, loss=focal."
    assert made.column("cider") == [0.3, 0.2, 0.1]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.51234, 0.25], ["0.5123", "0.2500"]),
        ([3.14159, 0.5], ["3.142", "0.500"]),
        ([5200.4, 12.0], ["5200", "12"]),
        ([0.2, 0.00001234], ["0.2000", "1.23e-05"]),
        ([0.2, 0.0], ["0.2000", "0.0000"]),
        ([0.2, math.nan], ["0.2000", "nan"]),
    ],
)
def test_numbers_of_a_metric_have_the_same_decimals(values, texts):
    made = table([run(f"r{i}", value, 1.0) for i, value in enumerate(values)])
    assert [row[keys(made).index("cider")] for row in texts_of(made)] == texts


def test_amounts_and_times():
    assert [amount(n) for n in (0, 950, 48_210, 512_345, 1_840_000, 3e9)] == [
        "0",
        "950",
        "48.2 k",
        "512 k",
        "1.84 M",
        "3.00 G",
    ]
    assert [duration(s) for s in (0.04, 8.3, 9.96, 59.4, 59.6, 125, 11_520, math.nan)] == [
        "0.0 s",
        "8.3 s",
        "10 s",
        "59 s",
        "1 m 00 s",
        "2 m 05 s",
        "3 h 12 m",
        "–",
    ]


def test_a_front_reads_well_in_every_form():
    rows = [measured("a", 0.9, 2_000_000), measured("b", 0.5, 1_000), measured("c", 0.4, 1_500)]
    made = table(rows, further_objectives=("parameters", "training_seconds"))
    lines = as_markdown(made).splitlines()
    assert lines[0].startswith("| name | epochs | front | cider | parameters | training_seconds | val_loss |")
    assert [line.split("|")[3].strip() for line in lines[2:5]] == ["◆", "◆", ""]
    assert "| 2.00 M |" in lines[2]
    assert "| **1.00 k** ● |" in lines[3]
    assert "| 1 m 10 s |" in lines[3]
    found = list(csv.DictReader(io.StringIO(as_csv(made), newline="")))
    assert [row["front"] for row in found] == ["True", "True", "False"]
    assert [row["parameters"] for row in found] == ["2000000", "1000", "1500"]
    document = json.loads(json.dumps(as_json(made), allow_nan=False))
    assert [row["front"] for row in document["rows"]] == [True, True, False]
    assert document["objectives"] == ["cider", "parameters", "training_seconds"]
