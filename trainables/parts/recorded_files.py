"""Files that trials are recorded with: known by their hash, and refused when they have changed."""

import functools
from pathlib import Path

from vltune.checkpoints import sha256
from vltune.errors import BadInput, NotFound


def file_hash(path: str, recorded: str = "", *, field: str, otherwise: str = "train a new trial") -> str:
    """SHA-256 of a file that a person named, which must be the recorded one if there is one.

    Args:
        path: of the file.
        recorded: the hash that the trial was recorded with, or an empty text.
        field: name of the field that holds the path, for the errors.
        otherwise: what to do where the old file is not to come back.

    Raises:
        NotFound: there is no such file.
        BadInput: it cannot be read, or has changed.
    """
    try:
        found = known_sha256(Path(path).expanduser())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{field}={path!r}: there is no such file; check the path.") from error
    except OSError as error:
        raise BadInput(f"{field}={path!r}: cannot be read ({error.strerror}); check the file.") from error
    refuse_changed(f"{field}={path!r}", found, recorded, otherwise=otherwise)
    return found


def refuse_changed(what: str, found: str, recorded: str, *, otherwise: str = "train a new trial") -> None:
    """Refuses what has another hash than the trial was recorded with, if that is known.

    Raises:
        BadInput: it has.
    """
    if recorded and found != recorded:
        raise BadInput(
            f"{what} has changed since the trial was recorded: its hash is {found[:12]}…, not {recorded[:12]}…; put "
            f"back what was there, or {otherwise}."
        )


def known_sha256(file: Path) -> str:
    """SHA-256 of a file, which is read once in a process while its size and time of change stay.

    Raises:
        OSError: it cannot be read.
    """
    return _sha256(*file_state(file))


def file_state(file: Path) -> tuple[Path, int, int]:
    """What a file is remembered by: its path, its size in bytes, and when it changed in nanoseconds.

    Raises:
        OSError: there is no such file.
    """
    status = file.stat()
    return file.absolute(), status.st_size, status.st_mtime_ns


@functools.cache
def _sha256(file: Path, size: int, changed: int) -> str:  # noqa: ARG001 - a file with others is another one
    return sha256(file)
