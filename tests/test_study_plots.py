"""Optuna's plots as one page."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna import visualization
from test_study import open_study, search, stored

from vltune.contract import Direction
from vltune.study_plots import importances, study_page


class Headings(HTMLParser):
    """The headings of a page, and what it would load from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.elsewhere: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "h2"
        self.elsewhere += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found.append(data)
            self._inside = False


def page(folder: Path, objectives: dict[str, Direction]) -> str:
    return study_page(f"sqlite:///{folder}/study.db", "s", objectives=objectives)


def test_one_objective(tmp_path: Path) -> None:
    search(open_study(tmp_path), 12)
    made = page(tmp_path, {"val_loss": "min"})
    headings = Headings(made)
    wanted = ["history", "importance of parameters", "parallel coordinates", "slices", "contours", "ranks"]
    assert headings.found == [*(f"val_loss: {name}" for name in wanted), "Times"]
    assert headings.elsewhere == [], "it opens offline"
    assert made.count("<!doctype") == 1
    assert "8 trials that ended with a score; val_loss (lower is better)" in made


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    search(open_study(tmp_path, directions=("min", "min")), 8, objectives=2)
    found = Headings(page(tmp_path, {"val_loss": "min", "parameters": "min"})).found
    assert {"val_loss: history", "parameters: history", "Pareto front"} <= {*found}


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no slices\nof <this>")

    monkeypatch.setattr(visualization, "plot_slice", refuse)
    search(open_study(tmp_path), 8)
    made = page(tmp_path, {"val_loss": "min"})
    assert "val_loss: slices" not in Headings(made).found
    assert "Not drawn" in Headings(made).found
    assert "<li>val_loss: slices: no slices of &lt;this&gt;</li>" in made


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_is_drawn_of_almost_nothing(tmp_path: Path, count: int) -> None:
    search(open_study(tmp_path), count)
    assert page(tmp_path, {"val_loss": "min"}) == ""


@pytest.mark.parametrize("objectives", [{"cider": "max"}, {"cider": "max", "parameters": "min"}], ids=["one", "two"])
def test_what_decides_is_what_good_trials_share(tmp_path: Path, objectives: dict[str, Direction]) -> None:
    entered(tmp_path, objectives, lambda x, y: 2.0 * (x > 0.9) - (y < 0.1))  # y makes the bad ones
    found = importances(f"sqlite:///{tmp_path}/study.db", "s", objectives=objectives)
    assert found["cider"]["x"] > 0.8
    assert sum(found["cider"].values()) == pytest.approx(1)
    made = page(tmp_path, objectives)
    assert made.index("x (FloatDistribution)") > made.index("y (FloatDistribution)"), "Optuna's bars rise"


@pytest.mark.parametrize("further", [{}, {"parameters": "min"}], ids=["one", "two"])
def test_nothing_decides_what_is_always_the_same(tmp_path: Path, further: dict[str, Direction]) -> None:
    objectives: dict[str, Direction] = {"cider": "max", **further}
    entered(tmp_path, objectives, lambda _x, _y: 0.5)
    assert importances(f"sqlite:///{tmp_path}/study.db", "s", objectives=objectives) == {}
    assert "<li>cider: importance of parameters: no parameter is known to decide it</li>" in page(tmp_path, objectives)


def entered(folder: Path, objectives: dict[str, Direction], value: Callable[[float, float], float]) -> None:
    """A study of 60 trials over x and y, which were drawn at random; further objectives are all 1."""
    open_study(folder, directions=tuple(objectives.values()))
    draws = np.random.default_rng(0)
    unit = optuna.distributions.FloatDistribution(0, 1)
    trials = [
        optuna.trial.create_trial(
            params={"x": x, "y": y},
            distributions={"x": unit, "y": unit},
            values=[value(x, y), *[1.0] * (len(objectives) - 1)],
        )
        for x, y in draws.random((60, 2))
    ]
    stored(folder).add_trials(trials)
