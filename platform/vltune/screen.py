"""Where a command speaks: its result on standard output, all else on standard error."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Screen:
    """Where a command speaks: its result on standard output, all else on standard error."""

    as_json: bool
    width: int = 100

    def say(self, text: str) -> None:
        """A remark for the person who waits."""
        print(text, file=sys.stderr, flush=True)

    def result(self, text: str, document: Any) -> None:
        """The result, once: for a person, or with ``--json`` as one document."""
        print(json.dumps(_plain(document), indent=1, ensure_ascii=False) if self.as_json else text, flush=True)


def _plain(value: Any) -> Any:
    """JSON knows no NaN: what is not finite becomes null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def storage_flag(storage: Path) -> str:
    """What a command line that is shown to a person has to end with."""
    return "" if storage == Path("runs") else f" --storage {storage}"


def space_flag(space: str) -> str:
    """What such a line has to hold where a model may be of a family of a person's own: the file that has it.

    Args:
        space: what the search was loaded by, the name of one that vltune brings or the path of a file.
    """
    return f" --space {shlex.quote(space)}" if space.endswith(".py") else ""
