"""Figures of drawings: what is in the data stands in the figure, and nothing covers anything else."""

import io
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from tests.test_figures import assert_apart
from vltune.canvas import PALETTE
from vltune.drawings import Curve, Drawing, Matrix, Pictures, Points, Row, Tile
from vltune.trial_figures import draw

HEAD = {"name": "a", "title": "A title", "reads": "A sentence that says how to read it, " * 4}
LONG = "a caption that is so long that it has to go over a number of lines, and costs $5 or $6"


def picture(colour: tuple[int, int, int] = (200, 100, 50), side: int = 24) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def pixels(figure: Figure) -> np.ndarray:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(out, dpi=100)
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB"))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


def written(figure: Figure) -> None:
    """Title and sentence are there, and no text touches another one or leaves the figure."""
    pixels(figure)
    assert texts(figure)[0] == "A title"
    assert "A sentence" in texts(figure)[1]
    assert_apart(figure, [text for axes in figure.axes for text in axes.texts if text.get_text()])


def test_counts_are_written_with_their_share_of_the_row() -> None:
    counts = np.array([[3, 1], [0, 0]])
    matrix = Matrix(
        rows=["yes", "no"],
        columns=["yes", "no"],
        values=counts,
        row_title="is",
        column_title="said",
        counts=True,
        **HEAD,
    )
    figure = draw(matrix)
    written(figure)
    assert {"3\n75%", "1\n25%", "0\n0%", "is", "said"} <= set(texts(figure))


@pytest.mark.parametrize("pictures", [False, True])
def test_many_long_names_stay_apart(pictures: bool) -> None:
    names = [f"{LONG} {i}" for i in range(20)]
    values = np.random.default_rng(0).normal(size=(20, 20))
    shown = [picture()] * 20 if pictures else []
    figure = draw(
        Matrix(
            rows=names,
            columns=names,
            values=values,
            row_title="picture",
            column_title="caption",
            row_pictures=shown,
            marked=[(i, i) for i in range(20)],
            **HEAD,
        )
    )
    pixels(figure)
    upright = [t for axes in figure.axes for t in axes.texts if t.get_text() and t.get_rotation() == 0]
    assert_apart(figure, upright)
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert len([image for axes in figure.axes for image in axes.images]) == 2 + 20 * pictures


def test_curves_and_their_levels_are_drawn_as_given() -> None:
    curve = Curve(
        x=[1, 2, 3], x_title="rank", lines={"one": [3.0, 2.0, 1.0]}, y_title="error", baselines={"chance": 2.5}, **HEAD
    )
    figure = draw(curve)
    written(figure)
    axes = figure.axes[1]
    assert axes.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert set(axes.lines[1].get_ydata()) == {2.5}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "chance"]


def test_groups_of_points_keep_their_places_in_every_panel() -> None:
    points = np.arange(12.0).reshape(6, 2)
    groups = {"pictures": points, "texts": points[::-1] + 1}
    figure = draw(Points(panels={"first": groups, "second": groups}, **HEAD))
    written(figure)
    for axes in figure.axes[1:]:
        drawn = [collection.get_offsets() for collection in axes.collections]
        np.testing.assert_array_equal(np.stack(drawn), np.stack([*groups.values()]))
    assert [axes.get_title() for axes in figure.axes[1:]] == ["first", "second"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pictures", "texts"]


def test_texts_of_tiles_stand_below_them_without_touching() -> None:
    tile = Tile(picture=picture(), heading=LONG, text=LONG, details=[LONG, LONG], mark="right")
    wrong = Tile(picture=picture(), text="short", mark="wrong")
    figure = draw(Pictures(rows=[Row(tiles=[tile] * 5, title=LONG), Row(tiles=[wrong])], **HEAD))
    written(figure)
    shown = " ".join(texts(figure))
    assert shown.count("✓ a caption") == 5
    assert "✗ short" in shown
    assert "costs $5" in shown


def test_a_picture_shows_where_its_heat_is() -> None:
    heat = np.zeros((2, 2))
    heat[0, 1] = 1.0
    figure = draw(Pictures(rows=[Row(tiles=[Tile(picture=picture((250, 10, 10)), heat=heat)])], **HEAD))
    image = figure.axes[0].images[0].get_array()
    height, width, _ = image.shape
    assert np.abs(image[height // 8, -width // 8].astype(int) - (250, 10, 10)).max() < 10
    cold = image[-height // 8, width // 8].astype(int)
    assert cold.max() - cold.min() < 10, "grey"


def test_even_heat_does_not_look_like_heat_in_one_place() -> None:
    even = np.full((4, 4), 1 / 16)
    figure = draw(Pictures(rows=[Row(tiles=[Tile(picture=picture((250, 10, 10)), heat=even)])], **HEAD))
    shown = figure.axes[0].images[0].get_array()[50, 50].astype(int)
    assert shown[0] - shown[1] < 0.3 * 240, "a quarter of the colour"


def test_labels_lie_over_the_picture_in_the_legend_s_colours() -> None:
    labels = np.zeros((24, 24), np.uint8)
    labels[:12], labels[12:, 12:] = 1, 2
    tile = Tile(picture=picture((0, 0, 0)), labels=labels)
    figure = draw(Pictures(rows=[Row(tiles=[tile])], legend={1: "cat", 2: "dog"}, **HEAD))
    written(figure)
    assert {"cat", "dog"} <= set(texts(figure))
    image = figure.axes[0].images[0].get_array()
    for (row, column), label in {(20, 20): 1, (-20, -20): 2}.items():
        np.testing.assert_allclose(image[row, column], 0.65 * 255 * np.array(to_rgb(PALETTE[label - 1])), atol=1)
    assert image[-20, 20].max() == 0


def test_lines_lead_from_place_to_place() -> None:
    lines = np.array([[0.0, 0.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5, 99.0]])
    tile = Tile(picture=picture(), other=picture(side=48), lines=lines)
    figure = draw(Pictures(rows=[Row(tiles=[tile, tile])], scale="error", scale_end=25.0, **HEAD))
    written(figure)
    axes = figure.axes[0]
    boxes = [image.get_extent() for image in axes.images[:2]]
    (x, right, bottom, top), (x2, right2, bottom2, top2) = boxes
    first, second = axes.collections[1].get_segments()
    np.testing.assert_allclose(first, [[x, top], [right2, bottom2]])
    np.testing.assert_allclose(
        second, [[(x + right) / 2, (top + bottom) / 2], [(x2 + right2) / 2, (top2 + bottom2) / 2]]
    )
    good, bad = axes.collections[1].get_colors()
    np.testing.assert_allclose(good[:3], to_rgb(PALETTE[0]), atol=0.01)
    np.testing.assert_allclose(bad[:3], to_rgb(PALETTE[1]), atol=0.01)
    assert "25 or more: error" in texts(figure)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Drawing(name="../a", title="", reads=""),
        lambda: Matrix(rows=["a"], columns=["b"], values=np.zeros((2, 1)), row_title="", column_title="", **HEAD),
        lambda: Curve(x=[1, 2], x_title="", lines={"a": [1.0]}, y_title="", **HEAD),
        lambda: Points(panels={"a": {"b": np.zeros((3, 3))}}, **HEAD),
        lambda: Pictures(rows=[], **HEAD),
    ],
)
def test_a_drawing_that_contradicts_itself_is_a_bug(wrong) -> None:
    with pytest.raises(AssertionError):
        wrong()
