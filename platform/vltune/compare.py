"""Finished trials side by side: the comparison table, its marks, and its forms for people and for programs."""

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vltune.contract import BadInput, Direction, RunRow, is_better, lookup

Kind = Literal["label", "parameter", "epochs", "metric", "improvement", "count", "seconds", "remark"]
Cell = str | int | float | bool | None

BEST, BEST_OF_GROUP = "●", "○"
"""Marks of the best value of a column, in the whole table and among the rows of a group."""

_COMPETING = ("finished", "stopped", "pruned")
_NOT_PARAMETERS = ("data", "objective", "epochs")
"""Fields that make no column of their own: equal in all rows, or, as the epochs and all hashes, told by another one."""

_ERROR_LENGTH = 80


@dataclass(frozen=True)
class Column:
    """A column: ``key`` is the name that is used everywhere, ``title`` what stands above it."""

    key: str
    title: str
    kind: Kind


@dataclass(frozen=True)
class TableRow:
    """A trial: plain values, one for each column; None where a trial has no such value."""

    uid: str
    run: str
    state: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A comparison, ready to be shown. Rows stand in order of rank."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    marks: Mapping[tuple[int, str], str]
    """(row, column key) -> ``BEST`` or ``BEST_OF_GROUP``."""
    notes: tuple[str, ...]
    """What is true of all rows, a line each; stands under the table."""

    def column(self, key: str) -> list[Cell]:
        """The values of one column, from the first row to the last."""
        index = [column.key for column in self.columns].index(key)
        return [row.cells[index] for row in self.rows]


def table_of(
    rows: Sequence[RunRow],
    *,
    objective: str,
    directions: Mapping[str, Direction],
    base_row: str = "",
    group_by: str = "",
    columns: Sequence[str] = (),
    sort_by: str = "",
    split: str = "validation",
    notes: Sequence[str] = (),
    measured_by: Mapping[str, Sequence[str]] | None = None,
    parameters: Literal["auto", "all", "none"] = "auto",
) -> Table:
    """Puts trials of one search, or of several on the same data, into a table.

    Args:
        objective: the metric that the improvement is measured by, and that sorts unless ``sort_by`` does.
        directions: the family's metrics, and which way each is better.
        base_row: name of the row that the improvement is measured against; empty: no such column. Of several rows
            with this name the first one counts.
        group_by: field of the configuration; the best row of each of its values is marked.
        columns: metrics to show; empty: the objective and ``val_loss``.
        sort_by: metric that orders the rows. Rows without a finite value come last.
        split: what the metrics were computed on.
        notes: lines for under the table.
        measured_by: metric -> fields that change what it measures; where rows differ in them, a note says so.
        parameters: columns for the configuration's fields in which rows differ: ``auto`` leaves them out where every
            row has a name.

    Raises:
        BadInput: no rows; rows of different data or of different families; an unknown metric or field.
    """
    if not rows:
        raise BadInput("there is nothing to compare: no trial matches.")
    metrics = tuple(columns) or tuple(dict.fromkeys((objective, *(["val_loss"] if "val_loss" in directions else []))))
    for name in (objective, *metrics, *([sort_by] if sort_by else [])):
        lookup(directions, name, "metric")
    _same_data(rows)
    _same_family(rows, directions)
    if group_by:
        lookup(rows[0].config, group_by, "field to group by")

    base, base_note = _base(rows, base_row, objective)  # before they are sorted
    key = sort_by or objective
    rows = sorted(rows, key=lambda row: _rank(row.metrics.get(key, math.nan), directions[key]))
    differing = _differing(rows)
    if parameters == "none" or (parameters == "auto" and all(row.name for row in rows)):
        differing = [name for name in differing if name == group_by]
    shared = _shared(rows)
    remarks = [_remarks(row, shared) for row in rows]
    heads = [Column("name", "name", "label"), *(Column(name, name, "parameter") for name in differing)]
    heads += [Column("epochs", "epochs", "epochs"), *(Column(name, name, "metric") for name in metrics)]
    if base is not None:
        heads.append(Column("improvement", "% over base", "improvement"))
    heads += [Column("parameters", "parameters", "count"), Column("seconds", "time", "seconds")]
    if any(remarks):
        heads.append(Column("remark", "remark", "remark"))

    def cells(row: RunRow, remark: str) -> tuple[Cell, ...]:
        found: dict[str, Cell] = {"name": row.name or row.uid, "epochs": row.epochs, "remark": remark}
        found |= {"parameters": row.parameters or None, "seconds": row.seconds}
        if base is not None:
            found["improvement"] = improvement(row.metrics.get(objective, math.nan), base, directions[objective])
        by_kind = {"parameter": row.config, "metric": row.metrics}
        return tuple(by_kind.get(head.kind, found).get(head.key) for head in heads)

    table = tuple(
        TableRow(row.uid, row.run, row.state, cells(row, remark)) for row, remark in zip(rows, remarks, strict=True)
    )
    marks = _marks(rows, metrics, directions, group_by)
    unlike = _unlike(rows, dict.fromkeys((*metrics, objective, key)), measured_by or {})
    facts = _facts(rows, split, marks, group_by)
    return Table(tuple(heads), table, marks, (*facts, *_everywhere(shared), *base_note, *unlike, *notes))


