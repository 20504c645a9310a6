"""Figures of comparisons, learning curves and data. They are returned, never shown; saving is the caller's."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from vltune.canvas import FAINT, INK, LINE, PALETTE, TINT, blank, new_figure, single_axes, style
from vltune.compare import BEST, COMPETING, Column, Table
from vltune.contract import Direction, RunRow
from vltune.errors import BadInput
from vltune.forms import folded, texts_of
from vltune.gallery import GalleryItem
from vltune.objectives import pareto_front

_DASHES = ("-", "--", ":", "-.")
_LABELLED = 8
"""Curves that can be told apart when each has its label; of more, the best are coloured and the rest are grey."""

_PLACES = (
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (5, 5, "left", "bottom"),
    (-5, -5, "right", "top"),
    (5, -5, "left", "top"),
    (-5, 5, "right", "bottom"),
)
"""Where a name may stand beside its point: points to the right, points up, and which of its sides is there."""


def table_picture(table: Table) -> Figure:
    """The comparison table as a picture."""
    table = folded(table)
    texts, columns = texts_of(table), table.columns
    wraps = {"label": 28, "parameter": 58, "remark": 34}
    cells = [
        [textwrap.fill(text, wraps.get(column.kind, 99)) for text, column in zip(row, columns, strict=True)]
        for row in texts
    ]
    heads = [_wrapped_title(column) for column in columns]
    # inches: a character of the 10-point font, a line, the gap between columns
    character, line, gap = 0.084, 0.19, 0.26
    widths = [
        max(len(part) for text in (heads[i], *(row[i] for row in cells)) for part in text.split("\n")) * character
        + gap
        + (0.2 if table.may_be_marked(column) else 0)
        for i, column in enumerate(columns)
    ]
    heights = [max(text.count("\n") + 1 for text in row) * line + 0.13 for row in (heads, *cells)]
    width = sum(widths) + 0.3
    notes = [part for note in table.notes for part in textwrap.wrap(note, max(40, int(width / 0.075)))]
    height = sum(heights) + len(notes) * 0.18 + 0.45
    figure, axes = blank(width, height)

    y = 0.15
    for number, row in enumerate((heads, *cells)):
        middle, x = y + heights[number] / 2, 0.15
        if number and any(table.marks.get((number - 1, column.key)) == BEST for column in columns):
            axes.axhspan(y, y + heights[number], xmin=0.1 / width, xmax=1 - 0.1 / width, color=TINT, lw=0, zorder=0)
        for i, (text, column) in enumerate(zip(row, columns, strict=True)):
            mark = table.marks.get((number - 1, column.key), "")
            strong = "bold" if number == 0 or mark == BEST else "normal"
            color = FAINT if number and table.rows[number - 1].state == "failed" else INK
            if column.kind in wraps:
                axes.text(x + 0.05, middle, text, va="center", ha="left", color=color, weight=strong, fontsize=10)
            else:
                edge = x + widths[i] - gap / 2 - (0.2 if table.may_be_marked(column) else 0)
                axes.text(edge, middle, text, va="center", ha="right", color=color, weight=strong, fontsize=10)
                if mark:
                    face = PALETTE[0] if mark == BEST else "white"
                    axes.plot(edge + 0.12, middle, "o", ms=5, mfc=face, mec=PALETTE[0], mew=1.2)
            x += widths[i]
        y += heights[number]
        axes.axhline(y, xmin=0.1 / width, xmax=1 - 0.1 / width, color=INK if number == 0 else LINE, lw=0.8)
    for number, note in enumerate(notes):
        axes.text(0.2, y + 0.2 + number * 0.18, note, va="center", ha="left", fontsize=8.5, color=FAINT)
    return figure


def learning_curves(histories: Mapping[str, Sequence[tuple[int, float]]], metric: str) -> Figure:
    """The metric of each trial after each epoch, overlaid.

    Args:
        histories: name of a trial -> (epoch, value), the best trials first: of many, only the first are named.

    Raises:
        BadInput: no trial has a finite value.
    """
    finite = {name: [(e, v) for e, v in points if math.isfinite(v)] for name, points in histories.items()}
    curves = {name: points for name, points in finite.items() if points}
    if not curves:
        raise BadInput(f"no trial has a finite {metric}: there is no curve to draw.")
    figure, axes = single_axes(8.6, 4.6)
    labels = []
    for number, (name, points) in reversed(list(enumerate(curves.items()))):
        epochs, values = zip(*points, strict=True)
        if number >= _LABELLED:
            axes.plot(epochs, values, color=LINE, lw=1.2, zorder=1)
            continue
        color, dash = PALETTE[number % len(PALETTE)], _DASHES[number // len(PALETTE)]
        axes.plot(epochs, values, color=color, ls=dash, lw=1.9, zorder=3, marker="o" if len(epochs) == 1 else None)
        labels.append((epochs[-1], values[-1], textwrap.shorten(name, 34, placeholder="…"), color))
    if len(curves) > _LABELLED:
        axes.plot([], [], color=LINE, lw=1.2, label=f"{len(curves) - _LABELLED} other trials")
        axes.legend(frameon=False, fontsize=9, labelcolor=FAINT, loc="best")
    axes.set_xlabel("epoch")
    axes.set_title(metric, loc="left", fontsize=12, weight="bold", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_ends(axes, labels)
    return figure


def _label_ends(axes: Axes, labels: Iterable[tuple[float, float, str, str]]) -> None:
    """Names right of the curves' ends, moved apart so that none covers another, with thin lines to the ends."""
    ordered = sorted(labels, key=lambda label: label[1])
    low, high = axes.get_ylim()
    step = (high - low) * 0.062
    places: list[float] = []
    for _, value, _, _ in ordered:
        places.append(max(value, places[-1] + step) if places else value)
    # pushed over the top: move the whole stack down again
    for i in range(len(places) - 1, -1, -1):
        ceiling = high if i == len(places) - 1 else places[i + 1] - step
        places[i] = min(places[i], ceiling)
    end = max(label[0] for label in ordered)
    for (x, value, name, color), y in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            (x, value),
            xytext=(_beside(axes, end), y),
            textcoords="data",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 2},
        )


