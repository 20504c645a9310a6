"""Promoted models as the beginning of others: found by reference, kept by content where workers can read them."""

import shutil
import uuid
from pathlib import Path

from filelock import FileLock

from vltune.checkpoints import MANIFEST, Corrupt, sha256, verify
from vltune.contract import BadInput
from vltune.models import SHELF, read_record
from vltune.registry import Registry
from vltune.tracking import Tracker


class PromotedModels:
    """The promoted models of a storage folder, for trials that start from them or stand on them."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage.absolute()
        self._found: dict[str, str] = {}

    def find(self, reference: str, *, expected: str = "") -> str:
        """The content hash of a model, whose files lie in the cache from then on (``vltune.contract.Library``)."""
        shelf = self._storage / "cache" / SHELF
        if expected and (shelf / expected / MANIFEST).is_file():
            return expected
        if reference not in self._found:
            self._found[reference] = self._fetch(reference, shelf)
        found = self._found[reference]
        if expected and found != expected:
            raise BadInput(
                f"{reference} is not the model that was recorded: its content hash is {found[:12]}…, not "
                f"{expected[:12]}…; name the version that was used, or train a new trial."
            )
        return found

    def _fetch(self, reference: str, shelf: Path) -> str:
        folder = Path(reference).expanduser()
        if not folder.is_dir():
            folder = Registry(Tracker(self._storage)).resolve(reference).folder
        read_record(folder)
        try:
            content = sha256(folder / MANIFEST)
        except OSError as error:
            raise BadInput(f"{folder} holds no {MANIFEST}: give a promoted model's folder.") from error
        place = shelf / content
        shelf.mkdir(parents=True, exist_ok=True)
        with FileLock(shelf / f"{content}.lock"):
            if not (place / MANIFEST).is_file():
                draft = shelf / f".{content}.{uuid.uuid4().hex[:8]}"
                try:
                    shutil.copytree(folder, draft)
                    verify(draft)
                    shutil.rmtree(place, ignore_errors=True)
                    draft.rename(place)
                except Corrupt as error:
                    raise BadInput(f"the model {reference} is not sound: {error}; promote it again.") from error
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
        return content
