import dataclasses
import io
import math
import random
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.test_compare import measured, run, table
from vltune.compare import BEST
from vltune.console import as_text
from vltune.contract import EpochReport
from vltune.progress import Progress


def report(epoch, **metrics):
    return EpochReport(epoch=epoch, metrics=metrics, time=0.0, last=False, best=False)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def searched(count):
    rng = random.Random(0)
    rows = [
        run(
            "",
            rng.random(),
            rng.uniform(1, 5),
            uid=f"{i:08x}",
            heads=rng.choice([2, 4, 8]),
            learning_rate=rng.uniform(1e-4, 1e-2),
            decoder=rng.choice(["lstm", "gru", "transformer"]),
            loss=rng.choice(["focal", "cross_entropy", "kl_divergence"]),
            state=rng.choice(["finished", "pruned"]),
        )
        for i in range(count)
    ]
    rows.append(run("a rather long name, with words in it and 犬 in it", state="failed", error="no memory " * 9))
    return table(rows, base_row="a rather long name")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("color", [False, True])
def test_no_line_is_longer_than_the_terminal(width, color):
    text = as_text(searched(12), width=width, color=color)
    assert ("\x1b[" in text) is color
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert max(cell_len(line) for line in plain.splitlines()) <= width
    assert "cider" in plain


def test_a_narrow_table_says_what_it_leaves_out_and_never_cuts_a_number():
    made = searched(6)
    text = as_text(made, width=50)
    assert "Left out for want of width: time, epochs, parameters" in " ".join(text.split())
    best = max(value for value in made.column("cider") if isinstance(value, float) and math.isfinite(value))
    assert f"{best:.4f} {BEST}" in text
    assert "Left out" not in as_text(made, width=200)


def test_a_table_that_fits_keeps_a_column_for_each_parameter():
    rows = [run("", 0.1, 1.0, heads=2, uid="aa"), run("", 0.2, 1.0, heads=8, loss="kl", uid="bb")]
    assert as_text(table(rows), width=100).splitlines()[0].split() == [
        *("name", "heads", "loss", "epochs", "cider", "val_loss", "parameters", "time")
    ]


def test_a_narrow_table_keeps_the_objective_on_the_test_split():
    rows = [run("a", 0.5, 1.0), run("b", 0.4, 2.0)]
    rows = [
        dataclasses.replace(row, metrics=row.metrics | {"test_cider": 0.4321, "test_val_loss": 3.0}) for row in rows
    ]
    directions = {"cider": "max", "test_cider": "max", "val_loss": "min", "test_val_loss": "min"}
    text = as_text(table(rows, directions=directions, columns=[*directions]), width=36)
    assert "0.4321" in text
    assert "test_val_loss" in text.split("Left out")[1]


@pytest.mark.parametrize("name", ["captioning_rnn-004", "Student's t, df 3"])
def test_names_are_readable_before_there_are_many_numbers(name):
    rows = [run(name, 0.5, 1.0), run("b", 0.4, 2.0)]
    rows = [dataclasses.replace(row, metrics=row.metrics | {f"bleu_{n}": 0.5 for n in range(9)}) for row in rows]
    directions = {"cider": "max", "val_loss": "min"} | {f"bleu_{n}": "max" for n in range(9)}
    text = as_text(table(rows, directions=directions, columns=[*directions]), width=80)
    assert name in text
    assert "bleu_8" in text.split("Left out")[1]


def test_a_narrow_table_keeps_its_objectives_longest():
    rows = [measured(name, value, size) for name, value, size in (("large", 0.9, 2_000_000), ("small", 0.5, 1_000))]
    made = table(rows, further_objectives=("parameters", "latency_ms"), columns=("cider", "val_loss"))
    text = as_text(made, width=48)
    assert "Left out for want of width: time, epochs, val_loss." in " ".join(text.split())
    assert "1.00 k ●" in text
    assert text.count("◆") == 3, "two rows and the note"


def test_equal_remarks_are_said_once():
    rows = [run(name, 0.5, 1.0, state="pruned", epochs=2) for name in ("one", "two")]
    text = as_text(table([run("good", 0.9, 1.0), *rows]))
    assert "one, two: pruned after epoch 2\n" in text