def _beside(axes: Axes, end: float) -> float:
    low, high = axes.get_xlim()
    return max(high, end) + (high - low) * 0.02


def picture_sizes(stats: Mapping[str, Any]) -> Figure:
    """Histograms of the pictures' widths and heights in pixels, from ``widths`` and ``heights``."""
    widths, heights = _numbers(stats, "widths"), _numbers(stats, "heights")
    edges = np.histogram_bin_edges(np.concatenate([widths, heights]), bins=30).tolist()
    figure, axes = single_axes(7.4, 4.0)
    for name, values, color in (("width", widths, PALETTE[0]), ("height", heights, PALETTE[1])):
        axes.hist(values, bins=edges, color=color, alpha=0.35)
        label = f"{name}: median {np.median(values):.0f}, {values.min():.0f} to {values.max():.0f}"
        axes.hist(values, bins=edges, histtype="step", color=color, lw=1.6, label=label)
    axes.set_xlabel("pixels")
    axes.set_title(f"Size of {len(widths):,} pictures", loc="left", fontsize=12, weight="bold", color=INK)
    axes.legend(frameon=False, fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure


def caption_lengths(stats: Mapping[str, Any]) -> Figure:
    """How many captions have how many words, from ``caption_lengths``: words -> captions."""
    table = {int(words): int(captions) for words, captions in stats.get("caption_lengths", {}).items()}
    lengths = _numbers({"caption_lengths": np.repeat(list(table), list(table.values()))}, "caption_lengths").astype(int)
    # one very long caption would press all others into a corner
    last = max(int(np.percentile(lengths, 99.5)) + 1, int(lengths.min()) + 1)
    counts = np.bincount(np.minimum(lengths, last))
    figure, axes = single_axes(7.4, 4.0)
    places = np.arange(lengths.min(), len(counts))
    axes.bar(places, counts[places], width=0.85, color=PALETTE[0])
    low, median, high = np.percentile(lengths, [5, 50, 95])
    axes.axvline(median, color=PALETTE[1], lw=1.4)
    axes.annotate(
        f"median {median:.0f}",
        (median, 1),
        xytext=(4, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=PALETTE[1],
        fontsize=9,
        va="top",
    )
    longer = int((lengths > last).sum())
    axes.set_xlabel("words" + (f" ({longer} longer captions in the last bar)" if longer else ""))
    title = f"Length of {len(lengths):,} captions; 90 % have {low:.0f} to {high:.0f} words"
    axes.set_title(title, loc="left", fontsize=12, weight="bold", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure


def metric_against_parameters(rows: Sequence[RunRow], parameters: Sequence[str], metric: str) -> Figure:
    """The metric against each of some fields, a panel for each; only of trials that were asked for the field.

    Raises:
        BadInput: no parameters, or no trial has a finite value of the metric.
    """
    kept = [row for row in rows if math.isfinite(row.metrics.get(metric, math.nan))]
    if not kept or not parameters:
        raise BadInput(f"no trial with a finite {metric}, or no parameter to draw it against.")
    across = min(3, len(parameters))
    down = math.ceil(len(parameters) / across)
    figure = new_figure(3.5 * across + 0.5, 2.9 * down + 0.3)
    for number, name in enumerate(parameters):
        axes = figure.add_subplot(down, across, number + 1)
        style(axes)
        points = [(row.config[name], row.metrics[metric]) for row in kept if name in row.searched]
        _scatter(axes, points)
        axes.set_xlabel(name)
        if number % across == 0:
            axes.set_ylabel(metric)
    return figure


def _scatter(axes: Axes, points: Sequence[tuple[Any, float]]) -> None:
    values = [value for _, value in points]
    numbers = [x for x, _ in points if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) == len(points):
        axes.scatter(numbers, values, s=26, color=PALETTE[0], alpha=0.75, lw=0)
        whole = all(isinstance(x, int) for x in numbers)  # other numbers may be long
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if whole else 4, integer=whole))
        # values drawn over orders of magnitude, not an even range that starts near zero
        if numbers and min(numbers) > 0 and max(numbers) > max(20 * min(numbers), 4 * float(np.median(numbers))):
            axes.set_xscale("log")
        return
    names = sorted({str(x) for x, _ in points})
    for place, name in enumerate(names):
        own = [value for x, value in points if str(x) == name]
        # spread evenly around the name, so that equal values stay visible
        spread = np.linspace(-0.12, 0.12, len(own)) if len(own) > 1 else [0.0]
        axes.scatter(place + np.asarray(spread), own, s=26, color=PALETTE[0], alpha=0.75, lw=0)
        axes.plot([place - 0.28, place + 0.28], [np.median(own)] * 2, color=PALETTE[1], lw=1.8)
    long = max(map(len, names), default=0) * len(names) > 26
    axes.set_xticks(range(len(names)), names, rotation=25 if long else 0, ha="right" if long else "center")
    axes.set_xlim(-0.6, len(names) - 0.4)


def pareto_fronts(rows: Sequence[RunRow], objectives: Mapping[str, Direction]) -> Figure:
    """The first objective of each trial against each further one, a panel for each, with the front of the two.

    Trials on the front of all objectives are filled and named; the best of the pair are joined by a line.

    Args:
        rows: trials; those that failed or still run are left out.
        objectives: objective -> which way it is better, the first objective first.

    Raises:
        BadInput: one objective, or no trial has finite values of all.
    """
    first, *others = objectives
    kept = [row for row in rows if all(math.isfinite(row.metrics.get(name, math.nan)) for name in objectives)]
    kept = [row for row in kept if row.state in COMPETING]
    if not kept or not others:
        raise BadInput(f"no trial with finite {', '.join(objectives)}, or no second objective to draw.")
    on_front = pareto_front([[row.metrics[name] for name in objectives] for row in kept], list(objectives.values()))
    figure = new_figure(5.4 * len(others) + 0.4, 4.4)
    for number, name in enumerate(others):
        axes = figure.add_subplot(1, len(others), number + 1)
        style(axes)
        points = [(row.metrics[name], row.metrics[first]) for row in kept]
        best = pareto_front(points, [objectives[name], objectives[first]])
        line = sorted(point for point, is_best in zip(points, best, strict=True) if is_best)
        axes.plot(*zip(*line, strict=True), color=PALETTE[0], lw=1.2, alpha=0.6, zorder=2)
        for (x, y), is_on in zip(points, on_front, strict=True):
            face, edge = (PALETTE[0], PALETTE[0]) if is_on else ("white", FAINT)
            axes.scatter(x, y, s=30, color=face, edgecolors=edge, lw=1.0, zorder=3)
        if name.endswith("parameters"):
            axes.set_xscale("log")
        axes.margins(0.14)
        axes.set_xlabel(f"{name} ({_better(objectives[name])})")
        if number == 0:
            axes.set_ylabel(f"{first} ({_better(objectives[first])})")
    figure.draw_without_rendering()  # before, nothing has its place
    for axes, name in zip(figure.axes, others, strict=True):
        labels = [
            (row.metrics[name], row.metrics[first], row.name or row.uid.removeprefix(f"{row.run}-"))
            for row, is_on in zip(kept, on_front, strict=True)
            if is_on
        ]
        _label_points(axes, labels, [(row.metrics[name], row.metrics[first]) for row in kept])
    if len(others) > 1:
        axes = figure.axes[0]
        axes.plot([], [], "o", ms=5, color=PALETTE[0], label=f"front of all {len(objectives)} objectives")
        axes.plot([], [], color=PALETTE[0], lw=1.2, alpha=0.6, label="front of the two that are drawn")
        axes.legend(frameon=False, fontsize=8, labelcolor=FAINT, loc="best")
    return figure


def _better(direction: Direction) -> str:
    return "higher is better" if direction == "max" else "lower is better"


def _label_points(
    axes: Axes, labels: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]]
) -> None:
    """Names beside points, where they cover neither a point nor another name; a name without such a place is left out.

    Args:
        axes: where the points are; of a figure that was drawn.
        labels: (x, y, name).
        points: all points.
    """
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in axes.transData.transform(points)]
    room = axes.get_window_extent()
    for x, y, name in labels:
        text = textwrap.shorten(name, 26, placeholder="…")
        for across, down, sideways, upright in _PLACES:
            placed = axes.annotate(
                text,
                (x, y),
                xytext=(across, down),
                textcoords="offset points",
                ha=sideways,
                va=upright,
                fontsize=8,
                color=INK,
            )
            placed.set_in_layout(False)
            box = placed.get_window_extent()
            if room.containsx(box.x0) and room.containsx(box.x1) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            placed.remove()


