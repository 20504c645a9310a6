"""Checkpoints that are either whole or not there, and the only place where files of weights are read.

A checkpoint is a folder whose files were flushed to the disk before its ``MANIFEST.json``, which holds their sizes and
SHA-256. Weights and optimizer state are safetensors, all else is JSON: nothing is ever unpickled.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vltune.errors import BadInput, NotFound

MANIFEST = "MANIFEST.json"
FORMAT = 1
"""Version of the manifest and of the files that it lists."""
CONFIG = "config.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
RAW = "raw.safetensors"
"""The weights themselves, where ``MODEL`` holds their moving average."""
STATE = "state.json"
RECORDS = "records.parquet"
RESAMPLES = "resamples.parquet"
"""What the metrics would be on resamples of the validation split; beside the best epoch's records."""
TEST_RESAMPLES = "test_resamples.parquet"
"""The same of the test split; beside a trial's test scores."""
SAMPLES = "samples"
TRAINING_ONLY = (OPTIMIZER, RAW, STATE)
"""Files that going on with training needs and predicting does not."""

_NAME = re.compile(r"epoch-(\d+)\.[0-9a-f]{8}")


class Corrupt(RuntimeError):
    """A file of a checkpoint is missing, cut or changed."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint of one epoch."""

    folder: Path
    epoch: int

    def read_json(self, name: str) -> Any:
        """The content of one of its JSON files."""
        return json.loads((self.folder / name).read_text())


def commit(parent: Path, epoch: int, write: Callable[[Path], None]) -> Checkpoint:
    """Writes a checkpoint: ``write`` fills a new folder, then everything is flushed and the manifest is put in last.

    A folder name is never used twice, so that a worker that is slow to die cannot touch what its successor writes.
    """
    folder = parent / f"epoch-{epoch:04d}.{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        write(folder)
        seal(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Checkpoint(folder, epoch)


def seal(folder: Path) -> None:
    """Flushes all files of a folder to the disk and writes their sizes and hashes into its manifest."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        _flush(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    draft = folder / f".{MANIFEST}"
    draft.write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    _flush(draft)
    draft.rename(folder / MANIFEST)
    _flush(folder)
    _flush(folder.parent)


def verify(folder: Path, *, required: Iterable[str] = ()) -> None:
    """Compares every file with the manifest, which must list those that are ``required``.

    Raises:
        Corrupt: the manifest or a file is missing, or differs from what was committed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise Corrupt(f"{folder / MANIFEST} is of format {manifest['format']!r}, not {FORMAT}")
        for name in required:
            if name not in manifest["files"]:
                raise Corrupt(f"{folder / MANIFEST} does not list {name}")
        for name, expected in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != expected["size"] or sha256(path) != expected["sha256"]:
                raise Corrupt(f"{path} is not what was committed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{folder} has no sound manifest or lacks a file: {error}") from error


def latest(parent: Path) -> Checkpoint | None:
    """The newest sound checkpoint of a trial. A bad one is set aside as ``bad-…`` and the one before it is taken."""
    for checkpoint in sorted(_committed(parent), key=lambda c: c.epoch, reverse=True):
        try:
            verify(checkpoint.folder)
        except Corrupt:
            with contextlib.suppress(FileNotFoundError):  # another worker of the trial was faster
                checkpoint.folder.rename(parent / f"bad-{checkpoint.folder.name}")
            continue
        return checkpoint
    return None


def keep_only(parent: Path, keep: Iterable[Path]) -> None:
    """Removes every checkpoint of a trial but these; what was set aside stays for a person to look at."""
    names = {path.name for path in keep}
    for folder in parent.iterdir() if parent.is_dir() else ():
        if _NAME.fullmatch(folder.name) and folder.name not in names:
            (folder / MANIFEST).unlink(missing_ok=True)  # no longer a checkpoint, whatever of it is left
            shutil.rmtree(folder, ignore_errors=True)


def _committed(parent: Path) -> list[Checkpoint]:
    found = [(path, _NAME.fullmatch(path.name)) for path in parent.iterdir()] if parent.is_dir() else []
    return [Checkpoint(path, int(match[1])) for path, match in found if match and (path / MANIFEST).exists()]


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of tensors: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors; tensors that are one and the same are stored once."""
    first: dict[tuple, str] = {}
    aliases: dict[str, str] = {}
    unique: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor.numel() and storage in first:
            aliases[name] = first[storage]
        else:
            first[storage] = name
            unique[name] = tensor.detach().cpu().contiguous().clone()
    save_file(unique, path, metadata={"aliases": json.dumps(aliases)})


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors that ``read_tensors`` would read, which is slower.

    Raises:
        Corrupt: the file is not sound safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {*file.keys(), *json.loads((file.metadata() or {}).get("aliases", "{}"))}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise Corrupt(f"{path} is not a sound safetensors file: {error}") from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, of which the header alone is read.

    Raises:
        Corrupt: the file is not sound safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise Corrupt(f"{path} is not a sound safetensors file: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what ``write_tensors`` or any other writer of safetensors wrote.

    Raises:
        Corrupt: the file is not sound safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
        return tensors | {name: tensors[original] for name, original in aliases.items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{path} is not a sound safetensors file: {error}") from error


def read_foreign_weights(path: Path, *, sha256_prefix: str | None = None) -> dict[str, Tensor]:
    """A state dict from elsewhere: safetensors, or a ``.pth`` file read with ``weights_only=True``.

    Raises:
        NotFound: there is no such file.
        BadInput: the file's hash is not the expected one, or it holds something else than tensors.
    """
    if not path.is_file():
        raise NotFound(f"there is no weights file {path}.")
    if sha256_prefix is not None and not (found := sha256(path)).startswith(sha256_prefix):
        raise BadInput(f"{path} has SHA-256 {found[:12]}…, expected {sha256_prefix}…; remove it and fetch it again.")
    if path.suffix == ".safetensors":
        try:
            return read_tensors(path)
        except Corrupt as error:
            raise BadInput(f"{error}.") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInput(f"{path} is not a file of plain weights ({str(error).splitlines()[0][:120]}).") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path} holds no state dict: it must map names to tensors.")
    return dict(state)
