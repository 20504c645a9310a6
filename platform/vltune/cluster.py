"""Where a search runs: a Ray of its own on this machine, or a cluster that is up; and how its room is shared."""

import math
import os
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vltune.contract import BadInput, Unreachable

SLOT_CPUS = 0.01
"""What Ray books for a slot's own actor, which only waits."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's default of 15 starves training beside anything else
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_V2_ENABLED": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read: the ledger is the truth
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_enable_metrics_collection": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_FOR_WORKERS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_V2_ENABLED", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS")


@dataclass(frozen=True)
class Shares:
    """How the room is shared among trials that run at the same time."""

    concurrent: int
    workers: int
    threads: int
    """Threads of each worker."""
    cpus_per_worker: float
    gpus_per_worker: float


def start(address: str | None) -> None:
    """Starts Ray on this machine, behind a token of its own, or joins the cluster at ``address``.

    Raises:
        Unreachable: no cluster answers at the address, or Ray does not start here.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if address is None:  # before the import: Ray reads these two while it is imported
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    options = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": {key: os.environ[key] for key in _FOR_WORKERS}},
    }
    if address is None:
        _start_here(options)
    else:
        _join(address, options)


def _start_here(options: dict[str, Any]) -> None:
    import ray

    for last in (False, True):  # on a machine that is very busy Ray gives up after 30 s
        try:
            ray.init("local", num_cpus=cpu_count(), include_dashboard=False, **options)
        except Exception as error:
            ray.shutdown()
            if last:
                reason = str(error).splitlines()[0][:200]
                raise Unreachable(f"Ray did not start on this machine: {reason}") from error
        else:
            return


def _join(address: str, options: dict[str, Any]) -> None:
    import ray

    if address.startswith("ray://"):
        raise BadInput("--address ray://… would move the ledger away: run on the head, with --address auto.")
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Unreachable(f"no Ray cluster answers at {address!r}: {reason}") from error


def stop() -> None:
    """Leaves the cluster; a Ray of our own ends with all its processes."""
    import ray

    ray.shutdown()


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(*, concurrent: int | None, workers: int, gpus_per_worker: float | None, threads: int | None = None) -> Shares:
    """Divides the cluster's room; what is None is chosen.

    Raises:
        BadInput: more is asked for than there is.
    """
    import ray

    room = ray.cluster_resources()
    cpus, gpus = int(room.get("CPU", 1)), room.get("GPU", 0.0)
    each = (1.0 if gpus else 0.0) if gpus_per_worker is None else gpus_per_worker
    if each % 1 and workers > 1:
        raise BadInput(f"--gpus-per-worker {each:g} shares a GPU: that goes with --workers 1, not {workers}.")
    if each * workers > gpus:
        raise BadInput(f"{workers} x {each:g} GPUs are wanted for each trial, but the cluster has {gpus:g}.")
    most = math.floor(gpus / (each * workers)) if each else None
    if concurrent is None:
        concurrent = most or max(1, min(8, cpus // workers))
    elif most is not None and concurrent > most:
        raise BadInput(f"--concurrent {concurrent} trials want {concurrent * workers * each:g} GPUs of {gpus:g}.")
    processes = concurrent * workers
    threads = threads or max(1, cpus // processes)
    free = (cpus - SLOT_CPUS * concurrent) / processes
    return Shares(concurrent, workers, threads, math.floor(min(threads, free) * 100) / 100, each)


def check_shared(storage: Path) -> None:
    """Makes sure that every node sees the storage folder.

    Raises:
        BadInput: one does not: checkpoints would stay where nobody finds them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    mark = storage / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    try:
        look = ray.remote(num_cpus=0)(_exists)
        found = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(mark)
            )
            for node in nodes
        ]
        seen = ray.get(found)
    finally:
        mark.unlink(missing_ok=True)
    blind = [node["NodeManagerAddress"] for node, sees in zip(nodes, seen, strict=True) if not sees]
    if blind:
        raise BadInput(
            f"the folder {storage} is not shared with {len(blind)} of {len(nodes)} nodes ({', '.join(blind[:3])}): "
            "give --storage a folder on a file system that all nodes mount."
        )


def _exists(path: str) -> bool:
    return Path(path).exists()
