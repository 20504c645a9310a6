"""Drawings against cases worked out by hand."""

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from trainables.parts.confusion import confusion_drawing
from trainables.parts.correspondence_drawings import carried_drawing, error_curve, match_drawings
from trainables.parts.crops import crop_positions, cut_crops, grid_positions
from trainables.parts.embedding_drawings import Embedded, gap_drawing, retrieval_drawings
from trainables.parts.matching_drawings import matching_drawings
from trainables.parts.pretraining_drawings import (
    as_bytes,
    guessed_words_drawing,
    reconstruction_drawing,
    rotation_drawings,
)
from vltune.contract import Sample
from vltune.drawings import Matrix, Pictures, Points


def grey(value: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_confusions_are_counted_as_scikit_learn_counts_them() -> None:
    random = np.random.default_rng(0)
    names = ("one", "two", "three")
    truths, guesses = (random.choice(names, 200).tolist() for _ in range(2))
    drawing = confusion_drawing(zip(truths, guesses, strict=True), names, what="things")
    assert isinstance(drawing, Matrix)
    np.testing.assert_array_equal(drawing.values, confusion_matrix(truths, guesses, labels=names))
    assert drawing.marked == [(0, 0), (1, 1), (2, 2)]


def test_the_surest_mistakes_come_first() -> None:
    records = [
        {"texts": ["a", "b"], "probabilities": [0.9, 0.8], "matches": [True, True], "truths": [True, False]},
        {"texts": ["c", "d"], "probabilities": [0.05, 0.4], "matches": [False, False], "truths": [True, True]},
    ]
    samples = [Sample(str(i), grey(i), ()) for i in range(2)]
    confusion, wrong = matching_drawings(samples, records)
    assert isinstance(confusion, Matrix)
    assert confusion.values.tolist() == [[0, 1], [2, 1]]
    assert isinstance(wrong, Pictures)
    tiles = wrong.rows[0].tiles
    assert [(int(t.picture[0, 0, 0]), t.text) for t in tiles] == [(1, "c"), (0, "b"), (1, "d")]
    assert tiles[0].details == ["said no match (probability of a match 0.05), is match"]
    assert len(matching_drawings(samples, [{**records[0], "truths": [True, True]}])) == 1, "nothing is wrong"


def embedded() -> Embedded:
    """Three pictures; the first has two captions, the last is nearer to the second's caption than to its own."""
    seen = np.eye(3, dtype=np.float32)
    read = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8], [0.6, 0, 0.8]], np.float32)
    return Embedded([grey(i) for i in range(3)], [("a", "b"), ("c",), ("d",)], seen, read)


def test_queries_find_the_most_similar() -> None:
    by_text, by_picture, similarity = retrieval_drawings(embedded())
    assert isinstance(by_text, Pictures)
    assert [row.title for row in by_text.rows] == ["“a”", "“c”", "“d”"]
    second = by_text.rows[1].tiles
    assert [(int(t.picture[0, 0, 0]), t.text, t.mark) for t in second] == [
        *((2, "0.80", ""), (1, "0.60", "right"), (0, "0.00", ""))
    ]
    assert isinstance(by_picture, Pictures)
    assert by_picture.rows[0].tiles[0].details[:2] == ["✓ 1.00 a", "✓ 0.80 b"]
    assert by_picture.rows[0].tiles[1].details[:2] == ["– 0.60 b", "✓ 0.60 c"]
    assert isinstance(similarity, Matrix)
    assert list(similarity.columns) == ["a", "c", "d"]
    np.testing.assert_allclose(similarity.values, [[1, 0, 0.6], [0, 0.6, 0], [0, 0.8, 0.8]], atol=1e-6)


def test_a_picture_that_is_not_among_the_first_comes_last_with_its_rank() -> None:
    count = 8
    seen = np.stack([np.cos(np.arange(count) / 9), np.sin(np.arange(count) / 9)], 1).astype(np.float32)
    captions = [(str(i),) for i in range(count)]
    by_text = retrieval_drawings(Embedded([grey(i) for i in range(count)], captions, seen, seen[::-1]))[0]
    assert isinstance(by_text, Pictures)
    tile = by_text.rows[0].tiles[-1]
    assert len(by_text.rows[0].tiles) == 6
    assert (int(tile.picture[0, 0, 0]), tile.mark) == (0, "right")
    assert tile.text.endswith("rank 8")


def test_both_kinds_of_embeddings_are_points() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    drawing = gap_drawing({"pictures": vectors, "texts": vectors + 1}, reads="Apart.")
    assert isinstance(drawing, Points)
    assert {name: len(points) for name, points in drawing.panels["t-SNE"].items()} == {"pictures": 150, "texts": 150}
    assert drawing.reads.endswith("Apart.")


