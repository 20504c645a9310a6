"""A comparison table as a page of its own: one HTML file that needs nothing else, on any screen, in light and dark."""

from html import escape

from vltune.compare import BEST, BEST_OF_GROUP, Column, Table
from vltune.forms import MOST_PARAMETERS, folded, spread_texts, texts_of

_WORDS = ("label", "parameter", "remark")

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --faint: #5d6878; --line: #d8dde5; --page: #ffffff; --tint: #eaf3fa;
  --mark: #0072b2; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --faint: #9aa5b5; --line: #333b48; --page: #14181f;
  --tint: #16293a; --mark: #5cb8ee; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 3rem; max-width: 90rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .25rem; }
.about { color: var(--faint); margin: 0 0 1.25rem; max-width: 60rem; }
.frame { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .65rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { border-bottom: 2px solid var(--ink); vertical-align: bottom; font-weight: 600; }
td { border-bottom: 1px solid var(--line); }
th.words, td.words { text-align: left; }
td.words { overflow-wrap: break-word; }
td.name { font-weight: 500; white-space: normal; min-width: 9.5rem; max-width: 16rem; }
th { white-space: normal; }
th.name, td.name { position: sticky; left: 0; background: var(--page); }
td.settings { white-space: normal; min-width: 15rem; max-width: 22rem; color: var(--faint); font-size: .92em; }
tr.best td { background: var(--tint); }
tr.failed td { color: var(--faint); }
tr.failed td.remark { color: var(--bad); }
td.remark { white-space: normal; color: var(--faint); min-width: 12rem; max-width: 26rem; font-size: .92em; }
.spread { color: var(--faint); font-size: .87em; margin-left: .35em; }
b { font-weight: 700; }
.mark { display: inline-block; width: .9em; color: var(--mark); text-align: center; margin-left: .3em;
  font-size: .8em; }
.notes { color: var(--faint); font-size: .9rem; max-width: 60rem; padding-left: 1.1rem; margin-top: 1.25rem; }
.notes li { margin: .2rem 0; }
@media (max-width: 46rem) {
  body { padding: 1.25rem 1rem 2rem; }
  table, tbody, tr, td { display: block; }
  thead { display: none; }
  tr { border: 1px solid var(--line); border-radius: .5rem; margin-bottom: .75rem; padding: .5rem .9rem; }
  tr.best { background: var(--tint); }
  td.name { position: static; background: none; }
  td, td.words, td.name, td.settings, td.remark { display: flex; justify-content: space-between; gap: 1rem; border: 0;
    padding: .15rem 0; text-align: right; white-space: normal; max-width: none; min-width: 0; }
  td::before { content: attr(data-title); color: var(--faint); flex: none; }
  td.name { font-size: 1.05rem; font-weight: 600; }
  td.name::before { content: none; }
  td:empty, .mark:empty { display: none; }
}
"""


def as_html(table: Table, *, title: str, about: str = "") -> str:
    """A whole page. On a narrow screen each row stands by itself, a line for each column.

    Args:
        title: its heading.
        about: a sentence below it.
    """
    words = [escape(title), f'<p class="about">{escape(about)}</p>' if about else ""]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{words[0]}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{words[0]}</h1>\n{words[1]}\n"
        f"{html_table(table)}\n</body>\n</html>\n"
    )


def html_table(table: Table) -> str:
    """The table and its notes, for a page that has the styles. Many parameters become one column."""
    table = folded(table) if sum(column.kind == "parameter" for column in table.columns) > MOST_PARAMETERS else table
    heads = "".join(f"<th{_class(column)}>{_breakable(column.title)}</th>" for column in table.columns)
    spreads = spread_texts(table)
    texts = texts_of(table, spreads=False)
    rows = []
    for index, row in enumerate(table.rows):
        cells = "".join(
            _cell(table, index, column, text, spreads.get((index, column.key), ""))
            for column, text in zip(table.columns, texts[index], strict=True)
        )
        best = any(table.marks.get((index, column.key)) == BEST for column in table.columns)
        kind = " ".join(filter(None, (row.state, "best" if best else "")))
        rows.append(f'<tr class="{escape(kind)}">{cells}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    body = "\n".join(rows)
    return (
        f'<div class="frame"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
        f'<ul class="notes">{notes}</ul>'
    )


def _cell(table: Table, index: int, column: Column, text: str, spread: str) -> str:
    mark = table.marks.get((index, column.key), "")
    shown = escape(text)
    shown = {BEST: f"<b>{shown}</b>", BEST_OF_GROUP: f"<i>{shown}</i>"}.get(mark, shown)
    shown += f'<span class="spread">{escape(spread)}</span>' if spread else ""
    if table.may_be_marked(column):  # each keeps room for a mark, so that numbers stand under each other
        shown += f'<span class="mark">{mark}</span>'
    # one box, so that a narrow screen puts the title on its left
    inner = f"<span>{shown}</span>" if text else ""
    return f'<td{_class(column)} data-title="{escape(column.title)}">{inner}</td>'


def _class(column: Column) -> str:
    names = (["words"] if column.kind in _WORDS else []) + (
        [column.key] if column.key in ("name", "settings", "remark") else []
    )
    return f' class="{" ".join(names)}"' if names else ""


def _breakable(title: str) -> str:
    return escape(title).replace("_", "_<wbr>").replace("% ", "%&nbsp;")
