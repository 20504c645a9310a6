"""Drawings of a judge of pairs: what it takes for what, and where it is most wrong."""

from collections.abc import Sequence

from trainables.parts.confusion import confusion_drawing
from vltune.contract import Record, Sample
from vltune.drawings import Drawing, Pictures, Row, Tile

_ACROSS = 4
_WRONG = 2 * _ACROSS
_NAMES = ("no match", "match")


def matching_drawings(samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
    """The confusion matrix over all pairs, and the pairs that are most wrong.

    Args:
        samples: those that are shown are read.
        records: ``texts``, ``probabilities``, ``matches`` and ``truths`` of each.
    """
    judged = [
        (abs(truth - probability), number, text, probability, match, truth)
        for number, record in enumerate(records)
        for text, probability, match, truth in zip(
            record["texts"], record["probabilities"], record["matches"], record["truths"], strict=True
        )
    ]
    pairs = ((_NAMES[truth], _NAMES[match]) for *_, match, truth in judged)
    drawings: list[Drawing] = [confusion_drawing(pairs, _NAMES, what="the pairs of a picture and a text")]
    wrong = sorted((pair for pair in judged if pair[4] != pair[5]), key=lambda pair: (-pair[0], pair[1]))[:_WRONG]
    tiles = [
        Tile(
            picture=picture,
            text=text,
            details=[f"said {_NAMES[match]} (probability of a match {probability:.2f}), is {_NAMES[truth]}"],
            mark="wrong",
        )
        for _, number, text, probability, match, truth in wrong
        if (picture := samples[number].picture) is not None
    ]
    if tiles:
        rows = [Row(tiles=tiles[start : start + _ACROSS]) for start in range(0, len(tiles), _ACROSS)]
        drawings.append(
            Pictures(
                name="wrong_pairs",
                title="The most wrong pairs",
                reads="Pairs of a picture and a text about which the model was surest and mistaken, the surest first.",
                rows=rows,
            )
        )
    return drawings
