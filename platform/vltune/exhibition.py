"""What several models say about the same pictures, read from their checkpoints and from the data."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vltune.checkpoints import RECORDS, SAMPLES
from vltune.columns import read_records
from vltune.contract import Data, Direction, Family, Record
from vltune.errors import BadInput
from vltune.gallery import GalleryItem, choose
from vltune.inline import shown_picture
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord, TrialRecord
from vltune.summary import best_report, checkpoint_folder

CAPTION, REFERENCES = "caption", "references"
"""Keys of the records of families that write captions."""

_ENOUGH, _FEW = 20, 0.1
"""Pictures among which it means something that a model says much the same of them, and how few captions that are."""


@dataclass(frozen=True)
class Exhibition:
    """Pictures with the captions of several models."""

    metric: str
    """What the captions are scored by, each for itself; empty: by nothing."""
    models: tuple[str, ...]
    groups: Mapping[str, Sequence[GalleryItem]]
    """Why pictures are shown (``gallery.BEST``, …) -> the pictures."""
    pictures: int
    """Pictures that all models captioned and that are still here, of which these were chosen."""
    notes: tuple[str, ...]
    """What a person should know of the choice, a line each."""


def open_data(
    family: type[Family], record: SearchRecord, config: Mapping[str, Any], *, storage: Path, data: str | None = None
) -> tuple[Data | None, str]:
    """The data that a run was trained on, and, where it cannot be had, why not.

    Args:
        family: the run's.
        record: the run's.
        config: of one of its trials.
        storage: folder of the runs, with the cache.
        data: where the data lies now; None: where it was.
    """
    try:
        place = str(Path(data).expanduser().absolute()) if data else str(config.get("data", record.data))
        found = dataclasses.replace(family.Config.from_fields(config), data=place)
        if not Path(place).exists():
            return None, f"{place} is not there any more"
        opened = family.load(found, str(storage.absolute() / "cache"))
    except (BadInput, OSError) as error:
        return None, " ".join(str(error).split())
    if opened.hash != record.data_hash:
        return None, f"{place} is not what it was when the run was started"
    return opened, ""


def exhibit(
    ledger: Ledger,
    models: Mapping[str, TrialRecord],
    *,
    storage: Path,
    objective: str,
    metrics: Mapping[str, Direction],
    data: Data | None,
    of_each: int = 3,
) -> Exhibition | None:
    """Pictures of the validation split as several trials captioned them in their best epochs.

    Pictures come from the data; without it, those few are shown that checkpoints keep, small as the models saw them.

    Args:
        ledger: where the trials are.
        models: what a trial is called -> the trial, in the order in which their captions stand.
        storage: folder of the runs.
        objective: what captions are ordered by; where single captions have no such score, by another metric.
        metrics: metrics that captions may have -> which way they are better.
        data: the data set, or None where it is gone.
        of_each: pictures of each kind.

    Returns:
        None where no model wrote captions, or none of their checkpoints is left.
    """
    notes, said, kept = [], {}, {}
    for name, trial in models.items():
        best = best_report(ledger.epochs(trial.uid))
        folder = checkpoint_folder(storage, trial, best) if best else Path()
        if best is None or not (folder / RECORDS).is_file():
            notes.append(f"The captions of {name} are not shown: its checkpoint is gone.")
            continue
        records = {str(r["id"]): r for r in read_records(folder / RECORDS) if isinstance(r.get(CAPTION), str)}
        if records:
            said[name] = records
            kept |= _kept(folder / SAMPLES)
    if not said:
        return None
    common = [i for i in next(iter(said.values())) if all(i in records for records in said.values())]
    pictures = _Pictures(data, kept)
    seen = [i for i in common if i in pictures]
    if not seen:
        return None
    if data is None:
        notes.append(
            "The data is not where it was: these are the few pictures that checkpoints keep, small and square."
        )
    alike = {name: sameness([*records.values()]) for name, records in said.items()}
    notes += [f"{name} wrote {what}." for name, what in alike.items() if what]
    metric = _own_metric(said, seen, objective, metrics)
    scores = {i: [float(said[name][i].get(metric, math.nan)) for name in said] if metric else [] for i in seen}
    groups = choose(scores, metrics.get(metric, "max"), of_each=of_each)
    items = {kind: [_item(said, i, metric, pictures) for i in ids] for kind, ids in groups.items()}
    items = {kind: [item for item in shown if item is not None] for kind, shown in items.items()}
    items = {kind: shown for kind, shown in items.items() if shown}
    return Exhibition(metric, tuple(said), items, len(seen), tuple(notes)) if items else None


def sameness(records: Sequence[Record]) -> str:
    """How few different captions there are, where they are few; empty elsewhere, and of models that write none."""
    captions = [record[CAPTION] for record in records if isinstance(record.get(CAPTION), str)]
    different, pictures = len({*captions}), len(captions)
    if pictures < _ENOUGH or different > _FEW * pictures:
        return ""
    return f"{f'only {different} captions' if different > 1 else 'one and the same caption'} for {pictures} pictures"


def _own_metric(
    said: Mapping[str, Mapping[str, Record]], ids: Sequence[str], objective: str, metrics: Mapping[str, Direction]
) -> str:
    """What single captions of all models are scored by: the objective, or the first metric that they have."""
    for metric in (objective, *metrics):
        if all(isinstance(records[ids[0]].get(metric), float) for records in said.values()):
            return metric
    return ""


def _item(said: Mapping[str, Mapping[str, Record]], i: str, metric: str, pictures: "_Pictures") -> GalleryItem | None:
    picture = pictures.read(i)
    if picture is None:
        return None
    of_models = {name: records[i] for name, records in said.items()}
    scores = {name: float(record[metric]) for name, record in of_models.items() if metric in record}
    references = next((record[REFERENCES] for record in of_models.values() if record.get(REFERENCES)), ())
    captions = {name: str(record[CAPTION]) for name, record in of_models.items()}
    return GalleryItem(picture, captions, tuple(map(str, references)), scores, i)


class _Pictures:
    """Pictures by their samples' ids: as they were given, else as the data has them, else as checkpoints keep them."""

    def __init__(self, data: Data | None, kept: Mapping[str, Path]) -> None:
        self.kept = kept
        self.files = data.files if data else {}
        self.split = data.splits["validation"] if data else []
        # Ids cost reading all captions of the split; pictures are decoded one by one below.
        self.places = {sample.id: number for number, sample in enumerate(self.split)}

    def __contains__(self, i: str) -> bool:
        return i in self.places or i in self.kept

    def read(self, i: str) -> np.ndarray | None:
        try:
            if i in self.files:
                return shown_picture(Path(self.files[i]))
            if i in self.places:
                return self.split[self.places[i]].picture
            with Image.open(self.kept[i]) as image:
                return np.asarray(image.convert("RGB"))
        except OSError:  # a picture that has gone since the data was looked over
            return None


def _kept(folder: Path) -> dict[str, Path]:
    try:
        shown = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(entry["id"]): folder / entry["picture"] for entry in shown if entry.get("picture")}
