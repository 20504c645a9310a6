"""From a finished trial to a registered model, with a tiny family and MLflow on SQLite."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Line, LineConfig

from vltune import checkpoints, models
from vltune.contract import Data, Record
from vltune.errors import BadInput, NotFound
from vltune.events import LedgerEvents
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.promotion import load_promoted, predict_samples, promote
from vltune.registry import Model
from vltune.runtime import LocalRuntime
from vltune.sender import SearchRun, Sender
from vltune.summary import best_report, checkpoint_folder, trial_folder
from vltune.tracking import Tracker
from vltune.train import Trial, fit

torch.set_num_threads(1)


class FromFolder(Line):
    """``Line``, whose data has a folder and a test split."""

    name = "from_folder"
    batches: list[tuple[int, str]] = []  # noqa: RUF012
    """How many samples each evaluated batch had, and where the model lay."""

    @classmethod
    def load(cls, config: LineConfig, cache: str) -> Data:
        data = super().load(config, cache)
        hash_ = (Path(config.data) / "hash").read_text()
        return replace(data, hash=hash_, splits={**data.splits, "test": data.splits["train"][:7]})

    def predict(self, batch: dict[str, Any]) -> list[Record]:
        FromFolder.batches.append((len(batch["ids"]), self.head.weight.device.type))
        return super().predict(batch)


FAMILIES = {"from_folder": FromFolder}


@dataclass(frozen=True)
class Stand:
    """A storage folder with the run ``tiny``: two trained trials, told to MLflow."""

    storage: Path
    data: Path

    def promote(self, **changes: Any) -> tuple[Model, dict[str, float]]:
        arguments: dict[str, Any] = {"uid": None, "name": None, "alias": "champion", "data": None}
        return promote(self.storage, "tiny", **arguments | changes, families=FAMILIES, say=lambda _: None)

    def folder(self, uid: str = "tiny-001") -> Path:
        return trial_folder(self.storage, Ledger.of(self.storage).trial(uid))

    def checkpoint(self, uid: str = "tiny-001") -> Path:
        ledger = Ledger.of(self.storage)
        best = best_report(ledger.epochs(uid))
        assert best is not None
        return checkpoint_folder(self.storage, ledger.trial(uid), best)


def make(root: Path, *, seed: int = 0) -> Stand:
    stand = Stand(root / "runs", root / "data")
    stand.data.mkdir(parents=True)
    (stand.data / "hash").write_text("d" * 64)
    ledger = Ledger.of(stand.storage)
    record = SearchRecord(
        name="tiny",
        search="tiny",
        space="quickstart",
        source="",
        question="Which?",
        objective="val_loss",
        direction="min",
        num_trials=2,
        sampler="tpe",
        pruner="none",
        seed=seed,
        pins={},
        data=str(stand.data),
        data_hash="d" * 64,
        family="from_folder",
        metrics=dict(FromFolder.metrics),
    )
    ledger.create_search(record)
    for number, rate in enumerate((1e-6, 0.05)):
        config = LineConfig(data=str(stand.data), data_hash="d" * 64, learning_rate=rate, seed=seed, epochs=3)
        trial = ledger.add_trial("tiny", number, row="", config=config.fields(), searched=("learning_rate",))
        ledger.start_attempt(trial.uid, time=1.0)
        runtime = LocalRuntime(str(root / "cache"))
        fit(Trial(trial.uid, FromFolder, config, trial_folder(stand.storage, trial)), runtime)
        for report in runtime.reports:
            ledger.record_epoch(trial.uid, report)
        ledger.end_trial(trial.uid, "finished")
    sender = Sender(
        Tracker(stand.storage),
        LedgerEvents(ledger, record, stand.storage / "tiny"),
        search=SearchRun(
            uid=record.uid, run_name="tiny", search="tiny", source_text="", question="Which?", objective="val_loss"
        ),
        poll=0.01,
    )
    sender.start()
    assert sender.flush(60), sender.trouble
    sender.stop()
    assert sender.refused == []
    return stand


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "VLTUNE_LEDGER"):
            patch.delenv(name, raising=False)
        return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def stand(template: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """A copy of the template that a test may spoil."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "VLTUNE_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(template.storage, tmp_path / "runs")
    return Stand(tmp_path / "runs", template.data)


def by_hand(model: Line, count: int) -> float:
    """The mean error over the first samples, one at a time."""
    samples: Sequence[Any] = Line.load(LineConfig(), "").splits["train"][:count]
    model = model.cpu()
    with torch.no_grad():
        return sum(model.errors(model.collate([sample], None)).item() for sample in samples) / count


