"""The latency at batch 1: measured of every trial, at a bounded cost, and of the epoch that counts where it can be."""

from pathlib import Path
from typing import Any

import pytest
from families import Line, LineConfig

from tests.test_train import Killed, Watched
from vltune import checkpoints, latency
from vltune.contract import Record
from vltune.runtime import LocalRuntime
from vltune.train import Trial, fit


class Clock:
    """Counts predictions of one sample alone; each takes so much longer than the one before."""

    def __init__(self) -> None:
        self.alone, self.growth, self.now = 0, 0.02, 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, predict = Clock(), Line.predict

    def slowly(self: Line, batch: dict[str, Any]) -> list[Record]:
        if len(batch["ids"]) == 1:
            made.alone += 1
            made.now += made.growth * made.alone
        return predict(self, batch)

    monkeypatch.setattr(Line, "predict", slowly)
    monkeypatch.setattr(latency, "time", made)
    monkeypatch.setattr(checkpoints, "_flush", lambda path: None)
    monkeypatch.setattr("vltune.train.illustrate", lambda *_, **__: [])
    return made


def run(folder: Path, *, runtime: LocalRuntime | None = None, **fields: Any) -> list[float]:
    runtime = runtime or LocalRuntime(cache="")
    fit(Trial("t", Line, LineConfig(**fields), folder), runtime)
    return [report.metrics["latency_ms"] for report in runtime.reports]


def test_it_is_measured_once_and_kept_where_epochs_are_short(tmp_path: Path, clock: Clock) -> None:
    found = run(tmp_path, epochs=3)
    assert clock.alone == 13, "one that warms up and twelve, in the first of three epochs"
    assert found == pytest.approx([150] * 3), "the median of 40, 60, … 260 ms"


def test_a_slow_model_is_asked_three_times_and_no_more(tmp_path: Path, clock: Clock) -> None:
    clock.growth = 2.0
    found = run(tmp_path, epochs=2)
    assert clock.alone == 4
    assert found == pytest.approx([6000] * 2), "the median of 4, 6, 8 s"


def test_it_is_measured_anew_in_a_best_epoch_that_has_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.growth = 1e-6
    monkeypatch.setattr(latency, "LATER_SHARE", 1000.0)
    first, better, worse = run(tmp_path, epochs=3, script="3 2 5")
    assert clock.alone == 26
    assert better > first
    assert worse == better


def test_it_is_measured_in_every_epoch_on_request(tmp_path: Path, clock: Clock) -> None:
    clock.growth = 2.0
    first, second = run(tmp_path, epochs=2, script="1 2", measure_latency=True)
    assert clock.alone == 26
    assert second > first


def test_it_survives_a_kill(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(Killed):
        run(tmp_path, runtime=Watched(cache="", dies_after=1), epochs=2)
    assert run(tmp_path, epochs=2) == pytest.approx([150] * 2)
    assert clock.alone == 13
