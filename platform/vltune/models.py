"""Models as folders: weights, ``config.json``, assets, and the promoted models that they stand on or start from."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vltune.checkpoints import MANIFEST, MODEL, Corrupt, read_tensors, tensor_names, verify, write_tensors
from vltune.configuration import TrialConfig, named
from vltune.contract import Assets, Family
from vltune.errors import BadInput, NotFound, lookup, nearest

CONFIG = "config.json"
SHELF = "models"
"""Folder of the cache in which copies of promoted models lie, each under its content hash."""
STANDS_ON = "stands_on"
"""Folder of a promoted model that holds the models it stands on."""

Resident = Callable[[str, Callable[[], Any]], Any]
"""``resident(key, build)``: what ``build`` made, perhaps for an earlier trial of this process."""


def write_model(folder: Path, model: Family, *, record: Mapping[str, Any], assets: Assets) -> None:
    """Writes all that predicting needs: weights, ``config.json`` with the trial's whole record, and the assets.

    Weights that lie elsewhere, known by their hash, are not written (``Family.is_stored``).
    """
    write_tensors(folder / MODEL, {name: t for name, t in model.state_dict().items() if model.is_stored(name)})
    (folder / CONFIG).write_text(json.dumps(record, indent=1, ensure_ascii=False))
    for name, text in assets.items():
        (folder / name).write_text(text, encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """The trial's record that lies with a model: ``family``, ``config``, ``assets`` and what else was recorded.

    Raises:
        BadInput: the folder holds no model of ours.
    """
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _ = record["family"], record["config"], record["assets"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no model: {CONFIG} is missing or broken.") from error
    return record


def read_model(
    folder: Path, families: Mapping[str, type[Family]], *, cache: str = "", data: str = ""
) -> tuple[Family, TrialConfig]:
    """The model of a committed folder, in evaluation mode on the CPU, and its configuration.

    Args:
        folder: a checkpoint, or a promoted model.
        families: where its class is found.
        cache: folder of the caches, for the models that it stands on where it does not carry them itself.
        data: folder of the data set, where it has moved since; empty: where it was.

    Raises:
        BadInput: the folder holds no model.
        NotFound: its family is not among ``families``, or a model that it stands on is not there.
        Corrupt: a file is not what was committed.
    """
    record = read_record(folder)
    verify(folder, required=model_files(folder, record))
    family = lookup(families, record["family"], "model family")
    config = family.Config.from_fields({**record["config"], **({"data": data} if data else {})})
    models = stood_on(family, config, cache=cache, beside=folder)
    model = family(config.without_sources(), read_assets(folder, record), models)
    model.cache = cache
    load_weights(model, read_tensors(folder / MODEL))
    return model.eval(), config


def new_model(
    family: type[Family], config: TrialConfig, assets: Assets, stands_on: Mapping[str, Family], *, cache: str
) -> Family:
    """A model with first weights: random ones of the configuration's seed, but for what comes from elsewhere.

    Raises:
        NotFound: a model that it starts from is not there.
        BadInput: what was chosen does not fit together.
    """
    torch.manual_seed(config.seed)
    model = family(config, assets, stands_on)
    model.cache = cache
    start_parts(model, config, cache=cache)
    return model


def model_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Names of all that predicting needs: weights, ``config.json``, and the assets that it names.

    Raises:
        BadInput: an asset would lie outside the folder.
    """
    for name in record["assets"]:
        if Path(name).name != name or name in ("", ".."):
            raise BadInput(f"{folder / CONFIG} names an asset outside its folder: {name!r}.")
    return [MODEL, CONFIG, *record["assets"]]