def captions_gallery(groups: Mapping[str, Sequence[GalleryItem]]) -> Figure:
    """Pictures with the captions of one or several models, and with what people wrote.

    Args:
        groups: heading of some pictures, or an empty text -> the pictures.

    Raises:
        BadInput: no pictures.
    """
    most = max((len(items) for items in groups.values()), default=0)
    if not most:
        raise BadInput("there are no samples for a gallery.")
    across, side, letters, line, head = min(3, most), 3.3, 46, 0.185, 0.36
    rows: list[tuple[str, Sequence[GalleryItem]]] = []
    for title, items in groups.items():
        parts = [items[start : start + across] for start in range(0, len(items), across)]
        rows += [(title if number == 0 else "", part) for number, part in enumerate(parts)]
    texts = [[_gallery_lines(item, letters) for item in items] for _, items in rows]
    above = [head if title else 0.0 for title, _ in rows]
    below = [max(map(len, lines)) * line + 0.3 for lines in texts]
    width = across * (side + 0.25) + 0.25
    height = sum(above) + sum(below) + len(rows) * (side * 0.75 + 0.1) + 0.15
    figure, canvas = blank(width, height)
    y = 0.15
    for (title, items), lines_of, over, depth in zip(rows, texts, above, below, strict=True):
        if title:
            canvas.text(0.25, y + 0.12, title, fontsize=12, color=INK, weight="bold", va="center", ha="left")
        y += over
        for number, (item, lines) in enumerate(zip(items, lines_of, strict=True)):
            x = 0.25 + number * (side + 0.25)
            axes = figure.add_axes((x / width, 1 - (y + side * 0.75) / height, side / width, side * 0.75 / height))
            axes.imshow(item.picture, interpolation="lanczos")
            axes.set_anchor("SW")
            axes.axis("off")
            for place, (text, color, weight) in enumerate(lines):
                down = y + side * 0.75 + 0.16 + place * line
                canvas.text(x, down, text, fontsize=9, color=color, weight=weight, va="center", ha="left")
        y += side * 0.75 + 0.1 + depth
    return figure


