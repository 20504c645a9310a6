"""From a finished trial to a registered model, and from a registered model to predictions."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vltune import checkpoints
from vltune.checkpoints import Corrupt
from vltune.contract import BadInput, Family, NotFound, Record, Sample, lookup
from vltune.ledger import Ledger, TrialRecord
from vltune.registry import Model, Registry, check_names
from vltune.summary import best_report, best_trial, checkpoint_folder, trial_folder
from vltune.tracking import Tracker
from vltune.train import evaluate

BATCH = 32


def promote(
    storage: Path,
    run: str,
    *,
    uid: str | None,
    name: str | None,
    alias: str,
    families: Mapping[str, type[Family]],
    say: Callable[[str], None],
) -> tuple[Model, dict[str, float]]:
    """Scores a trial's best checkpoint on the test split, once, and registers it; returns the version and the scores.

    Args:
        storage: folder of the runs.
        run: whose best trial is taken unless ``uid`` names one.
        uid: a trial of the run.
        name: of the registered model; None: the search's.
        alias: the name that points to this version from now on.
        families: where the model's class is found.
        say: hears what is being done.

    Raises:
        NotFound: there is no such run or trial.
        BadInput: the trial has no finished model, or its data is not what it was.
        Unreachable: MLflow does not answer.
    """
    ledger = Ledger.existing(storage)
    record = ledger.search(run)
    check_names(name or record.search, alias)
    trial = ledger.trial(uid) if uid else best_trial(ledger, run)
    if trial.search != run:
        raise BadInput(f"the trial {trial.uid} is of the run {trial.search!r}, not of {run!r}.")
    if trial.state not in ("finished", "pruned"):
        raise BadInput(f"the trial {trial.uid} is {trial.state}: only a trial that came to its end is promoted.")
    tracker = Tracker(storage)
    run_id = tracker.find_run(trial.uid)
    if run_id is None:
        raise BadInput(f"MLflow has no run of {trial.uid} yet: `vltune resume {run}` sends what waits.")
    folder = _model_folder(storage, ledger, trial)
    scores = _test_scores(folder, families, cache=storage.absolute() / "cache", say=say)
    model = Registry(tracker).promote(
        folder,
        name=name or record.search,
        alias=alias,
        run_id=run_id,
        metrics={f"test_{key}": value for key, value in scores.items()},
        params=trial.config,
        tags={
            "trial_uid": trial.uid,
            "run": run,
            "data_hash": record.data_hash,
            "objective": str(trial.config.get("objective", record.objective)),
        },
    )
    return model, scores


def _model_folder(storage: Path, ledger: Ledger, trial: TrialRecord) -> Path:
    """A folder with what predicting needs, and nothing else, of the trial's best checkpoint."""
    best = best_report(ledger.epochs(trial.uid))
    if best is None:
        raise BadInput(f"the trial {trial.uid} has no checkpoint: nothing can be promoted.")
    source, target = checkpoint_folder(storage, trial, best), trial_folder(storage, trial) / "model"
    if not (target / checkpoints.MANIFEST).exists():
        try:
            checkpoints.verify(source)
        except Corrupt as error:
            raise BadInput(f"the checkpoint of {trial.uid} is not sound: {error}.") from error
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        assets = checkpoints.read_record(source)["assets"]
        for name in (checkpoints.MODEL, checkpoints.CONFIG, *assets):
            shutil.copyfile(source / name, target / name)
        checkpoints.seal(target)
    return target


def _test_scores(
    folder: Path, families: Mapping[str, type[Family]], *, cache: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """The test split is read once for each model: promoting it again takes the scores from the file."""
    file = folder.parent / "test_scores.json"
    if file.exists():
        return json.loads(file.read_text())
    model, config = checkpoints.read_model(folder, families)
    data = lookup(families, model.name, "model family").load(config, str(cache))
    if data.hash != config.data_hash:
        raise BadInput(
            f"{config.data} has changed since the trial was trained: its content hash is {data.hash[:12]}…, not "
            f"{config.data_hash[:12]}…; the test split cannot be trusted."
        )
    split = data.splits["test"]
    say(f"scoring {len(split)} test samples")
    scores, _ = evaluate(model, split, batch_size=min(config.batch_size, BATCH))
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(scores.metrics))
    draft.rename(file)
    return scores.metrics


def load_promoted(storage: Path, reference: str, *, families: Mapping[str, type[Family]]) -> Family:
    """The model of ``NAME@ALIAS``, ``NAME/VERSION``, or of a folder that holds one.

    Raises:
        NotFound: the reference leads nowhere, or the model's family is not among ``families``.
        BadInput: a file of the model is not what was promoted.
        Unreachable: MLflow does not answer.
    """
    folder = Path(reference) if Path(reference).is_dir() else Registry(Tracker(storage)).resolve(reference).folder
    try:
        return checkpoints.read_model(folder, families)[0]
    except Corrupt as error:
        raise BadInput(f"the model {reference} is not sound: {error}; promote it again.") from error
    except NotFound as error:
        raise NotFound(f"{error} A family of your own file comes with --space FILE.") from error


def predict_samples(model: Family, samples: Sequence[Sample]) -> list[Record]:
    """What a model says of new samples, in their order."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    records: list[Record] = []
    with torch.no_grad():
        for start in range(0, len(samples), BATCH):
            batch = model.collate(samples[start : start + BATCH], None)
            batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            records += model.predict(batch)
    return records
