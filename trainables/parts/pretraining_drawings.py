"""Drawings of what the pretraining families guess: angles, words, pictures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trainables.parts.confusion import confusion_drawing
from vltune.contract import Record, Sample
from vltune.drawings import Drawing, Pictures, Row, Tile

ROTATED = 4
"""Pictures that are drawn at all their angles."""
MOST_ANGLES = 8
RECONSTRUCTED = 6
"""Pictures that are drawn again."""
GUESSED = 8
"""Pictures whose captions are shown with guesses."""
_ACROSS = 4
_DARKEST = 0.25
"""Absolute error, of 1, that is drawn black."""


def rotation_drawings(
    turned: Float[Tensor, "pictures turns 3 height width"], records: Sequence[Record]
) -> list[Drawing]:
    """Pictures at their angles with what these were taken for, and the confusion matrix of all.

    Args:
        turned: the first pictures as the model sees them, values in [0, 1].
        records: ``degrees`` and ``guesses`` of all pictures.
    """
    names = [f"{angle:g}°" for angle in records[0]["degrees"]]
    pairs = (
        (f"{angle:g}°", f"{guess:g}°")
        for record in records
        for angle, guess in zip(record["degrees"], record["guesses"], strict=True)
    )
    rows = [
        Row(
            tiles=[
                Tile(
                    picture=picture,
                    heading=f"turned by {angle:g}°",
                    text=f"taken for {guess:g}°",
                    mark="right" if guess == angle else "wrong",
                )
                for picture, angle, guess in zip(pictures, record["degrees"], record["guesses"], strict=False)
            ]
        )
        for pictures, record in zip(as_bytes(turned), records, strict=False)
    ]
    return [
        Pictures(
            name="rotations",
            title="Rotations",
            reads="Above each picture the angle that it was turned by, anticlockwise; below, what the model took it "
            "for.",
            rows=rows,
        ),
        confusion_drawing(pairs, names, what="the pictures turned by the angle"),
    ]


def reconstruction_drawing(
    seen: Float[Tensor, "pictures 3 height width"], drawn: Float[Tensor, "pictures 3 height width"]
) -> Drawing:
    """Pictures, what was drawn of them, and how far off each point is."""
    error = (drawn - seen).abs().mean(1, keepdim=True)
    shade = (1 - error / _DARKEST).clamp(0, 1).expand_as(seen)
    titles = ("picture", "drawn again", "error")
    parts = [as_bytes(pictures) for pictures in (seen, drawn, shade)]
    means = error.mean((1, 2, 3)).tolist()
    count = len(seen)
    rows = []
    for first in range(0, count, 2):
        tiles = []
        for number in range(first, min(first + 2, count)):
            for title, pictures in zip(titles, parts, strict=True):
                text = f"mean {means[number]:.3f}" if title == "error" else ""
                tiles.append(Tile(picture=pictures[number], heading=title, text=text))
        rows.append(Row(tiles=tiles))
    return Pictures(
        name="reconstructions",
        title="Reconstructions",
        reads=f"Each picture, what the model drew of it, and the absolute error: white is none, black is {_DARKEST:g} "
        "of the range of values or more.",
        rows=rows,
    )


def guessed_words_drawing(
    samples: Sequence[Sample], guesses: Sequence[Sequence[tuple[str, Sequence[tuple[str, str]]]]]
) -> Drawing:
    """Captions in which words were hidden, with what was guessed.

    Args:
        samples: whose captions these are.
        guesses: for each sample its captions, with guesses in square brackets, and of each (guess, hidden word).
    """
    tiles = []
    for sample, captions in zip(samples, guesses, strict=True):
        details = []
        for text, words in captions:
            missed = [hidden for guess, hidden in words if guess != hidden]
            details.append(f"✗ {text} (hidden:\u00a0{', '.join(missed)})" if missed else f"✓ {text}")
        picture = sample.picture if sample.picture is not None else np.full((8, 8, 3), 230, np.uint8)
        tiles.append(Tile(picture=picture, details=details))
    return Pictures(
        name="hidden_words",
        title="Hidden words",
        reads="In square brackets what the model guessed for a hidden word: ✓ it was that, ✗ it was another one. The "
        "picture is there for people; the model does not see it.",
        rows=[Row(tiles=tiles[start : start + _ACROSS]) for start in range(0, len(tiles), _ACROSS)],
    )


def as_bytes(pictures: Float[Tensor, "*some 3 height width"]) -> np.ndarray:
    """Pictures with values in [0, 1] as bytes, channels last."""
    return (255 * pictures.float().clamp(0, 1)).round().byte().movedim(-3, -1).cpu().numpy()
