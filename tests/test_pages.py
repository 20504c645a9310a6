"""The table as a page: sound HTML that needs nothing else."""

from html.parser import HTMLParser

from tests.test_compare import run, table
from tests.test_significance import rows, sure
from vltune.pages import as_html

VOID = ("meta", "wbr")


class Reader(HTMLParser):
    """Collects cells, and that every tag is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_every_cell_is_there_with_its_interval_and_mark() -> None:
    made = sure(rows())
    page = as_html(made, title="my run", about="Which is best?")
    found = Reader(page)
    assert [title.replace("\xa0", " ") for title in found.rows[0]] == [column.title for column in made.columns]
    place = made.column("name").index("better")
    low, high = made.spreads[place, "cider"].interval
    value = made.column("cider")[place]
    assert found.rows[1 + place][2] == f"{value:.4f}[{low:.3f}, {high:.3f}]●"
    assert all(len(row) == len(made.columns) for row in found.rows)
    assert [f"<li>{note}</li>" in page.replace("&gt;", ">") for note in made.notes] == [True] * len(made.notes)


def test_it_needs_no_other_file_and_suits_the_screen() -> None:
    page = as_html(sure(rows()), title="x")
    assert Reader(page).links == []
    for word in ("http", "@import", "url(", "<script"):
        assert word not in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert page.startswith("<!doctype html>")


def test_whatever_a_name_holds_is_text() -> None:
    given = [run("<script>alert(1)</script>", 0.5, 1.0), run('"x" & y', state="failed", error="a<b>")]
    page = as_html(table(given), title="<b>", about="a & b")
    found = Reader(page)
    assert [row[0] for row in found.rows[1:]] == ["<script>alert(1)</script>", '"x" & y']
    assert found.rows[2][-1] == "failed: a<b>"
    assert "<h1>&lt;b&gt;</h1>" in page