def improvement(value: float, base: float, direction: Direction) -> float | None:
    """Per cent by which a value is better than the base, whichever way its metric goes; worse is negative."""
    if not (math.isfinite(value) and math.isfinite(base)) or base == 0:
        return None
    return (value - base if direction == "max" else base - value) / abs(base) * 100


def _same_data(rows: Sequence[RunRow]) -> None:
    first: dict[str, RunRow] = {}
    for row in rows:
        first.setdefault(str(row.config.get("data_hash", "")), row)
    if len(first) > 1:
        (one, a), (other, b) = list(first.items())[:2]
        raise BadInput(
            f"run {_title(a)} has data {one[:12] or 'unknown'} and run {_title(b)} has data {other[:12] or 'unknown'}: "
            "scores on different data do not compare; name runs of one data set."
        )


def _same_family(rows: Sequence[RunRow], directions: Mapping[str, Direction]) -> None:
    for row in rows:
        missing = [name for name in directions if row.metrics and name not in row.metrics]
        if missing or set(row.config) != set(rows[0].config):
            what = f"has no metric {missing[0]}" if missing else f"has other fields than run {_title(rows[0])}"
            raise BadInput(f"run {_title(row)} {what}: it is of another family; name runs of one family.")


def _title(row: RunRow) -> str:
    return row.name or row.uid


def _rank(value: float, direction: Direction) -> tuple[bool, float]:
    """Sorts the best first and what is not finite last. A tuple of a flag and a number compares without NaN."""
    if not math.isfinite(value):
        return True, 0.0
    return False, -value if direction == "max" else value


def _differing(rows: Sequence[RunRow]) -> list[str]:
    """Fields in which rows differ; one that only repeats what a searched field says is left out."""
    names = [name for name in rows[0].config if name not in _NOT_PARAMETERS and not name.endswith("_hash")]
    values = {name: tuple(repr(row.config[name]) for row in rows) for name in names}
    searched = {name for row in rows for name in row.searched}
    said = {values[name] for name in searched if name in values}
    return [n for n in names if len(set(values[n])) > 1 and (n in searched or values[n] not in said)]


def _base(rows: Sequence[RunRow], base_row: str, objective: str) -> tuple[float | None, list[str]]:
    if not base_row:
        return None, []
    named = [row for row in rows if row.name == base_row]
    for row in named:
        value = row.metrics.get(objective, math.nan)
        if math.isfinite(value):
            which = f"{base_row} of the run {row.run}" if len(named) > 1 else base_row
            return value, [f"% over base: how much better {objective} is than that of {which}."]
    return None, [f"No improvement is shown: the base row {base_row} is not here or has no {objective}."]


