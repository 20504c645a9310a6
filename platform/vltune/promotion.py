"""From a finished trial to a registered model, and from a registered model to predictions."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from vltune import checkpoints, held_out, models
from vltune.checkpoints import Corrupt
from vltune.contract import Family, Record, Sample
from vltune.errors import BadInput, NotFound, lookup
from vltune.held_out import BATCH, TestScores, score_test_split
from vltune.ledger import Ledger
from vltune.ledger_records import TrialRecord
from vltune.registry import Model, Registry, check_names
from vltune.summary import best_report, best_trial, checkpoint_folder, trial_folder
from vltune.tracking import Tracker
from vltune.train import predict


def promote(
    storage: Path,
    run: str,
    *,
    uid: str | None,
    name: str | None,
    alias: str,
    data: str | None,
    families: Mapping[str, type[Family]],
    say: Callable[[str], None],
) -> tuple[Model, TestScores]:
    """Scores a trial's best checkpoint on the test split, once, and registers it; returns the version and the scores.

    Args:
        storage: folder of the runs.
        run: whose best trial is taken unless ``uid`` names one.
        uid: a trial of the run.
        name: of the registered model; None: the search's.
        alias: the name that points to this version from now on.
        data: folder of the data set, where it has moved since the trial was trained.
        families: where the model's class is found.
        say: hears what is being done.

    Raises:
        NotFound: there is no such run or trial, or the data is not where it was.
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
    best = best_report(ledger.epochs(trial.uid))
    if best is not None and "parameters" not in best.metrics:
        raise BadInput(
            f"the trial {trial.uid} holds captions that were written elsewhere: there is no model to promote."
        )
    tracker = Tracker(storage)
    parent = tracker.find_parent(record.uid, search=record.search)
    run_id = parent and tracker.find_run(trial.uid, parent=parent)
    if not run_id:
        raise BadInput(f"MLflow has no run of {trial.uid} yet: `vltune resume {run}` sends what waits.")
    folder, found = score_trial(storage, ledger, trial, families=families, data=data, say=say)
    model = Registry(tracker).promote(
        folder,
        name=name or record.search,
        alias=alias,
        run_id=run_id,
        metrics={f"test_{key}": value for key, value in found.metrics.items()},
        params=trial.config,
        tags={
            "trial_uid": trial.uid,
            "run": run,
            "data_hash": record.data_hash,
            "objective": str(trial.config.get("objective", record.objective)),
        },
    )
    return model, found


