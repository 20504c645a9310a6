"""What a person reads in a terminal: comparison tables, plain rows, a search's space."""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from vltune.compare import BEST, Column, Table
from vltune.forms import folded, texts_of
from vltune.parameters import plain_text
from vltune.population import copied
from vltune.space import Description
from vltune.strategies import PRUNERS, SAMPLERS

_WORDS = ("label", "parameter")
_SPREADS = "intervals"
_FIRST_TO_GO = ("seconds", "epochs", "parameters")
"""Columns that a narrow terminal does without, in this order; after them all metrics but two, the last ones first."""
_LAST_TO_GO = (_SPREADS, "seeds", "p_value")
"""What goes last, after the improvement and the second metric; among it, what stands behind numbers."""
GAP = 2
"""Spaces between two columns."""
_STYLES = {"failed": "red", "pruned": "dim", "running": "cyan", "waiting": "dim"}


def as_text(table: Table, *, width: int = 100, color: bool = False) -> str:
    """The table for a terminal: no line is longer than ``width``. Remarks and notes stand under it.

    Parameter columns become one where they do not fit side by side; then less important columns are left out, and a
    note says which.

    Args:
        width: characters of a line; at least 30.
        color: bold and colour as ANSI sequences.
    """
    width = max(width, 30)
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        legacy_windows=False,
        _environ={},
    )
    left_out: list[str] = []
    if _least(table, left_out, width) > width:
        table = folded(table)
    metrics = [column.key for column in table.columns if column.kind == "metric"]
    present = [column.key for column in table.columns]
    aims = tuple(key for aim in table.objectives for key in (aim, f"test_{aim}") if key in present)
    further = [key for key in reversed(metrics[1:]) if key not in aims]
    going = dict.fromkeys((*_FIRST_TO_GO, *further[:-1], "improvement", *further, *_LAST_TO_GO))
    for key in (*(key for key in going if key not in aims), *reversed(aims[1:])):
        if _least(table, left_out, width) <= width:
            break
        if key == _SPREADS and table.spread_columns:
            table = dataclasses.replace(table, spread_columns=())
            left_out.append(key)
        elif key in present:
            left_out.append(key)
    console.print(_grid(table, left_out, width))
    titles = {column.key: column.title for column in table.columns}
    missed = ", ".join(titles.get(key, key) for key in left_out)
    notes = [f"Left out for want of width: {missed}."] if missed else []
    for note in (*_remarks(table), *table.notes, *notes):
        console.print(Text(note, style="dim"))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def grid_text(rows: Sequence[Mapping[str, Any]], *, width: int = 100) -> str:
    """Plain rows as a grid for a terminal; a column in which every cell is empty is left out."""
    if not rows:
        return ""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, legacy_windows=False, _environ={})
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    columns = [key for key in rows[0] if any(row[key] not in ("", None) for row in rows)]
    for key in columns:
        numbers = all(isinstance(row[key], int | float) or row[key] is None for row in rows)
        grid.add_column(Text(_broken(key)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        style = _STYLES.get(str(row.get("state", "")), "")
        grid.add_row(*(Text("" if row[key] is None else value_text(row[key])) for key in columns), style=style)
    console.print(grid)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def listing_text(entries: Mapping[str, str], *, width: int = 100) -> str:
    """Names and what is said of them; long texts go on below themselves, or below the name where there is no room."""
    hang = max(map(len, entries), default=0) + GAP
    if width - hang < 24:
        return "\n".join(
            f"{name}\n{textwrap.indent(_wrapped(text, width - 2), '  ')}" for name, text in entries.items()
        )
    lines = []
    for name, text in entries.items():
        first, *rest = _wrapped(text, width - hang).split("\n")
        lines += [f"{name:<{hang}}{first}".rstrip(), *(" " * hang + line for line in rest)]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(20, width)))


