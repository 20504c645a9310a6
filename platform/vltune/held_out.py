"""The test split: read once for each model, when it is promoted or a table asks for it; it never chooses anything."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vltune import models
from vltune.checkpoints import TEST_RESAMPLES
from vltune.columns import read_records, write_resamples
from vltune.configuration import TrialConfig
from vltune.contract import Data, Direction, Family, Record, is_better
from vltune.errors import BadInput, NotFound
from vltune.library import PromotedModels
from vltune.statistics import resample
from vltune.train import evaluate

BATCH = 32
STRIKING = 3.0
"""So many standard errors between validation and test are no chance: selection or leakage made validation look good."""
_SCORES = "test_scores.json"


@dataclasses.dataclass(frozen=True)
class TestScores:
    """What a model scores on pictures that nothing was chosen by."""

    metrics: dict[str, float]
    warning: str
    """Whether validation and test disagree by more than chance, in one line; empty where they do not."""


def score_test_split(
    folder: Path,
    families: Mapping[str, type[Family]],
    *,
    records: Path,
    data: str | None,
    storage: Path,
    say: Callable[[str], None],
) -> TestScores:
    """The scores of a model's folder; a second call takes them from a file beside it.

    Args:
        folder: of the model, as ``promotion`` made it: weights, ``config.json``, assets.
        families: where its class is found.
        records: file of its records on the validation split.
        data: folder of the data set, where it has moved since; None: where it was.
        storage: folder of the runs.
        say: hears what is being done.

    Raises:
        NotFound: the data is not there.
        BadInput: the data is not what the trial was trained on.
        Corrupt: a file of the model is not what was committed.
    """
    file = folder.parent / _SCORES
    if file.exists():
        return TestScores(**json.loads(file.read_text()))
    model, config, opened = _opened(folder, families, data=data, storage=storage)
    split = opened.splits["test"]
    say(f"scoring {len(split)} test samples")
    scores, tested = evaluate(model, split, batch_size=min(config.batch_size, BATCH))
    validation = read_records(records) if records.is_file() else []
    told = [name for name in (config.objective, *model.metrics) if all(name in r for r in scores.records)]
    metric = told[0] if told else config.objective
    comparable = metric not in model.relative or len(validation) == len(scores.records)
    direction = model.metrics[metric]
    warning = gap_warning(validation, scores.records, metric=metric, direction=direction) if comparable else ""
    found = TestScores(scores.metrics, warning)
    write_resamples(folder.parent / TEST_RESAMPLES, resample(scores, [str(record["id"]) for record in tested]))
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(dataclasses.asdict(found)))
    draft.rename(file)
    return found


def why_untested(folder: Path, families: Mapping[str, type[Family]], *, data: str | None, storage: Path) -> str:
    """Why a model has nothing to say of the test split; empty where it has. Nothing is predicted to find out.

    Raises:
        NotFound: as ``score_test_split``.
        BadInput: as ``score_test_split``.
        Corrupt: as ``score_test_split``.
    """
    if (folder.parent / _SCORES).exists():
        return ""
    model, _, opened = _opened(folder, families, data=data, storage=storage)
    return model.unable(opened.splits["test"], split="test")


def _opened(
    folder: Path, families: Mapping[str, type[Family]], *, data: str | None, storage: Path
) -> tuple[Family, TrialConfig, Data]:
    """A model, its configuration, and the data that it was trained on."""
    cache = str(storage.absolute() / "cache")
    moved = "" if data is None else str(Path(data).expanduser().absolute())
    model, config = models.read_model(folder, families, cache=cache, data=moved)
    place = config.data
    if not Path(place).exists():
        raise NotFound(f"the data is not at {place}: give the folder where it lies now with --data.")
    config = config.find_sources(PromotedModels(storage))
    opened = type(model).load(config, cache)
    if opened.hash != config.data_hash:
        raise BadInput(
            f"{place} is not what the trial was trained on: its content hash is {opened.hash[:12]}…, not "
            f"{config.data_hash[:12]}…; give the folder of the unchanged data with --data."
        )
    return model, config, opened


def gap_warning(
    validation: Sequence[Record], test: Sequence[Mapping[str, float]], *, metric: str, direction: Direction
) -> str:
    """A line that warns where a metric is better on validation than on test by more than chance, else an empty text.

    Compares the means over samples with the standard error of their difference (Welch,
    https://doi.org/10.1093/biomet/34.1-2.28). A metric that exists for whole splits alone cannot be compared so.
    """
    ours, theirs = ([float(r[metric]) for r in records if metric in r] for records in (validation, test))
    if min(len(ours), len(theirs)) < 2:
        return ""
    seen, unseen = statistics.fmean(ours), statistics.fmean(theirs)
    error = math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs))
    if not is_better(seen, unseen, direction) or abs(seen - unseen) <= STRIKING * error:
        return ""
    return (
        f"validation and test disagree: {metric} is {seen:.3g} on {len(ours)} validation samples and {unseen:.3g} on "
        f"{len(theirs)} test samples, more than chance explains: look for leakage, or for a choice made by too few "
        "validation samples."
    )
