"""Drawings of embeddings of pictures and texts: what is found, what is similar, how far the kinds lie apart."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from trainables.parts.projections import PROJECTED, projections
from vltune.drawings import Drawing, Matrix, Pictures, Points, Row, Tile

SEARCHED = 100
"""Pictures among which queries are answered in a drawing."""
_QUERIES = 5
_FOUND = 5
_COMPARED = 20


class Embedded:
    """Some pictures with their captions, and the embeddings of both, all of length 1."""

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        captions: Sequence[Sequence[str]],
        seen: Float[np.ndarray, "pictures width"],
        read: Float[np.ndarray, "texts width"],
    ) -> None:
        self.pictures, self.seen, self.read = pictures, seen, read
        self.texts = [text for of_picture in captions for text in of_picture]
        self.owners = np.repeat(np.arange(len(captions)), [len(of_picture) for of_picture in captions])
        self.first = np.searchsorted(self.owners, np.arange(len(captions)))
        """Number of each picture's first caption."""


def retrieval_drawings(embedded: Embedded) -> list[Drawing]:
    """Answers to a few queries, both ways, and the similarities of the first pictures and captions."""
    count = len(embedded.pictures)
    queries = np.unique(np.linspace(0, count - 1, min(_QUERIES, count)).round().astype(int)).tolist()
    return [
        Pictures(
            name="pictures_by_text",
            title="Pictures found by text",
            reads=f"The most similar of {count} pictures with their cosines, best first; ✓ marks the picture that the "
            "text was written for, which comes last, with its rank, where it is not among the first.",
            rows=[_pictures_found(embedded, picture) for picture in queries],
        ),
        Pictures(
            name="texts_by_picture",
            title="Texts found by picture",
            reads=f"The most similar of {len(embedded.texts)} captions with their cosines, best first; ✓ marks those "
            "of this very picture.",
            rows=[Row(tiles=[_texts_found(embedded, picture) for picture in queries])],
        ),
        similarity_drawing(embedded),
    ]


def gap_drawing(groups: Mapping[str, Float[np.ndarray, "_ width"]], *, reads: str) -> Drawing:
    """Embeddings of both kinds in the plane.

    Args:
        groups: name -> vectors; of all together at most ``PROJECTED`` are drawn, of each the first.
        reads: what it means where they lie apart.
    """
    most = PROJECTED // len(groups)
    return Points(
        name="modality_gap",
        title="Embeddings of pictures and texts",
        reads=f"Each point is a picture or a text. {reads}",
        panels=projections({name: vectors[:most] for name, vectors in groups.items()}),
    )


def _pictures_found(embedded: Embedded, picture: int) -> Row:
    text = int(embedded.first[picture])
    cosines = embedded.seen @ embedded.read[text]
    order = np.argsort(-cosines, kind="stable")
    rank = int(np.flatnonzero(order == picture)[0])
    shown = order[:_FOUND].tolist() + ([picture] if rank >= _FOUND else [])
    tiles = [
        Tile(
            picture=embedded.pictures[i],
            text=f"{cosines[i]:.2f}" + (f", rank {rank + 1}" if i == picture and rank >= _FOUND else ""),
            mark="right" if i == picture else "",
        )
        for i in shown
    ]
    return Row(title=f"“{embedded.texts[text]}”", tiles=tiles)


def _texts_found(embedded: Embedded, picture: int) -> Tile:
    cosines = embedded.read @ embedded.seen[picture]
    order = np.argsort(-cosines, kind="stable")[:_FOUND]
    signs = ("✓" if embedded.owners[i] == picture else "–" for i in order)
    details = [f"{sign} {cosines[i]:.2f} {embedded.texts[i]}" for sign, i in zip(signs, order, strict=True)]
    return Tile(picture=embedded.pictures[picture], details=details)


def similarity_drawing(embedded: Embedded) -> Drawing:
    """Cosines of the first pictures and the first caption of each."""
    count = min(_COMPARED, len(embedded.pictures))
    texts = embedded.first[:count]
    return Matrix(
        name="similarity",
        title="Similarity of pictures and captions",
        reads="Cosines of the first pictures and the first caption of each; frames are on those that belong together, "
        "which should be the darkest of their row and column.",
        rows=[f"picture {number + 1}" for number in range(count)],
        columns=[embedded.texts[i] for i in texts],
        values=embedded.seen[:count] @ embedded.read[texts].T,
        row_title="picture",
        column_title="caption",
        marked=[(number, number) for number in range(count)],
        row_pictures=embedded.pictures[:count],
    )
