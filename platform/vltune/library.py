"""Promoted models as the beginning of others: found by reference, kept by content where workers can read them."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from vltune.checkpoints import MANIFEST, Corrupt, sha256, verify
from vltune.errors import BadInput
from vltune.models import SHELF, STANDS_ON, content_hash, read_record
from vltune.registry import Registry
from vltune.tracking import Tracker


class PromotedModels:
    """The promoted models of a storage folder, for trials that start from them or stand on them."""

    def __init__(self, storage: Path, *, known: Mapping[str, str] | None = None) -> None:
        """What the references of ``known`` lead to was found before: an alias may have moved since."""
        self._storage = storage.absolute()
        self.found: dict[str, str] = dict(known or {})
        """Reference -> content hash of all that was looked for."""

    def find(self, reference: str, *, expected: str = "") -> str:
        """The content hash of a model, whose files lie in the cache from then on (``vltune.configuration.Library``)."""
        shelf = self._storage / "cache" / SHELF
        expected = expected or self.found.get(reference, "")
        if expected and (shelf / content_hash(expected) / MANIFEST).is_file():
            return self.found.setdefault(reference, expected)
        found = self.found[reference] = self._fetch(reference, shelf)
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
        for below in (place / STANDS_ON).glob("*"):  # whoever stands on this model opens data as they do
            self._fetch(str(below), shelf)
        return content