@pytest.mark.integration
def test_the_best_trial_is_scored_on_the_test_split(stand: Stand) -> None:
    FromFolder.batches.clear()
    model, scores = stand.promote()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert FromFolder.batches == [(5, device), (2, device)]
    assert (model.name, model.version, model.aliases, model.trial_uid) == ("tiny", 1, ("champion",), "tiny-001")
    promoted = load_promoted(stand.storage, "tiny@champion", families=FAMILIES)
    assert isinstance(promoted, FromFolder)
    assert scores.metrics["val_loss"] == pytest.approx(by_hand(promoted, 7), rel=1e-5)
    assert stand.promote(alias="again")[1] == scores
    assert len(FromFolder.batches) == 2, "the test split was read a second time"
    samples = Line.load(LineConfig(), "").splits["train"][:3]
    records = predict_samples(promoted, samples)
    assert FromFolder.batches[2:] == [(3, device)]
    assert [record["id"] for record in records] == [sample.id for sample in samples]
    assert sum(record["error"] for record in records) / 3 == pytest.approx(by_hand(promoted, 3), rel=1e-5)


@pytest.mark.integration
def test_data_that_has_moved(stand: Stand, tmp_path: Path) -> None:
    """The trials' folder is gone; the same data lies elsewhere."""
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(stand.data, moved)
    other.mkdir()
    (other / "hash").write_text("e" * 64)
    aside = stand.data.rename(stand.data.with_name("aside"))
    try:
        with pytest.raises(NotFound, match=f"the data is not at {stand.data}: .* with --data"):
            stand.promote()
        with pytest.raises(NotFound, match="nowhere"):
            stand.promote(data=str(tmp_path / "nowhere"))
        with pytest.raises(BadInput, match=f"{other} is not what the trial was trained on.* eeeeeeeeeeee…"):
            stand.promote(data=str(other))
        assert not (stand.folder() / "test_scores.json").exists()
        assert stand.promote(data=str(moved))[0].version == 1
    finally:
        aside.rename(stand.data)


@pytest.mark.integration
@pytest.mark.parametrize("where", ["checkpoint", "model"])
@pytest.mark.parametrize("name", [checkpoints.MODEL, models.CONFIG, "notes.txt", "changed"])
def test_a_damaged_checkpoint_is_not_promoted(stand: Stand, where: str, name: str) -> None:
    """A file that the manifest does not list, or that has changed: before the first promotion, or after it."""
    if where == "model":
        stand.promote()
        folder = stand.folder() / "model"
    else:
        folder = stand.checkpoint()
    if name == "changed":
        (folder / checkpoints.MODEL).write_bytes(b"0" * 100)
    else:
        manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
        del manifest["files"][name]
        (folder / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"the checkpoint of tiny-001 is not sound: .*") as caught:
        stand.promote(alias="second")
    assert ("is not what was committed" if name == "changed" else f"does not list {name}") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.integration
def test_equal_names_in_two_storages_of_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a run ``tiny`` with trials of equal uids, even of equal weights."""
    monkeypatch.delenv("VLTUNE_LEDGER", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    stands = [make(tmp_path / who) for who in ("ann", "bob")]
    client = Tracker(stands[0].storage).client
    experiment = client.get_experiment_by_name("vltune/tiny").experiment_id
    assert len(client.search_runs([experiment])) == 6
    versions = []
    for stand in (*stands, stands[0]):
        model, _ = stand.promote()
        run = client.get_run(model.run_id)
        assert run.data.params["data"] == str(stand.data)
        assert run.data.tags["trial_uid"] == model.trial_uid == "tiny-001"
        parent = client.get_run(run.data.tags["mlflow.parentRunId"])
        assert parent.data.tags["vltune.uid"] == Ledger.of(stand.storage).search("tiny").uid
        versions.append(model.version)
    assert versions == [1, 2, 1]
    assert len(client.search_runs([experiment])) == 6


@pytest.mark.integration
def test_a_run_that_only_somebody_else_told_of(stand: Stand) -> None:
    """MLflow knows a run of this name, but it is that of another ledger."""
    Ledger.of(stand.storage).change("tiny", uid="another")
    with pytest.raises(BadInput, match="MLflow has no run of tiny-001 yet: `vltune resume tiny`"):
        stand.promote()
