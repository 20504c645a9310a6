"""The parameters that a search asks for, and the trial that answers with pinned values first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

import numpy as np

from vltune.errors import BadInput

Plain = bool | int | float | str


class Asked(Protocol):
    """What answers a search's questions: Optuna's trial, or anything that has its three methods."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = ..., log: bool = ...) -> float:
        """A number of [low, high]."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int:
        """A whole number of [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One question of ``define``: a name, and the answers that are possible."""

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Plain, ...] = ()
    condition: str = ""
    """When it is asked, in words such as ``only with decoder=transformer``; empty: always."""

    def __str__(self) -> str:
        if self.kind == "categorical":
            text = f"{self.name}: categorical {', '.join(map(plain_text, self.choices))}"
        else:
            text = f"{self.name}: {self.kind} {self.low:g} to {self.high:g}"
            text += f", step {self.step:g}" if self.step not in (None, 1) else ""
            text += ", log" if self.log else ""
        return f"{text}; {self.condition}" if self.condition else text

    def check(self) -> None:
        """Checks the range.

        Raises:
            BadInput: no value is possible, or a rule of Optuna's distributions is broken.
        """
        if self.kind == "categorical":
            strange = [c for c in self.choices if not isinstance(c, Plain)]
            if not self.choices or strange:
                got = f"the choice {strange[0]!r}" if strange else "no choices"
                raise self._wrong("choices must be at least one bool, int, float or string", got)
            return
        got = f"low={self.low!r}, high={self.high!r}, step={self.step!r}, log={self.log!r}"
        whole = [v for v in (self.low, self.high, self.step) if not isinstance(v, int) or isinstance(v, bool)]
        if self.kind == "int" and whole:
            raise self._wrong("low, high and step of suggest_int must be whole numbers", got)
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in (self.low, self.high, self.step or 1)):
            raise self._wrong("low, high and step must be finite numbers", got)
        if self.low > self.high:
            raise self._wrong("low <= high must hold", got)
        if self.log and self.low <= 0:
            raise self._wrong("low > 0 must hold for log=True", got)
        if self.step is None:
            return
        if self.step <= 0:
            raise self._wrong("step > 0 must hold", got)
        if self.log and (self.kind == "float" or self.step != 1):
            raise self._wrong("step and log=True exclude each other", got)
        steps = (self.high - self.low) / self.step
        if abs(steps - round(steps)) > 1e-8:
            raise self._wrong("step must divide high - low", got)

    def _wrong(self, rule: str, got: str) -> BadInput:
        return BadInput(f"parameter {self.name!r}: {rule}, but got {got}.")

    def typed(self, value: Any) -> Any:
        """A pinned value as ``define`` expects it.

        Raises:
            BadInput: it is of another type.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if self.kind == "float" and number:
            return float(value)
        if self.kind == "categorical" or (number and isinstance(value, int)):
            return value
        raise BadInput(f"{self.name}={value!r} has the wrong type: the search asks for a value of type {self.kind}.")

    def values(self) -> list[Any]:
        """All possible answers, in order, for a grid.

        Raises:
            BadInput: they cannot be counted.
        """
        if self.kind == "categorical":
            return list(self.choices)
        if self.kind == "float" and self.step is None and self.low != self.high:
            raise BadInput(
                f"a grid needs parameters with a finite number of values, but {self.name} is a float from {self.low:g} "
                f"to {self.high:g}: pin it with --set {self.name}=VALUE, give it a step or choices in define, or take "
                "another sampler."
            )
        # In decimals: 0.1 + 2 * 0.1 is no number that a person would write.
        low, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
        numbers = (low + i * step for i in range(round((self.high - self.low) / float(step)) + 1))
        return [int(n) if self.kind == "int" else min(float(n), self.high) for n in numbers]

    def holds(self, value: Any) -> bool:
        """Whether the value is one of the possible answers."""
        if self.kind == "categorical":
            # True == 1 in Python, but they are different choices.
            return any(c == value and isinstance(c, bool) == isinstance(value, bool) for c in self.choices)
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.log or abs(steps - round(steps)) < 1e-8


class PinnedTrial:
    """The trial that ``define`` gets: it answers with pinned values first, so that branches follow them."""

    def __init__(
        self,
        trial: Asked | None,
        *,
        pins: Mapping[str, Any] | None = None,
        row: Mapping[str, Any] | None = None,
        strict: bool = False,
        row_name: str = "",
    ) -> None:
        """Stands before a trial.

        Args:
            trial: answers what is not pinned; None where everything is.
            pins: constants: the trial is not asked for them, so they are no longer searched.
            row: values that the trial was enqueued with: it is asked, so that the sampler learns from them, unless
                a value lies outside the range. Pins win over them.
            strict: whether a parameter that nothing pins is an error.
            row_name: for that error's text.
        """
        self.trial, self.pins, self.row = trial, pins or {}, row or {}
        self.strict, self.row_name = strict or trial is None, row_name
        self.asked: dict[str, Parameter] = {}
        self.values: dict[str, Any] = {}
        self.searched: dict[str, Any] = {}
        self.consumed: set[str] = set()

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As ``optuna.Trial.suggest_float``."""
        return self._answer(Parameter(name=name, kind="float", low=low, high=high, step=step, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As ``optuna.Trial.suggest_int``."""
        return self._answer(Parameter(name=name, kind="int", low=low, high=high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As ``optuna.Trial.suggest_categorical``."""
        return self._answer(Parameter(name=name, kind="categorical", choices=tuple(choices)))

    def _answer(self, parameter: Parameter) -> Any:
        name = parameter.name
        parameter.check()
        if self.asked.setdefault(name, parameter) != parameter:
            raise BadInput(f"parameter {name!r}: it is asked twice with different ranges; ask once, or use two names.")
        if name not in self.values:
            self.values[name] = self._value(parameter)
        return self.values[name]

    def _value(self, parameter: Parameter) -> Any:
        name = parameter.name
        if name in self.pins:
            self.consumed.add(name)
            return parameter.typed(self.pins[name])
        if name in self.row:
            self.consumed.add(name)
            value = parameter.typed(self.row[name])
            if self.trial is not None and parameter.holds(value):
                _ask(self.trial, parameter)
                self.searched[name] = value
            return value
        if self.strict or self.trial is None:
            who = "it" if self.row_name else "the record"  # the row's name stands before, with the search's
            raise Incomplete(f"{who} does not say {name!r}; add it there, or pin it with --set {name}=VALUE.")
        self.searched[name] = _ask(self.trial, parameter)
        return self.searched[name]


class Incomplete(BadInput):
    """A row or a record lacks what ``define`` asks for."""


class RandomTrial:
    """Answers at random, evenly over each range; the same seed and name give the same answer."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of [low, high], evenly, or evenly in its logarithm."""
        if step:
            return low + step * self.suggest_int(name, 0, round((high - low) / step))
        if log:
            return min(max(math.exp(self._random(name).uniform(math.log(low), math.log(high))), low), high)
        return float(self._random(name).uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number of [low, high]."""
        if log:
            return min(int(self.suggest_float(name, low, high + 1, log=True)), high)
        return low + step * int(self._random(name).integers((high - low) // step + 1))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices, each as likely."""
        return choices[int(self._random(name).integers(len(choices)))]

    def _random(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *name.encode()])


def _ask(trial: Asked, parameter: Parameter) -> Any:
    p = parameter
    if p.kind == "float":
        return trial.suggest_float(p.name, p.low, p.high, step=p.step, log=p.log)
    if p.kind == "int":
        return trial.suggest_int(p.name, int(p.low), int(p.high), step=int(p.step or 1), log=p.log)
    return trial.suggest_categorical(p.name, p.choices)


def plain_text(value: Any) -> str:
    """A value as a person would type it after ``--set key=``."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