def _gallery_lines(sample: GalleryItem, letters: int) -> list[tuple[str, str, str]]:
    """(text, colour, weight) of each line under a picture."""
    lines = []
    for number, (model, caption) in enumerate(sample.captions.items()):
        color = PALETTE[number % len(PALETTE)]
        score = f"  {sample.scores[model]:.2f}" if model in sample.scores else ""
        if len(sample.captions) > 1 or score:
            lines.append((textwrap.shorten(model, letters - len(score), placeholder="…") + score, color, "bold"))
        wrapped = textwrap.wrap(caption, letters) or ["(empty)"]
        lines += [(part, INK, "normal" if len(sample.captions) > 1 or score else "bold") for part in wrapped]
    for reference in sample.references:
        first, *rest = textwrap.wrap(reference, letters - 2) or ["(empty)"]
        lines += [(f"– {first}", FAINT, "normal"), *((f"  {part}", FAINT, "normal") for part in rest)]
    return [(text.replace("$", r"\$"), color, weight) for text, color, weight in lines]


def _numbers(stats: Mapping[str, Any], key: str) -> np.ndarray:
    values = np.asarray(stats.get(key, ()), dtype=float)
    if not values.size:
        raise BadInput(f"the statistics hold no {key}: the data set is empty.")
    return values


def _wrapped_title(column: Column) -> str:
    return column.title if len(column.title) <= 10 else column.title.replace("_", "_\n", 1)
