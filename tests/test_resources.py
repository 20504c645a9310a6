"""What the machine does while a trial runs: samples that mean something, are few, and never in a trial's way."""

import importlib.util
import itertools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from families import Line, LineConfig

from tests.test_train import Killed, Watched
from vltune import checkpoints, resources
from vltune.contract import Record
from vltune.resources import ResourceMonitor, gpu_readings
from vltune.runtime import LocalRuntime
from vltune.train import Trial, fit


def test_a_sample_says_what_the_machine_and_this_process_do() -> None:
    with ResourceMonitor() as monitor:
        begin, before = time.monotonic(), time.process_time()
        while time.process_time() < before + 0.5:
            sum(range(1000))
        time.sleep(0.5)
        (sample,) = monitor.take()
        share = (time.process_time() - before) / (time.monotonic() - begin) / (os.cpu_count() or 1)
    assert abs(sample["time"] - time.time()) < 1
    assert sample["worker_cpu_utilization_percentage"] == pytest.approx(100 * share, rel=0.1)
    assert sample["cpu_utilization_percentage"] > 0.7 * sample["worker_cpu_utilization_percentage"]
    assert sample["cpu_utilization_percentage"] <= 100
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert sample["worker_memory_usage_megabytes"] == pytest.approx(resident, rel=0.1)
    total = psutil.virtual_memory().total / 1e6
    share = 100 * sample["system_memory_usage_megabytes"] / total
    assert sample["system_memory_usage_percentage"] == pytest.approx(share, abs=0.1)


def test_names_are_those_of_mlflow() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    theirs = CPUMonitor()
    theirs.collect_metrics()
    with ResourceMonitor(interval=0.01) as monitor:
        time.sleep(0.1)
        samples = monitor.take()
    assert set(theirs.aggregate_metrics()) <= set(samples[0])


def test_a_long_epoch_gives_few_samples_that_cover_it_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand seconds by a clock of our own, a sample each second, whose value is the number of the second."""
    now = 0.0

    def read(self: ResourceMonitor, at: float) -> dict[str, float]:
        self._at = at
        return {"time": at, "value": at}

    monkeypatch.setattr(resources, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(ResourceMonitor, "_read", read)
    monitor, most_kept = ResourceMonitor(interval=1.0, most=20), 0
    for _ in range(999):
        now += 1
        monitor._sample()
        most_kept = max(most_kept, len(monitor._samples) + len(monitor._group))
    now += 1
    samples = monitor.take()
    assert most_kept < 100, "what is kept meanwhile is bounded too"
    assert 10 <= len(samples) <= 20
    steps = [later["time"] - earlier["time"] for earlier, later in itertools.pairwise(samples)]
    assert samples[-1]["time"] == 1000
    assert max(steps) == pytest.approx(64)
    assert min(steps[:-1]) == 64
    assert samples[0]["value"] == pytest.approx(32.5), "the mean of the first 64"
    now += 1
    assert [sample["value"] for sample in monitor.take()] == [1001], "the next epoch begins anew"


def test_samples_follow_each_other_closely_enough_to_mean_something() -> None:
    with ResourceMonitor() as monitor:
        assert monitor.take() == []


def test_what_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise psutil.AccessDenied

    with ResourceMonitor(interval=0.01) as monitor:
        monkeypatch.setattr(psutil, "virtual_memory", gone)
        time.sleep(0.1)
        assert monitor.take() == []


# -- GPUs, as NVML tells of them


class NVMLError(Exception):
    pass


class Driver:
    """NVIDIA's driver on a machine with two GPUs, of which torch sees the second; its power cannot be read."""

    NVMLError = NVMLError

    def __init__(self, *, power: bool = True, there: bool = True) -> None:
        self.power, self.there, self.asked = power, there, []

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.there:
            raise NVMLError

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=4_000_000_000, total=16_000_000_000)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=71, memory=3)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        if not self.power:
            raise NVMLError
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:  # noqa: N802
        return 700_000


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(driver: Driver) -> Driver:
        monkeypatch.setitem(sys.modules, "pynvml", driver)  # pyright: ignore
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="second"))
        resources._gpus.cache_clear()
        return driver

    yield install
    resources._gpus.cache_clear()


