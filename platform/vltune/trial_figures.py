"""Figures of what a trial has to show: one for each kind of drawing. They are returned; saving is the caller's."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vltune.canvas import FAINT, INK, LINE, PALETTE, blank, new_figure, style
from vltune.drawings import Curve, Drawing, Mark, Matrix, Pictures, Points, Row, Tile

_WIDTH = 10.0
"""Of the widest figures, in inches: what fits a page of MLflow, which shows figures in their own size."""
_EDGE, _GAP = 0.25, 0.2
_LETTER, _BOLD, _LINE = 0.067, 0.076, 0.17
"""Inches that a letter of 9 points takes across, a bold one too, and a line of them down."""
_WHITE_TO_BLUE = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", PALETTE[5], PALETTE[0], "#00304D"])
_GOOD_TO_BAD = LinearSegmentedColormap.from_list("good to bad", [PALETTE[0], PALETTE[5], "#F0E442", PALETTE[1]])
_FRAMES: dict[Mark, tuple[str, str]] = {"": ("", LINE), "right": ("✓ ", PALETTE[2]), "wrong": ("✗ ", PALETTE[1])}
"""Sign and colour: who cannot tell the colours apart reads the sign."""
_UNIFORM = 4.0
"""Heat is drawn on a scale that ends at the drawing's largest weight, or at so many times a uniform one:
else attention to everything would look like attention to one place."""
_FINE = 192
"""Pixels along a picture on which something lies, at least: else its own pixels would show as steps."""


def draw(drawing: Drawing) -> Figure:
    """The figure of a drawing."""
    return _FIGURES[type(drawing)](drawing)


def head_height(drawing: Drawing, figure: Figure) -> float:
    """Inches that title and sentence take at the top of a drawing's figure; pages say both themselves."""
    return _height(_head(drawing, figure.get_figwidth()))


class _Letter(NamedTuple):
    """A line of text."""

    text: str
    color: str = INK
    weight: str = "normal"


# -- matrices


def _draw_matrix(matrix: Matrix) -> Figure:
    names = [[textwrap.shorten(name, 34, placeholder="…") for name in of] for of in (matrix.rows, matrix.columns)]
    wordy = max(len(name) for name in names[1]) * _LETTER
    cell = 0.9 if matrix.counts and len(names[1]) <= 8 else max(0.3, min(0.5, 6.2 / len(names[1])))
    slanted = wordy > cell - 0.1
    across, down = cell * len(names[1]), cell * len(names[0])
    named = cell + 0.05 if matrix.row_pictures else max(len(name) for name in names[0]) * _LETTER + 0.15
    left = max(0.45 + named, 0.7 * wordy - cell / 2 + _EDGE if slanted else 0)
    below = (0.7 * wordy + 0.2 if slanted else 0.3) + 0.35
    width = max(left + across + (1.0 if not matrix.counts else _EDGE), 6.2)
    head = _head(matrix, width)
    top = _height(head)
    figure, canvas = blank(width, top + down + below)
    _write_head(canvas, head)
    values = matrix.values.astype(float)
    # A few very small values would leave the others one colour.
    low, high = (0.0, 1.0) if matrix.counts else (float(np.quantile(values, 0.1)), float(values.max()))
    shown = values / np.maximum(values.sum(1, keepdims=True), 1) if matrix.counts else values
    box = (left, left + across, top + down, top)
    canvas.imshow(shown, cmap=_WHITE_TO_BLUE, vmin=low, vmax=high if high > low else low + 1, extent=box, aspect="auto")
    for row, name in enumerate(names[0]):
        y = top + (row + 0.5) * cell
        if matrix.row_pictures:
            canvas.imshow(
                matrix.row_pictures[row],
                extent=(left - cell - 0.03, left - 0.05, y + 0.47 * cell, y - 0.47 * cell),
                aspect="auto",
            )
        else:
            _write(canvas, left - 0.1, y, _Letter(name), ha="right")
        for column in range(len(names[1])) if matrix.counts else ():
            count, share = int(values[row, column]), shown[row, column]
            text = f"{count:,}\n{share:.0%}" if cell > 0.6 else f"{count}"
            color = "white" if share > 0.55 else INK
            _write(canvas, left + (column + 0.5) * cell, y, _Letter(text, color), ha="center")
    for column, name in enumerate(names[1]):
        x, y = left + (column + 0.5) * cell, top + down + 0.1
        if slanted:
            _write(canvas, x + 0.04, y, _Letter(name), ha="right", va="top", rotation=45, rotation_mode="anchor")
        else:
            _write(canvas, x, y, _Letter(name), ha="center", va="top")
    for row, column in matrix.marked:
        corner = (left + column * cell + 0.015, top + row * cell + 0.015)
        canvas.add_patch(Rectangle(corner, cell - 0.03, cell - 0.03, fill=False, edgecolor=PALETTE[1], lw=1.4))
    canvas.add_patch(Rectangle((left, top), across, down, fill=False, edgecolor=LINE, lw=0.8))
    _write(canvas, left - named - 0.12, top + down / 2, _Letter(matrix.row_title, FAINT), ha="center", rotation=90)
    _write(canvas, left + across / 2, top + down + below - 0.18, _Letter(matrix.column_title, FAINT), ha="center")
    if not matrix.counts:
        _write_scale(canvas, left + across + 0.2, top, down, low, high)
    return figure


