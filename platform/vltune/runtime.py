"""Where a trial runs, what it keeps there between trials, and how far it is."""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from vltune.contract import EpochReport


@dataclass(frozen=True)
class Progress:
    """What outlives an epoch: written into each checkpoint, the same on all workers."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Optimizer steps completed."""
    best: float = math.nan
    """Best value of the objective so far."""
    best_epoch: int = 0
    best_checkpoint: str = ""
    """Name of the best epoch's checkpoint folder."""
    stale: int = 0
    """Epochs since the best one."""
    plateau: int = 0
    """Epochs since the best one or the last fall of the learning rate."""
    plateau_scale: float = 1.0
    """What ``plateau`` multiplies the learning rate by."""
    loss_scale: float = 2.0**16
    """Loss scaling of fp16."""
    loss_scale_steps: int = 0
    """Steps since the loss scaling changed."""
    finished: bool = False


class Residents:
    """What stays in a process between trials: frozen models, opened data. The least lately used goes first."""

    def __init__(self, room: int = 6) -> None:
        self._room, self._kept = room, OrderedDict[str, Any]()

    def __call__(self, key: str, build: Callable[[], Any]) -> Any:
        """What was built for the key, built now if need be."""
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = build()
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return self._kept[key]


RESIDENTS = Residents()
"""Those of this process."""


class Runtime(Protocol):
    """Where a trial runs: a Ray Train worker, or the process itself."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    cache: str
    """Folder of the caches that all trials of a node share."""

    def tick(self) -> None:
        """Says that the trial is alive. Cheap: called at every step."""
        ...

    def alive(self) -> contextlib.AbstractContextManager[None]:
        """Around what takes long and cannot tick: opening data, building a model, scoring."""
        ...

    def resident(self, key: str, build: Callable[[], Any]) -> Any:
        """What ``build`` made for this key, perhaps for an earlier trial: whoever gets it must not change it."""
        ...

    def exchange(self, epoch: int, told: "tuple[EpochReport, Progress] | None") -> "tuple[bool, Progress | None]":
        """Rank 0 tells its report and gets whether to go on; the other ranks wait for the same answer.

        No progress comes back where the trial is over for this worker: somebody else has it, or has ended it.
        """
        ...


@dataclass
class LocalRuntime:
    """One worker, in this process; reports are collected in a list."""

    cache: str
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    reports: list[EpochReport] = field(default_factory=list)
    residents: Residents = field(default_factory=lambda: RESIDENTS)

    def resident(self, key: str, build: Callable[[], Any]) -> Any:
        """What this process keeps between trials."""
        return self.residents(key, build)

    def tick(self) -> None:
        """Nobody watches."""

    def alive(self) -> contextlib.AbstractContextManager[None]:
        """Nobody watches."""
        return contextlib.nullcontext()

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
        """Keeps the report and goes on."""
        assert told is not None, f"epoch {epoch}: the only rank has to tell"
        self.reports.append(told[0])
        return True, told[1]
