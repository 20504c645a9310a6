"""What was taken for what, as a drawing."""

from collections.abc import Iterable, Sequence

import numpy as np

from vltune.drawings import Drawing, Matrix


def confusion_drawing(pairs: Iterable[tuple[str, str]], names: Sequence[str], *, what: str) -> Drawing:
    """How often each class was taken for each.

    Args:
        pairs: (what it is, what it was taken for), both of ``names``.
        names: the classes, in order.
        what: what is counted, for the reader.
    """
    places = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    for truth, guess in pairs:
        counts[places[truth], places[guess]] += 1
    return Matrix(
        name="confusion",
        title="Confusion matrix",
        reads=f"Of {what} in a row, how many were taken for what stands below, and their share of the row; frames are "
        "on what was right.",
        rows=names,
        columns=names,
        values=counts,
        row_title="truth",
        column_title="taken for",
        counts=True,
        marked=[(place, place) for place in range(len(names))],
    )
