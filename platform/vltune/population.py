"""Population-based training as plain arithmetic: who is copied, what changes, and which line of segments won.

After Jaderberg et al. 2017 (https://arxiv.org/abs/1711.09846), with truncation selection. A member's training is cut
into segments, each a trial of its own; segment N of all members is generation N. What comes next is a function of the
seed and of the segments that are there, so that a driver which was killed goes on as if nothing had happened. Other
than in the paper, members wait for each other at the end of a generation: that makes the search repeatable.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vltune.configuration import TrialConfig
from vltune.contract import Direction, Draws, Population, Search
from vltune.errors import BadInput, nearest

FACTORS = (0.8, 1.2)
"""What a value is multiplied by when it is perturbed."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One member in one generation: a trial."""

    uid: str
    name: str
    config: Mapping[str, Any]
    """Its record; empty where it could not even be configured."""
    ended: bool
    value: float
    """The objective at the end of the segment, not at its best epoch; NaN if it failed or has not ended."""

    @property
    def parent(self) -> str:
        """Uid of the segment that it goes on from; empty in the first generation."""
        return self.config.get("start_from", "")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A segment that is to be trained next."""

    name: str
    until_epoch: int
    parent: Segment | None = None
    """None in the first generation, whose members the sampler makes."""
    changes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What a copy has other than its parent; empty for a member that goes on as it is."""
    note: str = ""

    def config(self) -> dict[str, Any]:
        """The record of a segment that has a parent."""
        assert self.parent is not None, "the sampler makes the first generation"
        return {
            **self.parent.config,
            **self.changes,
            "start_from": self.parent.uid,
            "until_epoch": self.until_epoch,
        }


def generations(population: Population, epochs: int) -> int:
    """How many generations there are; the last may be shorter."""
    return math.ceil(epochs / max(1, population.segment_epochs))


def copied(population: Population) -> int:
    """How many of the worst members become copies, of as many of the best, where none failed."""
    return max(1, math.floor(population.quantile * population.size + 1e-9))  # 0.29 * 100 is below 29


