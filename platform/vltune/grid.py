"""The grid of a space: every combination of its parameters' values, with the branches of ``define`` followed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vltune.contract import Search
from vltune.parameters import Parameter
from vltune.space import resolve

MOST_POINTS = 10_000
"""Points that are listed; a larger grid is cut off here."""


def grid_points(
    search: Search, *, pins: Mapping[str, Any] | None = None, rows: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The points of a search's grid, as the values that are searched; the first ``MOST_POINTS`` of a larger one.

    They are in the order of ``define``'s questions: the last one's answer changes fastest.

    Args:
        search: whose parameters all have a finite number of values.
        pins: constants, which are not searched.
        rows: named rows; points that are equal to one are left out.

    Raises:
        BadInput: a parameter is continuous, or a rule of the configuration is broken.
    """
    known = {resolve(search, None, row=row, pins=pins).config for row in (rows or {}).values()}
    points = []
    for trial in _walk():
        resolved = resolve(search, trial, pins=pins)
        if resolved.config not in known:
            points.append(resolved.searched)
        if len(points) == MOST_POINTS:
            break
    return points


def _walk() -> Iterator["_Path"]:
    """Trials that lead ``define`` through all its branches, depth first: each has to be used before the next is taken.

    Of the path that was gone, the last question that has another answer gets it.
    """
    answers: list[int] = []
    while True:
        path = _Path(answers)
        yield path
        answers = list(path.answers)
        while answers and answers[-1] + 1 == path.counts[len(answers) - 1]:
            answers.pop()
        if not answers:
            return
        answers[-1] += 1


class _Path:
    """Answers the first questions as it is told, all others with their first value."""

    def __init__(self, answers: Sequence[int]) -> None:
        self.told = list(answers)
        self.answers: list[int] = []
        self.counts: list[int] = []

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A value of the range that is due."""
        return self._answer(Parameter(name=name, kind="float", low=low, high=high, step=step, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A value of the range that is due."""
        return self._answer(Parameter(name=name, kind="int", low=low, high=high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice that is due."""
        return self._answer(Parameter(name=name, kind="categorical", choices=tuple(choices)))

    def _answer(self, parameter: Parameter) -> Any:
        values = parameter.values()
        place = len(self.answers)
        self.answers.append(self.told[place] if place < len(self.told) else 0)
        self.counts.append(len(values))
        return values[self.answers[place]]
