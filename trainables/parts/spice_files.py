"""The files of SPICE, which people fetch themselves."""

import functools
import hashlib
from pathlib import Path

from trainables.parts.spice import spice_call
from vltune.checkpoints import sha256
from vltune.errors import BadInput, NotFound


def spice_hash(folder: str, recorded: str = "") -> str:
    """SHA-256 over the names and contents of the programs (``*.jar``) that lie in SPICE's folder.

    Args:
        folder: of SPICE.
        recorded: the hash that a trial was recorded with; empty if it is not known.

    Raises:
        NotFound: there is no such folder, or a program is missing.
        BadInput: it holds others than were recorded.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise NotFound(f"spice_folder={folder!r}: there is no such folder; check the path.")
    spice_call(folder)  # says which programs are missing
    programs = sorted(place.glob("*.jar"))
    found = _hash(tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in programs), str(place))
    if recorded and found != recorded:
        raise BadInput(
            f"spice_folder={folder!r} has changed since the trial was recorded: its hash is {found[:12]}…, not "
            f"{recorded[:12]}…; put the old files back, or train a new trial."
        )
    return found


@functools.lru_cache(maxsize=4)
def _hash(programs: tuple[tuple[str, int, int], ...], root: str) -> str:
    digest = hashlib.sha256()
    for program, *_ in programs:  # size and time are in the cache's key: a file with others is another one
        digest.update(f"{Path(program).relative_to(root)} {sha256(Path(program))}\n".encode())
    return digest.hexdigest()
