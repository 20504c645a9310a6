import dataclasses
import io
import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from tests.test_compare import measured, run, table
from vltune import figures
from vltune.errors import BadInput
from vltune.gallery import GalleryItem


def png(figure):
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def assert_apart(figure, items):
    renderer = figure.canvas.get_renderer()
    # an annotation's own box would hold its line too
    boxes = [Text.get_window_extent(item, renderer) for item in items]
    width, height = figure.get_size_inches() * figure.dpi
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height
        for other in boxes[:number]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1)


def test_the_table_s_words_and_numbers_stand_in_the_picture_without_touching():
    rows = [
        run("base", 0.5, 2.0, decoder="gru"),
        run("a long name that has to go over two lines", 0.75, 1.5),
        run("bad", state="failed", error="no memory"),
    ]
    figure = figures.table_picture(table(rows, base_row="base", group_by="decoder"))
    assert png(figure).startswith(b"\x89PNG")
    words = {text.replace("\n", " ") for text in texts(figure)}
    assert {
        "0.7500",
        "0.5000",
        "1.500",
        "+50.00",
        "failed: no memory",
        "a long name that has to go over two lines",
    } <= words
    assert_apart(figure, [text for text in figure.axes[0].texts if text.get_text()])


def test_curves_are_drawn_as_given_and_their_labels_do_not_overlap():
    histories = {f"trial {i}": [(1, 3.0), (2, 2.0 + i * 1e-3), (3, math.nan)] for i in range(6)}
    figure = figures.learning_curves(histories, "val_loss")
    png(figure)
    drawn = {tuple(line.get_ydata()) for line in figure.axes[0].lines}
    assert drawn == {(3.0, 2.0 + i * 1e-3) for i in range(6)}
    assert sorted(texts(figure)) == sorted(histories)
    assert_apart(figure, figure.axes[0].texts)


def test_of_many_curves_the_first_are_named():
    figure = figures.learning_curves({f"t{i}": [(1, float(i)), (2, i + 1.0)] for i in range(20)}, "cider")
    assert set(texts(figure)) == {f"t{i}" for i in range(8)}
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["12 other trials"]


def test_a_single_epoch_is_a_dot():
    figure = figures.learning_curves({"only": [(0, 1.0)]}, "cider")
    assert figure.axes[0].lines[0].get_marker() == "o"
    assert png(figure)


def test_histograms_hold_every_value_once():
    stats = {"widths": [10, 20, 20, 500], "heights": [10, 10, 30, 400], "caption_lengths": {2: 2, 3: 1, 5: 1}}
    figure = figures.caption_lengths(stats)
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in figure.axes[0].patches}
    assert heights == {2: 2, 3: 1, 4: 0, 5: 1}
    assert "median 2" in texts(figure)[0]
    legend = figures.picture_sizes(stats).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["width: median 20, 10 to 500", "height: median 20, 10 to 400"]


def test_very_long_captions_share_the_last_bar():
    figure = figures.caption_lengths({"caption_lengths": {"5": 500, "6": 500, "900": 1}})
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 1001
    assert len(figure.axes[0].patches) < 10
    assert "1 longer" in figure.axes[0].get_xlabel()