def feed(progress, clock):
    progress.start(4, objective="cider", direction="max")
    progress.trial_started("u1", "base", {"heads": 4, "learning_rate": 0.00123456}, 2)
    clock.now = 10.0
    progress.epoch("u1", report(1, cider=0.5, val_loss=3.25, samples_per_second=412.4))
    progress.epoch("u1", report(2, cider=0.4, val_loss=3.0))
    clock.now = 20.0
    progress.trial_ended("u1", "finished")
    progress.trial_started("toy-003", "", {}, 4)
    progress.epoch("toy-003", report(2, cider=0.75, val_loss=2.0))
    progress.trial_ended("toy-003", "failed", "no memory\nleft \x1b[31m")
    progress.close()


def test_without_a_terminal_there_is_a_line_for_each_event(capsys):
    out, clock = io.StringIO(), Clock()
    feed(Progress(file=out, clock=clock), clock)
    assert out.getvalue().splitlines() == [
        "base: started with heads=4 learning_rate=0.001235",
        "base: epoch 1/2, cider 0.5, val_loss 3.25, 412 samples/s; 0/4 trials, best cider 0.5 (base)",
        "base: epoch 2/2, cider 0.4, val_loss 3; 0/4 trials, best cider 0.5 (base)",
        "base: finished; 1/4 trials, best cider 0.5 (base), 1 m 00 s left",
        "toy-003: started",
        # one trial and a half in 20 s, two and a half to go
        "toy-003: epoch 2/4, cider 0.75, val_loss 2; 1/4 trials, best cider 0.75 (toy-003), 33 s left",
        "toy-003: failed: no memory left [31m; 2/4 trials, 1 failed, best cider 0.75 (toy-003), 20 s left",
    ]
    assert capsys.readouterr() == ("", "")


def test_a_search_that_goes_on_counts_what_it_finished_before_but_not_in_the_speed():
    clock = Clock()
    progress = Progress(file=io.StringIO(), clock=clock)
    progress.start(10, objective="val_loss", direction="min", finished=7, best=1.5)
    assert progress.seconds_left is None
    progress.trial_started("u", "x", {}, 5)
    progress.epoch("u", report(1, val_loss=2.0))
    assert progress.best == 1.5
    clock.now = 30.0
    progress.trial_ended("u", "pruned")
    assert progress.seconds_left == pytest.approx(60.0)


@pytest.mark.parametrize("width", [24, 50, 70, 120])
def test_in_a_terminal_the_picture_fits(width, capsys):
    out, clock = io.StringIO(), Clock()
    progress = Progress(file=out, terminal=True, width=width, clock=clock)
    progress.start(3, objective="cider", direction="max")
    for number in range(3):
        progress.trial_started(
            f"u{number}", f"a name that is quite long {number}", {"learning_rate": 0.001} | {"x" * 60: 1}, 9
        )
    progress.epoch("u0", report(3, cider=0.5, val_loss=3.0, samples_per_second=99.0))
    drawn = Console(file=io.StringIO(), width=width, record=True)
    drawn.print(progress._picture())
    lines = drawn.export_text().splitlines()
    progress.close()
    assert max(map(cell_len, lines)) <= width
    assert "0.5" in "".join(lines)
    assert "3/9" in "".join(lines)
    assert "\x1b[" in out.getvalue()
    assert capsys.readouterr().out == ""


def test_a_trial_that_trains_nothing_has_no_epochs_to_count():
    out = io.StringIO()
    with Progress(file=out) as progress:
        progress.start(1, objective="cider", direction="max")
        progress.trial_started("u", "beam", {}, 0)
        progress.epoch("u", report(0, cider=0.5))
        progress.trial_ended("u", "finished")
    assert "beam: scored, cider 0.5; 0/1 trials" in out.getvalue()
    assert "0/0" not in out.getvalue()
    assert " left" not in out.getvalue(), "nothing is"


def test_a_failure_stays_visible_above_the_live_table():
    out = io.StringIO()
    with Progress(file=out, terminal=True, width=80) as progress:
        progress.start(2, objective="cider", direction="max")
        progress.trial_started("u", "base", {}, 3)
        progress.trial_ended("u", "failed", "no memory left")
    assert "base: failed: no memory left" in out.getvalue()


def test_the_start_up_is_no_part_of_the_time_left():
    clock = Clock()
    progress = Progress(file=io.StringIO(), clock=clock)
    progress.start(3, objective="cider", direction="max")
    progress.trial_started("toy-000", "", {}, 1)
    clock.now = 100.0  # Ray took its time
    progress.epoch("toy-000", report(1, cider=0.5, train_seconds=8.0, evaluate_seconds=2.0))
    progress.trial_ended("toy-000", "finished")
    assert progress.seconds_left == pytest.approx(20.0)
