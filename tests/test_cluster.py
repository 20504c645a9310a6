"""How a cluster's room is shared, and who sees the storage: nodes are made up, Ray itself does not run."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import TaskUnschedulableError

from vltune import cluster
from vltune.cluster import SLOT_CPUS, Shares, check_shared, sees, share, shared_mark
from vltune.errors import BadInput
from vltune.preflight import check_room


def _node(cpus: float, gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
    resources = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    return {"Alive": alive, "NodeID": f"{cpus}-{gpus}", "NodeManagerAddress": "10.0.0.1", "Resources": resources}


def _shares(nodes: list[dict[str, Any]], **asked: Any) -> Shares:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "nodes", lambda: nodes)
        return share(**{"concurrent": None, "workers": 1, "gpus_per_worker": None, **asked})


HEAD = _node(8)
"""The head of cluster.yaml before anything trains: eight processors, no GPU."""


# -- this machine alone


def test_two_cores_for_two_trials_are_one_thread_each() -> None:
    assert _shares([_node(2)], concurrent=2) == Shares(2, 1, 1, 0.99, 0.0)
    assert _shares([_node(2)], concurrent=1, workers=2) == Shares(1, 2, 1, 0.99, 0.0)
    assert _shares([_node(2)]) == Shares(2, 1, 1, 0.99, 0.0)


@given(
    cpus=st.integers(1, 200),
    gpus=st.integers(0, 8),
    concurrent=st.none() | st.integers(1, 20),
    workers=st.integers(1, 4),
    threads=st.none() | st.integers(1, 8),
)
def test_one_machine_is_divided_evenly(
    cpus: int, gpus: int, concurrent: int | None, workers: int, threads: int | None
) -> None:
    """On one node the search for a size that fits everywhere is a plain division."""
    if gpus and (concurrent or 1) * workers > gpus:
        with pytest.raises(BadInput):
            _shares([_node(cpus, gpus)], concurrent=concurrent, workers=workers, threads=threads)
        return
    trials = concurrent or (gpus // workers if gpus else max(1, min(8, cpus // workers)))
    wanted = threads or max(1, cpus // (trials * workers))
    booked = min(100 * wanted, (100 * cpus - trials) // (trials * workers)) / 100
    found = _shares([_node(cpus, gpus)], concurrent=concurrent, workers=workers, threads=threads)
    assert found == Shares(trials, workers, wanted, booked, float(bool(gpus)))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"workers": 2}, r"--workers 2 would take a GPU each, but this machine has 1: give --gpus-per-worker 0 .*0\.5"),
        ({"workers": 2, "gpus_per_worker": 1.0}, "want 2 GPUs for each trial, but this machine has 1"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "--workers 1, not 2"),
        ({"concurrent": 3, "gpus_per_worker": 0.5}, r"want 1\.5 GPUs of 1"),
    ],
)
def test_more_gpus_than_this_machine_has_are_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        _shares([_node(4, 1)], **asked)


def test_what_the_refusal_advises_is_taken() -> None:
    assert _shares([_node(4, 1)], workers=2, gpus_per_worker=0.0).gpus_per_worker == 0
    assert _shares([_node(4, 1)], gpus_per_worker=0.5) == Shares(2, 1, 2, 1.99, 0.5)


def test_gpus_that_nobody_asked_for_are_refused_before_ray_starts() -> None:
    with pytest.raises(BadInput, match="--workers 2 would take a GPU each, but this machine has 1"):
        check_room([], workers=2, gpus_per_worker=None, here=1)
    check_room([], workers=2, gpus_per_worker=0.0, here=1)
    check_room([], workers=2, gpus_per_worker=1.0, here=None)


def test_too_many_trials_for_the_processors_are_refused() -> None:
    with pytest.raises(BadInput, match="300 x 1 workers at the same time are too many for 2 CPUs"):
        _shares([_node(2)], concurrent=300)


# -- a cluster


def test_gpus_that_are_not_there_yet_are_waited_for() -> None:
    said: list[str] = []
    found = _shares([HEAD], workers=2, gpus_per_worker=1.0, joined=True, say=said.append)
    assert found == Shares(concurrent=1, workers=2, threads=1, cpus_per_worker=1.0, gpus_per_worker=1.0)
    assert len(said) == 1
    assert "2 GPUs are wanted" in said[0]
    assert "room for 0" in said[0]
    assert _shares([HEAD], concurrent=4, gpus_per_worker=1.0, threads=8, joined=True) == Shares(4, 1, 8, 1.0, 1.0)


def test_more_than_the_gpus_of_now_are_waited_for_with_the_share_of_those_that_are_there() -> None:
    said: list[str] = []
    nodes = [HEAD, _node(8, 1)]
    found = _shares(nodes, concurrent=4, gpus_per_worker=1.0, joined=True, say=said.append)
    assert found == Shares(4, 1, 8, 7.96, 1.0)
    assert "4 GPUs are wanted, 1 for each worker, and the nodes that are up have room for 1" in said[0]


def test_two_gpus_for_a_worker_have_to_be_in_one_node() -> None:
    said: list[str] = []
    nodes = [_node(8, 1), _node(8, 1)]
    assert _shares(nodes, gpus_per_worker=2.0, joined=True, say=said.append).cpus_per_worker == 1.0
    assert "room for 0" in said[0]


def test_training_on_cpus_of_a_cluster_is_said() -> None:
    said: list[str] = []
    assert _shares([HEAD], joined=True, say=said.append).gpus_per_worker == 0
    assert "training on CPUs (--gpus-per-worker 1 waits" in said[0]
    _shares([HEAD], gpus_per_worker=0.0, joined=True, say=said.append)
    _shares([_node(2)], say=said.append)
    assert len(said) == 1


def test_gpus_that_nobody_asked_for_are_not_waited_for() -> None:
    with pytest.raises(BadInput, match="the cluster has 1 now: give --gpus-per-worker 1 to wait for more, or 0"):
        _shares([HEAD, _node(8, 1)], workers=2, joined=True)


def test_no_worker_books_more_than_a_node_has() -> None:
    """24 CPUs for two workers are twelve each in sum, which none of the nodes has."""
    nodes = [_node(8), _node(8), _node(8)]
    assert _shares(nodes, concurrent=1, workers=2, joined=True) == Shares(1, 2, 8, 7.99, 0.0)
    # Twenty CPUs for four workers are five each in sum; but only three fives fit, so it is four.
    assert _shares([_node(16), _node(4)], concurrent=4, joined=True) == Shares(4, 1, 4, 3.99, 0.0)


def test_the_processors_of_nodes_without_gpus_are_not_counted() -> None:
    """A head with 64 CPUs gives nothing to workers that run where the GPUs are."""
    assert _shares([_node(64), _node(8, 2), _node(4, 2)], gpus_per_worker=1.0, joined=True) == Shares(
        4, 1, 2, 1.98, 1.0
    )


def test_dead_nodes_and_nodes_without_processors_do_not_count() -> None:
    nodes = [_node(4), _node(64, 8, alive=False), _node(0)]
    assert _shares(nodes, concurrent=2, joined=True) == Shares(2, 1, 2, 1.99, 0.0)


def test_a_cluster_whose_head_takes_no_work_is_waited_for() -> None:
    assert _shares([_node(0)], joined=True) == Shares(1, 1, 1, 1.0, 0.0)


def _all_fit(nodes: list[dict[str, Any]], shares: Shares) -> bool:
    """Places every slot and every worker, one by one, on the first node with room, fullest node first or last."""
    for backwards in (False, True):
        free = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
        free.sort(reverse=backwards)
        wants = [(SLOT_CPUS, 0.0)] * shares.concurrent
        wants += [(shares.cpus_per_worker, shares.gpus_per_worker)] * (shares.concurrent * shares.workers)
        for cpu, gpu in wants:
            for place, (cpus, gpus) in enumerate(free):
                if cpus + 1e-9 >= cpu and gpus + 1e-9 >= gpu:
                    free[place] = (cpus - cpu, gpus - gpu)
                    break
            else:
                return False
    return True


@given(
    nodes=st.lists(st.tuples(st.integers(1, 64), st.integers(0, 4)), min_size=1, max_size=6),
    concurrent=st.none() | st.integers(1, 8),
    workers=st.integers(1, 3),
    on_gpus=st.booleans(),
)
def test_all_workers_find_a_place(
    nodes: list[tuple[int, int]], concurrent: int | None, workers: int, *, on_gpus: bool
) -> None:
    rooms = [_node(*node) for node in nodes]
    on_gpus = on_gpus and (concurrent or 1) * workers <= sum(gpus for _, gpus in nodes)
    found = _shares(rooms, concurrent=concurrent, workers=workers, gpus_per_worker=float(on_gpus), joined=True)
    assert found.cpus_per_worker > 0
    assert _all_fit(rooms, found)
    # Threads are what is booked, but for the slots' hundredths, as long as there is a processor for each worker.
    hosts = [node for node in nodes if node[1] or not on_gpus]
    most = [min(cpus, gpus) if on_gpus else cpus for cpus, gpus in hosts]
    if sum(most) >= found.concurrent * workers:
        assert found.threads <= max(cpus for cpus, _ in hosts)
        assert math.ceil(found.cpus_per_worker + SLOT_CPUS * found.concurrent) >= found.threads


# -- who sees the storage


def test_the_mark_lies_in_the_storage_as_long_as_the_search_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with shared_mark(Path("new/runs")) as mark, shared_mark(Path("new/runs")) as other:
        assert mark.is_absolute()
        assert mark != other
        monkeypatch.chdir("/")
        sees(mark)
        sees(str(mark))
    assert list((tmp_path / "new" / "runs").iterdir()) == []


def test_the_mark_goes_away_when_the_search_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), shared_mark(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"), shared_mark(tmp_path / "file"):
        pass


def test_a_node_that_does_not_see_the_mark_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        sees(tmp_path / "runs" / ".shared-0")
    assert f"the folder {tmp_path}/runs is not shared with the node {os.uname().nodename}" in str(caught.value)
    assert "\n" not in str(caught.value)


NODE_IDS = {"a": "aa" * 28, "b": "bb" * 28, "gone": "cc" * 28}


class _Look:
    """Stands for the task that looks for the mark; each node's answer is given by its name."""

    def __init__(self, answers: dict[str, Callable[[str], Any]]) -> None:
        self.answers, self.paths = answers, []

    def options(self, *, scheduling_strategy: Any) -> "_Look":
        self.node = scheduling_strategy.node_id
        return self

    def remote(self, path: str) -> Any:
        self.paths.append(path)
        name = next(name for name, node in NODE_IDS.items() if node == self.node)
        answer = self.answers[name](path)
        return lambda: answer


