"""What starts training: ``search``, ``train``, ``rerun``, ``confirm``, ``resume``, by the same checks and driver.

Each function takes the parsed arguments and a ``Screen``, returns the exit code, and imports what it needs itself.
"""

import dataclasses
import re
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vltune.errors import BadInput, NotFound, lookup
from vltune.screen import Screen, storage_flag

if TYPE_CHECKING:
    from vltune.configuration import TrialConfig
    from vltune.contract import Data, Search
    from vltune.ledger import Ledger, SearchRecord
    from vltune.search import Options

SOME_TRIALS_FAILED = 5
_LONGEST_NAME = 64
_TRIALS_OF_A_POPULATION = (
    "--trials cannot be said of a population: each member is one trial in each generation; set epochs=N for more "
    "generations."
)
_RERUN = re.compile(r"-again(-\d+)?-\d+$")
"""What a rerun adds to the uid of the trial that it repeats, up to the end of its own uid."""


def search(arguments: Namespace, screen: Screen) -> int:
    """Runs a search."""
    from search_spaces import SEARCHES
    from vltune.objectives import with_objectives
    from vltune.parameters import plain_text
    from vltune.space import load_search, parse_pins, whole_rows

    found = load_search(arguments.search, SEARCHES)
    if found.population is not None and arguments.trials is not None:
        raise BadInput(_TRIALS_OF_A_POPULATION)
    changes = {"num_trials": arguments.trials, "sampler": arguments.sampler, "pruner": arguments.pruner}
    found = dataclasses.replace(found, **{key: value for key, value in changes.items() if value is not None})
    pins, remark = parse_pins(arguments.set, found.family.Config), ""
    if arguments.seeds > 1:
        found, remark = _with_seeds(found, arguments)
    if arguments.objectives is not None:
        if "objective" in pins:
            raise BadInput("--objectives and --set objective=… both say what the search is after; give one of them.")
        found = with_objectives(found, arguments.objectives)
        if found.further_objectives and arguments.pruner is None and found.pruner != "none":
            remark = f"with several objectives nothing is pruned: the search's own pruner {found.pruner} is off"
            found = dataclasses.replace(found, pruner="none")
    rows, left_out = whole_rows(found, pins)
    if left_out:
        given = ", ".join(f"{key}={plain_text(value)}" for key, value in pins.items())
        remark = "; ".join(filter(None, [remark, f"rows that do not fit {given} are left out: {', '.join(left_out)}"]))
    rows = dict(list(rows.items())[: found.num_trials])
    return _launch(
        found, arguments, screen, space=arguments.search, name=arguments.name, pins=pins, rows=rows, remark=remark
    )


def _with_seeds(found: "Search", arguments: Namespace) -> tuple["Search", str]:
    """The search as it can be run with several seeds of each configuration, and what a person must know of it."""
    if found.population is not None:
        raise BadInput("--seeds cannot be said of a population: what its members come to is a schedule, with one seed.")
    if arguments.pruner not in (None, "none"):
        raise BadInput(
            f"--pruner {arguments.pruner} is not possible with --seeds: a configuration is judged by the mean over its "
            "seeds at their end; leave one of them out."
        )
    remark = f"with several seeds nothing is pruned: the search's own pruner {found.pruner} is off"
    return dataclasses.replace(found, pruner="none"), remark if found.pruner != "none" else ""


