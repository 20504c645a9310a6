"""What the machine does while a trial runs: its processors, memory and GPUs, sampled by a thread in the worker.

The names are those of MLflow's own monitor, less its ``system/``, so that its page shows them under "System metrics".
Nothing here can fail a trial: what cannot be read is left out.
"""

import contextlib
import functools
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch

INTERVAL = 5.0
"""Seconds between two samples; twice as many after each ``2 * MOST`` samples of one epoch, and so on."""

MOST = 20
"""Samples of one epoch that are told. Of a longer one neighbours are averaged."""

_SHORTEST = 0.5
"""Seconds that a share of the processors' time must be taken over to mean something."""

Reading = Mapping[str, float]


class ResourceMonitor:
    """Samples from ``start`` to ``stop``; what came since the last call is taken epoch by epoch.

    A sample has ``time`` (seconds since 1970) and

    - ``cpu_utilization_percentage``: of all processors of the machine since the sample before, whoever used them,
    - ``system_memory_usage_megabytes`` (10^6 bytes) and ``_percentage``: of the whole machine likewise,
    - ``worker_cpu_utilization_percentage``: of this process alone, of all processors of the machine,
    - ``worker_memory_usage_megabytes``: what of this process lies in memory,
    - for each GPU that this process sees, counted from 0 as torch does: ``gpu_0_utilization_percentage``,
      ``gpu_0_memory_usage_megabytes`` and ``_percentage``, ``gpu_0_power_usage_watts`` and ``_percentage`` (of its
      limit), as the driver tells of the whole GPU. Without NVIDIA's driver there are none of these.

    A trial on several nodes is sampled on that of rank 0.
    """

    def __init__(self, *, interval: float = INTERVAL, most: int = MOST) -> None:
        """Nothing is sampled before ``start``.

        Args:
            interval: seconds between two samples.
            most: samples that ``take`` gives at once, at most. At least 1.
        """
        self._interval, self._most = interval, most
        self._lock, self._over = threading.Lock(), threading.Event()
        self._samples: list[Reading] = []
        self._wide = 1
        self._group: list[Reading] = []
        self._process, self._at = psutil.Process(), time.monotonic()
        self._machine, self._own = (0.0, 0.0), 0.0
        with contextlib.suppress(Exception):
            self._machine, self._own = _busy(), self._used()
        self._thread = threading.Thread(target=self._run, name="vltune-resources", daemon=True)

    def __enter__(self) -> "ResourceMonitor":
        with contextlib.suppress(RuntimeError):  # the machine has no thread left; what `take` samples is there still
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def take(self) -> list[dict[str, float]]:
        """The samples since the last call, with one of now, in the order of their times; ``most`` at most."""
        with self._lock:
            self._sample()
            found = [*self._samples, *([_mean(self._group)] if self._group else [])]
            self._samples, self._group, self._wide = [], [], 1
        while len(found) > self._most:
            found = _halved(found)
        return [dict(sample) for sample in found]

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        now = time.monotonic()
        if now - self._at < min(_SHORTEST, self._interval):
            return
        with contextlib.suppress(Exception):  # drivers answer with zeros and nonsense too
            self._group.append(self._read(now))
        if len(self._group) >= self._wide:
            self._samples.append(_mean(self._group))
            self._group = []
        if len(self._samples) >= 2 * self._most:
            self._samples, self._wide = _halved(self._samples), 2 * self._wide

    def _used(self) -> float:
        """Seconds of processors that this process has used."""
        return sum(self._process.cpu_times()[:2])

    def _read(self, now: float) -> Reading:
        machine, own, memory = _busy(), self._used(), psutil.virtual_memory()
        busy, total = (new - old for new, old in zip(machine, self._machine, strict=True))
        spent, seconds = own - self._own, now - self._at
        self._machine, self._own, self._at = machine, own, now
        return {
            "time": time.time(),
            "cpu_utilization_percentage": 100 * busy / total if total else 0.0,
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "worker_cpu_utilization_percentage": 100 * spent / seconds / (psutil.cpu_count() or 1),
            "worker_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
            **gpu_readings(),
        }


def gpu_readings() -> Reading:
    """What NVIDIA's driver says of each GPU that this process sees; what it does not say is left out."""
    found: dict[str, float] = {}
    for number, handle in enumerate(_gpus(os.getpid())):
        import pynvml

        gpu = f"gpu_{number}"
        with contextlib.suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found[f"{gpu}_memory_usage_megabytes"] = int(memory.used) / 1e6
            found[f"{gpu}_memory_usage_percentage"] = 100 * int(memory.used) / int(memory.total)
        with contextlib.suppress(pynvml.NVMLError):
            found[f"{gpu}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with contextlib.suppress(pynvml.NVMLError):
            milliwatts = pynvml.nvmlDeviceGetPowerUsage(handle)
            found[f"{gpu}_power_usage_watts"] = milliwatts / 1000
            found[f"{gpu}_power_usage_percentage"] = 100 * milliwatts / pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
    return found


@functools.cache
def _gpus(pid: int) -> Sequence[Any]:  # noqa: ARG001 (a forked process opens its own)
    """NVML's handles of the GPUs that torch sees here: its own numbers know nothing of CUDA_VISIBLE_DEVICES."""
    if not torch.cuda.is_available():
        return ()
    import pynvml

    try:
        pynvml.nvmlInit()
        uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
        return [
            pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
            for uuid in uuids
        ]
    except (pynvml.NVMLError, RuntimeError):
        return ()


def _busy() -> tuple[float, float]:
    """Seconds that all processors of the machine have worked, and all seconds, since it was started."""
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # part of user and nice
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _halved(samples: Sequence[Reading]) -> list[Reading]:
    """Neighbours averaged, two by two."""
    return [_mean(samples[i : i + 2]) for i in range(0, len(samples), 2)]


def _mean(samples: Sequence[Reading]) -> Reading:
    """The mean of samples of equal length, key by key, and the time of the last one."""
    keys = dict.fromkeys(key for sample in samples for key in sample)
    means = {key: statistics.fmean(s[key] for s in samples if key in s) for key in keys}
    return {key: round(value, 1) for key, value in means.items()} | {"time": samples[-1]["time"]}
