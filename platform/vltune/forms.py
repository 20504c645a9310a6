"""The forms of a comparison table: for a terminal's grid, Markdown, CSV and JSON."""

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vltune.compare import BEST, BEST_OF_GROUP, ON_FRONT, Cell, Column, Kind, Table, one_line
from vltune.significance import Spread
from vltune.statistics import SIGNIFICANT

MOST_PARAMETERS = 4
"""Columns of parameters beside each other on a page; more become one."""
_LEAST_P = 0.001
"""p-values below are not told apart in texts."""


def folded(table: Table) -> Table:
    """The same table with its parameter columns as one, which names what a row has other than most rows."""
    indices = [i for i, column in enumerate(table.columns) if column.kind == "parameter"]
    if len(indices) < 2:
        return table
    common = {i: Counter(_repr(row.cells[i]) for row in table.rows).most_common(1)[0] for i in indices}
    # a value that most rows do not share is said in each row
    usual = {i: text for i, (text, times) in common.items() if 2 * times >= len(table.rows)}

    def fold(cells: Sequence[Cell]) -> tuple[Cell, ...]:
        own = [f"{table.columns[i].key}={_repr(cells[i])}" for i in indices if _repr(cells[i]) != usual.get(i)]
        return (cells[0], " ".join(own), *(cell for i, cell in enumerate(cells) if i and i not in indices))

    columns = (table.columns[0], Column("settings", "settings", "parameter"))
    columns += tuple(c for i, c in enumerate(table.columns) if i and i not in indices)
    rows = tuple(dataclasses.replace(row, cells=fold(row.cells)) for row in table.rows)
    stated = ", ".join(f"{table.columns[i].key}={text}" for i, text in usual.items())
    notes = [f"Where a row does not say otherwise: {stated}."] if usual else []
    return dataclasses.replace(table, columns=columns, rows=rows, notes=(*table.notes, *notes))


def _repr(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.3g}" if math.isfinite(cell) else str(cell)
    return "–" if cell is None or cell == "" else one_line(str(cell))


def texts_of(table: Table, *, spreads: bool = True) -> list[list[str]]:
    """Every cell as people read it, without marks; the numbers of a metric all with the same decimals.

    Args:
        spreads: how sure a number is stands behind it, in columns that show that.
    """
    columns = []
    for column in table.columns:
        cells = table.column(column.key)
        decimals = _decimals(cells)
        columns.append([_text(cell, column.kind, decimals) for cell in cells])
    rows = [list(row) for row in zip(*columns, strict=True)]
    places = {column.key: index for index, column in enumerate(table.columns)}
    for (row, key), text in spread_texts(table).items() if spreads else ():
        rows[row][places[key]] += f" {text}"
    return rows


def spread_texts(table: Table) -> dict[tuple[int, str], str]:
    """(row, column key) -> how sure the number is, in the columns that show it: its deviation, or its interval."""
    found = {}
    for column in table.columns:
        decimals = max(0, _decimals(table.column(column.key)) - 1)  # a digit less than the number has
        decimals = 1 if column.kind == "improvement" else decimals
        for row in range(len(table.rows)) if column.key in table.spread_columns else ():
            text = _spread_text(table.spreads.get((row, column.key), Spread()), decimals)
            if text:
                found[row, column.key] = text
    return found


def _spread_text(spread: Spread, decimals: int) -> str:
    if spread.deviation is not None:
        return f"±{spread.deviation:.{decimals}f}"
    return "" if spread.interval is None else f"[{spread.interval[0]:.{decimals}f}, {spread.interval[1]:.{decimals}f}]"


def _decimals(cells: Sequence[Cell]) -> int:
    """Four digits for the greatest number of a column, so that its numbers stand under each other."""
    sizes = [abs(cell) for cell in cells if isinstance(cell, int | float) and math.isfinite(cell)]
    greatest = max(sizes, default=0.0)
    return min(4, max(0, 3 - math.floor(math.log10(greatest)))) if greatest > 0 else 4


