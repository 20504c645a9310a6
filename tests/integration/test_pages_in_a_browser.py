"""What people see: MLflow's page over a real search, and the pages that a search leaves, in a real browser."""

import csv
import io
import itertools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from integration.browser import LOADED, PATIENCE, Browser, View, browser, pages_of
from integration.runs import TOY, run, said
from PIL import Image

from vltune.ledger import Ledger
from vltune.summary import best_report

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

SEARCH = '''
from vltune.drawings import Curve


class Drawn(Toy):
    """A toy that has something to show."""

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Curve]:
        errors = {"error": [record["error"] for record in records]}
        about = {"title": "Errors", "reads": "One for each sample.", "x_title": "sample", "y_title": "error"}
        return [Curve(name="errors", x=range(len(records)), lines=errors, **about)]


def define(trial: Any) -> ToyConfig:
    """The grid's points beside the rows are narrow, and learn nothing at their rate: they are pruned."""
    width = trial.suggest_categorical("width", (2, 3, 4, 5, 6, 8))
    rate = 0.01 if width > 3 else 5.0
    return ToyConfig(batch_size=8, epochs=3, epoch_seconds=0.6, width=width, learning_rate=rate)


SEARCH = Search(
    name="toy", family=Drawn, define=define, objective="val_loss", num_trials=6, pruner="successive_halving",
    sampler="grid", base_row="base",
    rows={"base": {"width": 4}, "five": {"width": 5}, "six": {"width": 6}, "wide": {"width": 8}},
)
'''

OFFLINE = ("table.html", "study.html", "report.html")
"""Pages of the folder ``comparison`` that open without a server."""


@dataclass
class Shown:
    """A search that has ended, and MLflow over it."""

    storage: Path
    address: str
    browser: Browser
    runs: dict[str, str]
    """Uid of a trial, or ``toy`` for the search -> MLflow's id of its run."""
    experiment: str

    @property
    def comparison(self) -> Path:
        return self.storage / "toy" / "comparison"

    def page(self, name: str, tab: str = "") -> str:
        """Address of a run's page."""
        where = f"{self.address}/#/experiments/{self.experiment}/runs/{self.runs[name]}"
        return f"{where}{tab}?workflowType=machine_learning"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with browser() as driver:  # before the search: without a browser there is nothing to wait for
        folder = tmp_path_factory.mktemp("pages")
        head, _, _ = TOY.read_text().partition("SEARCH = Search(")
        (folder / "my_search.py").write_text(head + SEARCH)
        code, _ = run("search", "my_search.py", "--concurrent", 1, "--json", cwd=folder, timeout=900)
        assert code == 0, said(folder)
        storage = folder / "runs"
        with sqlite3.connect(storage / "mlflow.db") as database:
            runs = dict(database.execute("SELECT value, run_uuid FROM tags WHERE key = 'trial_uid'"))
            runs |= dict(database.execute("SELECT 'toy', run_uuid FROM tags WHERE key = 'vltune.uid'"))
            (experiment,) = database.execute(
                "SELECT experiment_id FROM experiments WHERE name = 'vltune/toy'"
            ).fetchone()
        with pages_of(storage, folder / "ui.txt") as address:
            yield Shown(storage, address, driver, runs, str(experiment))


def unfold(view: View) -> None:
    """Opens a note, which MLflow folds after a few lines."""
    view.see("Show more").click()
    view.see("Show less")


def says(cell: str, value: float) -> bool:
    """Whether a cell begins with a value, rounded to the digits that it shows; an interval and a mark may follow."""
    found = re.match(r"\d+(\.\d+)?(e[+-]\d+)?", cell)
    assert found is not None, cell
    number = Decimal(found[0])
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return abs(float(number) - value) <= 0.501 * 10.0**exponent


def test_the_search_stands_among_the_experiments_with_its_trials(shown: Shown) -> None:
    with shown.browser.open(f"{shown.address}/#/experiments") as view:
        view.see("vltune/toy", exact=True)
        assert view.strangers == set()
    with shown.browser.open(
        f"{shown.address}/#/experiments/{shown.experiment}/runs?workflowType=machine_learning"
    ) as view:
        view.see("toy", exact=True)
        assert view.strangers == set()


