"""What starts training: ``search``, ``train``, ``resume``; and the checks and the driver of all that train.

Each function takes the parsed arguments and a ``Screen``, returns the exit code, and imports what it needs itself.
"""

import dataclasses
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vltune.errors import BadInput, NotFound, lookup
from vltune.screen import Screen, space_flag, storage_flag

if TYPE_CHECKING:
    from vltune.configuration import TrialConfig
    from vltune.contract import Data, Search
    from vltune.driver import Options
    from vltune.ledger import Ledger
    from vltune.ledger_records import SearchRecord

SOME_TRIALS_FAILED = 5
_LONGEST_NAME = 64
_TRIALS_OF_A_POPULATION = (
    "--trials cannot be said of a population: each member is one trial in each generation; set epochs=N for more "
    "generations."
)


def search(arguments: Namespace, screen: Screen) -> int:
    """Runs a search."""
    from search_spaces import SEARCHES
    from vltune.objectives import with_objectives
    from vltune.parameters import plain_text
    from vltune.search_files import load_search
    from vltune.space import parse_pins, whole_rows

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
    return start(
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
    from vltune.search_files import load_search
    from vltune.space import check_effect, parse_pins

    found = load_search(arguments.search, SEARCHES)
    pins = parse_pins(arguments.set, found.family.Config)
    name = arguments.row or found.base_row
    row = {name: dict(lookup(found.rows, name, f"row of {found.name}"))} if name else {"train": {}}
    if name:
        check_effect(found, name, pins)
    found = dataclasses.replace(found, num_trials=1, pruner="none", population=None)
    wanted = free_name(arguments, found.name, "train") if arguments.name is None else arguments.name
    return start(found, arguments, screen, space=arguments.search, name=wanted, pins=pins, rows=row)


def free_name(arguments: Namespace, stem: str, ending: str) -> str:
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
    found = same_search(record)
    holder = ledger.driver(record.name)
    if holder is not None:  # said before the record is changed below the one who drives it
        raise BadInput(f"the run {record.name!r} is being driven by another process ({holder}): stop it first.")
    if arguments.trials is not None and record.population:
        raise BadInput(_TRIALS_OF_A_POPULATION)
    if arguments.trials is not None:
        record = ledger.change(record.name, num_trials=arguments.trials)
    options = dataclasses.replace(
        _options(arguments),
        in_process=found.family.in_process,
        concurrent=arguments.concurrent or record.concurrent or None,
        workers=record.workers,
        gpus_per_worker=record.gpus_per_worker,
        threads=record.threads,
        isolate=record.isolate,
    )
    return _drive(found, ledger, record, options, screen, fresh=False)


def same_search(record: "SearchRecord") -> "Search":
    """The space of an earlier run, if it still is what it was."""
    from search_spaces import SEARCHES
    from vltune.search_files import load_search

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
    from vltune.driver import Options

    return Options(
        storage=arguments.storage,
        address=arguments.address,
        concurrent=getattr(arguments, "concurrent", None),
        workers=getattr(arguments, "workers", None) or 1,
        gpus_per_worker=getattr(arguments, "gpus_per_worker", None),
        threads=getattr(arguments, "threads", None),
        isolate=getattr(arguments, "isolate", False),
    )


def start(
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
    """Checks everything that can be checked before Ray starts, then runs; returns the exit code."""
    from vltune.ledger import Ledger
    from vltune.ledger_records import SearchRecord
    from vltune.library import PromotedModels
    from vltune.objectives import columns_of, direction_of, measured_alike, unasked
    from vltune.population import with_constants
    from vltune.preflight import check_models, check_room, check_run_name, check_samples, check_seeds
    from vltune.search import run_name, versions
    from vltune.space import check, example

    options = dataclasses.replace(_options(arguments), in_process=found.family.in_process)
    located = found.family.Config.with_absolute_paths
    pins, rows = located(pins), {key: located(row) for key, row in rows.items()}
    found = dataclasses.replace(found, rows=rows, base_row=found.base_row if found.base_row in rows else "")
    if found.population is not None:
        found = with_constants(found, pins, epochs=example(found, pins=pins).epochs)
    check_run_name(found.name if name is None else name)
    configs = check(found, pins=pins)
    check_seeds(found, configs, seeds=getattr(arguments, "seeds", 1))
    objective = str(pins.get("objective", found.objective))
    direction = direction_of(found.family, configs[0], objective)
    measured = measured_alike(found.family, configs)
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
        metrics=measured,
        unasked=unasked(found.family, configs[0]),
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
        columns=columns_of(found, objective, configs),
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
    from vltune.console import as_text
    from vltune.forms import as_json
    from vltune.generations import Generations
    from vltune.progress import Progress
    from vltune.search import Interrupted, run
    from vltune.summary import best_report, best_trial, table

    trials = f"{record.num_trials} configurations, each with {record.seeds} seeds," if record.seeds > 1 else ""
    screen.say(f"run {record.name}: {trials or f'{record.num_trials} trials'} of {record.search} on {record.data}")
    try:
        run(found, ledger, record, options=options, display=Progress(), fresh=fresh)
    except Interrupted:
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
            screen.say(f"{record.title(trial)} failed: {trial.error}")
    if document.get("schedule"):
        uid = document["schedule"][-1]["uid"]
        screen.say(f"the best member's schedule is in {options.storage / record.name / 'comparison' / 'schedule.md'}")
        screen.say(f"train it again: vltune rerun {uid}{storage_flag(options.storage)}")
    if "best" in document and "parameters" in document["best"]["metrics"]:
        flags = f"{space_flag(record.space)}{storage_flag(options.storage)}"
        screen.say(f"promote the best: vltune promote {record.name}{flags}")
    if not states["failed"]:
        return 0
    return SOME_TRIALS_FAILED if len(trials) > states["failed"] else 1