def test_parameters_are_drawn_on_a_scale_that_fits_them():
    rows = [
        run(
            "", value, 1.0, uid=f"u{i}", learning_rate=10.0 ** -(i % 5), heads=2 * i, decoder="gru" if i % 2 else "lstm"
        )
        for i, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5, math.nan])
    ]
    asked = ("learning_rate", "heads", "decoder")
    rows = [dataclasses.replace(row, searched=asked) for row in rows]
    elsewhere = dataclasses.replace(rows[0], searched=asked[::2])  # a branch without heads
    figure = figures.metric_against_parameters([*rows, elsewhere], asked, "cider")
    assert [axes.get_xlabel() for axes in figure.axes] == ["learning_rate", "heads", "decoder"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["gru", "lstm"]
    points = np.concatenate([c.get_offsets() for c in figure.axes[1].collections])
    assert points.tolist() == [[0, 0.1], [2, 0.2], [4, 0.3], [6, 0.4], [8, 0.5]]


def test_fronts_are_joined_and_named():
    rows = [measured(f"row {i}", value, size, speed) for i, (value, size, speed) in enumerate(POINTS)]
    rows.append(measured("broken", 5.0, 1, state="failed"))
    rows.append(measured("unmeasured", 5.0, 1, math.nan))
    figure = figures.pareto_fronts(rows, {"cider": "max", "parameters": "min", "latency_ms": "min"})
    left, right = figure.axes
    assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
    assert left.lines[0].get_xydata().tolist() == [[1e3, 0.1], [1e4, 0.5], [1e6, 0.9]]
    assert right.lines[0].get_xydata().tolist() == [[1.0, 0.4], [2.0, 0.9]]
    drawn = {tuple(c.get_offsets()[0]): to_hex(c.get_facecolor()[0]) for c in left.collections}
    assert {point for point, color in drawn.items() if color != "#ffffff"} == {
        *((1e3, 0.1), (1e4, 0.5), (1e6, 0.9), (2e6, 0.4))
    }
    assert len(drawn) == len(POINTS)
    assert {text.get_text() for text in left.texts} == {"row 0", "row 1", "row 2", "row 4"}
    assert png(figure)
    for axes in figure.axes:
        assert_apart(figure, axes.texts)


POINTS = [(0.1, 1e3, 9.0), (0.5, 1e4, 3.0), (0.9, 1e6, 2.0), (0.4, 1e5, 4.0), (0.4, 2e6, 1.0)]


def test_many_names_are_left_out_rather_than_drawn_over_each_other():
    rows = [measured(f"a name of some length {i}", 0.5 + i * 1e-3, 1000 + i) for i in range(30)]
    figure = figures.pareto_fronts(rows, {"cider": "max", "parameters": "min"})
    png(figure)
    assert 0 < len(figure.axes[0].texts) < 30
    assert_apart(figure, figure.axes[0].texts)


def test_a_gallery_shows_every_picture_with_its_captions():
    picture = np.zeros((30, 40, 3), np.uint8)
    item = GalleryItem(picture, {"lstm": "a dog for $5 or $6", "gru": ""}, ("A dog that runs " * 5,))
    figure = figures.captions_gallery({"Best": [item] * 4})
    assert png(figure)
    assert len([axes for axes in figure.axes if axes.images]) == 4
    words = texts(figure)
    assert words.count("lstm") == 4
    assert words.count("Best") == 1
    assert words.count(r"a dog for \$5 or \$6") == 4
    assert words.count("(empty)") == 4
    assert_apart(figure, [text for axes in figure.axes for text in axes.texts])


def test_nothing_to_draw_is_said():
    for draw in (
        lambda: figures.learning_curves({"a": [(1, math.nan)]}, "cider"),
        lambda: figures.caption_lengths({"caption_lengths": {}}),
        lambda: figures.picture_sizes({}),
        lambda: figures.metric_against_parameters([run("a")], ["heads"], "cider"),
        lambda: figures.captions_gallery({}),
        lambda: figures.pareto_fronts([run("a", 1.0)], {"cider": "max"}),
        lambda: figures.pareto_fronts([run("a", 1.0)], {"cider": "max", "parameters": "min"}),
    ):
        with pytest.raises(BadInput):
            draw()


def test_colours_stay_apart_for_people_who_see_fewer():
    # Machado et al. 2009, full deuteranomaly and protanomaly, on linear RGB
    matrices = (
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    )
    colours = np.array([[int(to_hex(c)[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in figures.PALETTE])
    for matrix in matrices:
        seen = np.clip((colours**2.2) @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert distances[~np.eye(len(colours), dtype=bool)].min() > 0.1
