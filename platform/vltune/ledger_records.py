"""What the ledger holds, as plain data: a search, its trials, and what happened."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vltune.contract import Direction
from vltune.errors import BadInput
from vltune.objectives import directions_of

ENDED = ("finished", "pruned", "stopped", "failed")
"""States of a trial that does not go on."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a search. Order is by ``sequence``, never by time: clocks are set back."""

    sequence: int
    search: str
    uid: str
    """The trial's; of ``summary`` the search's name and a slash."""
    kind: str
    """``started``, ``epoch``, ``ended``, ``illustrated``, or ``summary`` for the search itself."""
    time: float
    """Seconds since 1970."""
    payload: dict[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger knows it."""

    uid: str
    search: str
    number: int
    """Its number in Optuna's study; where each configuration has several seeds, that times their number, and the place
    of its seed among them."""
    row: str
    state: str
    attempts: int
    config: dict[str, Any]
    searched: tuple[str, ...]
    notes: tuple[str, ...]
    """What its row of the table has to say beside its numbers."""
    error: str


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """What a search was started with: all that resuming it, or telling of it, needs."""

    name: str
    search: str
    """The space's own name."""
    space: str
    """What it was loaded by: its name if it is a shipped one, or the path of a person's own file."""
    source: str
    """Text of the module that defines the space."""
    question: str
    objective: str
    direction: Direction
    further_objectives: tuple[str, ...] = ()
    """Metrics that are optimised beside the objective."""
    num_trials: int
    sampler: str
    pruner: str
    seed: int
    seeds: int = 1
    """Seeds with which each configuration is trained, from its own on; the sampler hears their mean."""
    pins: dict[str, Any]
    data: str
    data_hash: str
    family: str
    metrics: dict[str, Direction]
    """The metrics that its trials have, and which way each is better."""
    unasked: dict[str, str] = field(default_factory=dict)
    """The family's other metrics, which were not asked for -> the setting that asks for them."""
    measured_by: dict[str, list[str]] = field(default_factory=dict)
    """Metric -> fields that change what it measures."""
    drawn_with: dict[str, str] = field(default_factory=dict)
    """Metric -> what stays as it is when samples are drawn for its interval."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The named rows that run first."""
    epochs: int = 0
    """The most that a trial may have."""
    sources: dict[str, str] = field(default_factory=dict)
    """References to promoted models -> content hashes that they led to when the search was started."""
    confirms: dict[str, Any] = field(default_factory=dict)
    """Where it trains the best of another run again: ``run``, its name, and ``values``, row -> the objective there."""
    population: dict[str, Any] | None = None
    """The fields of ``Population`` if it trains as one, without the fields that were set by hand."""
    base_row: str = ""
    group_by: str = ""
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Lines for under the table."""
    workers: int = 1
    gpus_per_worker: float | None = None
    """None until the cluster's room is known, as for the two below."""
    threads: int | None = None
    concurrent: int | None = None
    isolate: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    created: float = 0.0
    """Seconds since 1970; 0 until it is entered into the ledger."""
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells it apart from a search of the same name in another ledger: both may write to one MLflow."""
    state: str = "running"
    """``running``, ``stopping``, ``interrupted`` or ``finished``."""

    @property
    def directions(self) -> dict[str, Direction]:
        """All objectives, the first one first, and which way each is better."""
        return directions_of((self.objective, *self.further_objectives), self.metrics)

    def check_measured(self, metric: str) -> None:
        """Checks that the run was asked to measure a metric of its family.

        Raises:
            BadInput: it was not.
        """
        if metric in self.unasked:
            raise BadInput(
                f"the run {self.name!r} has no {metric}: it is measured only where a run is started with "
                f"--set {self.unasked[metric]}."
            )

    def title(self, trial: TrialRecord) -> str:
        """What people call a trial: its row and, where there are several, its seed."""
        if not trial.row:
            return trial.uid
        return f"{trial.row}, seed {trial.config['seed']}" if self.seeds > 1 and trial.config else trial.row


def search_record(stored: Mapping[Any, Any]) -> SearchRecord:
    """The record of a search from its row in the database."""
    values = json.loads(stored["record"]) | {"created": stored["created"], "state": stored["state"]}
    listed = ("columns", "notes", "further_objectives")
    return SearchRecord(**values | {key: tuple(values.get(key, ())) for key in listed})


def trial_record(stored: Mapping[Any, Any]) -> TrialRecord:
    """The record of a trial from its row in the database."""
    listed = {key: tuple(json.loads(stored[key])) for key in ("searched", "notes")}
    return TrialRecord(**{**stored, **listed, "config": json.loads(stored["config"])})
