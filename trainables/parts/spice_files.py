"""The files of SPICE, which people fetch themselves."""

import hashlib
from pathlib import Path

from trainables.parts.recorded_files import known_sha256, refuse_changed
from trainables.parts.spice import spice_call
from vltune.errors import NotFound


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
    digest = hashlib.sha256()
    for program in sorted(place.glob("*.jar")):
        digest.update(f"{program.name} {known_sha256(program)}\n".encode())
    found = digest.hexdigest()
    refuse_changed(f"spice_folder={folder!r}", found, recorded)
    return found
