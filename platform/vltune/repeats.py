"""What trains again what a run has trained: ``rerun`` one trial, ``confirm`` the best with new seeds.

Each function takes the parsed arguments and a ``Screen``, returns the exit code, and imports what it needs itself.
"""

import dataclasses
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from vltune.errors import BadInput
from vltune.launch import free_name, same_search, start
from vltune.screen import Screen

_RERUN = re.compile(r"-again(-\d+)?-\d+$")
"""What a rerun adds to the uid of the trial that it repeats, up to the end of its own uid."""


def rerun(arguments: Namespace, screen: Screen) -> int:
    """Trains a trial again from its record: a segment of a population with all segments that led to it."""
    from vltune.generations import segments_of
    from vltune.ledger import Ledger
    from vltune.population import lineage
    from vltune.space import record_pins

    ledger = Ledger.existing(arguments.storage)
    trial = ledger.trial(arguments.uid)
    record = ledger.search(trial.search)
    if not trial.config:
        raise BadInput(f"the trial {trial.uid} was never configured ({trial.error}): there is nothing to train again.")
    line = [segment.config for segment in lineage(segments_of(ledger, record), trial.uid)]
    found = dataclasses.replace(same_search(record), num_trials=len(line), pruner="none", population=None)
    pins = record_pins(found, trial.config)
    arguments.data = arguments.data or pins["data"]
    arguments.workers, arguments.threads = record.workers, record.threads
    arguments.gpus_per_worker = record.gpus_per_worker
    row: dict[str, Any] = {f"{(trial.row or trial.uid).removesuffix(' again')} again": {}}
    if len(line) > 1:
        row, arguments.concurrent = _segments(line), 1
        pins = {key: value for key, value in pins.items() if key not in row["segment 2"]}
    del pins["data"]  # its hash is pinned; the folder may have moved
    wanted = free_name(arguments, _RERUN.sub("", trial.uid), "again")
    return start(found, arguments, screen, space=record.space, name=wanted, pins=pins, rows=row)


def confirm(arguments: Namespace, screen: Screen) -> int:
    """Trains the best configurations of a run again, each with several new seeds and to the end."""
    from vltune.ledger import Ledger
    from vltune.space import record_pins
    from vltune.summary import best_rows

    ledger = Ledger.existing(arguments.storage)
    record = ledger.search(arguments.run)
    if record.population:
        raise BadInput(
            f"{record.name!r} is a population, whose best is a schedule and no configuration: train that again by "
            "`vltune rerun UID`."
        )
    best = best_rows(ledger, record.name, top=arguments.top)
    if not any(row.parameters for row in best):
        raise BadInput(f"the captions of {record.name!r} were written elsewhere: there is no model to train again.")
    same = same_search(record)
    ours = ("data", "data_hash", "seed")
    rows = {
        row.name or row.uid: {k: v for k, v in record_pins(same, row.config).items() if k not in ours} for row in best
    }
    found = dataclasses.replace(
        same, num_trials=len(rows), pruner="none", question=f"Confirms {record.name}: {same.question}"
    )
    # Seeds that the search has not seen: a configuration was chosen because one of those was kind to it.
    used = [trial.config["seed"] for trial in ledger.trials(record.name) if trial.config]
    pins = {"seed": max(used) + 1, "data_hash": record.data_hash}
    arguments.data = arguments.data or record.data
    arguments.workers, arguments.threads = record.workers, record.threads
    arguments.gpus_per_worker = record.gpus_per_worker
    values = {row.name or row.uid: row.metrics[record.objective] for row in best}
    wanted = free_name(arguments, record.name, "confirmed") if arguments.name is None else arguments.name
    return start(
        found,
        arguments,
        screen,
        space=record.space,
        name=wanted,
        pins=pins,
        rows=rows,
        remark=f"only {len(best)} configurations of {record.name} have finished" if len(best) < arguments.top else "",
        confirms={"run": record.name, "values": values},
    )


def _segments(line: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows that train a line of segments again, one after the other: what differs, and where each goes on from."""
    differ = [key for key in line[0] if len({segment[key] for segment in line}) > 1]
    rows = {f"segment {i}": {key: segment[key] for key in differ} for i, segment in enumerate(line, start=1)}
    for i, row in enumerate(rows.values()):
        row["start_from"] = f"segment {i}" if i else ""
    return rows
