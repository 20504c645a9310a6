"""What a person is told of a running search."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

from vltune.contract import Direction, EpochReport


class Display(Protocol):
    """What is told of a running search."""

    def say(self, text: str) -> None:
        """A line about what happens."""
        ...

    def start(
        self, total_trials: int, *, objective: str, direction: Direction, finished: int = 0, best: float = math.nan
    ) -> None:
        """The search begins, or goes on; some trials ended before."""
        ...

    def trial_started(self, uid: str, row: str, parameters: Mapping[str, Any], epochs: int) -> None:
        """A trial begins, or goes on."""
        ...

    def epoch(self, uid: str, report: EpochReport) -> None:
        """An epoch ended."""
        ...

    def trial_ended(self, uid: str, state: str, error: str) -> None:
        """A trial ended."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...
