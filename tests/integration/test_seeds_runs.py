"""Several seeds of each configuration, and the best of a run confirmed, with real Ray, MLflow and databases."""

import json
import signal
import sqlite3
import statistics
from pathlib import Path

import pytest
from integration.runs import TOY, history, run, said, start, wait_for

from vltune.ledger import Ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

TAIL = """
SEARCH = Search(
    name="toy", family=Toy, define=define, objective="val_loss", num_trials=3, pruner="median", sampler="random",
    rows={"base": {"learning_rate": 0.01, "width": 4, "epochs": 2}}, base_row="base",
)
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of three configurations with two seeds each."""
    folder = tmp_path_factory.mktemp("seeds")
    head, _, _ = TOY.read_text().partition("SEARCH = Search(")
    (folder / "my_search.py").write_text(head + TAIL)
    code, out = run("search", "my_search.py", "--seeds", 2, "--concurrent", 2, "--json", cwd=folder)
    assert code == 0, said(folder)
    (folder / "out.json").write_text(out)
    return folder


def test_a_search_with_seeds_ends_in_a_row_for_each_configuration(searched: Path) -> None:
    document = json.loads((searched / "out.json").read_text())
    assert document["trials"] == {"finished": 6}
    assert "the search's own pruner median is off" in said(searched)
    rows = document["table"]["rows"]
    assert [row["seeds"] for row in rows] == [2, 2, 2]
    trials = Ledger.of(searched / "runs").trials("toy")
    assert [trial.config["seed"] for trial in trials] == [0, 1] * 3
    base = next(row for row in rows if row["name"] == "base")
    losses = [min(h["val_loss"] for h in history(searched / "runs", f"toy-00{number}")) for number in (0, 1)]
    assert base["val_loss"] == pytest.approx(statistics.fmean(losses))
    assert base["deviations"]["val_loss"] == pytest.approx(statistics.stdev(losses))
    with sqlite3.connect(searched / "runs" / "mlflow.db") as database:
        names = {name for (name,) in database.execute("SELECT name FROM runs")}
    assert {"base, seed 0", "base, seed 1"} <= names
    comparison = searched / "runs" / "toy" / "comparison"
    assert {f"table.{kind}" for kind in ("md", "csv", "tex", "html", "png")} <= {p.name for p in comparison.iterdir()}


def test_each_seed_by_itself(searched: Path) -> None:
    code, out = run("compare", "toy", "--each-seed", "--format", "csv", cwd=searched)
    assert code == 0, said(searched)
    assert len(out.splitlines()) == 7


@pytest.mark.proof
def test_the_best_are_confirmed_with_new_seeds_through_a_kill(searched: Path) -> None:
    storage = searched / "runs"
    driver = start("confirm", "toy", "--top", 2, "--seeds", 3, "--concurrent", 1, cwd=searched)

    def begun() -> bool:
        ledger = Ledger.of(storage)
        there = "toy-confirmed" in {record.name for record in ledger.searches()}
        return there and any(ledger.epochs(trial.uid) for trial in ledger.trials("toy-confirmed"))

    wait_for(begun, driver=driver, what="the first epoch")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    code, out = run("resume", "toy-confirmed", "--json", cwd=searched)
    assert code == 0, said(searched)
    document = json.loads(out)
    assert document["trials"] == {"finished": 6}
    ledger = Ledger.of(storage)
    first = {trial.row or trial.uid: trial.config for trial in ledger.trials("toy")}
    rows = document["table"]["rows"]
    before = {row["name"]: row["val_loss"] for row in json.loads((searched / "out.json").read_text())["table"]["rows"]}
    best = sorted(before, key=before.__getitem__)[:2]
    assert {row["name"] for row in rows} == set(best)
    for row in rows:
        assert row["seeds"] == 3
        assert row["search_val_loss"] == pytest.approx(before[row["name"]])
    for trial in ledger.trials("toy-confirmed"):
        assert trial.config["seed"] in (2, 3, 4)
        assert {**trial.config, "seed": 0} == {**first[trial.row], "seed": 0}
    now = [row["name"] for row in rows]
    said_so = "the order is the same" if now == best else f"the order there was {', '.join(best)}"
    assert any(
        f"what the run toy measured, from which these rows were chosen as its best; {said_so}." in note
        for note in document["table"]["notes"]
    )
