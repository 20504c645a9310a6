"""A search from its start to its end, or from where it stopped: the cluster, the lease, the driver."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from vltune import cluster
from vltune.contract import Search
from vltune.display import Display
from vltune.driver import Driver, Options, Room
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.stopping import SIGNALS, leased, stoppable


class Interrupted(Exception):
    """The search was stopped from outside; it can be resumed."""


def versions() -> dict[str, str]:
    """What a trial's numbers depend on."""
    packages = ("vltune", "torch", "torchvision", "ray", "optuna", "tokenizers", "pycocoevalcap")
    return {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}


def run_name(ledger: Ledger, wanted: str) -> str:
    """The search's own name if it is free, else the first free one of ``name-2``, ``name-3`` and so on."""
    taken = {record.name for record in ledger.searches()}
    return next(n for n in (wanted, *(f"{wanted}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def run(
    search: Search, ledger: Ledger, record: SearchRecord, *, options: Options, display: Display, fresh: bool
) -> None:
    """Runs a search to its end, or goes on with one.

    Args:
        search: the space.
        ledger: where everything is written.
        record: the search's record; entered into the ledger when ``fresh``.
        options: where and how.
        display: what a person sees.
        fresh: whether the search is new.

    Raises:
        BadInput: the name is taken, the run is being driven by somebody else, or the cluster has no such room.
        Unreachable: the cluster or the ledger does not answer.
        Interrupted: it was stopped; ``vltune resume`` goes on.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(stoppable())
        room = None
        if fresh:  # entered only when there is room for it
            room = None if options.in_process else stack.enter_context(_cluster(options, display))
            ledger.create_search(record)
        ledger.acquire(record.name)
        try:
            ledger.set_state(record.name, "running")
            with leased(ledger, record.name):
                driver = Driver(search, ledger, record, options=options, display=display)
                if room is None and driver.has_work() and not options.in_process:
                    room = stack.enter_context(_cluster(options, display))
                driver.run(room)
            ledger.set_state(record.name, "finished")
        except BaseException as error:
            if ledger.beat(record.name):  # else another process has the run by now
                ledger.set_state(record.name, "interrupted")
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(record.name) from None
            raise
        finally:
            ledger.release(record.name)


@contextmanager
def _cluster(options: Options, display: Display) -> Iterator[Room]:
    """Ray, with room for the search and a storage that all its nodes see."""
    display.say("starting Ray" if options.address is None else f"joining Ray at {options.address}")
    cluster.start(options.address)
    try:
        cluster.check_shared(options.storage)
        shares = cluster.share(
            concurrent=options.concurrent,
            workers=options.workers,
            gpus_per_worker=options.gpus_per_worker,
            threads=options.threads,
            joined=options.address is not None,
            say=display.say,
        )
        with cluster.shared_mark(options.storage) as mark:  # nodes that come later look for it
            yield Room(shares, mark)
    finally:
        with SIGNALS.undisturbed():
            cluster.stop()