def winner(
    ledger: Ledger, runs: Sequence[str], *, by: str = "", say: Callable[[str], None] = lambda _: None
) -> tuple[str, str]:
    """The run and the uid of the best finished trial of several runs on the same data that has a model.

    Args:
        ledger: where the runs are.
        runs: their names.
        by: metric that decides; empty: the objective that they share.
        say: hears which runs are left out because their captions were written elsewhere.

    Raises:
        NotFound: there is no such run, or it does not measure that.
        BadInput: the runs are on different data, or after different objectives; one was not asked to measure that; no
            trial has finished.
    """
    records = [ledger.search(run) for run in runs]
    first = records[0]
    for other in records[1:]:
        if other.data_hash != first.data_hash:
            raise BadInput(f"the runs {first.name!r} and {other.name!r} are on different data: take one of them.")
        if not by and other.objective != first.objective:
            raise BadInput(
                f"the run {first.name!r} is after {first.objective} and {other.name!r} after {other.objective}: say "
                "with --by which metric decides."
            )
    metric = by or first.objective
    if len(records) == 1 and metric == first.objective:
        return first.name, best_trial(ledger, first.name).uid
    found, without = [], []
    for record in records:
        record.check_measured(metric)
        sign = -1.0 if lookup(record.metrics, metric, f"metric of {record.name}") == "max" else 1.0
        seeds: dict[int, list[tuple[float, str]]] = {}
        for trial in ledger.trials(record.name):
            best = best_report(ledger.epochs(trial.uid)) if trial.state == "finished" else None
            if best is not None and "parameters" not in best.metrics:
                without.append(record.name)
                continue
            value = best.metrics.get(metric, math.nan) if best else math.nan
            if math.isfinite(value):
                seeds.setdefault(trial.number // record.seeds, []).append((sign * value, trial.uid))
        # Configurations compare by the mean of their seeds, of which a single one may be lucky.
        for costs in seeds.values():
            found.append((fmean(cost for cost, _ in costs), len(found), record.name, min(costs)[1]))
    for name in dict.fromkeys(without):
        say(f"the run {name} is left out: its captions were written elsewhere, so there is no model to promote.")
    if not found:
        raise BadInput(
            f"no trial of {', '.join(runs)} has finished with a finite {metric}: there is nothing to promote."
        )
    return min(found)[2:]


def score_trial(
    storage: Path,
    ledger: Ledger,
    trial: TrialRecord,
    *,
    families: Mapping[str, type[Family]],
    data: str | None,
    say: Callable[[str], None],
) -> tuple[Path, TestScores]:
    """The folder of a trial's best model, and what it scores on the test split, which is read once for each model.

    Raises:
        NotFound: the data is not where it was.
        BadInput: the trial has no sound model, or its data is not what it was.
    """
    with _sound(trial):
        folder, checkpoint = _model_folder(storage, ledger, trial, families)
        records = checkpoint / checkpoints.RECORDS
        return folder, score_test_split(folder, families, records=records, data=data, storage=storage, say=say)


def why_untested(
    storage: Path, ledger: Ledger, trial: TrialRecord, *, families: Mapping[str, type[Family]], data: str | None
) -> str:
    """Why a finished trial has no scores of the test split: its captions were written elsewhere, and are of another.

    Empty where it has, as every trial with a model. Nothing is scored to find out.

    Raises:
        NotFound: the data is not where it was.
        BadInput: what the trial left is not sound, or its data is not what it was.
    """
    best = best_report(ledger.epochs(trial.uid))
    if best is None or "parameters" in best.metrics:
        return ""
    with _sound(trial):
        folder, _ = _model_folder(storage, ledger, trial, families)
        return held_out.why_untested(folder, families, data=data, storage=storage)


@contextmanager
def _sound(trial: TrialRecord) -> Iterator[None]:
    try:
        yield
    except Corrupt as error:
        raise BadInput(f"the checkpoint of {trial.uid} is not sound: {error}.") from error


def _model_folder(
    storage: Path, ledger: Ledger, trial: TrialRecord, families: Mapping[str, type[Family]]
) -> tuple[Path, Path]:
    """A folder with what predicting needs, and nothing else, of the trial's best checkpoint; and that checkpoint."""
    best = best_report(ledger.epochs(trial.uid))
    if best is None:
        raise BadInput(f"the trial {trial.uid} has no checkpoint: nothing can be promoted.")
    source, target = checkpoint_folder(storage, trial, best), trial_folder(storage, trial) / "model"
    made = (target / checkpoints.MANIFEST).exists()
    folder = target if made else source
    record = models.read_record(folder)
    names = models.model_files(folder, record)
    checkpoints.verify(folder, required=names)
    if not made:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in names:
            shutil.copyfile(source / name, target / name)
        # Whoever predicts with it needs neither this cache nor the registry.
        config = lookup(families, record["family"], "model family").Config.from_fields(record["config"])
        for name, stood_on in models.folders_stood_on(config, cache=str(storage.absolute() / "cache")).items():
            shutil.copytree(stood_on, target / models.STANDS_ON / name)
        checkpoints.seal(target)
    return target, source


def load_promoted(storage: Path, reference: str, *, families: Mapping[str, type[Family]]) -> Family:
    """The model of ``NAME@ALIAS``, ``NAME/VERSION``, or of a folder that holds one.

    Raises:
        NotFound: the reference leads nowhere, or the model's family is not among ``families``.
        BadInput: a file of the model is not what was promoted.
        Unreachable: MLflow does not answer.
    """
    folder = Path(reference) if Path(reference).is_dir() else Registry(Tracker(storage)).resolve(reference).folder
    try:
        return models.read_model(folder, families, cache=str(storage.absolute() / "cache"))[0]
    except Corrupt as error:
        raise BadInput(f"the model {reference} is not sound: {error}; promote it again.") from error
    except NotFound as error:
        raise NotFound(f"{error} A family of your own file comes with --space FILE.") from error


def predict_samples(model: Family, samples: Sequence[Sample]) -> list[Record]:
    """What a model says of new samples, in their order."""
    return predict(model, samples, batch_size=BATCH)
