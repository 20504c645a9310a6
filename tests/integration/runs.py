"""What the tests of whole runs share: the command in a process of its own, and a look at what it left."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vltune.checkpoints import sha256
from vltune.ledger import Ledger
from vltune.summary import best_report, checkpoint_folder

TOY = Path(__file__).with_name("toy_search.py")
TIMES = ("train_seconds", "training_seconds", "evaluate_seconds", "samples_per_second", "peak_memory_mb", "latency_ms")


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Starts ``vltune`` in a folder, with what it says on stderr kept in a file ``said.txt`` there."""
    command = [sys.executable, "-m", "vltune.cli", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "160"}
    with (cwd / "said.txt").open("a") as said:
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=said, text=True)


def run(*arguments: object, cwd: Path, timeout: float = 480) -> tuple[int, str]:
    """Runs ``vltune`` to its end; returns its exit code and what it said on stdout."""
    process = start(*arguments, cwd=cwd)
    out, _ = process.communicate(timeout=timeout)
    return process.returncode, out


def said(cwd: Path) -> str:
    """What all commands in this folder said on stderr."""
    return (cwd / "said.txt").read_text()


def wait_for(
    condition: Callable[[], object], *, driver: subprocess.Popen[str], timeout: float = 240, what: str
) -> None:
    """Looks again and again until something is true, as long as the driver lives."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert driver.poll() is None, f"the driver ended with {driver.returncode} before {what} was true"
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout} s"
        time.sleep(0.05)


def history(storage: Path, uid: str) -> list[dict[str, float]]:
    """The metrics of a trial's epochs but for time and memory."""
    reports = Ledger.of(storage).epochs(uid)
    return [{key: value for key, value in r.metrics.items() if key not in TIMES} for r in reports]


def weights(storage: Path, uid: str) -> str:
    """Hash of the weights of a trial's best epoch."""
    ledger = Ledger.of(storage)
    trial, best = ledger.trial(uid), best_report(ledger.epochs(uid))
    assert best is not None
    return sha256(checkpoint_folder(storage, trial, best) / "model.safetensors")