def test_gpus_are_those_that_torch_sees_under_the_names_of_mlflow(gpus: Any) -> None:
    driver = gpus(Driver())
    assert gpu_readings() == {
        "gpu_0_memory_usage_megabytes": 4000.0,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_utilization_percentage": 71.0,
        "gpu_0_power_usage_watts": 350.0,
        "gpu_0_power_usage_percentage": 50.0,
    }
    assert driver.asked == ["GPU-second"]
    mlflow = importlib.util.find_spec("mlflow")  # its source will do: importing it takes seconds
    assert mlflow is not None
    text = Path(str(mlflow.origin)).with_name("system_metrics").joinpath("metrics", "gpu_monitor.py").read_text()
    assert all(f"gpu_{{i}}{key[5:]}" in text for key in gpu_readings())


def test_a_gpu_tells_what_it_can_and_a_machine_without_a_driver_nothing(gpus: Any) -> None:
    gpus(Driver(power=False))
    assert set(gpu_readings()) == {
        "gpu_0_memory_usage_megabytes",
        "gpu_0_memory_usage_percentage",
        "gpu_0_utilization_percentage",
    }
    gpus(Driver(there=False))
    assert gpu_readings() == {}


# -- in a trial


@pytest.fixture
def _slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are long enough for a sample each."""
    predict = Line.predict

    def slowly(self: Line, batch: dict[str, Any]) -> list[Record]:
        if len(batch["ids"]) > 1:
            time.sleep(0.06)
        return predict(self, batch)

    monkeypatch.setattr(Line, "predict", slowly)
    monkeypatch.setattr(resources, "_SHORTEST", 0.05)
    monkeypatch.setattr(checkpoints, "_flush", lambda path: None)


@pytest.mark.usefixtures("_slowly")
def test_reports_carry_samples_that_are_numbered_through_and_outlive_a_kill(tmp_path: Path) -> None:
    first = Watched(cache="", dies_after=2)
    with pytest.raises(Killed):
        fit(Trial("t", Line, LineConfig(epochs=4), tmp_path), first)
    second = LocalRuntime(cache="")
    fit(Trial("t", Line, LineConfig(epochs=4), tmp_path, known_epoch=1), second)
    reports = [*first.reports, *second.reports]
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    steps = [sample["step"] for report in reports for sample in report.resources]
    times = [sample["time"] for report in reports for sample in report.resources]
    assert all(report.resources for report in reports), "epoch 2 was told after the kill, with its samples"
    assert steps == list(range(len(steps)))
    assert times == sorted(times)
    assert not any(key.endswith("percentage") for report in reports for key in report.metrics)


@pytest.mark.usefixtures("_slowly")
def test_a_checkpoint_holds_the_samples_of_its_own_epoch_alone(tmp_path: Path) -> None:
    fit(Trial("t", Line, LineConfig(epochs=3, script="3 2 1"), tmp_path), LocalRuntime(cache=""))
    (folder,) = (tmp_path / "checkpoints").iterdir()
    reports = checkpoints.Checkpoint(folder, 3).read_json(checkpoints.STATE)["reports"]
    assert [bool(report["resources"]) for report in reports] == [False, False, True]


def test_no_thread_stays(tmp_path: Path) -> None:
    import threading

    fit(Trial("t", Line, LineConfig(epochs=1), tmp_path), LocalRuntime(cache=""))
    deadline = time.monotonic() + 2
    while any(thread.name == "vltune-resources" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("error", [ZeroDivisionError("a limit of no watts"), ValueError("not a number"), KeyError("x")])
def test_nothing_that_a_driver_answers_fails_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    for place, name in ((resources, "_busy"), (resources, "gpu_readings"), (ResourceMonitor, "_used")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fails)
            patch.setattr(resources, "_SHORTEST", 0.0)
            runtime = LocalRuntime(cache="")
            fit(Trial("t", Line, LineConfig.from_fields({"epochs": 2}), tmp_path / name), runtime)
        assert [report.resources for report in runtime.reports] == [[], []]
