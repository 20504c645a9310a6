"""The errors that people see, and how names are looked up."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class BadInput(ValueError):
    """Something that a person gave is wrong. The text is one line: what, where, which rule, what to do."""


class Busy(BadInput):
    """Another process drives this search."""


class NotFound(BadInput):
    """A name that a person gave leads nowhere."""


class Unreachable(RuntimeError):
    """A server or a cluster that a person named does not answer."""


class TrainingFailure(RuntimeError):
    """A trial that cannot go on whatever is retried: a loss that is not finite, no memory left on the device."""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The member of a table, or an error that names the nearest one.

    Raises:
        NotFound: the table has no such member.
    """
    if name in table:
        return table[name]
    raise NotFound(f"unknown {what} {name!r}{nearest(name, table)}")


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error text: the nearest name if there is one, and all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    guess = f"; did you mean {close[0]!r}? Choose" if close else "; choose"
    shown = (repr(choice) if "," in choice else choice for choice in choices)
    return f"{guess} one of: {', '.join(shown)}."
