"""The space of a search: values that are pinned, configurations that come out, checks, and what is shown of it."""

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vltune.conditions import condition_of, in_order
from vltune.configuration import Library, TrialConfig, unchecked
from vltune.contract import ENGINE_METRICS, Direction, Population, Search
from vltune.errors import BadInput, nearest
from vltune.objectives import check_objectives, directions_of
from vltune.parameters import Asked, Incomplete, Parameter, PinnedTrial, Plain, RandomTrial, plain_text
from vltune.population import check_population
from vltune.search_files import said, where, with_question
from vltune.strategies import PRUNERS, SAMPLERS

SEARCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a search may be called: the name becomes a folder, an MLflow experiment and a key of the database."""

_SAMPLES = 200


@dataclass(frozen=True)
class Resolved:
    """A whole configuration, and how it came about."""

    config: TrialConfig
    searched: dict[str, Any]
    """The parameters that the trial was asked for, with their values."""
    notes: tuple[str, ...] = ()
    """Where a row is not what its name promises, because a pin says otherwise: a line each."""


def resolve(
    search: Search,
    trial: Asked | None,
    *,
    row: Mapping[str, Any] | None = None,
    pins: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    sources: Library | None = None,
) -> Resolved:
    """The configuration of one trial.

    Args:
        search: whose ``define`` is called.
        trial: Optuna's trial, or None where the row or the pins say everything.
        row: one of ``search.rows``; it must say all that ``define`` asks for, and may replace further fields.
        pins: constants, or a record's (``record_pins``); those that no branch of ``define`` asks for replace fields.
        defaults: fields for which neither ``define``, nor the row, nor a pin has a word, such as ``data``.
            The objective is the search's unless given here.
        sources: where the models that the configuration names are found; with it, these and the files that it names
            beside its data are looked for, and their hashes are filled in.

    Raises:
        BadInput: a key that nobody knows, a parameter that the row leaves open, a rule of the configuration broken,
            a file that is not there.
    """
    name = next((n for n, r in search.rows.items() if r is row or r == row), "of this trial") if row is not None else ""
    proxy = PinnedTrial(trial, pins=pins, row=row, strict=row is not None, row_name=name)
    with _at(search, name):
        resolved = _resolved(search, proxy, defaults or {})
        return dataclasses.replace(resolved, config=resolved.config.find_sources(sources)) if sources else resolved


def _resolved(search: Search, proxy: PinnedTrial, defaults: Mapping[str, Any]) -> Resolved:
    with unchecked():  # a pin may replace what makes two fields fit: the whole is checked below
        config = search.define(proxy)
    wanted = search.family.Config
    if not isinstance(config, wanted):
        raise BadInput(f"define returned {config!r}; it must return a {wanted.__qualname__}.")
    fields = config.fields()
    given = {**proxy.row, **proxy.pins}
    unknown = next((key for key in given if key not in fields and key not in proxy.consumed), None)
    if unknown is not None:
        raise BadInput(f"unknown key {unknown!r} for {wanted.__qualname__}{nearest(unknown, {*fields, *proxy.asked})}")
    untouched = {f.name: f.default for f in dataclasses.fields(config)}
    filled = {k: v for k, v in {"objective": search.objective, **defaults}.items() if k not in {*given, *proxy.asked}}
    # A field that define has moved away from its default is what the search's author wants.
    filled = {k: v for k, v in filled.items() if k not in fields or fields[k] == untouched[k]}
    replaced = {k: v for k, v in given.items() if k not in proxy.asked}
    if replaced:  # what other branches ask for has no meaning in this one
        elsewhere = _names(search.define)
        replaced = {k: v for k, v in replaced.items() if k not in elsewhere}
    notes = []
    for key, value in proxy.pins.items() if proxy.row else ():
        fixed = key in replaced and fields[key] != untouched[key]
        planned = proxy.row.get(key, fields[key] if fixed else value)
        if planned != value:
            notes.append(f"{key}={plain_text(value)} was set, in place of {plain_text(planned)}")
    return Resolved(type(config).from_fields({**fields, **filled, **replaced}), dict(proxy.searched), tuple(notes))


def example(search: Search, *, pins: Mapping[str, Any] | None = None) -> TrialConfig:
    """A configuration of the space, always the same: the base row's, the first row's, or one drawn at random."""
    name = search.base_row or next(iter(search.rows), "")
    proxy = PinnedTrial(RandomTrial(0), pins=pins, row=search.rows.get(name))
    with _at(search, name):
        return _resolved(search, proxy, {}).config


def whole_rows(search: Search, pins: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The rows of a search that say all that they are asked for when constants are set, and the names of the others.

    A constant may open a branch that a row does not have: with ``noise=student_t``, one of gaussian noise lacks
    ``noise_df``. It is no row of the narrowed search then.
    """
    left_out = [n for n, row in search.rows.items() if _lacks(search, row, pins) and not _lacks(search, row, {})]
    return {name: row for name, row in search.rows.items() if name not in left_out}, left_out