def train(arguments: Namespace, screen: Screen) -> int:
    """Trains one configuration."""
    from search_spaces import SEARCHES
    from vltune.space import check_effect, load_search, parse_pins

    found = load_search(arguments.search, SEARCHES)
    pins = parse_pins(arguments.set, found.family.Config)
    name = arguments.row or found.base_row
    row = {name: dict(lookup(found.rows, name, f"row of {found.name}"))} if name else {"train": {}}
    if name:
        check_effect(found, name, pins)
    found = dataclasses.replace(found, num_trials=1, pruner="none", population=None)
    wanted = _free_name(arguments, found.name, "train") if arguments.name is None else arguments.name
    return _launch(found, arguments, screen, space=arguments.search, name=wanted, pins=pins, rows=row)


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
    found = dataclasses.replace(_same_search(record), num_trials=len(line), pruner="none", population=None)
    pins = record_pins(found, trial.config)
    arguments.data = arguments.data or pins["data"]
    arguments.workers, arguments.threads = record.workers, record.threads
    arguments.gpus_per_worker = record.gpus_per_worker
    row: dict[str, Any] = {f"{(trial.row or trial.uid).removesuffix(' again')} again": {}}
    if len(line) > 1:
        row, arguments.concurrent = _segments(line), 1
        pins = {key: value for key, value in pins.items() if key not in row["segment 2"]}
    del pins["data"]  # its hash is pinned; the folder may have moved
    wanted = _free_name(arguments, _RERUN.sub("", trial.uid), "again")
    return _launch(found, arguments, screen, space=record.space, name=wanted, pins=pins, rows=row)


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
    same = _same_search(record)
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
    wanted = _free_name(arguments, record.name, "confirmed") if arguments.name is None else arguments.name
    return _launch(
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


def _free_name(arguments: Namespace, stem: str, ending: str) -> str:
    """A name that no run has, ``stem-ending`` or ``stem-ending-2`` and so on."""
    from vltune.ledger import Ledger
    from vltune.search import run_name

    room = _LONGEST_NAME - len(f"-{ending}-9999")
    return run_name(Ledger.of(arguments.storage), f"{stem[:room]}-{ending}")


def resume(arguments: Namespace, screen: Screen) -> int:
    """Goes on with a run."""
    from vltune.ledger import Ledger

    ledger = Ledger.existing(arguments.storage)
    record = ledger.search(arguments.run)
    found = _same_search(record)
    holder = ledger.driver(record.name)
    if holder is not None:  # said before the record is changed below the one who drives it
        raise BadInput(f"the run {record.name!r} is being driven by another process ({holder}): stop it first.")
    if arguments.trials is not None and record.population:
        raise BadInput(_TRIALS_OF_A_POPULATION)
    if arguments.trials is not None:
        record = ledger.change(record.name, num_trials=arguments.trials)
    options = dataclasses.replace(
        _options(arguments),
        concurrent=arguments.concurrent or record.concurrent or None,
        workers=record.workers,
        gpus_per_worker=record.gpus_per_worker,
        threads=record.threads,
        isolate=record.isolate,
    )
    return _drive(found, ledger, record, options, screen, fresh=False)


def _same_search(record: "SearchRecord") -> "Search":
    """The space of an earlier run, if it still is what it was."""
    from search_spaces import SEARCHES
    from vltune.space import load_search

    found = load_search(record.space, SEARCHES)
    if _source(found) != record.source:
        raise BadInput(
            f"the search {record.space} has changed since the run {record.name!r} was started: new trials would not "
            "compare with old ones. Start a new run, or restore the file: MLflow keeps it as search.py."
        )
    return dataclasses.replace(
        found,
        objective=record.objective,
        further_objectives=record.further_objectives,
        sampler=record.sampler,
        pruner=record.pruner,
    )


def _source(found: "Search") -> str:
    module = sys.modules[found.define.__module__]
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _options(arguments: Namespace) -> "Options":
    from vltune.search import Options

    return Options(
        storage=arguments.storage,
        address=arguments.address,
        concurrent=getattr(arguments, "concurrent", None),
        workers=getattr(arguments, "workers", None) or 1,
        gpus_per_worker=getattr(arguments, "gpus_per_worker", None),
        threads=getattr(arguments, "threads", None),
        isolate=getattr(arguments, "isolate", False),
    )


def _launch(
    found: "Search",
    arguments: Namespace,
    screen: Screen,
    *,
    space: str,
    name: str | None,
    pins: dict[str, Any],
    rows: dict[str, Any],
    remark: str = "",
    confirms: dict[str, Any] | None = None,
) -> int:
    """Checks everything that can be checked before Ray starts, then runs."""
    from vltune.ledger import Ledger, SearchRecord
    from vltune.library import PromotedModels
    from vltune.population import with_constants
    from vltune.preflight import check_models, check_room, check_run_name, check_samples, check_seeds
    from vltune.search import run_name, versions
    from vltune.space import check, example

    options = _options(arguments)
    located = found.family.Config.with_absolute_paths
    pins, rows = located(pins), {key: located(row) for key, row in rows.items()}
    found = dataclasses.replace(found, rows=rows, base_row=found.base_row if found.base_row in rows else "")
    if found.population is not None:
        found = with_constants(found, pins, epochs=example(found, pins=pins).epochs)
    check_run_name(found.name if name is None else name)
    configs = check(found, pins=pins)
    check_seeds(found, configs, seeds=getattr(arguments, "seeds", 1))
    objective = str(pins.get("objective", found.objective))
    direction = lookup(found.family.metrics, objective, "metric")
    # A cluster that will be joined may have GPUs that this machine has not.
    here = _gpus() if options.address is None else None
    check_room(configs, workers=options.workers, gpus_per_worker=options.gpus_per_worker, here=here)
    if arguments.data is not None and not Path(arguments.data).expanduser().exists():
        raise NotFound(f"--data {arguments.data}: there is no such folder; give the folder of a data set.")
    ledger = Ledger.of(arguments.storage)
    if name is not None and name in {record.name for record in ledger.searches()}:
        raise BadInput(f"there is a run {name!r} already: take another --name, or `vltune resume {name}`.")
    library = PromotedModels(arguments.storage)
    configs = [config.find_sources(library) for config in configs]
    cache = str(arguments.storage.absolute() / "cache")
    for config in configs:
        check_models(config, found.family, pins=pins, cache=cache)
    data = arguments.data or _scenes(arguments.storage, screen)
    data = str(Path(data).expanduser().absolute())
    config = dataclasses.replace(example(found, pins=pins), data=data).find_sources(library)
    opened = found.family.load(config, cache)
    check_samples(configs, training=opened.splits["train"], data=data)
    _rehearse(found, pins, [config, *(dataclasses.replace(other, data=data) for other in configs)], opened, cache)
    expected = pins.pop("data_hash", opened.hash)
    if expected != opened.hash:
        raise BadInput(
            f"{data} is not the data of that trial: its content hash is {opened.hash[:12]}…, not {expected[:12]}…; "
            "give its folder with --data."
        )
    for line in (*filter(None, [remark]), *(f"data: {note}" for note in opened.notes)):
        screen.say(line)
    record = SearchRecord(
        name=name or run_name(ledger, found.name),
        search=found.name,
        space=str(Path(space).expanduser().absolute()) if space.endswith(".py") else space,
        source=_source(found),
        question=found.question,
        family=found.family.name,
        metrics=dict(found.family.metrics),
        measured_by={metric: list(fields) for metric, fields in found.family.measured_by.items()},
        drawn_with=dict(found.family.drawn_with),
        objective=objective,
        direction=direction,
        further_objectives=found.further_objectives,
        num_trials=found.num_trials,
        sampler=found.sampler,
        pruner=found.pruner,
        seed=int(pins.get("seed", 0)),
        seeds=getattr(arguments, "seeds", 1),
        pins=pins,
        data=data,
        data_hash=opened.hash,
        rows=rows,
        sources=library.found,
        epochs=max(config.epochs for config in configs),
        confirms=confirms or {},
        population=dataclasses.asdict(found.population) if found.population else None,
        base_row=found.base_row,
        group_by=found.group_by,
        columns=found.columns,
        notes=tuple(note for note in (*opened.notes, found.note) if note),
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        threads=options.threads,
        concurrent=options.concurrent,
        isolate=options.isolate,
        versions=versions(),
        created=time.time(),
    )
    return _drive(found, ledger, record, options, screen, fresh=True)


def _rehearse(
    found: "Search", pins: Mapping[str, Any], configs: "Sequence[TrialConfig]", opened: "Data", cache: str
) -> None:
    """Refuses a search of which nothing can be trained, or not with what a person set for all of it.

    What fails in some rows only, through their own settings, is said in theirs.

    Args:
        found: the search.
        pins: what was set.
        configs: some that it would train, the first of them with the data ``opened``.
        opened: the data of the first.
        cache: folder of the caches.
    """
    from vltune.preflight import rehearse

    failures = []
    for config in dict.fromkeys(configs):
        try:
            return rehearse(config, found.family, found.family.load(config, cache) if failures else opened, cache=cache)
        except BadInput as error:
            failures.append(error)
            if any(f"{key}=" in str(error) for key in pins):
                break
    raise failures[0]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _scenes(storage: Path, screen: Screen) -> str:
    from trainables.parts.scenes import write_scenes

    folder = storage / "scenes"
    if not folder.exists():
        screen.say(f"no --data was given: drawing generated pictures into {folder}")
    write_scenes(str(folder))
    return str(folder)


def _drive(
    found: "Search", ledger: "Ledger", record: "SearchRecord", options: "Options", screen: Screen, *, fresh: bool
) -> int:
    """Runs or resumes, shows the table, and says what to do next."""
    from vltune import search as driver
    from vltune.console import Progress, as_text
    from vltune.forms import as_json
    from vltune.generations import Generations
    from vltune.summary import best_report, best_trial, table

    trials = f"{record.num_trials} configurations, each with {record.seeds} seeds," if record.seeds > 1 else ""
    screen.say(f"run {record.name}: {trials or f'{record.num_trials} trials'} of {record.search} on {record.data}")
    try:
        driver.run(found, ledger, record, options=options, display=Progress(), fresh=fresh)
    except driver.Interrupted:
        screen.say(f"stopped. Go on with: vltune resume {record.name}{storage_flag(options.storage)}")
        return 130
    trials = ledger.trials(record.name)
    states = Counter(trial.state for trial in trials)
    document: dict[str, Any] = {"run": record.name, "trials": dict(states)}
    text = ""
    if any(trial.config for trial in trials):
        shown = table(ledger, [record.name], storage=options.storage)
        text, document["table"] = as_text(shown, width=screen.width).rstrip("\n"), as_json(shown)
    if states["finished"] + states["pruned"]:
        winner = best_trial(ledger, record.name)
        best = best_report(ledger.epochs(winner.uid))
        document["best"] = {"uid": winner.uid, "metrics": dict(best.metrics) if best else {}, "config": winner.config}
    if record.population:
        document["schedule"] = Generations(ledger, record).schedule()
    screen.result(text, document)
    for trial in trials:
        if trial.state == "failed":
            screen.say(f"{trial.row or trial.uid} failed: {trial.error}")
    if document.get("schedule"):
        uid = document["schedule"][-1]["uid"]
        screen.say(f"the best member's schedule is in {options.storage / record.name / 'comparison' / 'schedule.md'}")
        screen.say(f"train it again: vltune rerun {uid}{storage_flag(options.storage)}")
    if "best" in document:
        screen.say(f"promote the best: vltune promote {record.name}{storage_flag(options.storage)}")
    if not states["failed"]:
        return 0
    return SOME_TRIALS_FAILED if len(trials) > states["failed"] else 1
