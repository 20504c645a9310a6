"""Figures that stand inside a page."""

import re
import xml.etree.ElementTree as ET

from vltune.canvas import PALETTE
from vltune.report_figures import NAMED, curves, history, series
from vltune.vectors import inline_svg


def drawn(name: str = "a", **changes: str) -> str:
    figure = curves([[(1, 0.1234), (2, 0.1267)], [(1, 0.125)]], "cider", width=4.4)
    return inline_svg(figure, name=name, text='a "figure" <of> two', **changes)


def test_colours_are_the_pages() -> None:
    made = drawn(kind="narrow")
    for number in (0, 1):
        assert f"var(--c{number})" in made
        assert PALETTE[number].lower() not in made.lower()
    assert "var(--ink)" in made
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", made)) <= {"#000000"}, "black is what has no colour at all"


def test_text_stays_text_and_numbers_stay_whole() -> None:
    made = drawn()
    words = re.findall(r"<text[^>]*>([^<]*)</text>", made)
    assert {"cider", "epoch"} <= {*words}
    ticks = [word for word in words if re.fullmatch(r"0\.\d+", word)]
    assert len(ticks) == len({*ticks}) > 2, "0.1225 and 0.1250 are not both 0.12"
    assert not re.search(r'd="[^"]*\.\d{3}', made)


def test_it_is_sound_refers_to_itself_alone_and_says_what_it_is() -> None:
    one, other = drawn("one"), drawn("two")
    root = ET.fromstring(one)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'a "figure" <of> two'
    assert "http" not in one
    ids = [set(re.findall(r'\sid="([^"]+)"', text)) for text in (one, other)]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", one)) | set(re.findall(r'href="#([^"]+)"', one)) == ids[0]


def test_the_best_so_far_is_of_finished_trials() -> None:
    values = [(0, 0.2, "finished"), (1, 0.9, "pruned"), (2, 0.5, "finished"), (3, 0.3, "finished")]
    (axes,) = history(values, "cider", "max", base=0.2, width=4.4).axes
    best, base = axes.lines
    assert [*best.get_ydata()] == [0.2, 0.2, 0.5, 0.5]
    assert {*base.get_ydata()} == {0.2}


def test_the_legend_names_the_best_and_counts_the_rest() -> None:
    names = {f"trial {i}": [(1, 0.5)] for i in range(NAMED + 2)}
    shown = series(names)
    assert [name for name, _, _ in shown] == [*(f"trial {i}" for i in range(NAMED)), "2 other trials"]
    assert len({color for _, color, _ in shown}) == NAMED + 1