def _text(cell: Cell, kind: Kind, decimals: int) -> str:
    if kind == "seconds" and isinstance(cell, int | float):
        return duration(cell)
    if kind == "remark":
        return str(cell or "")
    if kind == "front":
        return ON_FRONT if cell else ""
    if kind == "p_value" and isinstance(cell, float):
        return _p_text(cell)
    if cell is None or isinstance(cell, str) or kind not in ("metric", "improvement", "count"):
        return _repr(cell)
    if kind == "count":
        return amount(int(cell))
    if not math.isfinite(cell):
        return str(cell)
    if kind == "improvement":
        return f"{cell:+.2f}"
    small = 1e-6 < abs(cell) < 10.0**-decimals  # what is smaller still is a metric's way to say nothing
    return f"{cell:.2e}" if small else f"{cell:.{decimals}f}"


def _p_text(p: float) -> str:
    text = f"{p:.3f}" if p >= _LEAST_P else f"<{_LEAST_P}"
    return text if p < SIGNIFICANT else f"{text} n.s."


def amount(number: int) -> str:
    """A count in short: ``950``, ``48.2 k``, ``1.84 M``."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:#.3g}".rstrip(".") + f" {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """A time in short: ``8.3 s``, ``2 m 05 s``, ``3 h 12 m``."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} m {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} m"


def as_markdown(table: Table) -> str:
    """GitHub's Markdown: the best of all is bold, the best of a group in italics; the notes are a list."""
    words = [column.kind in ("label", "parameter", "remark") for column in table.columns]
    lines = [
        "| " + " | ".join(_escaped(column.title) for column in table.columns) + " |",
        "|" + "|".join("---" if word else "---:" for word in words) + "|",
    ]
    around = {BEST: "**", BEST_OF_GROUP: "*", "": ""}
    for index, row in enumerate(texts_of(table)):
        cells = []
        for column, text in zip(table.columns, row, strict=True):
            mark = table.marks.get((index, column.key), "")
            cells.append(f"{around[mark]}{_escaped(text)}{around[mark]}" + (f" {mark}" if mark else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {_escaped(note)}" for note in table.notes)]) + "\n"


def _escaped(text: str) -> str:
    for sign in "\\|*`<":
        text = text.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return text


def as_csv(table: Table) -> str:
    """RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180), numbers in full, with all that is known of how sure they are.

    The last columns say which trial a row is, and what it is best at.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    numbers = as_columns(table)
    writer.writerow([*numbers, "uid", "run", "state", "best", "best_of_group"])
    for index, (row, cells) in enumerate(zip(table.rows, zip(*numbers.values(), strict=True), strict=True)):
        best = [";".join(_marked(table, index, mark)) for mark in (BEST, BEST_OF_GROUP)]
        writer.writerow(["" if cell is None else cell for cell in cells] + [row.uid, row.run, row.state, *best])
    return out.getvalue()


def as_columns(table: Table) -> dict[str, list[Cell]]:
    """The table column by column; of each number also its interval and its deviation, where one of them is known."""
    columns: dict[str, list[Cell]] = {}
    for column in table.columns:
        columns[column.key] = table.column(column.key)
        spreads = [table.spreads.get((row, column.key), Spread()) for row in range(len(table.rows))]
        if any(spread.interval for spread in spreads):
            columns[f"{column.key}_low"] = [spread.interval and spread.interval[0] for spread in spreads]
            columns[f"{column.key}_high"] = [spread.interval and spread.interval[1] for spread in spreads]
        if any(spread.deviation is not None for spread in spreads):
            columns[f"{column.key}_deviation"] = [spread.deviation for spread in spreads]
    return columns


def as_json(table: Table) -> dict[str, Any]:
    """Plain values for ``json.dumps``; what is not a finite number is null."""
    rows = [
        {
            **{column.key: _plain(cell) for column, cell in zip(table.columns, row.cells, strict=True)},
            "uid": row.uid,
            "run": row.run,
            "state": row.state,
            "intervals": {key: s.interval for (i, key), s in table.spreads.items() if i == index and s.interval},
            "deviations": {
                key: s.deviation for (i, key), s in table.spreads.items() if i == index and s.deviation is not None
            },
            "best": _marked(table, index, BEST),
            "best_of_group": _marked(table, index, BEST_OF_GROUP),
        }
        for index, row in enumerate(table.rows)
    ]
    columns = [dataclasses.asdict(column) for column in table.columns]
    return {"columns": columns, "rows": rows, "notes": list(table.notes), "objectives": list(table.objectives)}


def _plain(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _marked(table: Table, index: int, mark: str) -> list[str]:
    """What a row is best at. The best of all is the best of its group too, but is named once."""
    return [key for (row, key), found in table.marks.items() if row == index and found == mark]