def description_text(description: Description, *, width: int = 100) -> str:
    """A search's space for a terminal: what is asked, what is fixed, and the named rows."""
    d = description
    better = {"max": "higher", "min": "lower"}
    goals = {d.objective: d.direction, **d.further_objectives}
    aims = "objective" + ("s" if len(goals) > 1 else "")
    aims += " " + ", ".join(f"{name} ({better[direction]} is better)" for name, direction in goals.items())
    lines = [
        f"{d.name}: {d.question}",
        f"family {d.family}; {aims}; {d.num_trials} trials",
        f"sampler {d.sampler}: {SAMPLERS[d.sampler]}",
        *([f"pruner {d.pruner}: {PRUNERS[d.pruner]}"] if d.pruner != "none" else []),
        "",
        "searched:",
        *(f"  {parameter}" for parameter in d.parameters),
    ]
    if d.population is not None:
        p = d.population
        lines += [
            "",
            f"a population of {p.size}: every {p.segment_epochs} epochs the worst {copied(p)} become copies of one of "
            f"the best {copied(p)}, and change:",
        ]
        lines += [f"  {name}: {low:g} to {high:g}" for name, (low, high) in p.perturbed.items()]
    if d.fixed:
        lines += ["", "fixed:", *(f"  {key}={plain_text(value)}" for key, value in d.fixed.items())]
    if d.derived:
        lines += ["", f"follows from the others: {', '.join(d.derived)}"]
    if d.rows:
        lines += ["", "named rows, which run first:"]
        base = d.rows.get(d.base_row, {})
        for name, row in d.rows.items():
            shown = row if name == d.base_row or not base else {k: v for k, v in row.items() if base.get(k) != v}
            values = ", ".join(f"{key}={plain_text(value)}" for key, value in shown.items())
            lines.append(f"  {name}{' (base row)' if name == d.base_row else ''}: {values or 'as the base row'}")
        if base:
            lines.append("  (of the other rows only what differs from the base row)")
    if d.note:
        lines += ["", d.note]
    wrapped = []
    for line in lines:
        hang = " " * (len(line) - len(line.lstrip()) + 2)
        wrapped += textwrap.wrap(line, max(40, width), subsequent_indent=hang) or [""]
    return "\n".join(wrapped)


def _remarks(table: Table) -> list[str]:
    """What is said of single rows, once for all rows that it is said of."""
    names: dict[str, list[str]] = {}
    if any(column.kind == "remark" for column in table.columns):
        for name, remark in zip(table.column("name"), table.column("remark"), strict=True):
            names.setdefault(str(remark), []).append(str(name))
    return [f"{', '.join(rows)}: {remark}" for remark, rows in names.items() if remark]


def _shown(table: Table, left_out: Sequence[str]) -> list[int]:
    return [i for i, column in enumerate(table.columns) if column.key not in left_out and column.kind != "remark"]


def _title(column: Column) -> str:
    """Long names of columns go over several lines, so that the numbers decide the width."""
    return _broken(column.title.replace("% over ", "% over\n"))


def _broken(title: str) -> str:
    breaks = [i + 1 for i, character in enumerate(title) if character == "_"]
    if len(title) <= 8 or not breaks:
        return title
    middle = min(breaks, key=lambda place: abs(place - len(title) / 2))
    return f"{title[:middle]}\n{title[middle:]}"


def _widths(table: Table, width: int) -> list[tuple[int, int]]:
    """Least and natural width of each column. A number is never cut; words wrap down to what can still be read."""
    texts, widths = texts_of(table), []
    for i, column in enumerate(table.columns):
        natural = max((cell_len(row[i]) for row in texts), default=0) + (2 if table.may_be_marked(column) else 0)
        settings = min(36, max(16, width // 3))
        word = max((len(word) for row in texts for word in row[i].split()), default=0)
        names = min(24, max(16, width // 4, word))
        readable = {"label": names, "parameter": settings if column.key == "settings" else 24}
        least = min(natural, readable.get(column.kind, natural))
        title = max(cell_len(line) for line in _title(column).split("\n"))
        widths.append((max(least, title), max(natural, title)))
    return widths


def _least(table: Table, left_out: Sequence[str], width: int) -> int:
    widths, shown = _widths(table, width), _shown(table, left_out)
    return sum(widths[i][0] for i in shown) + GAP * (len(shown) - 1)


def _grid(table: Table, left_out: Sequence[str], width: int) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, header_style="bold", show_edge=False)
    shown, widths = _shown(table, left_out), _widths(table, width)
    spare = width - _least(table, left_out, width)
    for number, i in enumerate(shown):
        column, (least, natural) = table.columns[i], widths[i]
        words = column.kind in _WORDS
        # too narrow even so: words give way to numbers
        own = least + max(0, min(natural - least, spare)) if spare >= 0 or not words else max(8, least + spare)
        spare -= own - least
        # the box puts one space between columns, the rest of the gap is padding on the right
        last = number == len(shown) - 1
        grid.add_column(
            Padding(Text(_title(column)), (0, 0 if last else GAP - 1, 0, 0)),
            justify="left" if words else "right",
            width=own + (0 if last else GAP - 1),
            vertical="top",
            overflow="fold",
        )
    for index, row in enumerate(texts_of(table)):
        cells = [
            Padding(_cell(table, index, table.columns[i], row[i]), (0, 0 if i == shown[-1] else GAP - 1, 0, 0))
            for i in shown
        ]
        grid.add_row(*cells, style=_STYLES.get(table.rows[index].state, ""))
    return grid


def _cell(table: Table, index: int, column: Column, text: str) -> Text:
    # every cell of such a column keeps a place for the mark, so that the numbers stand under each other
    mark = f" {table.marks.get((index, column.key), ' ')}" if table.may_be_marked(column) else ""
    return Text(
        text + mark,
        style="bold" if BEST in mark else "",
        justify="left" if column.kind in _WORDS else "right",
        overflow="fold",
    )


def value_text(value: Any) -> str:
    """A value as it stands in a cell."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