def _look_from(patch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], **answers: Callable[[str], Any]) -> _Look:
    look = _Look(answers)

    def get(answer: Callable[[], Any]) -> Any:
        found = answer()
        if isinstance(found, Exception):
            raise found
        return found

    patch.setattr(ray, "nodes", lambda: nodes)
    patch.setattr(ray, "remote", lambda **_: lambda _: look)
    patch.setattr(ray, "get", get)
    return look


def _named(name: str, *, alive: bool = True) -> dict[str, Any]:
    return {**_node(1, alive=alive), "NodeID": NODE_IDS[name], "NodeManagerAddress": f"{name}.example"}


def test_every_node_is_asked_for_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [_named("a"), _named("b"), _named("gone", alive=False)]
    look = _look_from(monkeypatch, nodes, a=os.path.exists, b=os.path.exists)
    check_shared(Path("runs"))
    assert len(look.paths) == 2
    assert all(Path(path).parent == tmp_path / "runs" for path in look.paths)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_node_with_another_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _look_from(monkeypatch, [_named("a"), _named("b")], a=os.path.exists, b=lambda _: False)
    with pytest.raises(BadInput, match=r"not shared with 1 of 2 nodes \(b\.example\)"):
        check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_is_taken_away_meanwhile_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [_named("a"), _named("b")]

    def taken(_: str) -> Exception:
        nodes[1] = _named("b", alive=False)
        return TaskUnschedulableError("gone")

    _look_from(monkeypatch, nodes, a=os.path.exists, b=taken)
    check_shared(tmp_path)


def test_an_error_of_a_node_that_lives_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = TaskUnschedulableError("no")
    _look_from(monkeypatch, [_named("a"), _named("b")], a=os.path.exists, b=lambda _: error)
    with pytest.raises(TaskUnschedulableError):
        check_shared(tmp_path)


def test_the_functions_that_others_call_are_there() -> None:
    assert {"start", "stop", "share", "check_shared", "cpu_count", "Shares", "SLOT_CPUS"} <= set(vars(cluster))