def test_the_run_of_the_search_has_its_question_and_the_table_of_the_ledger(shown: Shown) -> None:
    ledger = Ledger.of(shown.storage)
    with shown.browser.open(shown.page("toy")) as view:
        view.see("Which weight is nearest to the target?")
        unfold(view)
        (heads, *rows) = view.rows(".note-editor-preview-content table")
        assert view.strangers == set()
    found = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    record = ledger.search("toy")
    trials = {record.title(trial): trial for trial in ledger.trials("toy")}
    assert found.keys() == trials.keys()
    for name, row in found.items():
        best = best_report(ledger.epochs(trials[name].uid))
        assert best is not None
        assert says(row["val_loss"], best.metrics["val_loss"])


def test_the_run_of_a_trial_has_its_pictures(shown: Shown) -> None:
    uid = next(trial.uid for trial in Ledger.of(shown.storage).trials("toy") if trial.row == "base")
    with shown.browser.open(shown.page(uid)) as view:
        view.see("finished", exact=True)
        unfold(view)
        assert len(view.pictures("img[src*='samples/best']")) == 4
        assert len(view.pictures("img[src*='figures/errors.png']")) == 1
        view.see("Train it again")
        assert view.strangers == set()


def test_a_pruned_trial_has_its_pictures_too(shown: Shown) -> None:
    pruned = [trial.uid for trial in Ledger.of(shown.storage).trials("toy") if trial.state == "pruned"]
    assert pruned
    for uid in pruned:
        artifacts = {path.name for path in (shown.storage / "artifacts" / "toy" / shown.runs[uid]).rglob("*.*")}
        assert {"errors.png", "model.txt"} <= artifacts
    with shown.browser.open(shown.page(pruned[-1])) as view:
        view.see("pruned", exact=True)
        unfold(view)
        assert len(view.pictures("img[src*='figures/errors.png']")) == 1


def test_curves_and_what_the_machine_did_are_charts(shown: Shown) -> None:
    uid = next(trial.uid for trial in Ledger.of(shown.storage).trials("toy") if trial.row == "base")
    for tab, names in {"model-metrics": ("val_loss", "latency_ms"), "system-metrics": SYSTEM}.items():
        with shown.browser.open(shown.page(uid, f"/{tab}"), height=4000) as view:
            for name in names:
                view.see(name, exact=True)
            view.page.locator(".js-plotly-plot, .recharts-wrapper, svg.main-svg").first.wait_for(state="attached")
            assert view.strangers == set()


SYSTEM = ("cpu_utilization_percentage", "worker_memory_usage_megabytes")


def test_curves_have_a_point_for_each_epoch_and_samples_their_own_times(shown: Shown) -> None:
    ledger = Ledger.of(shown.storage)
    uid = next(trial.uid for trial in ledger.trials("toy") if trial.row == "base")
    with sqlite3.connect(shown.storage / "mlflow.db") as database:
        query = "SELECT step, timestamp, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step"
        losses = database.execute(query, (shown.runs[uid], "val_loss")).fetchall()
        samples = database.execute(query, (shown.runs[uid], "system/cpu_utilization_percentage")).fetchall()
    assert [step for step, _, _ in losses] == [1, 2, 3]
    assert [value for _, _, value in losses] == [report.metrics["val_loss"] for report in ledger.epochs(uid)]
    assert len(samples) >= 2
    assert [step for step, _, _ in samples] == list(range(len(samples)))
    assert all(later > earlier for (_, earlier, _), (_, later, _) in itertools.pairwise(samples))
    assert all(0 <= value <= 100 for _, _, value in samples)


