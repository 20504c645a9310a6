"""Finished trials side by side: the comparison table and its marks. Its forms are those of ``forms.py``."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vltune.contract import ENGINE_METRICS, Direction, RunRow, is_better
from vltune.errors import BadInput, lookup
from vltune.objectives import pareto_front
from vltune.significance import Spread, improvements_of, note_on_p_values, notes_on, p_values_of, spreads_of

Kind = Literal[
    "label", "parameter", "epochs", "front", "metric", "improvement", "p_value", "count", "seconds", "remark"
]
Intervals = Literal["objective", "all", "none"]
"""Which columns show how sure their numbers are."""
Cell = str | int | float | bool | None

BEST, BEST_OF_GROUP = "●", "○"
"""Marks of the best value of a column, in the whole table and among the rows of a group."""

ON_FRONT = "◆"
"""What stands in the column ``front`` of a row that is on the Pareto front."""

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("parameters", "trainable_parameters", "samples_seen"), "count"),
    "training_seconds": "seconds",
}
"""How metrics of the engine are written; all others are plain numbers."""

COMPETING = ("finished", "stopped", "pruned")
"""States of rows that may be the best, or on the front."""
_NOT_PARAMETERS = ("data", "objective", "epochs", "start_from", "until_epoch")
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
    objectives: tuple[str, ...] = ()
    """Keys of the columns that the search was after, the first objective first."""
    spreads: Mapping[tuple[int, str], Spread] = field(default_factory=dict)
    """(row, column key) -> how sure the number is, for all numbers of which that is known."""
    spread_columns: tuple[str, ...] = ()
    """Keys of the columns that show it."""

    def column(self, key: str) -> list[Cell]:
        """The values of one column, from the first row to the last."""
        index = [column.key for column in self.columns].index(key)
        return [row.cells[index] for row in self.rows]

    def may_be_marked(self, column: Column) -> bool:
        """Whether the cells of a column need room for a mark."""
        return column.kind == "metric" or any(key == column.key for _, key in self.marks)


def table_of(
    rows: Sequence[RunRow],
    *,
    objective: str,
    directions: Mapping[str, Direction],
    further_objectives: Sequence[str] = (),
    base_row: str = "",
    group_by: str = "",
    columns: Sequence[str] = (),
    sort_by: str = "",
    split: str = "validation",
    notes: Sequence[str] = (),
    measured_by: Mapping[str, Sequence[str]] | None = None,
    parameters: Literal["auto", "all", "none"] = "auto",
    intervals: Intervals = "none",
    drawn_with: Mapping[str, str] | None = None,
    beside: Mapping[str, Mapping[str, float]] | None = None,
    optional: Collection[str] = (),
) -> Table:
    """Puts trials of one search, or of several on the same data, into a table.

    Args:
        objective: the metric that the improvement is measured by, and that sorts unless ``sort_by`` does.
        directions: the family's metrics, and which way each is better. Metrics of the engine may be named beside them.
        further_objectives: metrics that were optimised too: they get columns, and the Pareto front is marked.
        base_row: name of the row that the improvement is measured against; empty: no such column. Of several rows
            with this name the first one counts.
        group_by: field of the configuration; the best row of each of its values is marked.
        columns: metrics to show, before those objectives that are not among them; empty: the objectives and
            ``val_loss``.
        sort_by: metric that orders the rows, with a column of its own. Rows without a finite value come last.
        split: what the metrics were computed on.
        notes: lines for under the table.
        measured_by: metric -> fields that change what it measures; where rows differ in them, a note says so.
        parameters: columns for the configuration's fields in which rows differ: ``auto`` leaves them out where every
            row has a name.
        intervals: which columns show how sure their numbers are: by an interval over samples, or, where a row is the
            mean of several seeds, by the deviation over these.
        drawn_with: metric -> what stays as it is when samples are drawn for its interval.
        beside: further columns, to stand behind the objective: key -> each named row's value from elsewhere.
        optional: metrics that only some runs were asked to measure; rows may lack them.

    Raises:
        BadInput: no rows; rows of different data or of different families; an unknown metric or field.
    """
    if not rows:
        raise BadInput("there is nothing to compare: no trial matches.")
    objectives = (objective, *further_objectives)
    loss = ["val_loss"] if "val_loss" in directions else []
    aims = objectives if further_objectives or not columns else ()  # who names columns may leave one objective out
    metrics = tuple(dict.fromkeys((*((*columns, *aims) if columns else (*aims, *loss)), *filter(None, [sort_by]))))
    family = directions
    directions = {**ENGINE_METRICS, **directions}
    for name in (objective, *metrics, *([sort_by] if sort_by else [])):
        lookup(directions, name, "metric")
    _same_data(rows)
    _same_family(rows, [name for name in family if name not in optional])
    fields = dict.fromkeys(name for row in rows for name in row.config)
    if group_by:
        lookup(fields, group_by, "field to group by")

    base, base_note = _base(rows, base_row, objective)  # before they are sorted
    p_values = p_values_of(rows, base, objective) if base is not None else {}
    key = sort_by or objective
    rows = sorted(rows, key=lambda row: _rank(row.metrics.get(key, math.nan), directions[key]))
    differing = _differing(rows, fields)
    if parameters == "none" or (parameters == "auto" and all(row.name for row in rows)):
        differing = [name for name in differing if name in (group_by, "seed")]
    shared = _shared(rows)
    remarks = [_remarks(row, shared) for row in rows]
    repeated = len({_title(row) for row in rows}) < len(rows) and len({row.run for row in rows}) > 1
    heads = [Column("name", "name", "label"), *([Column("run", "run", "label")] if repeated else [])]
    heads += [*(Column(name, name, "parameter") for name in differing)]
    heads += [Column("seeds", "seeds", "count")] if any(len(row.seeds) > 1 for row in rows) else []
    heads.append(Column("epochs", "epochs", "epochs"))
    if further_objectives:
        heads.append(Column("front", "front", "front"))
    for name in metrics:
        heads.append(Column(name, name, _KINDS.get(name, "metric")))
        heads += [Column(key, key, "metric") for key in beside or {} if name == objective]
    if base is not None:
        heads.append(Column("improvement", "% over base", "improvement"))
    heads += [Column("p_value", "p", "p_value")] if p_values else []
    heads += [Column("parameters", "parameters", "count")] if "parameters" not in metrics else []
    heads.append(Column("seconds", "time", "seconds"))
    if any(remarks):
        heads.append(Column("remark", "remark", "remark"))

    front = _front(rows, objectives, directions)

    def cells(row: RunRow, remark: str) -> tuple[Cell, ...]:
        found: dict[str, Cell] = {"name": _title(row), "run": row.run, "epochs": row.epochs, "remark": remark}
        found |= {"seeds": max(1, len(row.seeds)), "p_value": p_values.get(row.uid)}
        known = row.seconds if row.parameters or not row.metrics else None  # of a model that ran elsewhere it is not
        found |= {"parameters": row.parameters or None, "seconds": known, "front": row.uid in front}
        if base is not None:
            better = improvement(row.metrics.get(objective, math.nan), base.metrics[objective], directions[objective])
            found["improvement"] = better
        found |= {key: values.get(row.name) for key, values in (beside or {}).items()}
        by_kind = {"parameter": {key: row.config.get(key) for key in differing}}
        places = [by_kind.get(head.kind, found) for head in heads]
        return tuple(
            place[head.key] if head.key in place else row.metrics.get(head.key)
            for place, head in zip(places, heads, strict=True)
        )

    table = tuple(
        TableRow(row.uid, row.run, row.state, cells(row, remark)) for row, remark in zip(rows, remarks, strict=True)
    )
    marks = _marks(rows, metrics, directions, group_by)
    unlike = _unlike(rows, dict.fromkeys((*metrics, objective, key)), measured_by or {})
    facts = _facts(rows, split, marks, group_by)
    if further_objectives:
        goals = ", ".join(f"{name} ({directions[name]})" for name in objectives)
        facts.append(f"{ON_FRONT} Pareto front of {goals}: no row is better in one of them and as good in the others.")
    spreads = spreads_of(rows, metrics)
    if base is not None:
        better = improvements_of(rows, base, objective, directions[objective])
        spreads |= {(index, "improvement"): spread for index, spread in better.items()}
    sure = {
        "none": (),
        "all": (*metrics, "improvement"),
        "objective": tuple(m for m in metrics if m.removeprefix("test_") == objective),
    }
    meaning = notes_on(rows, spreads, [m for m in metrics if m in sure[intervals]], drawn_with=drawn_with or {})
    if base is not None and p_values:
        meaning.append(note_on_p_values(p_values, metric=objective, base=base_row))
        if any(len(row.seeds) > 1 for row in rows):
            meaning.append("p tells of samples alone: by how much seeds differ, which ± shows, is not in it.")
    lines = (*facts, *_everywhere(shared), *base_note, *meaning, *unlike, *_older(rows, fields), *notes)
    return Table(tuple(heads), table, marks, lines, objectives, spreads, sure[intervals])


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


def _same_family(rows: Sequence[RunRow], metrics: Sequence[str]) -> None:
    for row in rows:
        missing = [n for n in metrics if row.metrics and n not in row.metrics and not n.startswith("test_")]
        if missing:
            what = f"run {_title(row)} has no metric {missing[0]}"
            raise BadInput(f"{what}: it is of another family; name runs of one family.")


def _title(row: RunRow) -> str:
    return row.name or row.uid


def _rank(value: float, direction: Direction) -> tuple[bool, float]:
    """Sorts the best first and what is not finite last. A tuple of a flag and a number compares without NaN."""
    if not math.isfinite(value):
        return True, 0.0
    return False, -value if direction == "max" else value


def _differing(rows: Sequence[RunRow], fields: Iterable[str]) -> list[str]:
    """Fields in which rows differ that have them; one that only repeats what a searched field says is left out."""
    names = [name for name in fields if name not in _NOT_PARAMETERS and not name.endswith(("_hash", "_hashes"))]
    if any(len(row.seeds) > 1 for row in rows):
        names = [name for name in names if name != "seed"]
    values = {name: tuple(repr(row.config[name]) if name in row.config else "" for row in rows) for name in names}
    searched = {name for row in rows for name in row.searched}
    said = {values[name] for name in searched if name in values}
    return [n for n in names if len({*values[n]} - {""}) > 1 and (n in searched or values[n] not in said)]


def _base(rows: Sequence[RunRow], base_row: str, objective: str) -> tuple[RunRow | None, list[str]]:
    if not base_row:
        return None, []
    named = [row for row in rows if row.name == base_row]
    for row in named:
        value = row.metrics.get(objective, math.nan)
        if math.isfinite(value):
            which = f"{base_row} of the run {row.run}" if len({other.run for other in named}) > 1 else base_row
            seed = row.config.get("seed")
            which += f", seed {seed}" if len({other.config.get("seed") for other in named}) > 1 else ""
            return row, [f"% over base: how much better {objective} is than that of {which}."]
    return None, [f"No improvement is shown: the base row {base_row} is not here or has no {objective}."]


def _unlike(rows: Sequence[RunRow], metrics: Iterable[str], measured_by: Mapping[str, Sequence[str]]) -> list[str]:
    """Metrics that measure something else in one row than in another, a note for each reason."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for metric in metrics:
        fields = measured_by.get(metric, ())
        measured = [row for row in rows if metric in row.metrics]
        differ = tuple(
            name for name in fields if len({repr(row.config[name]) for row in measured if name in row.config}) > 1
        )
        if differ:
            reasons.setdefault(differ, []).append(metric)
    return [
        f"Rows differ in {_listed(fields)}, which changes what {_listed(names)} "
        f"{'measures' if len(names) == 1 else 'measure'}: they compare only between rows that are equal in that."
        for fields, names in reasons.items()
    ]