def _lacks(search: Search, row: Mapping[str, Any], pins: Mapping[str, Any]) -> bool:
    try:
        with unchecked():
            search.define(PinnedTrial(None, pins=pins, row=row))
    except Incomplete:
        return True
    except Exception:  # noqa: BLE001 - whatever else is wrong is said where all of the search is checked
        return False
    return False


def record_pins(search: Search, record: Mapping[str, Any]) -> dict[str, Any]:
    """The pins that make a trial's configuration again: its fields, less the parameters of branches it did not take.

    Raises:
        BadInput: the record lacks what ``define`` asks for.
    """
    proxy = PinnedTrial(None, pins=record)
    with _at(search), unchecked():
        search.define(proxy)
    elsewhere = _names(search.define) - proxy.asked.keys()
    return {key: value for key, value in record.items() if key not in elsewhere}


def check_effect(search: Search, row: str, pins: Mapping[str, Any]) -> None:
    """Checks that a configuration that is trained alone has what was set for it.

    Raises:
        BadInput: a parameter was set that this configuration is not asked for.
    """
    fields = resolve(search, None, row=search.rows[row], pins=pins).config.fields()
    for key, value in pins.items():
        if fields[key] != value:
            when = next((p.condition for p in describe(search).parameters if p.name == key), "")
            raise BadInput(
                f"--set {key}={plain_text(value)} has no effect on row {row!r} of {search.name}: {key} is asked for "
                f"{when or 'elsewhere'}; leave it out, or set the others too."
            )


@functools.cache
def _names(define: Callable[[Any], TrialConfig]) -> frozenset[str]:
    """Names of the parameters of all branches."""
    trials = [PinnedTrial(RandomTrial(seed)) for seed in range(_SAMPLES)]
    with unchecked():
        for trial in trials:
            define(trial)
    return frozenset(name for trial in trials for name in trial.asked)


@contextmanager
def _at(search: Search, row: str = "") -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"search {search.name!r}{f', row {row!r}' if row else ''}: {error}") from error


def parse_pins(texts: Sequence[str], config: type[TrialConfig]) -> dict[str, Any]:
    """Values of ``--set key=value`` texts, of the types that the configuration's fields have.

    Raises:
        BadInput: no ``=``, an unknown key, a key given twice, or a value that is not of the field's type.
    """
    types, pins = typing.get_type_hints(config), {}
    known = {f.name: types[f.name] for f in dataclasses.fields(config)}
    for text in texts:
        key, sign, value = text.partition("=")
        key = key.strip()
        if not sign:
            raise BadInput(f"--set {text}: write it as key=value.")
        if key not in known:
            raise BadInput(f"--set {text}: unknown key {key!r} for {config.__qualname__}{nearest(key, known)}")
        if key in ("data", "data_hash"):
            raise BadInput(f"--set {text}: the data cannot be set so; give the folder with --data.")
        if key in ("start_from", "until_epoch"):
            raise BadInput(f"--set {text}: populations and `vltune rerun` alone fill that in; leave it out.")
        if key in pins:
            raise BadInput(f"--set {text}: {key!r} is set twice; give it once.")
        pins[key] = _parsed(key, value, known[key])
    return pins