def _write_scale(canvas: Axes, x: float, y: float, height: float, low: float, high: float) -> None:
    height = min(height, 2.2)
    steps = np.linspace(1, 0, 64)[:, None]
    canvas.imshow(steps, cmap=_WHITE_TO_BLUE, extent=(x, x + 0.14, y + height, y), aspect="auto")
    for text, place in ((f"{high:.2f}", y + 0.06), (f"≤ {low:.2f}", y + height - 0.06)):
        _write(canvas, x + 0.2, place, _Letter(text, FAINT))


# -- curves and points


def _draw_curve(curve: Curve) -> Figure:
    figure, (axes,) = _with_head(curve, 7.6, 4.0, panels=1)
    style(axes)
    for number, (name, values) in enumerate(curve.lines.items()):
        marker = "o" if len(curve.x) == 1 else None
        axes.plot(curve.x, values, color=PALETTE[number % len(PALETTE)], lw=2, label=name, marker=marker)
    for number, (name, level) in enumerate(curve.baselines.items()):
        axes.axhline(level, color=FAINT, lw=1.2, ls=("--", ":", "-.")[number % 3], label=name)
    axes.set_xlabel(curve.x_title)
    axes.set_ylabel(curve.y_title)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    return figure


def _draw_points(points: Points) -> Figure:
    figure, panels = _with_head(points, min(_WIDTH, 5.0 * len(points.panels)), 4.6, panels=len(points.panels))
    for axes, (title, groups) in zip(panels, points.panels.items(), strict=True):
        style(axes)
        axes.grid(visible=False)
        # A projection's numbers say nothing, only who is near whom does.
        axes.set_xticks([])
        axes.set_yticks([])
        for number, (name, places) in enumerate(groups.items()):
            marker, color = "osD^v"[number % 5], PALETTE[number % len(PALETTE)]
            axes.scatter(*places.T, s=22, marker=marker, color=color, alpha=0.7, lw=0, label=name)
        axes.margins(0.06)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(title, fontsize=10, color=INK)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=len(names), frameon=False, fontsize=9, loc="outside lower center")
    return figure


