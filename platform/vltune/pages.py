"""A comparison table as a page of its own: one HTML file that needs nothing else, on any screen, in light and dark."""

import re
from html import escape

from vltune.compare import BEST, BEST_OF_GROUP, Column, Table
from vltune.forms import MOST_PARAMETERS, folded, spread_texts, texts_of
from vltune.page_style import TABLE, document

_WORDS = ("label", "parameter", "remark")


def as_html(table: Table, *, title: str, about: str = "") -> str:
    """A whole page. On a narrow screen each row stands by itself, a line for each column.

    Args:
        title: its heading.
        about: a sentence below it.
    """
    words = f'<p class="about">{escape(about)}</p>' if about else ""
    return document(f"<h1>{escape(title)}</h1>\n{words}\n{html_table(table)}", title=title, styles=TABLE)


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
        aims = table.objectives or [column.key for column in table.columns]
        best = any(table.marks.get((index, key)) == BEST for key in aims)
        kind = " ".join(filter(None, (row.state, "best" if best else "")))
        rows.append(f'<tr class="{escape(kind)}">{cells}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    body = "\n".join(rows)
    return (
        f'<div class="frame" tabindex="0" role="region" aria-label="Table of results">'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n"
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
    return re.sub(r"_(?=[^_]{3})", "_<wbr>", escape(title)).replace("% ", "%&nbsp;")