def by_generation(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments of each generation, in the order of their members.

    Args:
        segments: in the order in which they were entered, which is that of the members in each generation.
    """
    rounds: list[list[Segment]] = []
    where: dict[str, int] = {}
    for segment in segments:
        where[segment.uid] = where[segment.parent] + 1 if segment.parent else 0
        if where[segment.uid] == len(rounds):
            rounds.append([])
        rounds[where[segment.uid]].append(segment)
    return rounds


def due(population: Population, segments: Sequence[Segment], *, direction: Direction, seed: int) -> list[Step]:
    """What is to be trained now beside the segments that are there; nothing while a generation runs, or at the end.

    Args:
        population: the rules.
        segments: what is there, in the order in which it was entered.
        direction: which way the objective is better.
        seed: of the search.

    Raises:
        BadInput: a whole generation failed.
    """
    rounds = by_generation(segments) or [[]]
    if len(rounds[-1]) < population.size:  # nothing was entered yet, or a kill came in between
        whole = _successors(population, rounds, direction, seed) if len(rounds) > 1 else _first(population)
        return whole[len(rounds[-1]) :]
    if is_last(population, segments) or not all(segment.ended for segment in rounds[-1]):
        return []
    return _successors(population, [*rounds, []], direction, seed)


def is_last(population: Population, segments: Sequence[Segment]) -> bool:
    """Whether the last generation is there with all its members."""
    rounds = by_generation(segments)
    return len(rounds) == generations(population, _epochs(segments)) and len(rounds[-1]) == population.size


def _epochs(segments: Sequence[Segment]) -> int:
    return next((segment.config["epochs"] for segment in segments if segment.config), 0)


def segment_name(member: int, generation: int) -> str:
    """What a segment is called; both count from 1."""
    return f"m{member:02d}.g{generation}"


def _first(population: Population) -> list[Step]:
    names = [segment_name(member + 1, 1) for member in range(population.size)]
    return [Step(name=name, until_epoch=population.segment_epochs) for name in names]


def _successors(
    population: Population, rounds: Sequence[Sequence[Segment]], direction: Direction, seed: int
) -> list[Step]:
    """The last generation, made of the one before it: its worst members become copies of random ones among the best."""
    ended, generation = rounds[-2], len(rounds)
    sign = -1.0 if direction == "max" else 1.0
    values = [sign * segment.value if math.isfinite(segment.value) else math.inf for segment in ended]
    order = sorted(range(len(ended)), key=lambda member: (values[member], member))
    failed = sum(value == math.inf for value in values)
    if failed == len(ended):
        raise BadInput(f"all {failed} members of generation {generation - 1} failed: there is nothing to go on from.")
    count = copied(population)
    replaced = set(order[len(ended) - max(count, failed) :])
    best = order[: min(count, len(ended) - len(replaced))]
    until = min(generation * population.segment_epochs, _epochs(ended))
    draws, steps = Draws(seed, generation), []
    for member, segment in enumerate(ended):
        step = Step(name=segment_name(member + 1, generation), until_epoch=until, parent=segment)
        if member in replaced:
            random = draws.generator(str(member), "population")
            parent = ended[best[int(random.integers(len(best)))]]
            changes = {
                key: explored(float(parent.config[key]), low, high, resample=population.resample, random=random)
                for key, (low, high) in population.perturbed.items()
            }
            told = ", ".join(f"{key} {parent.config[key]:.3g} to {value:.3g}" for key, value in changes.items())
            step = dataclasses.replace(step, parent=parent, changes=changes, note=f"copy of {parent.name}: {told}")
        steps.append(step)
    return steps


def explored(value: float, low: float, high: float, *, resample: float, random: np.random.Generator) -> float:
    """A value changed by one of ``FACTORS``, or drawn anew: evenly, in its logarithm where the range has decades.

    A value of 0 changes only by being drawn anew.

    Args:
        value: what the copied member had.
        low: least value that comes out.
        high: greatest. From ten times a positive ``low`` on, the logarithm is drawn.
        resample: probability of a new draw, in [0, 1].
        random: where the draws come from.
    """
    if random.random() >= resample:
        value *= FACTORS[int(random.integers(len(FACTORS)))]
    elif low > 0 and high >= 10 * low:
        value = math.exp(random.uniform(math.log(low), math.log(high)))
    else:
        value = random.uniform(low, high)
    return min(max(float(value), low), high)


def spent(segments: Sequence[Segment], *, size: int) -> list[Segment]:
    """Segments whose last state nobody will go on from: their generation is copied, and all their children ended."""
    rounds = by_generation(segments)
    ended = {segment.uid for segment in segments if segment.ended}
    waiting = {segment.parent for segment in segments if segment.uid not in ended}
    return [
        segment
        for older, newer in itertools.pairwise(rounds)
        if len(newer) == size
        for segment in older
        if segment.uid in ended - waiting
    ]


def lineage(segments: Sequence[Segment], uid: str) -> list[Segment]:
    """The segments that led to one, from the first generation on, itself included."""
    known = {segment.uid: segment for segment in segments}
    line = [known[uid]]
    while line[0].parent:
        line.insert(0, known[line[0].parent])
    return line


def winner(population: Population, segments: Sequence[Segment], *, direction: Direction) -> Segment | None:
    """The best member at the end of the last generation; None before that, or if all of it failed."""
    last = by_generation(segments)[-1] if is_last(population, segments) else ()
    there = [segment for segment in last if math.isfinite(segment.value)]
    sign = -1.0 if direction == "max" else 1.0
    return min(there, key=lambda segment: sign * segment.value, default=None)


def schedule(population: Population, line: Sequence[Segment], *, objective: str) -> list[dict[str, Any]]:
    """What a line of segments trained with: an entry for each, plain values."""
    begins = [0, *(segment.config["until_epoch"] for segment in line)]
    return [
        {
            "uid": segment.uid,
            "name": segment.name,
            "epochs": [begin + 1, segment.config["until_epoch"]],
            "values": {key: segment.config[key] for key in population.perturbed},
            objective: segment.value,
        }
        for begin, segment in zip(begins, line, strict=False)
    ]


def schedule_table(entries: Sequence[Mapping[str, Any]], *, objective: str) -> str:
    """A schedule as a table in Markdown."""
    fields = list(entries[0]["values"])
    rows = [["epochs", "segment", *fields, objective], ["---"] * (len(fields) + 3)]
    for entry in entries:
        first, last = entry["epochs"]
        values = [f"{value:.4g}" for value in (*entry["values"].values(), entry[objective])]
        rows.append([f"{first} to {last}", entry["name"], *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_constants(search: Search, pins: Mapping[str, Any], *, epochs: int) -> Search:
    """The search with the population that is left when a person has set fields: these stay, whatever perturbs them.

    Args:
        search: with a population.
        pins: what was set.
        epochs: of the whole training, which says how many generations and so how many trials there are.
    """
    population = search.population
    assert population is not None, "only a population is perturbed"
    perturbed = {key: limits for key, limits in population.perturbed.items() if key not in pins}
    trials = population.size * generations(population, epochs)
    return dataclasses.replace(
        search, num_trials=trials, population=dataclasses.replace(population, perturbed=perturbed)
    )


def check_population(search: Search, configs: Sequence[TrialConfig]) -> None:
    """Checks the rules of a search's population, if it has one.

    Args:
        search: the search.
        configs: configurations that its first generation may have.

    Raises:
        BadInput: a rule is broken.
    """
    population = search.population
    if population is None:
        return
    if population.size < 2:
        raise BadInput(f"population: size={population.size!r} is out of range: it must be at least 2.")
    if population.segment_epochs < 1:
        raise BadInput(f"population: segment_epochs={population.segment_epochs!r} must be at least 1.")
    if not 0 < population.quantile <= 0.5:
        raise BadInput(f"population: quantile={population.quantile!r} is out of range: it must lie in (0, 0.5].")
    if not 0 <= population.resample <= 1:
        raise BadInput(f"population: resample={population.resample!r} is out of range: it must lie in [0, 1].")
    if search.pruner != "none":
        raise BadInput(
            f"pruner={search.pruner!r} with a population: its worst members are replaced after each generation, and a "
            "pruned one could not be copied; take pruner='none'."
        )
    if search.sampler == "grid":
        raise BadInput("sampler='grid' with a population: its first generation is drawn; take 'random' or 'tpe'.")
    if search.further_objectives:
        raise BadInput(
            "a population with further_objectives: members are copied by one value; leave one of the two out."
        )
    if len(search.rows) > population.size:
        raise BadInput(f"{len(search.rows)} rows for a population of {population.size}: each row is a member.")
    _check_configs(search, population, configs)


def _check_configs(search: Search, population: Population, configs: Sequence[TrialConfig]) -> None:
    epochs = {config.epochs for config in configs}
    if len(epochs) > 1:
        raise BadInput(f"a population whose members train for {sorted(epochs)} epochs: give all the same number.")
    if min(epochs) <= population.segment_epochs:
        raise BadInput(
            f"population: segment_epochs={population.segment_epochs} of epochs={min(epochs)} leaves no generation that "
            "could be copied; take fewer for a segment, or more in all."
        )
    trials = population.size * generations(population, min(epochs))
    if search.num_trials != trials:
        raise BadInput(
            f"num_trials={search.num_trials}, but {population.size} members in {trials // population.size} generations "
            f"make {trials} trials: write that."
        )
    for config in configs:
        for key in ("patience", "until_epoch", "start_from"):
            if getattr(config, key):
                raise BadInput(f"{key}={getattr(config, key)!r} with a population: a member's end is its generation's.")
    fields = {f.name: f.type for f in dataclasses.fields(search.family.Config)}
    if not population.perturbed:
        raise BadInput("population: nothing is perturbed: name at least one field that is not set by hand.")
    for key, (low, high) in population.perturbed.items():
        if key not in fields:
            raise BadInput(f"population: unknown field {key!r}{nearest(key, fields)}")
        if fields[key] is not float:
            raise BadInput(f"population: {key!r} cannot be perturbed: only fields of type float change on the way.")
        if not low < high:
            raise BadInput(f"population: {key} has the range ({low!r}, {high!r}): the first must be below the second.")
        for config in configs:
            for value in (low, high):
                try:
                    dataclasses.replace(config, **{key: float(value)})
                except BadInput as error:
                    raise BadInput(f"population: {key} of ({low!r}, {high!r}): {error}") from error
