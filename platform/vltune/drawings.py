"""What a trial has to show a person, as plain data: a family says what is there, ``trial_figures`` how it looks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

Mark = Literal["", "right", "wrong"]
"""Whether what is shown is as it should be, where that can be said."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What all drawings have."""

    name: str
    """Name of its file, without ending: lower-case letters, digits and ``_``."""
    title: str
    reads: str
    """One sentence that tells a person how to read it."""

    def __post_init__(self) -> None:
        assert re.fullmatch(r"[a-z0-9_]+", self.name), f"{self.name!r} is no name of a file"


@dataclass(frozen=True, kw_only=True)
class Matrix(Drawing):
    """A number for each pair of things: confusions, similarities."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: np.ndarray
    """(rows, columns), finite."""
    row_title: str
    column_title: str
    counts: bool = False
    """Whether the values are counts: they are written into their cells, whose colour is their share of the row."""
    marked: Sequence[tuple[int, int]] = ()
    """Cells (row, column) that get a frame: those that should be the greatest."""
    row_pictures: Sequence[np.ndarray] = ()
    """A small picture for each row, uint8, (height, width, 3); none: the rows' names stand alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.values.shape == (len(self.rows), len(self.columns)), "a value for each row and column"
        assert len(self.row_pictures) in (0, len(self.rows)), "a picture for each row, or none"


@dataclass(frozen=True, kw_only=True)
class Curve(Drawing):
    """One or several quantities along another one."""

    x: Sequence[float]
    x_title: str
    lines: Mapping[str, Sequence[float]]
    """Name -> a value for each x."""
    y_title: str
    baselines: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Name -> what the lines compare with: a level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert all(len(line) == len(self.x) for line in self.lines.values()), "a value for each x"


@dataclass(frozen=True, kw_only=True)
class Points(Drawing):
    """Groups of points in the plane, in one projection or in several beside each other."""

    panels: Mapping[str, Mapping[str, np.ndarray]]
    """Name of a projection -> name of a group -> (points, 2). All panels have the same groups."""

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = [points for panel in self.panels.values() for points in panel.values()]
        assert all(points.ndim == 2 and points.shape[1] == 2 for points in groups), "points of a plane"
        assert len({tuple(panel) for panel in self.panels.values()}) == 1, "the same groups in all panels"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A picture with what there is to say about it."""

    picture: np.ndarray
    """uint8, (height, width, 3), RGB."""
    heading: str = ""
    """Above the picture, in one line."""
    text: str = ""
    """Below it; breaks over lines."""
    details: Sequence[str] = ()
    """Below that, in fainter letters; each breaks over lines."""
    mark: Mark = ""
    """Gives the picture a frame, and its text a sign."""
    heat: np.ndarray | None = None
    """Weights that lie over the picture, (rows, columns), at least 0: the picture shows where they are large."""
    labels: np.ndarray | None = None
    """Labels that lie over the picture, (height, width), whole numbers; 0 is left clear."""
    other: np.ndarray | None = None
    """A second picture, beside the first."""
    lines: np.ndarray | None = None
    """(lines, 5): from (x, y) of the picture to (u, v) of the other one, as shares of their sides, and a value."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tiles side by side."""

    tiles: Sequence[Tile]
    title: str = ""
    """Above them."""


@dataclass(frozen=True, kw_only=True)
class Pictures(Drawing):
    """Pictures in rows."""

    rows: Sequence[Row]
    legend: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Label -> what it stands for."""
    scale: str = ""
    """What the lines' values are."""
    scale_end: float = 1.0
    """The value from which on lines have the last colour; the first is that of 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.rows, "a drawing of pictures has some"
        assert all(row.tiles for row in self.rows), "a row of pictures has some"