def _older(rows: Sequence[RunRow], fields: Collection[str]) -> list[str]:
    """Rows whose record lacks fields, because an earlier version wrote it before there were such; a note for each."""
    lacking: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        lacking.setdefault(tuple(name for name in fields if name not in row.config), []).append(row)
    return [
        f"Recorded by an earlier version, which had no {_listed(names)}: "
        f"{_listed([*dict.fromkeys(row.run or _title(row) for row in found)])}."
        for names, found in lacking.items()
        if names
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _shared(rows: Sequence[RunRow]) -> list[str]:
    """What every row of several has to say: it is said once, under the table."""
    heard = [set(row.notes) for row in rows if row.epochs or row.notes]
    return [note for note in rows[0].notes if len(heard) > 1 and all(note in notes for notes in heard)]


def _everywhere(shared: Sequence[str]) -> list[str]:
    return [f"In all rows {'; '.join(map(one_line, shared))}."] if shared else []


def _remarks(row: RunRow, shared: Sequence[str]) -> str:
    state = {
        "finished": "",
        "pruned": f"pruned after epoch {row.epochs}",
        "stopped": f"stopped after epoch {row.epochs}",
        "failed": f"failed: {_short(row.error)}" if row.error else "failed",
    }.get(row.state, row.state)
    return "; ".join(filter(None, (state, *(one_line(note) for note in row.notes if note not in shared))))


def one_line(text: str) -> str:
    """A text on one line, without control characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1].rstrip() + "…"


def _marks(
    rows: Sequence[RunRow], metrics: Sequence[str], directions: Mapping[str, Direction], group_by: str
) -> dict[tuple[int, str], str]:
    competing = [index for index, row in enumerate(rows) if row.state in COMPETING]
    groups: dict[str, list[int]] = {}
    if group_by:
        for index in competing:
            groups.setdefault(repr(rows[index].config.get(group_by)), []).append(index)
    marks: dict[tuple[int, str], str] = {}
    for name in metrics:
        for members, mark in [*((group, BEST_OF_GROUP) for group in groups.values()), (competing, BEST)]:
            marks |= {(index, name): mark for index in _best(rows, members, name, directions[name])}
    return marks


def _front(rows: Sequence[RunRow], objectives: Sequence[str], directions: Mapping[str, Direction]) -> set[str]:
    """Uids of the rows on the Pareto front."""
    rivals = [row for row in rows if row.state in COMPETING]
    points = [[row.metrics.get(name, math.nan) for name in objectives] for row in rivals]
    front = pareto_front(points, [directions[name] for name in objectives])
    return {row.uid for row, is_on in zip(rivals, front, strict=True) if is_on}


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
    seeds = {row.config.get("seed") for row in rows}
    if seeds != {None} and len(seeds) == 1 and not any(len(row.seeds) > 1 for row in rows):
        facts[0] = f"{facts[0][:-1]}, seed {seeds.pop()}."
    legend = [f"{BEST} best of all"] if BEST in marks.values() else []
    if group_by and BEST_OF_GROUP in marks.values():
        legend.append(f"{BEST_OF_GROUP} best of its {group_by}")
    if legend:
        facts[0] += f" {', '.join(legend)}."
    if any(row.state == "pruned" for row in rows):
        facts.append("Pruned rows trained for fewer epochs than they were given: their values are not final.")
    return facts
