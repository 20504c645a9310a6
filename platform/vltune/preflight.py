"""What can be known to fail before Ray starts and anything is written down: names, room, numbers of pictures."""

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from vltune.batches import Head
from vltune.cluster import wanted_gpus
from vltune.configuration import LARGEST_SEED, TrialConfig
from vltune.contract import Data, Family, Search
from vltune.errors import BadInput
from vltune.models import (
    assets_of_parts,
    check_embeddings,
    check_parts,
    check_usable,
    folders_stood_on,
    new_model,
    overruled,
    read_record,
    stood_on,
)
from vltune.space import SEARCH_NAME, describe

RESERVED = ("artifacts", "cache", "locks", "models", "scenes")
"""Folders of the storage that are no run's."""
_FILES = ("ledger.db", "mlflow.db")
_REHEARSED = 8
"""Samples of a split that are enough to see whether a model runs at all."""


def check_run_name(name: str) -> None:
    """Checks what a run is called: its name becomes a folder, a key of the database and a name in MLflow.

    Raises:
        BadInput: it is not possible, or means another folder of the storage.
    """
    if not SEARCH_NAME.fullmatch(name):
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        raise BadInput(
            f"--name {shown!r} is not possible: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter "
            "or a digit."
        )
    if name.lower() in RESERVED or name.lower().startswith(_FILES):
        raise BadInput(f"--name {name!r} is not possible: the storage keeps something else there; take another name.")


def check_room(
    configs: Iterable[TrialConfig], *, workers: int, gpus_per_worker: float | None, here: int | None
) -> None:
    """Checks what a person wants of GPUs and workers.

    Args:
        configs: configurations that will be trained.
        workers: of each trial.
        gpus_per_worker: None: one, if there is one.
        here: GPUs of this machine; None where a cluster will be joined, whose room is not known yet.

    Raises:
        BadInput: a GPU cannot be shared so, is not there or not asked for; a batch that does not reach all workers.
    """
    wanted_gpus(gpus_per_worker, workers=workers, there=here or 0, joined=here is None)
    for config in configs:
        if config.precision == "fp16" and (gpus_per_worker == 0 or not (here is None or here)):
            raise BadInput("precision='fp16' needs GPUs, and each worker has none: take float32 or bf16.")
        if config.batch_size < workers:
            raise BadInput(f"batch_size={config.batch_size} is below one sample for each of {workers} workers.")


def check_seeds(search: Search, configs: Sequence[TrialConfig], *, seeds: int) -> None:
    """Checks that seeds can be counted up from those that configurations have.

    Raises:
        BadInput: the search asks for a seed itself, or there are not so many.
    """
    if seeds > 1 and any(parameter.name == "seed" for parameter in describe(search).parameters):
        raise BadInput(f"--seeds {seeds} is not possible: {search.name} searches over seed itself; leave it out.")
    highest = max(config.seed for config in configs) + seeds - 1
    if highest > LARGEST_SEED:
        raise BadInput(f"--seeds {seeds} would count up to {highest}: seeds lie in [0, {LARGEST_SEED}]; start lower.")


def check_models(config: TrialConfig, family: type[Family], *, pins: Iterable[str], cache: str) -> None:
    """Checks that the promoted models which a trial needs are such that it can use them.

    Args:
        config: with the hashes that ``find_sources`` filled in.
        family: of the trial.
        pins: fields that a person set.
        cache: folder of the caches.

    Raises:
        NotFound: a model is not there.
        BadInput: it is of a family that cannot be used here, has not the part or the assets that are wanted, or brings
            what a person set otherwise.
    """
    check_embeddings(config, family)
    for name, folder in folders_stood_on(config, cache=cache).items():
        check_usable(family, config, name, read_record(folder)["family"])
    check_parts(config, cache=cache)
    assets_of_parts(family, config, cache=cache)
    for key, (part, value) in overruled(family, config, cache=cache).items():
        if key in pins:
            raise BadInput(
                f"{key}={getattr(config, key)!r} has no effect: {part} of init_from brings what was made with "
                f"{key}={value!r}; leave {key} out."
            )


def rehearse(config: TrialConfig, family: type[Family], data: Data, *, cache: str) -> None:
    """Builds a model as a worker will, and lets it predict a sample: what does not fit together is known then.

    Nothing is built where the family, or one that it stands on, may be larger than this machine's memory.

    Args:
        config: with the hashes that ``find_sources`` filled in.
        family: of the trial.
        data: what ``family.load`` made of the configuration.
        cache: folder of the caches.

    Raises:
        BadInput: a setting does not fit the data, or a model that the trial starts from or stands on.
    """
    theirs = [(name, read_record(f)["family"]) for name, f in folders_stood_on(config, cache=cache).items()]
    stood_upon = [other for name, of in theirs for other in family.uses[name] if other.name == of]
    if not all(other.rehearsed for other in (family, *stood_upon)):
        return
    few = dataclasses.replace(data, splits={n: Head(s, min(len(s), _REHEARSED)) for n, s in data.splits.items()})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        stands_on = stood_on(family, config, cache=cache)
        assets = family.prepare(config, data)
        assets = {
            **assets,
            **family.prepare_with(stands_on, config, few),
            **assets_of_parts(family, config, cache=cache),
        }
        model = new_model(family, config, assets, stands_on, cache=cache).eval()
        model.predict(model.collate([few.splits["validation"][0]], None))


def check_samples(configs: Iterable[TrialConfig], *, training: Sequence[object], data: str) -> None:
    """Checks what a person wants of the training split.

    Raises:
        BadInput: more pictures are wanted than it has.
    """
    for config in configs:
        if config.train_pictures > len(training):
            raise BadInput(
                f"train_pictures={config.train_pictures} is more than the {len(training)} of the training split of "
                f"{data}; set it lower, or to 0 for all."
            )