def _unlike(rows: Sequence[RunRow], metrics: Iterable[str], measured_by: Mapping[str, Sequence[str]]) -> list[str]:
    """Metrics that measure something else in one row than in another, a note for each reason."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for metric in metrics:
        fields = measured_by.get(metric, ())
        differ = tuple(name for name in fields if len({repr(row.config.get(name)) for row in rows}) > 1)
        if differ:
            reasons.setdefault(differ, []).append(metric)
    return [
        f"Rows differ in {_listed(fields)}, which changes what {_listed(names)} "
        f"{'measures' if len(names) == 1 else 'measure'}: they compare only between rows that are equal in that."
        for fields, names in reasons.items()
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _shared(rows: Sequence[RunRow]) -> list[str]:
    """What every row of several has to say: it is said once, under the table."""
    heard = [set(row.notes) for row in rows if row.epochs or row.notes]
    return [note for note in rows[0].notes if len(heard) > 1 and all(note in notes for notes in heard)]


def _everywhere(shared: Sequence[str]) -> list[str]:
    return [f"In all rows {'; '.join(map(_one_line, shared))}."] if shared else []


def _remarks(row: RunRow, shared: Sequence[str]) -> str:
    state = {
        "finished": "",
        "pruned": f"pruned after epoch {row.epochs}",
        "stopped": f"stopped after epoch {row.epochs}",
        "failed": f"failed: {_short(row.error)}" if row.error else "failed",
    }.get(row.state, row.state)
    return "; ".join(filter(None, (state, *(_one_line(note) for note in row.notes if note not in shared))))


def _one_line(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _short(text: str) -> str:
    text = _one_line(text)
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1].rstrip() + "…"


def _marks(
    rows: Sequence[RunRow], metrics: Sequence[str], directions: Mapping[str, Direction], group_by: str
) -> dict[tuple[int, str], str]:
    competing = [index for index, row in enumerate(rows) if row.state in _COMPETING]
    groups: dict[str, list[int]] = {}
    if group_by:
        for index in competing:
            groups.setdefault(repr(rows[index].config[group_by]), []).append(index)
    marks: dict[tuple[int, str], str] = {}
    for name in metrics:
        for members, mark in [*((group, BEST_OF_GROUP) for group in groups.values()), (competing, BEST)]:
            marks |= {(index, name): mark for index in _best(rows, members, name, directions[name])}
    return marks


def _best(rows: Sequence[RunRow], members: Sequence[int], name: str, direction: Direction) -> list[int]:
    """The member with the best value, and those equal to it; nothing is best where there is nothing to choose from."""
    best = math.nan
    for index in members:
        value = rows[index].metrics.get(name, math.nan)
        best = value if is_better(value, best, direction) else best
    found = [i for i in members if rows[i].metrics.get(name) == best]
    return found if len(found) < len(members) else []


def _facts(rows: Sequence[RunRow], split: str, marks: Mapping[Any, str], group_by: str) -> list[str]:
    config = rows[0].config
    facts = [f"All rows: {split} split of data {str(config.get('data_hash', ''))[:12] or 'unknown'}."]
    legend = [f"{BEST} best of all"] if BEST in marks.values() else []
    if group_by and BEST_OF_GROUP in marks.values():
        legend.append(f"{BEST_OF_GROUP} best of its {group_by}")
    if legend:
        facts[0] += f" {', '.join(legend)}."
    if any(row.state == "pruned" for row in rows):
        facts.append("Pruned rows trained for fewer epochs than they were given: their values are not final.")
    return facts


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
    return "–" if cell is None or cell == "" else _one_line(str(cell))


def texts_of(table: Table) -> list[list[str]]:
    """Every cell as people read it, without marks; the numbers of a metric all with the same decimals."""
    columns = [
        [_text(cell, column.kind, _decimals(table.column(column.key))) for cell in table.column(column.key)]
        for column in table.columns
    ]
    return [list(row) for row in zip(*columns, strict=True)]


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
    """RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180), numbers in full; last, what a row is best at."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([column.key for column in table.columns] + ["uid", "run", "state", "best", "best_of_group"])
    for index, row in enumerate(table.rows):
        best = [";".join(_marked(table, index, mark)) for mark in (BEST, BEST_OF_GROUP)]
        writer.writerow(["" if cell is None else cell for cell in row.cells] + [row.uid, row.run, row.state, *best])
    return out.getvalue()


def as_json(table: Table) -> dict[str, Any]:
    """Plain values for ``json.dumps``; what is not a finite number is null."""
    rows = [
        {
            **{column.key: _plain(cell) for column, cell in zip(table.columns, row.cells, strict=True)},
            "uid": row.uid,
            "run": row.run,
            "state": row.state,
            "best": _marked(table, index, BEST),
            "best_of_group": _marked(table, index, BEST_OF_GROUP),
        }
        for index, row in enumerate(table.rows)
    ]
    return {"columns": [dataclasses.asdict(c) for c in table.columns], "rows": rows, "notes": list(table.notes)}


def _plain(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _marked(table: Table, index: int, mark: str) -> list[str]:
    """What a row is best at. The best of all is the best of its group too, but is named once."""
    return [key for (row, key), found in table.marks.items() if row == index and found == mark]