def test_figures_and_the_comparison_are_among_the_artifacts(shown: Shown) -> None:
    uid = next(trial.uid for trial in Ledger.of(shown.storage).trials("toy") if trial.row == "base")
    with shown.browser.open(shown.page(uid, "/artifacts")) as view:
        view.see("figures", exact=True).click()
        view.see("errors.png", exact=True).click()
        assert view.pictures("img[src^='blob:'], img[src*='errors.png']")
    with shown.browser.open(shown.page("toy", "/artifacts")) as view:
        view.see("comparison", exact=True).click()
        view.see("table.html", exact=True)
        assert view.strangers == set()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1600, 390])
@pytest.mark.parametrize("name", OFFLINE)
def test_a_page_opens_offline_on_every_screen(shown: Shown, name: str, width: int, dark: bool) -> None:
    with shown.browser.open((shown.comparison / name).as_uri(), width=width, height=900, dark=dark) as view:
        view.page.wait_for_load_state("load")
        assert view.errors == []
        assert {url.partition(":")[0] for url in view.asked} <= {"file", "data", "blob"}, "it asks a server"
        assert view.overflow() <= 0
        assert view.page.locator("h1").first.is_visible()
        assert _contrast(view) > 4.5
        if name == "study.html":
            _plots(view.page)
        else:
            assert {*_shown_rows(view.page)} >= {"base", "five", "six", "wide"}


def _shown_rows(page: Any) -> list[str]:
    """Waits for a table of results; returns the names of the rows that can be seen."""
    names = page.locator(".frame td.name")
    names.first.wait_for(timeout=PATIENCE)
    return [name.strip() for name in names.filter(visible=True).all_inner_texts()]


def _plots(page: Any) -> None:
    """Waits for Optuna's plots to be drawn, of which there are several; the first has a size."""
    drawn = page.locator(".js-plotly-plot svg.main-svg")
    drawn.first.wait_for(timeout=PATIENCE)
    assert page.locator(".js-plotly-plot").count() > 3
    box = drawn.first.bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 100


@pytest.mark.parametrize("served", [False, True], ids=["as a file", "from MLflow's note"])
def test_the_report_has_its_table_its_pictures_and_optunas_plots(shown: Shown, served: bool) -> None:
    with shown.browser.open(shown.page("toy") if served else (shown.comparison / "report.html").as_uri()) as view:
        told = view.page
        if served:
            with view.page.expect_popup(
                timeout=PATIENCE
            ) as opened:  # MLflow opens links of notes in a tab of their own
                view.see("Read the report").click()
            told = opened.value.frame_locator("iframe")
        assert {*_shown_rows(told)} >= {"base", "five", "six", "wide"}
        assert "is the best: val_loss" in told.locator(".lead").first.inner_text()
        drawings = told.locator(".paper img")
        drawings.first.wait_for(timeout=PATIENCE)
        assert all(drawings.evaluate_all(f"images => images.map({LOADED})"))
        told.get_by_text("Interactive plots of the search").click()
        _plots(told.frame_locator("details.study iframe"))
        assert view.strangers == set()


def _contrast(view: View) -> float:
    """Of the heading to the page behind it, as WCAG counts it (https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio)."""
    ink = view.page.locator("h1").first.evaluate("e => getComputedStyle(e).color")
    corner = view.page.screenshot(clip={"x": 0, "y": 0, "width": 1, "height": 1})
    paper = Image.open(io.BytesIO(corner)).convert("RGB").getpixel((0, 0))
    assert isinstance(paper, tuple)

    def luminance(colour: Sequence[int]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, ([int(part) for part in re.findall(r"\d+", ink)[:3]], paper)))
    return (high + 0.05) / (low + 0.05)


def test_the_table_page_has_the_values_of_the_file_for_programs(shown: Shown) -> None:
    with (shown.comparison / "table.csv").open() as file:
        expected = list(csv.DictReader(file))
    with shown.browser.open((shown.comparison / "table.html").as_uri()) as view:
        heads, *rows = view.rows()
    assert [row[heads.index("name")] for row in rows] == [row["name"] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert says(row[heads.index("val_loss")], float(wanted["val_loss"]))