def _parsed(key: str, text: str, kind: type) -> Plain:
    if kind is str:
        return text
    words = {bool: "true or false", int: "a whole number", float: "a finite number"}
    try:
        value = {"true": True, "false": False}[text.strip().lower()] if kind is bool else kind(text)
        if math.isfinite(value):  # of a number beyond float's range Python says OverflowError
            return value
    except (KeyError, ValueError, OverflowError):
        pass
    raise BadInput(f"--set {key}={text}: {key} is of type {kind.__name__} and must be {words[kind]}.")


@dataclass(frozen=True)
class Description:
    """A search's space as ``vltune spaces NAME`` shows it."""

    name: str
    question: str
    family: str
    objective: str
    direction: Direction
    further_objectives: Mapping[str, Direction]
    num_trials: int
    sampler: str
    pruner: str
    parameters: tuple[Parameter, ...]
    """In the order in which they are asked."""
    fixed: Mapping[str, Any]
    """Fields that every trial has alike and that differ from the configuration's defaults."""
    derived: tuple[str, ...]
    """Fields that ``define`` computes from others."""
    rows: Mapping[str, Mapping[str, Any]]
    base_row: str
    note: str
    population: Population | None = None


def describe(search: Search, *, pins: Mapping[str, Any] | None = None) -> Description:
    """What a search asks for, found by sampling ``define`` with random answers, always the same ones.

    Args:
        search: whose ``define`` is called.
        pins: constants of a run; what they exclude is not asked for.

    Raises:
        BadInput: ``define`` fails, a range is impossible, or a name is unknown.
    """
    with _at(search):
        _check_words(search)
    runs = _explore(search, pins)
    default = {f.name: f.default for f in dataclasses.fields(search.family.Config)}
    first, *_ = configs = [config.fields() for _, config in runs]
    alike = {k for k in default if all(fields[k] == first[k] for fields in configs)}
    trials = [proxy for proxy, _ in runs]
    parameters = [dataclasses.replace(p, condition=condition_of(p, trials)) for p in in_order(trials)]
    asked = {p.name for p in parameters}
    return Description(
        name=search.name,
        question=with_question(search).question,
        family=search.family.name,
        objective=search.objective,
        direction=search.direction,
        further_objectives=directions_of(search.further_objectives, search.family.metrics),
        num_trials=search.num_trials,
        sampler=search.sampler,
        pruner=search.pruner,
        parameters=tuple(parameters),
        fixed={k: first[k] for k in default if k in alike - asked - {"objective"} and first[k] != default[k]},
        derived=tuple(k for k in default if k not in alike | asked),
        rows=search.rows,
        base_row=search.base_row,
        note=search.note,
        population=search.population,
    )


def _explore(search: Search, pins: Mapping[str, Any] | None = None) -> list[tuple[PinnedTrial, TrialConfig]]:
    runs = []
    for seed in range(_SAMPLES):
        proxy = PinnedTrial(RandomTrial(seed), pins=pins)
        with _at(search):
            try:
                runs.append((proxy, _resolved(search, proxy, {}).config))
            except BadInput as error:
                values = ", ".join(f"{k}={plain_text(v)}" for k, v in proxy.values.items())
                raise BadInput(f"{error} (with {values})" if values else str(error)) from error
            except Exception as error:  # whatever a person's own define may raise, nothing else runs in here
                raise BadInput(f"define fails at {where(error)}: {said(error)}") from error
    return runs


