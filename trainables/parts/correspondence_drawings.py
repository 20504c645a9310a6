"""Drawings of correspondences: matches, how wrong they are by rank, and labels that were carried along them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trainables.parts.pretraining_drawings import as_bytes
from vltune.contract import Record
from vltune.drawings import Curve, Drawing, Pictures, Row, Tile

MATCHED = 4
"""Pictures whose matches are drawn."""
CARRIED = 4
"""Pairs whose labels are drawn."""
_FARTHEST = 25.0
"""Error, in percent of the picture's side, that has the last colour."""
_STEPS = 50
_COLOURS = 6
"""Categories that have a colour of their own."""


def match_drawings(
    crops: Float[Tensor, "pictures 3 size size"],
    pictures: Float[Tensor, "pictures 3 height width"],
    records: Sequence[Record],
) -> list[Drawing]:
    """The best matches between the first pictures and their crops, and the error against the rank over all.

    Args:
        crops: of the first pictures, values in [0, 1].
        pictures: the first ones, values in [0, 1].
        records: ``matches`` and ``errors`` of all pictures.
    """
    tiles = []
    for crop, picture, record in zip(as_bytes(crops), as_bytes(pictures), records, strict=False):
        lines = np.array([row[:4] for row in record["matches"]]) / 100
        errors = np.array(record["errors"][: len(lines)])
        tiles.append(
            Tile(
                picture=crop,
                other=picture,
                lines=np.column_stack((lines, errors)),
                text=f"mean error {errors.mean():.1f} %",
                details=[f"of the best {len(lines)} matches; of all {np.mean(record['errors']):.1f} %"],
            )
        )
    return [
        Pictures(
            name="matches",
            title="Matches between crop and picture",
            reads="Left the crop, right the picture; lines lead from a place of the crop to where the model finds it; "
            "their colour says how far off that is.",
            rows=[Row(tiles=tiles[start : start + 2]) for start in range(0, len(tiles), 2)],
            scale="error in percent of the picture's side",
            scale_end=_FARTHEST,
        ),
        error_curve(np.array([record["errors"] for record in records])),
    ]


def error_curve(errors: Float[np.ndarray, "pictures positions"]) -> Curve:
    """The mean error of the best-scored matches, as more of them are counted.

    Args:
        errors: of each picture, from its best-scored match to its worst.
    """
    count = errors.shape[1]
    kept = sorted({max(1, round(count * share / _STEPS)) for share in range(1, _STEPS + 1)})
    means = errors.mean(0).cumsum() / np.arange(1, count + 1)
    perfect = np.sort(errors, axis=1).mean(0).cumsum() / np.arange(1, count + 1)
    return Curve(
        name="error_by_rank",
        title="Error against rank",
        reads="Mean error when only the best-scored matches of each picture count: a score that knows which matches "
        "are good gives a line that begins low and rises.",
        x=[100 * number / count for number in kept],
        x_title="matches counted, the best-scored first (percent)",
        lines={
            "ordered by the model's score": [float(means[number - 1]) for number in kept],
            "ordered by the error itself: the best possible": [float(perfect[number - 1]) for number in kept],
        },
        y_title="mean error (percent of the picture's side)",
        baselines={"in random order": float(errors.mean())},
    )


def carried_drawing(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    records: Sequence[Record],
    names: Mapping[int, str],
) -> Drawing:
    """Labels that were carried from picture to picture, beside the true ones.

    Args:
        pairs: of each the other picture and its labels, the picture, the labels carried to it, and its own.
        records: ``iou`` and ``mean_iou`` of the pairs.
        names: label -> category, without the background.
    """
    numbers = {name: label for label, name in names.items()}
    shared = dict.fromkeys(numbers[name] for record in records for name in record["iou"] if name in numbers)
    legend = dict(enumerate([names[label] for label in shared][:_COLOURS], start=1))
    colours = np.full(256, _COLOURS + 1, np.uint8)  # all that is shared by no pair looks alike
    colours[0] = 0
    colours[list(shared)[:_COLOURS]] = list(legend)
    rows = []
    for (other, *maps), record in zip(pairs, records, strict=True):
        picture = maps.pop(1)
        theirs, carried, own = (colours[labels] for labels in maps)
        shares = ", ".join(f"{name}\u00a0{value:.2f}" for name, value in record["iou"].items())
        rows.append(
            Row(
                tiles=[
                    Tile(picture=other, labels=theirs, heading="labels are taken from here"),
                    Tile(picture=picture, heading="the picture"),
                    Tile(picture=picture, labels=carried, heading="labels carried to it", details=[f"IoU: {shares}"]),
                    Tile(picture=picture, labels=own, heading="its true labels"),
                ]
            )
        )
    return Pictures(
        name="carried_labels",
        title="Labels carried along correspondences",
        reads="The third picture of a row should look like the fourth; nobody taught the model these categories.",
        rows=rows,
        legend={**legend, _COLOURS + 1: "other categories"},
    )
