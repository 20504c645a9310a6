"""Trials at the same budget, from reports made by hand."""

import pytest

from vltune.budgets import Budget, reached
from vltune.contract import EpochReport

SECONDS = Budget("training_seconds", 25.0)


def reports(values: list[float], *, each: float = 10.0) -> list[EpochReport]:
    return [
        EpochReport(
            epoch=epoch,
            metrics={"loss": value, "training_seconds": each * epoch, "samples_seen": 100 * epoch},
            time=0.0,
            last=epoch == len(values),
            best=False,
        )
        for epoch, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(("direction", "best"), [("min", 2), ("max", 1)])
def test_the_best_of_those_that_ended_within_it(direction: str, best: int) -> None:
    found = reached(reports([3.0, 2.0, 1.0, 9.0]), SECONDS, objective="loss", direction=direction)  # pyright: ignore
    assert [report.epoch for report in found.epochs] == [1, 2]
    assert found.best is not None
    assert found.best.epoch == best
    assert found.remark == ""


def test_an_epoch_that_ends_exactly_then_counts() -> None:
    found = reached(reports([3.0, 2.0, 1.0]), Budget("samples_seen", 200), objective="loss", direction="min")
    assert found.best is not None
    assert (found.best.epoch, found.remark) == (2, "")


def test_who_never_got_there_says_so() -> None:
    short = reached(reports([3.0, 2.0]), SECONDS, objective="loss", direction="min")
    assert short.best is not None
    assert (short.best.epoch, short.remark) == (2, "ended at 20 s, within the budget")
    runs = reached(reports([3.0]), Budget("samples_seen", 5000), objective="loss", direction="min", ended=False)
    assert runs.remark == "has come to 100 samples, within the budget"
    slow = reached(reports([3.0, 2.0], each=60.0), SECONDS, objective="loss", direction="min")
    assert (slow.best, slow.epochs) == (None, [])
    assert slow.remark == "its first epoch ended at 1 m 00 s, beyond the budget"


def test_what_came_before_a_segment_counts() -> None:
    found = reached(reports([3.0, 2.0]), SECONDS, objective="loss", direction="min", before=14.0)
    assert [report.epoch for report in found.epochs] == [1]


def test_what_was_not_recorded_is_said() -> None:
    old = [EpochReport(epoch=1, metrics={"loss": 1.0}, time=0.0, last=True, best=True)]
    found = reached(old, Budget("samples_seen", 10), objective="loss", direction="min")
    assert (found.best, found.remark) == (None, "samples_seen was not recorded")


def test_notes() -> None:
    assert SECONDS.note().endswith("ended within 25 s of training; evaluation is not counted.")
    assert Budget("samples_seen", 12_000).note().endswith("ended within 12.0 k samples.")
