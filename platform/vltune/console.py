"""What a person sees in a terminal: comparison tables, and the progress of a running search."""

import dataclasses
import io
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from vltune.compare import BEST, Column, Table
from vltune.contract import Direction, EpochReport, is_better
from vltune.forms import duration, folded, texts_of
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
_GAP = 2
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
        grid.add_row(*(Text("" if row[key] is None else _value(row[key])) for key in columns), style=style)
    console.print(grid)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def listing_text(entries: Mapping[str, str], *, width: int = 100) -> str:
    """Names and what is said of them; long texts go on below themselves, or below the name where there is no room."""
    hang = max(map(len, entries), default=0) + _GAP
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
    return sum(widths[i][0] for i in shown) + _GAP * (len(shown) - 1)


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
            Padding(Text(_title(column)), (0, 0 if last else _GAP - 1, 0, 0)),
            justify="left" if words else "right",
            width=own + (0 if last else _GAP - 1),
            vertical="top",
            overflow="fold",
        )
    for index, row in enumerate(texts_of(table)):
        cells = [
            Padding(_cell(table, index, table.columns[i], row[i]), (0, 0 if i == shown[-1] else _GAP - 1, 0, 0))
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


@dataclass
class _Trial:
    name: str
    settings: str
    epochs: int
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class Progress:
    """The progress of a search, on stderr: a live table in a terminal, else a line for each finished epoch and trial.

    Nothing goes to stdout, which is for results. Use it as a context manager, or call ``close``.
    """

    def __init__(
        self,
        *,
        file: TextIO | None = None,
        terminal: bool | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        file: where to show it; None: stderr.
        terminal: whether ``file`` is a terminal that moves its cursor; None: find out.
        width: characters of a line; None: the terminal's.
        clock: seconds that never run backwards.
        """
        out = file or sys.stderr
        self.live: Live | None = None
        self.terminal = out.isatty() if terminal is None else terminal
        self.out, self.clock = out, clock
        # Live draws over its own lines, so the console has to believe in a terminal exactly where there is one
        self.console = Console(file=out, width=width, force_terminal=self.terminal, markup=False, highlight=False)
        self.trials: dict[str, _Trial] = {}
        self.total = self.before = self.ended = self.failed = 0
        self.objective, self.heard = "", False
        self.direction: Direction = "max"
        self.best, self.best_name = float("nan"), ""
        self.began = clock()

    def start(
        self, total_trials: int, *, objective: str, direction: Direction, finished: int = 0, best: float = float("nan")
    ) -> None:
        """Begins to show a search.

        Args:
            total_trials: trials in all.
            finished: trials of them that ended before, when a search goes on.
            best: the best value of the objective that they reached.
        """
        self.total, self.before, self.objective, self.direction = total_trials, finished, objective, direction
        self.best, self.began = best, self.clock()
        if self.terminal:
            # only stderr is led around the table: what goes to stdout belongs to whoever reads it
            self.live = Live(
                console=self.console,
                get_renderable=self._picture,
                refresh_per_second=2,
                redirect_stdout=False,
                vertical_overflow="crop",
            )
            self.live.start()

    def say(self, text: str) -> None:
        """A line that is about no single trial."""
        self.console.print(Text(_clean(text)), soft_wrap=True)

    def trial_started(self, uid: str, row: str, parameters: Mapping[str, Any], epochs: int) -> None:
        """A trial begins or goes on; ``row`` is its name or empty, ``parameters`` those in which trials differ."""
        settings = " ".join(f"{key}={_value(value)}" for key, value in parameters.items())
        self.trials[uid] = _Trial(_clean(row) or uid, _clean(settings), epochs)
        self._line(f"{self.trials[uid].name}: started" + (f" with {_clean(settings)}" if settings else ""))

    def epoch(self, uid: str, report: EpochReport) -> None:
        """A trial finished an epoch."""
        trial = self.trials.setdefault(uid, _Trial(uid, "", report.epoch))
        if not self.heard:  # what is left is reckoned without the start-up
            spent = sum(report.metrics.get(key, 0.0) for key in ("train_seconds", "evaluate_seconds"))
            self.heard, self.began = True, self.clock() - spent if spent else self.began
        trial.epoch, trial.metrics = report.epoch, dict(report.metrics)
        value = trial.metrics.get(self.objective, float("nan"))
        if is_better(value, self.best, self.direction):
            self.best, self.best_name = value, trial.name
        shown = [f"{key} {_value(number)}" for key, number in self._metrics(trial).items()]
        speed = trial.metrics.get("samples_per_second")
        shown += [f"{speed:.0f} samples/s"] if speed else []
        reached = (
            f"epoch {trial.epoch}/{trial.epochs}" if trial.epochs else "scored"
        )  # nothing is trained, as in decoding
        self._line(f"{trial.name}: {reached}, {', '.join(shown)}; {self._summary()}")

    def trial_ended(self, uid: str, state: str, error: str = "") -> None:
        """A trial came to its end: ``finished``, ``pruned``, ``stopped`` or ``failed``, with the cause."""
        trial = self.trials.pop(uid, None)
        self.ended += 1
        self.failed += state == "failed"
        text = f"{trial.name if trial else uid}: {state}" + (f": {_clean(error)}" if error else "")
        if self.live is not None and state == "failed":
            self.console.print(Text(text, style="red"))
        self._line(f"{text}; {self._summary()}")

    def close(self) -> None:
        """Ends the display; the last picture stays."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the trials that ended since the start, and the epochs of those that run; None before any."""
        if not self.ended:
            return None
        running = sum(trial.epoch / trial.epochs for trial in self.trials.values() if trial.epochs)
        done = self.ended + running
        return max(0.0, (self.clock() - self.began) / done * (self.total - self.before - done))

    def _metrics(self, trial: _Trial) -> dict[str, float]:
        return {key: trial.metrics[key] for key in dict.fromkeys((self.objective, "val_loss")) if key in trial.metrics}

    def _summary(self) -> str:
        parts = [f"{self.before + self.ended}/{self.total} trials"]
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.best == self.best:  # a number at all
            parts.append(
                f"best {self.objective} {_value(self.best)}" + (f" ({self.best_name})" if self.best_name else "")
            )
        left = self.seconds_left
        parts += [f"{duration(left)} left"] if left is not None and left >= 1 else []
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        if not self.terminal:
            self.out.write(text + "\n")
            self.out.flush()

    def _picture(self) -> RenderableType:
        trials, width = list(self.trials.values()), self.console.width
        names, settings = [trial.name for trial in trials], [trial.settings for trial in trials]
        numbers = {"epoch": [f"{trial.epoch}/{trial.epochs}" if trial.epochs else "–" for trial in trials]}
        for key in dict.fromkeys((self.objective, "val_loss", "samples_per_second")):
            numbers[key] = [_value(trial.metrics.get(key)) for trial in trials]
        numbers["samples/s"] = numbers.pop("samples_per_second")
        sizes = {key: max(map(cell_len, (key, *texts))) for key, texts in numbers.items()}
        named = min(24, max(map(cell_len, ("trial", *names))))
        # what a narrow terminal does without: speed, then the loss; then names grow shorter
        while len(sizes) > 2 and named + sum(sizes.values()) + _GAP * len(sizes) > width:
            sizes.popitem()
        room = width - sum(sizes.values()) - _GAP * len(sizes)
        named = max(3, min(named, room))
        grid = Grid(
            box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold"
        )
        grid.add_column("trial", width=named, no_wrap=True, overflow="ellipsis")
        texts = [names, *(numbers[key] for key in sizes)]
        if room - named - _GAP >= 16:
            grid.add_column("settings", width=room - named - _GAP, no_wrap=True, overflow="ellipsis")
            texts.insert(1, settings)
        for key, size in sizes.items():
            grid.add_column(key, justify="right", width=size, no_wrap=True, overflow="ellipsis")
        for row in zip(*texts, strict=True):
            grid.add_row(*map(Text, row))
        return Group(grid, Text(self._summary(), style="bold", no_wrap=True, overflow="ellipsis"))


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clean(text: str) -> str:
    """One line without control characters, whatever a name or an error holds."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