def test_angles_stand_above_and_guesses_below() -> None:
    turned = torch.rand(1, 2, 3, 4, 4)
    records = [{"degrees": [0.0, 90.0], "guesses": [90.0, 90.0]}, {"degrees": [0.0, 90.0], "guesses": [0.0, 0.0]}]
    rotations, confusion = rotation_drawings(turned, records)
    assert isinstance(rotations, Pictures)
    (row,) = rotations.rows
    assert [(t.heading, t.text, t.mark) for t in row.tiles] == [
        *(("turned by 0°", "taken for 90°", "wrong"), ("turned by 90°", "taken for 90°", "right"))
    ]
    np.testing.assert_array_equal(row.tiles[1].picture, as_bytes(turned)[0, 1])
    assert isinstance(confusion, Matrix)
    assert confusion.values.tolist() == [[1, 1], [1, 1]]


def test_errors_are_dark() -> None:
    seen = torch.full((3, 3, 4, 4), 0.5)
    drawn = seen.clone()
    drawn[1, :, 0, 0] += 0.125
    drawn[2] += 0.5
    drawing = reconstruction_drawing(seen, drawn)
    assert isinstance(drawing, Pictures)
    tiles = [tile for row in drawing.rows for tile in row.tiles]
    assert [tile.heading for tile in tiles] == ["picture", "drawn again", "error"] * 3
    errors = [tile.picture[:, :, 0] for tile in tiles[2::3]]
    assert (errors[0] == 255).all()
    assert errors[1][0, 0] == 128
    assert errors[1][1, 1] == 255
    assert (errors[2] == 0).all()
    assert [tile.text for tile in tiles[2::3]] == ["mean 0.000", f"mean {0.125 / 16:.3f}", "mean 0.500"]


def test_guesses_say_what_was_hidden_where_they_are_wrong() -> None:
    told = [[("a [red] dog", [("red", "red")]), ("a [red] cat", [("red", "black")])]]
    drawing = guessed_words_drawing([Sample("a", None, ())], told)
    assert isinstance(drawing, Pictures)
    assert list(drawing.rows[0].tiles[0].details) == ["✓ a [red] dog", "✗ a [red] cat (hidden:\u00a0black)"]


def test_matches_lie_where_the_crop_was_cut() -> None:
    pictures = torch.rand(1, 3, 32, 32)
    windows = torch.tensor([[0.25, 0.5, 0.5, 0.0]])
    crops = cut_crops(pictures, windows, size=32)
    places, truth = grid_positions(4, device=pictures.device), crop_positions(windows, 4)[0]
    rows = [
        [100 * v for v in (*place, *true)] + [0.0] for place, true in zip(places.tolist(), truth.tolist(), strict=True)
    ]
    drawing = match_drawings(crops, pictures, [{"matches": rows[:3], "errors": [0.0] * 8 + [4.0] * 8}])[0]
    assert isinstance(drawing, Pictures)
    tile = drawing.rows[0].tiles[0]
    assert tile.other is not None
    assert tile.lines is not None
    for x, y, u, v, error in tile.lines:
        here = tile.picture[int(y * 32), int(x * 32)].astype(int)
        # The crop is twice as fine: its pixels lie between those of the picture.
        neighbours = tile.other[int(v * 32) - 1 : int(v * 32) + 1, int(u * 32) - 1 : int(u * 32) + 1].reshape(-1, 3)
        assert (neighbours.min(0) - 1 <= here).all()
        assert (here <= neighbours.max(0) + 1).all()
        assert error == 0
    assert tile.text == "mean error 0.0 %"
    assert tile.details == ["of the best 3 matches; of all 2.0 %"]


def test_the_curve_counts_ever_more_matches() -> None:
    errors = np.array([[1.0, 5.0, 3.0, 7.0], [3.0, 1.0, 5.0, 7.0]])
    curve = error_curve(errors)
    assert list(curve.x) == [25, 50, 75, 100]
    by_score, best = curve.lines.values()
    assert list(by_score) == [2, 2.5, 3, 4]
    assert list(best) == [1, 2, 3, 4]
    assert curve.baselines == {"in random order": 4.0}


def test_only_what_a_pair_shares_has_a_colour_of_its_own() -> None:
    theirs = np.array([[0, 7], [9, 9]], np.uint8)
    carried = np.array([[7, 7], [0, 9]], np.uint8)
    own = np.array([[7, 0], [3, 0]], np.uint8)
    record = {"iou": {"background": 0.5, "cat": 0.25}}
    drawing = carried_drawing([(grey(1), theirs, grey(2), carried, own)], [record], {7: "cat", 9: "bowl", 3: "fork"})
    assert isinstance(drawing, Pictures)
    source, plain, guess, truth = drawing.rows[0].tiles
    assert drawing.legend == {1: "cat", 7: "other categories"}
    for tile, wanted in ((source, [[0, 1], [7, 7]]), (guess, [[1, 1], [0, 7]]), (truth, [[1, 0], [7, 0]])):
        assert tile.labels is not None
        assert tile.labels.tolist() == wanted
    assert plain.labels is None
    assert [int(t.picture[0, 0, 0]) for t in (source, plain, guess, truth)] == [1, 2, 2, 2]
    assert guess.details == ["IoU: background\u00a00.50, cat\u00a00.25"]