def read_assets(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """The assets that lie with a model."""
    model_files(folder, record)
    return {name: (folder / name).read_text(encoding="utf-8") for name in record["assets"]}


def load_weights(model: Family, tensors: Mapping[str, Tensor]) -> None:
    """Puts weights into a model that must have exactly these, but for what lies elsewhere.

    Raises:
        Corrupt: a name is missing or too many, or a shape differs.
    """
    try:
        missing, unknown = model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise Corrupt(f"the weights do not fit the model: {' '.join(str(error).split())[:300]}") from error
    wrong = [*unknown, *(name for name in missing if model.is_stored(name))]
    if wrong:
        raise Corrupt(f"the weights do not fit the model: {', '.join(wrong)[:300]} missing or unknown")


# -- the promoted models that a trial stands on, or starts from


def content_hash(text: str) -> str:
    """A content hash as it was recorded; it names a folder, and anybody may have written it.

    Raises:
        BadInput: it is none.
    """
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise BadInput(f"{text[:80]!r} is no content hash of a promoted model: take the record as it was written.")
    return text


def shelved(cache: str, content: str) -> Path:
    """Where the files of a promoted model lie in a cache.

    Raises:
        NotFound: they are not there.
    """
    folder = Path(cache) / SHELF / content_hash(content)
    if not (folder / MANIFEST).is_file():
        raise NotFound(f"the model with the content hash {content[:12]}… is not in {folder.parent}: promote it again.")
    return folder


def folders_stood_on(config: TrialConfig, *, cache: str, beside: Path | None = None) -> dict[str, Path]:
    """The folders of the promoted models that a trial stands on.

    Args:
        config: with the hashes that ``find_sources`` filled in.
        cache: folder of the caches.
        beside: folder of a promoted model, which may carry them itself.

    Raises:
        NotFound: a model is in neither place.
    """
    hashes, found = named(config, "source_hashes"), {}
    for name in config.models():
        own = beside / STANDS_ON / name if beside else None
        found[name] = own if own and own.is_dir() else shelved(cache, hashes.get(name, ""))
    return found


def stood_on(
    family: type[Family],
    config: TrialConfig,
    *,
    cache: str,
    beside: Path | None = None,
    resident: Resident = lambda _, build: build(),
) -> dict[str, Family]:
    """The promoted models that a trial stands on, built and frozen.

    Raises:
        NotFound: a model is not there, or of a family that this one cannot use.
        Corrupt: a file is not what was promoted.
    """

    def build(folder: Path, usable: Mapping[str, type[Family]]) -> Family:
        model = read_model(folder, usable, cache=cache)[0]
        return model.requires_grad_(requires_grad=False)

    models = {}
    for name, folder in folders_stood_on(config, cache=cache, beside=beside).items():
        check_usable(family, config, name, read_record(folder)["family"])
        usable = {other.name: other for other in family.uses[name]}
        models[name] = resident(f"model {folder.name}", lambda f=folder, u=usable: build(f, u))
    return models


def check_usable(family: type[Family], config: TrialConfig, name: str, of: str) -> None:
    """Checks that a family can stand on a model of another one.

    Raises:
        BadInput: it cannot.
    """
    usable = sorted(other.name for other in family.uses[name])
    if of not in usable:
        raise BadInput(
            f"{name}={config.models()[name]!r} is a model of the family {of!r}: {family.name} stands on one of "
            f"{', '.join(usable)}."
        )


def assets_of_parts(family: type[Family], config: TrialConfig, *, cache: str) -> dict[str, str]:
    """The assets that come with the parts of ``init_from``: a text encoder brings its tokenizer.

    Raises:
        NotFound: a model is not there.
        BadInput: it has no such asset.
    """
    hashes, found = named(config, "source_hashes"), {}
    for part, reference in named(config, "init_from").items():
        folder = shelved(cache, hashes.get(part, ""))
        theirs = read_assets(folder, read_record(folder))
        for name in family.part_assets.get(part, ()):
            if name not in theirs:
                raise BadInput(f"init_from={part}={reference}: that model has no {name}; take another one.")
            found[name] = theirs[name]
    return found


def check_parts(config: TrialConfig, *, cache: str) -> None:
    """Checks that the models which ``init_from`` names have these parts.

    Raises:
        NotFound: a model is not there.
        BadInput: it has no such part.
    """
    hashes = named(config, "source_hashes")
    for part, reference in named(config, "init_from").items():
        names = tensor_names(shelved(cache, hashes.get(part, "")) / MODEL)
        _check_part(f"init_from={part}={reference}", part, names)


def _check_part(at: str, part: str, names: Iterable[str]) -> None:
    parts = {name.partition(".")[0] for name in names}
    if part not in parts:
        raise BadInput(f"{at}: that model has no part {part!r}{nearest(part, parts)}")


def overruled(family: type[Family], config: TrialConfig, *, cache: str) -> dict[str, tuple[str, Any]]:
    """Fields without effect, because ``init_from`` brings what they would make: field -> (part, its value there).

    Raises:
        NotFound: a model is not there.
    """
    hashes, found = named(config, "source_hashes"), {}
    for part in named(config, "init_from"):
        theirs = read_record(shelved(cache, hashes.get(part, "")))["config"]
        for asset in family.part_assets.get(part, ()):
            for key in family.asset_fields.get(asset, ()):
                if key in theirs and theirs[key] != getattr(config, key):
                    found[key] = (part, theirs[key])
    return found


def notes_on_sources(family: type[Family], config: TrialConfig, *, cache: str) -> list[str]:
    """What the table must say of the promoted models that a trial starts from or stands on."""
    notes = [
        f"{key} is {value!r}, as it came with {part}, not {getattr(config, key)!r}"
        for key, (part, value) in overruled(family, config, cache=cache).items()
    ]
    for name, content in named(config, "source_hashes").items():
        theirs = read_record(shelved(cache, content))["config"].get("data_hash", "")
        if theirs and config.data_hash and theirs != config.data_hash:
            notes.append(f"{name} was trained on other data ({theirs[:12]}): it may have seen held-out samples")
    return notes


def start_parts(model: Family, config: TrialConfig, *, cache: str) -> None:
    """Gives the parts that ``init_from`` names their first weights.

    Raises:
        NotFound: a model is not there.
        BadInput: the model has no such part, or one of other shapes.
    """
    hashes, children = named(config, "source_hashes"), dict(model.named_children())
    for part, reference in named(config, "init_from").items():
        at = f"init_from={part}={reference}"
        if part not in children:
            raise BadInput(f"{at}: the family {model.name!r} has no part {part!r}{nearest(part, children)}")
        tensors = read_tensors(shelved(cache, hashes.get(part, "")) / MODEL)
        theirs = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        _check_part(at, part, tensors)
        ours = children[part].state_dict()
        for name in sorted(ours.keys() | theirs.keys()):
            here, there = ours.get(name), theirs.get(name)
            if here is None or there is None or here.shape != there.shape:
                sizes = ["absent" if t is None else f"of shape {tuple(t.shape)}" for t in (there, here)]
                raise BadInput(
                    f"{at}: {name} is {sizes[0]} there and {sizes[1]} here; give both models the same fields of {part}."
                )
        children[part].load_state_dict(theirs)


def check_embeddings(config: TrialConfig, family: type[Family]) -> None:
    """Checks that what ``keep_embeddings`` asks for is there.

    Raises:
        BadInput: the family has no embeddings.
    """
    if config.keep_embeddings and not family.embeddings:
        raise BadInput(f"keep_embeddings=True: the family {family.name!r} has no embeddings to keep; leave it out.")
