"""Optuna's plots as one page."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from optuna import visualization
from test_study import open_study, search

from vltune.contract import Direction
from vltune.study_plots import study_page


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
