"""What differs between processors: where batches go, how sums are kept, how much memory was used."""

import contextlib
import resource
from pathlib import Path

import torch

from vltune.contract import Batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def wide(device: torch.device) -> torch.device:
    """Where sums are kept in float64: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


def cpu_has_bf16() -> bool:
    """Whether bf16 is computed by the processor itself."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(name in flags.read_text() for name in ("avx512_bf16", "amx_bf16", " bf16"))


def leaves_process_sound(error: Exception) -> bool:
    """Whether the next trial may run in this process: not after an error of the device, which poisons its context."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return not isinstance(error, torch.AcceleratorError) and "CUDA error" not in str(error)


def reset_peak_memory() -> None:
    """Lets ``peak_memory`` of this process count from here."""
    with contextlib.suppress(OSError):  # Linux only; elsewhere the figure is the process's since its start
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Highest memory use of the trial in MiB: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
