"""Figures of a report, each drawn for a wide page or for a narrow one; names stand in the page's legend."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vltune.canvas import FAINT, LINE, PALETTE, single_axes
from vltune.contract import Direction, is_better

WIDE, NARROW = 9.6, 4.4
"""Inches."""
NAMED = 6
"""Curves that have a colour of their own; the others are grey."""


def curves(histories: Sequence[Sequence[tuple[int, float]]], metric: str, *, width: float) -> Figure:
    """A metric after each epoch, of several trials.

    Args:
        histories: (epoch, value) of each trial, the best trials first: they are coloured in the order of ``PALETTE``.
        metric: its name.
        width: in inches.
    """
    figure, axes = single_axes(width, 3.3)
    for number, points in reversed(list(enumerate(histories))):
        finite = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        if not finite:
            continue
        named = number < NAMED
        axes.plot(
            *zip(*finite, strict=True),
            color=PALETTE[number] if named else LINE,
            lw=2.0 if named else 1.2,
            marker="o",
            ms=3.6 if named else 0.0 if len(finite) > 1 else 2.4,
            zorder=3 if named else 1,
        )
    axes.set_xlabel("epoch")
    _finish(axes, metric)
    return figure


def history(
    values: Sequence[tuple[int, float, str]], metric: str, direction: Direction, *, base: float = math.nan, width: float
) -> Figure:
    """The objective of each trial in the order in which trials began, and the best so far.

    Args:
        values: number of the trial, its value, its state.
        metric: its name.
        direction: which way it is better.
        base: value of the base row, drawn as a level; NaN: none.
        width: in inches.
    """
    figure, axes = single_axes(width, 3.2)
    finite = [(number, value, state) for number, value, state in values if math.isfinite(value)]
    best, so_far = math.nan, []
    for number, value, state in finite:
        if state == "finished":
            best = value if is_better(value, best, direction) else best
        so_far += [(number, best)] if math.isfinite(best) else []
    if so_far:
        axes.step(*zip(*so_far, strict=True), where="post", color=PALETTE[1], lw=1.6)
    if math.isfinite(base):
        axes.axhline(base, color=FAINT, lw=1.0, ls="--")
    for states, color, marker in (
        (("finished",), PALETTE[0], "o"),
        (("pruned", "stopped", "running", "interrupted"), FAINT, "x"),
    ):
        own = [(number, value) for number, value, state in finite if state in states]
        if own:
            axes.scatter(*zip(*own, strict=True), s=34, color=color, marker=marker, lw=1.4, zorder=3)
    axes.set_xlabel("number of the trial")
    _finish(axes, metric)
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, loc="left", fontsize=9.5, color=FAINT)
    axes.margins(x=0.03)


def swatch(number: int) -> str:
    """The CSS colour of a curve, for the legend of the page."""
    return f"var(--c{number})" if number < NAMED else "var(--line)"


def series(histories: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[str, str, str]]:
    """Names and colours of curves, for the page's legend; all without a colour of their own are one entry."""
    names = list(histories)
    shown = [(name, swatch(number), "line") for number, name in enumerate(names[:NAMED])]
    rest = len(names) - NAMED
    return shown + ([(f"{rest} other trial{'s' * (rest > 1)}", swatch(NAMED), "line")] if rest > 0 else [])
