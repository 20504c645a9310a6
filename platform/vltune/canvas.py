"""What all figures share: colours, sizes, axes. They are light, so that they read the same on a dark page."""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
"""Okabe and Ito's colours, which people with any colour vision tell apart (https://jfly.uni-koeln.de/color/)."""

INK, FAINT, LINE, TINT = "#1F2328", "#667079", "#D5DAE0", "#EAF3FA"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose axes find their places by themselves; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


def style(axes: Axes) -> None:
    """Gives axes the look of all figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=FAINT, labelsize=9, length=3, color=LINE)
    axes.grid(axis="y", color=LINE, lw=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose coordinates are inches from its upper left corner."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return figure, axes