def _with_head(drawing: Drawing, width: float, height: float, *, panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with title and sentence above some axes side by side."""
    head = _head(drawing, width)
    whole = height + _height(head)
    figure = new_figure(width, whole)
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, 0, 1, height / whole))
    canvas = figure.add_axes((0, 0, 1, 1), zorder=-1)
    canvas.set_in_layout(False)
    canvas.set_xlim(0, width)
    canvas.set_ylim(whole, 0)
    canvas.axis("off")
    _write_head(canvas, head)
    return figure, [figure.add_subplot(1, panels, number + 1) for number in range(panels)]


# -- pictures


def _draw_pictures(pictures: Pictures) -> Figure:
    across = max(len(row.tiles) for row in pictures.rows)
    double = any(tile.other is not None for row in pictures.rows for tile in row.tiles)
    unit = min((_WIDTH - 2 * _EDGE - (across - 1) * _GAP) / across, 4.6 if double else 2.3)
    width = max(2 * _EDGE + across * unit + (across - 1) * _GAP, 6.2)
    letters = int(unit / _LETTER)
    head, foot = _head(pictures, width), 0.4 if pictures.legend or pictures.scale else 0.0
    places = [_RowPlace(row, unit, letters, double=double) for row in pictures.rows]
    figure, canvas = blank(width, _height(head) + sum(place.height for place in places) + foot + 0.1)
    _write_head(canvas, head)
    heats = [tile.heat for row in pictures.rows for tile in row.tiles if tile.heat is not None]
    hottest = max((max(float(h.max()), _UNIFORM / h.size) for h in heats), default=1.0)
    y = _height(head)
    for place in places:
        _write_row(canvas, place, y, hottest=hottest, scale_end=pictures.scale_end)
        y += place.height
    if pictures.scale:
        _write_line_scale(canvas, y + 0.1, pictures)
    x = _EDGE
    for label, name in pictures.legend.items():
        canvas.add_patch(Rectangle((x, y + 0.1), 0.16, 0.16, color=_label_color(label), lw=0))
        _write(canvas, x + 0.22, y + 0.18, _Letter(name))
        x += 0.5 + len(name) * _LETTER
    return figure


class _RowPlace:
    """A row of tiles, and how much room each of its parts takes."""

    def __init__(self, row: Row, unit: float, letters: int, *, double: bool) -> None:
        self.row, self.unit = row, unit
        self.side = (unit - 0.12) / 2 if double else unit
        shapes = [picture.shape for tile in row.tiles for picture in (tile.picture, tile.other) if picture is not None]
        self.tall = self.side * max(shape[0] / shape[1] for shape in shapes)
        self.title = textwrap.wrap(row.title, int(_WIDTH / _BOLD)) if row.title else []
        self.heading = _LINE + 0.04 if any(tile.heading for tile in row.tiles) else 0.0
        self.letters = letters
        self.texts = [_tile_lines(tile, letters) for tile in row.tiles]

    @property
    def above(self) -> float:
        """Inches above the pictures."""
        return len(self.title) * _LINE + (0.08 if self.title else 0.0) + self.heading

    @property
    def height(self) -> float:
        """Inches of the whole row."""
        return self.above + self.tall + max(map(len, self.texts)) * _LINE + 0.28


def _tile_lines(tile: Tile, letters: int) -> list[_Letter]:
    lines = []
    if tile.text:
        sign, color = _FRAMES[tile.mark]
        strong = textwrap.wrap(sign + tile.text, max(6, int(letters * _LETTER / _BOLD)))
        lines += [_Letter(part, color if sign else INK, "bold") for part in strong]
    for detail in tile.details:
        lines += [_Letter(part, FAINT) for part in textwrap.wrap(detail, max(6, letters), subsequent_indent="  ")]
    return lines


def _write_row(canvas: Axes, place: _RowPlace, y: float, *, hottest: float, scale_end: float) -> None:
    for number, line in enumerate(place.title):
        _write(canvas, _EDGE, y + (number + 0.5) * _LINE, _Letter(line, INK, "bold"))
    top = y + place.above
    for number, (tile, lines) in enumerate(zip(place.row.tiles, place.texts, strict=True)):
        x = _EDGE + number * (place.unit + _GAP)
        if tile.heading:
            heading = textwrap.shorten(tile.heading, max(6, place.letters), placeholder="…")
            _write(canvas, x, top - 0.5 * place.heading, _Letter(heading, FAINT))
        box = _paste(canvas, _overlaid(tile, hottest), x, top, place.side)
        if tile.mark:
            _frame(canvas, box, _FRAMES[tile.mark][1])
        if tile.other is not None:
            second = _paste(canvas, tile.other, x + place.side + 0.12, top, place.side)
            if tile.lines is not None:
                _write_lines(canvas, tile.lines, box, second, scale_end)
        for down, line in enumerate(lines):
            _write(canvas, x, top + place.tall + 0.12 + down * _LINE, line)


Box = tuple[float, float, float, float]
"""Left, top, width and height, in inches."""


def _paste(canvas: Axes, picture: np.ndarray, x: float, y: float, side: float) -> Box:
    height = side * picture.shape[0] / picture.shape[1]
    canvas.imshow(picture, extent=(x, x + side, y + height, y), aspect="auto", interpolation="lanczos")
    return x, y, side, height


def _frame(canvas: Axes, box: Box, color: str) -> None:
    x, y, width, height = box
    canvas.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, lw=2.2))


def _write_lines(canvas: Axes, lines: np.ndarray, first: Box, second: Box, scale_end: float) -> None:
    starts = np.array(first[:2]) + lines[:, :2] * first[2:]
    ends = np.array(second[:2]) + lines[:, 2:4] * second[2:]
    colors = _GOOD_TO_BAD(np.clip(lines[:, 4] / scale_end, 0, 1))
    # A dark edge keeps them apart from what is below them.
    segments = [*np.stack((starts, ends), 1)]
    canvas.add_collection(LineCollection(segments, colors="#00000099", linewidths=2.2))
    canvas.add_collection(LineCollection(segments, colors=colors, linewidths=1.2))
    for places in (starts, ends):
        canvas.scatter(*places.T, s=16, color=colors, edgecolors="#000000AA", linewidths=0.6, zorder=3)


def _write_line_scale(canvas: Axes, y: float, pictures: Pictures) -> None:
    steps = np.linspace(0, 1, 64)[None]
    _write(canvas, _EDGE, y + 0.08, _Letter("0", FAINT))
    canvas.imshow(steps, cmap=_GOOD_TO_BAD, extent=(_EDGE + 0.15, _EDGE + 1.75, y + 0.16, y), aspect="auto")
    _write(canvas, _EDGE + 1.83, y + 0.08, _Letter(f"{pictures.scale_end:g} or more: {pictures.scale}", FAINT))


def _overlaid(tile: Tile, hottest: float) -> np.ndarray:
    """The picture with its heat or its labels over it."""
    picture = tile.picture
    if tile.heat is None and tile.labels is None:
        return picture
    height, width = (max(_FINE, size) for size in picture.shape[:2])
    fine = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), float)
    if tile.heat is not None:
        strength = np.clip(tile.heat / hottest, 0, 1).astype(np.float32)
        wide = Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC)
        over = np.clip(np.asarray(wide), 0, 1)[..., None]
        # Towards grey, and not towards black, which dark pictures have of their own.
        fine = over * fine + (1 - over) * (80 + 0.25 * fine.mean(2, keepdims=True))
    if tile.labels is not None:
        labels = np.asarray(Image.fromarray(tile.labels.astype(np.uint8)).resize((width, height), Image.Resampling(0)))
        for label in set(np.unique(labels).tolist()) - {0}:
            color = 255 * np.array(to_rgb(_label_color(label)))
            fine[labels == label] = 0.35 * fine[labels == label] + 0.65 * color
    return fine.round().clip(0, 255).astype(np.uint8)


def _label_color(label: int) -> str:
    return PALETTE[(label - 1) % len(PALETTE)]


# -- text


def _head(drawing: Drawing, width: float) -> list[_Letter]:
    room = int((width - 2 * _EDGE) / _LETTER)
    title = [_Letter(part, INK, "bold") for part in textwrap.wrap(drawing.title, int(room / 1.5))]
    return [*title, *(_Letter(part, FAINT) for part in textwrap.wrap(drawing.reads, room))]


def _height(head: Sequence[_Letter]) -> float:
    return 0.3 + sum(0.24 if line.weight == "bold" else _LINE for line in head)


def _write_head(canvas: Axes, head: Sequence[_Letter]) -> None:
    y = 0.12
    for line in head:
        step = 0.24 if line.weight == "bold" else _LINE
        _write(canvas, _EDGE, y + step / 2, line, fontsize=12 if line.weight == "bold" else 9)
        y += step


def _write(canvas: Axes, x: float, y: float, line: _Letter, **settings: Any) -> None:
    shared: dict[str, Any] = {"fontsize": 9, "va": "center", "ha": "left", "parse_math": False}
    canvas.text(x, y, line.text, color=line.color, weight=line.weight, **(shared | settings))


_FIGURES: dict[type[Drawing], Callable[[Any], Figure]] = {
    Matrix: _draw_matrix,
    Curve: _draw_curve,
    Points: _draw_points,
    Pictures: _draw_pictures,
}