def check(search: Search, *, pins: Mapping[str, Any] | None = None) -> list[TrialConfig]:
    """Checks all that can be known of a search before anything starts.

    Returns:
        Configurations that will or may be trained: those of the rows, then random ones if the search goes on.

    Raises:
        BadInput: a rule is broken; the text says which, where, and what to do.
    """
    if not SEARCH_NAME.fullmatch(search.name):
        raise BadInput(
            f"search name {search.name!r} is not possible: use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or a digit."
        )
    with _at(search):
        _check_words(search)
    runs = _explore(search, pins)
    with _at(search):
        _check_names(search, runs)
        asked = {name for run, _ in runs for name in run.asked}
        idle = (pins or {}).keys() & _names(search.define) - asked
        if idle:
            others = ", ".join(f"{k}={plain_text(v)}" for k, v in (pins or {}).items() if k in asked)
            raise BadInput(f"{min(idle)!r} is never asked for with {others}; do not set it, or change the others.")
    configs: list[TrialConfig] = []
    for name, row in search.rows.items():
        proxy = PinnedTrial(None, pins=pins, row=row, row_name=name)
        with _at(search, name):
            configs.append(_resolved(search, proxy, {}).config)
            idle = asked & row.keys() - proxy.asked.keys()
            if idle and not pins:
                raise BadInput(f"{min(idle)!r} is not asked with the row's other values; remove it from the row.")
    objective = (pins or {}).get("objective", search.objective)
    with _at(search):
        for config in (*configs, *(config for _, config in runs)):
            if config.objective != objective:
                raise BadInput(
                    f"define or a row says objective={config.objective!r}, but the search is after {objective!r}; "
                    "leave it out there: it is the search that has an objective."
                )
        goes_on = search.num_trials > len(search.rows)
        trained = configs + [config for _, config in runs if goes_on]
        check_objectives(search, objective, trained)
        check_population(search, trained)
        if search.sampler == "grid" and goes_on:
            for parameter in dict.fromkeys(run.asked[name] for run, _ in runs for name in run.searched):
                parameter.values()
    return trained


def _check_words(search: Search) -> None:
    metrics, fields = search.family.metrics, {f.name for f in dataclasses.fields(search.family.Config)}
    for what, words, known in (
        ("objective", [search.objective], metrics),
        ("further_objectives", search.further_objectives, {**metrics, **ENGINE_METRICS}),
        ("columns", search.columns, {**metrics, **ENGINE_METRICS}),
        ("group_by", [search.group_by] if search.group_by else [], fields),
        ("base_row", [search.base_row] if search.base_row else [], search.rows),
        ("sampler", [search.sampler], SAMPLERS),
        ("pruner", [search.pruner], PRUNERS),
    ):
        for word in words:
            if word not in known:
                raise BadInput(f"{what}={word!r} is unknown{nearest(word, known)}")
    for name in search.rows:
        if not name.strip() or not name.isprintable():
            raise BadInput(f"the row name {name!r} is empty or not printable; rename the row.")
    if search.num_trials < 1:
        raise BadInput(f"num_trials={search.num_trials!r} is out of range: it must be at least 1.")


def _check_names(search: Search, runs: Sequence[tuple[PinnedTrial, TrialConfig]]) -> None:
    kinds: dict[str, Parameter] = {}
    for proxy, config in runs:
        fields = config.fields()
        for name, parameter in proxy.asked.items():
            if name not in fields:
                owner = search.family.Config.__qualname__
                raise BadInput(f"parameter {name!r} is no field of {owner}{nearest(name, fields)}")
            if fields[name] != proxy.values[name]:
                raise BadInput(
                    f"parameter {name!r}: define was told {proxy.values[name]!r} but returned {name}={fields[name]!r}; "
                    "give a parameter to the field of its own name, unchanged."
                )
            other = kinds.setdefault(name, parameter)
            if (other.kind, other.choices) != (parameter.kind, parameter.choices):
                raise BadInput(
                    f"parameter {name!r}: its kind and choices differ from trial to trial; keep them the same."
                )
