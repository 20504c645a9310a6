"""Several objectives: which way each is better, the Pareto front, and what a search with them must keep to."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from vltune.configuration import TrialConfig, listed
from vltune.contract import ENGINE_METRICS, Direction, Family, Search
from vltune.errors import BadInput, lookup


def directions_of(names: Iterable[str], metrics: Mapping[str, Direction]) -> dict[str, Direction]:
    """Which way metrics are better: those of a family, and the engine's own.

    Raises:
        NotFound: neither has such a metric.
    """
    known: Mapping[str, Direction] = {**ENGINE_METRICS, **metrics}
    return {name: lookup(known, name, "metric") for name in names}


def direction_of(family: type[Family], config: TrialConfig, metric: str) -> Direction:
    """Which way a metric is better, of those that a configuration has measured.

    Raises:
        NotFound: the family has no such metric.
        BadInput: it is not measured unless it is asked for.
    """
    direction = lookup(family.metrics, metric, "metric")
    if metric not in family.measures(config):
        raise BadInput(f"{metric} is measured only where it is asked for: say --set {unasked(family, config)[metric]}.")
    return direction


def unasked(family: type[Family], config: TrialConfig) -> dict[str, str]:
    """The metrics of a family that a configuration does not ask for, and what would ask for each beside the others."""
    measured = family.measures(config)
    return {
        metric: f"{key}={','.join((*listed(config, key), name))}"
        for metric, (key, name) in family.asked_by.items()
        if metric not in measured
    }


def measured_alike(family: type[Family], configs: Sequence[TrialConfig]) -> dict[str, Direction]:
    """The metrics that all trials of a search have.

    Raises:
        BadInput: some have others than the rest.
    """
    first = family.measures(configs[0])
    for config in configs:
        if odd := sorted(family.measures(config).keys() ^ first.keys()):
            key = family.asked_by[odd[0]][0]
            raise BadInput(f"{odd[0]} is measured in some trials only: rows of one table need one {key}; set it once.")
    return first


def columns_of(search: Search, objective: str, configs: Sequence[TrialConfig]) -> tuple[str, ...]:
    """The columns of a search's table: its own, as far as they are measured, and all that was asked for besides.

    Args:
        search: whose table it is.
        objective: what it is after.
        configs: configurations that may be trained.
    """
    family, measured = search.family, measured_alike(search.family, configs)
    asked = [metric for metric in family.asked_by if metric in measured]
    if not asked and not search.columns:
        return ()
    usual = (objective, *search.further_objectives, *(("val_loss",) if "val_loss" in measured else ()))
    there = [name for name in search.columns or usual if name in measured or name not in family.metrics]
    return tuple(dict.fromkeys((*there, *asked)))


def pareto_front(points: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[bool]:
    """Whether each point is on the front: no other is better in one value and at least as good in all.

    Args:
        points: (points, objectives); a point with a value that is not finite is not on the front.
        directions: which way each objective is better.
    """
    signs = [-1.0 if direction == "max" else 1.0 for direction in directions]
    costs = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in points]
    valid = [all(map(math.isfinite, cost)) for cost in costs]
    rivals = [cost for cost, is_valid in zip(costs, valid, strict=True) if is_valid]
    return [v and not any(_dominates(rival, cost) for rival in rivals) for cost, v in zip(costs, valid, strict=True)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def with_objectives(search: Search, text: str) -> Search:
    """The same search after other objectives, ``cider,parameters``; the first chooses each trial's best epoch.

    Raises:
        BadInput: no name, or a name twice.
        NotFound: an unknown name.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadInput(f"--objectives {text!r}: write names with commas between them, such as cider,parameters.")
    first, *further = names
    lookup(search.family.metrics, first, f"metric of the family {search.family.name!r}, which the first objective is,")
    directions_of(further, search.family.metrics)
    changed = dataclasses.replace(search, objective=first, further_objectives=tuple(further))
    _check_different(changed, first)
    return changed


def check_objectives(search: Search, objective: str, configs: Sequence[TrialConfig]) -> None:
    """Checks that what a search is after is measured, and what several objectives must keep to.

    Args:
        search: whose ``further_objectives`` are known names.
        objective: the first objective: the search's own, or the one that was set.
        configs: configurations that may be trained.

    Raises:
        BadInput: an objective is named twice, one is not measured, or a pruner is asked for.
    """
    for config in configs:
        for name in (objective, *search.further_objectives):
            if name in search.family.metrics:
                direction_of(search.family, config, name)
    if not search.further_objectives:
        return
    _check_different(search, objective)
    if search.pruner != "none":
        raise BadInput(
            f"pruner={search.pruner!r} is not possible with several objectives ({objective}, "
            f"{', '.join(search.further_objectives)}): pruners compare trials by one value, and would stop those that "
            "are good in the others; take --pruner none, or one objective."
        )
    if "latency_ms" in search.further_objectives and not all(config.measure_latency for config in configs):
        raise BadInput(
            "the objective latency_ms is measured only with measure_latency=True: say so in define, or by "
            "--set measure_latency=true."
        )


def _check_different(search: Search, objective: str) -> None:
    names = [objective, *search.further_objectives]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise BadInput(f"the objective {twice!r} is named twice; name each once.")
