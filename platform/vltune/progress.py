"""The progress of a running search, on a person's screen."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from vltune.console import GAP, value_text
from vltune.contract import Direction, EpochReport, is_better
from vltune.forms import duration


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
        settings = " ".join(f"{key}={value_text(value)}" for key, value in parameters.items())
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
        shown = [f"{key} {value_text(number)}" for key, number in self._metrics(trial).items()]
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
                f"best {self.objective} {value_text(self.best)}" + (f" ({self.best_name})" if self.best_name else "")
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
            numbers[key] = [value_text(trial.metrics.get(key)) for trial in trials]
        numbers["samples/s"] = numbers.pop("samples_per_second")
        sizes = {key: max(map(cell_len, (key, *texts))) for key, texts in numbers.items()}
        named = min(24, max(map(cell_len, ("trial", *names))))
        # what a narrow terminal does without: speed, then the loss; then names grow shorter
        while len(sizes) > 2 and named + sum(sizes.values()) + GAP * len(sizes) > width:
            sizes.popitem()
        room = width - sum(sizes.values()) - GAP * len(sizes)
        named = max(3, min(named, room))
        grid = Grid(
            box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold"
        )
        grid.add_column("trial", width=named, no_wrap=True, overflow="ellipsis")
        texts = [names, *(numbers[key] for key in sizes)]
        if room - named - GAP >= 16:
            grid.add_column("settings", width=room - named - GAP, no_wrap=True, overflow="ellipsis")
            texts.insert(1, settings)
        for key, size in sizes.items():
            grid.add_column(key, justify="right", width=size, no_wrap=True, overflow="ellipsis")
        for row in zip(*texts, strict=True):
            grid.add_row(*map(Text, row))
        return Group(grid, Text(self._summary(), style="bold", no_wrap=True, overflow="ellipsis"))


def _clean(text: str) -> str:
    """One line without control characters, whatever a name or an error holds."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
