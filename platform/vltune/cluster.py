"""Where a search runs: a Ray of its own on this machine, or a cluster that is up; and how its room is shared."""

import contextlib
import math
import os
import platform
import secrets
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vltune.errors import BadInput, Unreachable

SLOT_CPUS = 0.01
"""What Ray books for a slot's own actor, which only waits."""

_CENTS = 100
"""Ray's CPUs are shared out in hundredths."""

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
    if address.startswith("ray://"):
        raise BadInput("--address ray://… would move the ledger away: run on the head, with --address auto.")
    _knock(address)
    import ray

    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Unreachable(f"no Ray cluster answers at {address!r}: {reason}") from error


def _knock(address: str) -> None:
    """Makes sure that something listens: Ray itself would try for many minutes before it says so."""
    place = address
    if address == "auto":  # as Ray finds it: the environment, else what `ray start` left on this machine
        left = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108 (Ray's place)
        place = os.environ.get("RAY_ADDRESS") or (left.read_text().strip() if left.is_file() else "")
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        return  # Ray says what is wrong with it, or that nothing was started here
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise Unreachable(f"no Ray cluster answers at {address!r}: {place}: {error}") from error


def stop() -> None:
    """Leaves the cluster; a Ray of our own ends with all its processes."""
    import ray

    ray.shutdown()


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Host:
    """A node that workers may run on."""

    cpus: int
    places: int
    """So many workers at most: as many as its GPUs take, or one for each hundredth of its CPUs."""


def wanted_gpus(gpus_per_worker: float | None, *, workers: int, there: float, joined: bool) -> float:
    """GPUs of each worker; None: one, if there is one.

    Args:
        gpus_per_worker: what a person asked for.
        workers: of each trial.
        there: GPUs of this machine, or those that the cluster has now.
        joined: whether it is a cluster, where more GPUs may come when they are asked for.

    Raises:
        BadInput: a GPU cannot be shared so; there are fewer, and no more will come; or nobody asked for that many.
    """
    each = float(there > 0) if gpus_per_worker is None else gpus_per_worker
    if each % 1 and workers > 1:
        raise BadInput(f"--gpus-per-worker {each:g} shares a GPU: that goes with --workers 1, not {workers}.")
    if each * workers > there and gpus_per_worker is None:
        where, more = ("the cluster", " now"), "--gpus-per-worker 1 to wait for more, or 0 to train on CPUs"
        if not joined:
            where, more = ("this machine", ""), "--gpus-per-worker 0 to train on CPUs"
        raise BadInput(
            f"--workers {workers} would take a GPU each, but {where[0]} has {there:g}{where[1]}: give {more}; with "
            "--workers 1 a trial may also share one (--gpus-per-worker 0.5)."
        )
    if each * workers > there and not joined:
        raise BadInput(
            f"--workers {workers} with --gpus-per-worker {each:g} want {each * workers:g} GPUs for each trial, but "
            f"this machine has {there:g}; ask for fewer, or join a cluster with --address auto."
        )
    return each


def share(
    *,
    concurrent: int | None,
    workers: int,
    gpus_per_worker: float | None,
    threads: int | None = None,
    joined: bool = False,
    say: Callable[[str], None] | None = None,
) -> Shares:
    """Divides the room of the nodes that are up; what is None is chosen.

    What a worker books fits on a node with all others of the search beside it: a request that no node can meet would
    wait for ever. A cluster that was joined may grow: GPUs that were asked for by name are waited for.

    Args:
        concurrent: trials at the same time.
        workers: of each trial.
        gpus_per_worker: may be a fraction with one worker.
        threads: of each worker.
        joined: whether this is a cluster that somebody else started.
        say: hears what a person should know of the choice, in one line.

    Raises:
        BadInput: more is asked for than there is.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    each = wanted_gpus(gpus_per_worker, workers=workers, there=gpus, joined=joined)
    if each:
        hosts = [_Host(int(node.get("CPU", 0)), math.floor(node.get("GPU", 0.0) / each)) for node in nodes]
    else:
        hosts = [_Host(int(node.get("CPU", 0)), int(node.get("CPU", 0)) * _CENTS) for node in nodes]
    hosts = [host for host in hosts if host.cpus and host.places]
    cpus, places = sum(host.cpus for host in hosts), sum(host.places for host in hosts)
    fitting = places // workers
    if concurrent is None:
        concurrent = max(1, fitting if each else min(8, cpus // workers))
    elif each and concurrent > fitting and not joined:
        raise BadInput(f"--concurrent {concurrent} trials want {concurrent * workers * each:g} GPUs of {gpus:g}.")
    threads, booked = _divide(hosts, concurrent=concurrent, workers=workers, threads=threads)
    if booked <= 0:
        raise BadInput(
            f"{concurrent} x {workers} workers at the same time are too many for {cpus} CPUs: ask for fewer."
        )
    if say is not None and each and concurrent > fitting:
        say(
            f"{concurrent * workers * each:g} GPUs are wanted, {each:g} for each worker, and the nodes that are up "
            f"have room for {places * each:g}: workers wait for more nodes ({threads} threads each: --threads)."
        )
    elif say is not None and joined and not gpus and gpus_per_worker is None:
        say("no node of the cluster has a GPU now: training on CPUs (--gpus-per-worker 1 waits for nodes with GPUs).")
    return Shares(concurrent, workers, threads, booked, each)


def _divide(hosts: Sequence[_Host], *, concurrent: int, workers: int, threads: int | None) -> tuple[int, float]:
    """Threads of each worker, and the CPUs that it books."""
    count = min(concurrent * workers, sum(host.places for host in hosts))
    if not count:  # of nodes that will come nothing is known but that each has a processor
        return threads or 1, 1.0
    threads = threads or max(1, _largest([(host.cpus, host.places) for host in hosts], count))
    # Nobody knows on which node a slot's own actor will be: room for all of them is left on each.
    slots = round(SLOT_CPUS * _CENTS) * concurrent
    most = _largest([(host.cpus * _CENTS - slots, host.places) for host in hosts], count)
    return threads, min(threads * _CENTS, most) / _CENTS


def _largest(rooms: Sequence[tuple[int, int]], count: int) -> int:
    """The largest size of which ``count`` pieces fit into rooms of (size, most pieces); 0 if none does."""
    sizes = {room // pieces for room, most in rooms for pieces in range(1, min(count, most) + 1)}
    fitting = (s for s in sizes if s > 0 and sum(min(most, max(0, room) // s) for room, most in rooms) >= count)
    return max(fitting, default=0)


@contextmanager
def shared_mark(storage: Path) -> Iterator[Path]:
    """Keeps a file in the storage while a search runs, by which nodes that join later are known to see it.

    Raises:
        BadInput: the storage cannot be written.
    """
    mark = storage.absolute() / f".shared-{uuid.uuid4().hex}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise BadInput(f"--storage {storage} cannot be written ({error.strerror}); choose another.") from error
    try:
        yield mark
    finally:
        with contextlib.suppress(OSError):  # left behind, it harms nobody
            mark.unlink()


def sees(mark: str | Path) -> None:
    """Makes sure, on the node that asks, that this node sees the storage in which the mark lies.

    Raises:
        BadInput: it does not: what it trained would be lost.
    """
    if not Path(mark).exists():
        raise BadInput(
            f"the folder {Path(mark).parent} is not shared with the node {platform.node()}: give --storage a folder on "
            "a file system that all nodes mount."
        )


def check_shared(storage: Path) -> None:
    """Makes sure that every node that is up sees the storage folder.

    Raises:
        BadInput: one does not: checkpoints would stay where nobody finds them.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    storage = storage.absolute()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    blind = []
    with shared_mark(storage) as mark:
        look = ray.remote(num_cpus=0)(os.path.exists)
        asked = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append(look.options(scheduling_strategy=there).remote(str(mark)))
        for node, answer in zip(nodes, asked, strict=True):
            try:
                found = ray.get(answer)
            except RayError:
                if any(other["Alive"] for other in ray.nodes() if other["NodeID"] == node["NodeID"]):
                    raise
                continue  # a node that has gone meanwhile trains nothing
            if not found:
                blind.append(node["NodeManagerAddress"])
    if blind:
        raise BadInput(
            f"the folder {storage} is not shared with {len(blind)} of {len(nodes)} nodes ({', '.join(blind[:3])}): "
            "give --storage a folder on a file system that all nodes mount."
        )
