"""Runs that were never trained, for reports: a ledger, a study, and what trials leave, filled by hand."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from trainables.captioning import Captioning, CaptioningConfig
from vltune.checkpoints import RECORDS, RESAMPLES, SAMPLES
from vltune.columns import write_records, write_resamples
from vltune.contract import Data, Direction, EpochReport, Record, Resampled, Sample
from vltune.drawings import Curve
from vltune.illustrations import FIGURES, FOLDER, INDEX, MODULES
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.samples import write_samples
from vltune.study import Study
from vltune.summary import trial_folder
from vltune.trial_figures import draw

HOSTILE = '<script>alert("x")</script> & <b>bold</b>'
HASH = "d" * 64
IDS = tuple(f"{i:02d}.jpg" for i in range(40))
BEGAN = time.time() - 60
METRICS: dict[str, Direction] = {"cider": "max", "bleu_4": "max", "val_loss": "min"}


class Toy(Captioning):
    """A family that opens nothing but what it was given."""

    explained: ClassVar[dict[str, str]] = {"cider": "How alike <captions> are."}
    data: ClassVar[Data | None] = None

    @classmethod
    def load(cls, config: Any, cache: str) -> Data:
        assert cls.data is not None
        return cls.data


def pictures() -> Data:
    """Data whose pictures are of one colour each."""
    split = [Sample(i, np.full((6, 8, 3), 3 * number, np.uint8), ("a dog", HOSTILE)) for number, i in enumerate(IDS)]
    return Data("toy <set>", HASH, {"train": split, "validation": split, "test": split[:3]}, ("a note <here>",))


def config(**fields: Any) -> dict[str, Any]:
    """The record of a trial."""
    return {**CaptioningConfig(data="toy", **fields).fields(), "data": "/", "data_hash": HASH}


def fill(storage: Path, name: str = "toy", **fields: Any) -> Ledger:
    """Enters a run without trials."""
    ledger = Ledger.of(storage)
    about: dict[str, Any] = {
        "search": "toy",
        "space": "toy.py",
        "source": "",
        "question": f"Which is best? {HOSTILE}",
        "objective": "cider",
        "direction": "max",
        "num_trials": 4,
        "sampler": "tpe",
        "pruner": "successive_halving",
        "seed": 3,
        "pins": {"epochs": 2},
        "data": "/",
        "data_hash": HASH,
        "family": "captioning",
        "metrics": METRICS,
        "rows": {"LSTM": {"decoder": "lstm"}},
        "base_row": "LSTM",
        "group_by": "decoder",
        "columns": ("cider", "bleu_4", "val_loss"),
        "versions": {"torch": "2.14"},
        "notes": ("a note of the <run>",),
    }
    ledger.create_search(SearchRecord(name=name, **(about | fields)))
    directions = tuple(ledger.search(name).directions.values())
    Study(ledger.url, name, directions=directions, sampler="random", pruner="none", seed=0, num_trials=9, epochs=2)
    return ledger


def add(
    ledger: Ledger,
    storage: Path,
    *,
    row: str = "",
    run: str = "toy",
    values: Sequence[float] = (0.2, 0.5),
    state: str = "finished",
    captions: str = "a dog",
    extra: Mapping[str, float] | None = None,
    model: bool = True,
    hash: str = HASH,  # noqa: A002 - as the field is called
    **fields: Any,
) -> str:
    """A trial with its epochs, checkpoint and drawings; returns its uid. Without a model, its captions were written
    elsewhere.
    """
    number = len(ledger.trials(run))
    trial = ledger.add_trial(
        run,
        number,
        row=row,
        config=config(epochs=2, **fields) | {"data_hash": hash},
        searched=("dropout", "decoder"),
        notes=(),
    )
    ledger.start_attempt(trial.uid, time=BEGAN + 10 * number)
    best = max(range(len(values)), key=lambda i: values[i], default=-1)
    for i, value in enumerate(values):
        folder = trial_folder(storage, trial) / "checkpoints" / f"epoch-{i + 1:04d}.0000000{number}"
        metrics = {"cider": value, "bleu_4": value / 2, "val_loss": 3 - value, "train_loss": 2 - value}
        metrics |= {"parameters": 1000.0 + number, "train_seconds": 4.0} if model else {}
        metrics |= extra or {}
        report = EpochReport(
            epoch=i + 1, metrics=metrics, time=BEGAN + 4 + 10 * number + i, last=i + 1 == len(values), best=i == best
        )
        ledger.record_epoch(trial.uid, dataclasses.replace(report, checkpoint=folder.name))
        if i == best:
            _checkpoint(folder, records(captions, value, number), value)
    if state == "finished":
        _illustrate(trial_folder(storage, trial) / FOLDER)
    if state != "running":
        ledger.end_trial(trial.uid, state, error="no room: <memory>" if state == "failed" else "")
    return trial.uid


def records(caption: str, value: float, number: int) -> list[Record]:
    """A caption for each picture; scores that rise from the first picture to the last, and no other way round."""
    shift = [0.1 * number * (i % 3) for i in range(len(IDS))]
    return [
        {
            "id": picture,
            "caption": f"{caption} {i}",
            "references": [f"people say {i}", HOSTILE, "third", "fourth"],
            "cider": value * i / len(IDS) + shift[i],
            "val_loss": 1.0,
        }
        for i, picture in enumerate(IDS)
    ]


def _checkpoint(folder: Path, written: list[Record], value: float) -> None:
    folder.mkdir(parents=True)
    write_records(folder / RECORDS, written)
    around = value + np.linspace(-0.1, 0.1, 41)
    write_resamples(folder / RESAMPLES, Resampled({"cider": around, "val_loss": 3 - around}, len(IDS), "k"))
    shown = [Sample(str(r["id"]), np.full((6, 6, 3), 90, np.uint8), ("a dog",)) for r in written[:10]]
    write_samples(folder / SAMPLES, shown, [str(r["caption"]) for r in written[:10]])


def _illustrate(folder: Path) -> None:
    figures = folder / FIGURES
    figures.mkdir(parents=True)
    drawing = Curve(
        name="errors",
        title=f"Errors {HOSTILE}",
        reads="Read <so>.",
        x=[0, 1],
        x_title="x",
        lines={"a": [1, 2]},
        y_title="y",
    )
    draw(drawing).savefig(figures / "errors.png", dpi=40)
    Image.new("RGB", (30, 30)).save(figures / "captions.png")
    listed = [{"file": "errors.png", "title": drawing.title, "reads": drawing.reads, "head": 20}]
    listed += [{"file": "captions.png", "title": "Captions", "reads": "In bold."}]
    (figures / INDEX).write_text(json.dumps(listed))
    (folder / MODULES).write_text("module tree <of> all\n")


def small_run(storage: Path) -> Ledger:
    """A base row, a better trial, a pruned one and one that failed."""
    ledger = fill(storage)
    add(ledger, storage, row="LSTM", values=(0.2, 0.4))
    add(ledger, storage, values=(0.3, 0.5), decoder="gru", dropout=0.25, captions=HOSTILE)
    add(ledger, storage, values=(0.1,), state="pruned", dropout=0.5)
    add(ledger, storage, values=(), state="failed", dropout=0.3)
    return ledger
