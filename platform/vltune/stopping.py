"""How a search is stopped in good order: signals, and the lease of the run that is being driven."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vltune.ledger import Ledger

_log = logging.getLogger(__name__)


class Signals:
    """Ctrl-C, SIGTERM and ``vltune stop`` end a search in good order; a second one ends the process at once."""

    def __init__(self) -> None:
        self.count, self.tidying = 0, 0

    def __call__(self, *_: object) -> None:
        """Takes a signal."""
        self.count += 1
        if self.count > 1:
            os._exit(130)
        if not self.tidying:
            raise KeyboardInterrupt

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What is done in here is done to its end."""
        self.tidying += 1
        try:
            yield
        finally:
            self.tidying -= 1


SIGNALS = Signals()


@contextmanager
def stoppable() -> Iterator[None]:
    """Lets signals end what is done in here in good order."""
    SIGNALS.count = 0
    before = {number: signal.signal(number, SIGNALS) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def leased(ledger: Ledger, name: str) -> Iterator[None]:
    """Renews the lease meanwhile, and looks whether somebody wants the search to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(2):
            try:
                unwanted = not ledger.beat(name) or ledger.state(name) == "stopping"
                if unwanted and not over.is_set():  # else we have given the lease back ourselves
                    os.kill(os.getpid(), signal.SIGINT)
                    return
            except Exception as error:  # noqa: BLE001 (a busy database must not end the search)
                _log.warning("the lease could not be renewed: %s", error)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
