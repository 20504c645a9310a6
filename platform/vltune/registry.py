"""Promoted models: files, not pickles, as versions of registered models with aliases such as ``champion``."""

import difflib
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vltune.contract import fingerprint
from vltune.errors import BadInput, NotFound, nearest
from vltune.tracking import Tracker, local_path

_FILES = (".safetensors", ".json", ".txt", ".md", ".png", ".jpg")
_NEEDED = ("model.safetensors", "config.json", "MANIFEST.json")
_METRIC = "metric."


@dataclass(frozen=True)
class Model:
    """A version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    trial_uid: str
    run: str
    """Name of the search's run."""
    run_id: str
    """The trial's run in MLflow."""
    data_hash: str
    objective: str
    """The metric that chose the trial."""
    metrics: Mapping[str, float]
    """What ``promote`` was given, such as the metrics of the test split."""
    created: float
    """Seconds since 1970."""
    content: str
    """Fingerprint of its manifest, and so of its files."""
    model_id: str
    """Its logged model in MLflow."""

    @property
    def reference(self) -> str:
        """What names exactly this version, whatever becomes of the aliases."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Resolved:
    """Where a reference leads."""

    folder: Path
    model: Model


class Registry:
    """The promoted models of a tracker's MLflow."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def promote(
        self,
        folder: Path,
        *,
        name: str,
        alias: str,
        run_id: str,
        metrics: Mapping[str, float],
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> Model:
        """Makes the files of a folder a version of the model ``name`` and puts the alias on it.

        Files that were promoted before for the same trial make no second version: only the alias moves.

        Args:
            folder: ``model.safetensors``, ``config.json``, ``MANIFEST.json`` and what the model needs beside them.
            name: of the registered model.
            alias: such as ``champion``.
            run_id: the trial's run.
            metrics: logged to the run and shown with the version, so best under names of their own: ``test_cider``.
            params: the trial's configuration.
            tags: ``trial_uid``, ``run`` and ``data_hash``, and more if wanted.

        Raises:
            BadInput: a name that is not possible, files that are missing or not ours, or another promotion meanwhile.
            Unreachable: MLflow does not answer.
        """
        check_names(name, alias)
        _check_files(folder)
        assert {"trial_uid", "run", "data_hash"} <= set(tags)
        locks = self._tracker.storage / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(locks / f"promote-{name}.lock", timeout=0), self._tracker.asking("a promotion") as client:
                return self._promote(client, folder, name, alias, run_id, metrics, params, tags)
        except Timeout as error:
            raise BadInput(f"another promotion to {name!r} is under way; wait for its end and look at it.") from error

    def models(self) -> list[Model]:
        """All promoted models, by name, newest version first."""
        if not self._tracker.exists:
            return []
        with self._tracker.asking("the list of models") as client:
            aliases = {m.name: dict(m.aliases) for m in _pages(client.search_registered_models, max_results=1000)}
            found = [_model(v, aliases.get(v.name, {})) for v in _pages(client.search_model_versions, max_results=1000)]
        return sorted((m for m in found if m.trial_uid), key=lambda m: (m.name, -m.version))

    def resolve(self, reference: str) -> Resolved:
        """The files of ``NAME@ALIAS`` or ``NAME/VERSION``, with or without ``models:/`` before it.

        Files on this machine are used where they lie; others are downloaded once into the storage folder.

        Raises:
            NotFound: no such model, version or alias, or its files are gone.
            BadInput: not a reference.
            Unreachable: MLflow does not answer.
        """
        parts = re.fullmatch(r"(?:models:/)?([^/@:]+)(?:@([\w-]+)|/(\d+))", reference)
        if parts is None:
            raise BadInput(f"{reference!r} is no reference to a model: write NAME@ALIAS or NAME/VERSION.")
        name, alias, version = parts.groups()
        models = self.models()
        same_name = [m for m in models if m.name == name]
        if not same_name:
            known = {m.name for m in models}
            hint = nearest(name, known) if known else "; `vltune promote RUNNAME` makes one."
            raise NotFound(f"there is no promoted model {name!r}{hint}")
        found = [m for m in same_name if (alias in m.aliases if alias else m.version == int(version))]
        if not found:
            known = [f"{name}@{a}" for m in same_name for a in m.aliases] + [f"{name}/{m.version}" for m in same_name]
            close = difflib.get_close_matches(f"{name}@{alias}" if alias else f"{name}/{version}", known, n=1)
            guess = f" Did you mean {close[0]}?" if close else ""
            raise NotFound(f"the model {name!r} has no {reference!r}.{guess} There are: {', '.join(known)}.")
        return Resolved(self._folder(found[0]), found[0])

    def _promote(
        self,
        client: Any,
        folder: Path,
        name: str,
        alias: str,
        run_id: str,
        metrics: Mapping[str, float],
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> Model:
        content = _content(folder)
        registered = _registered(client, name)
        before = str(registered.aliases.get(alias))
        versions = _pages(client.search_model_versions, filter_string=f"name = '{name}'", max_results=1000)
        version = next(
            (v for v in versions if v.run_id == run_id and v.tags.get("content") == content),
            None,
        )
        if version is None:
            all_tags = {**tags, **{_METRIC + k: repr(float(v)) for k, v in metrics.items()}, "content": content}
            model = self._log_model(client, folder, name, run_id, metrics, params, all_tags)
            version = client.create_model_version(
                name,
                # A server resolves the reference; without one, MLflow would ask its global store, which is not ours.
                source=model.artifact_location if self._tracker.is_database else f"models:/{model.model_id}",
                run_id=run_id,
                tags={**all_tags, "model_id": model.model_id},
                model_id=model.model_id,
                description=f"Trial {tags['trial_uid']} of {tags['run']}.",
                await_creation_for=0,
            )
        now = client.get_registered_model(name).aliases
        holder = str(now.get(alias))
        if holder not in (before, str(version.version)):
            raise BadInput(f"{name}@{alias} went to version {holder} meanwhile: look at it, then promote again.")
        client.set_registered_model_alias(name, alias, version.version)
        aliases = {**now, alias: version.version}
        return _model(version, aliases)

    def _log_model(
        self,
        client: Any,
        folder: Path,
        name: str,
        run_id: str,
        metrics: Mapping[str, float],
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> Any:
        from mlflow.entities import LoggedModelOutput, Metric

        run = client.get_run(run_id)
        model = client.create_logged_model(
            run.info.experiment_id,
            name=name,
            source_run_id=run_id,
            tags=dict(tags),
            params={key: str(value)[:500] for key, value in params.items()},
        )
        try:
            client.log_model_artifacts(model.model_id, str(folder))
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            now = round(time.time() * 1000)
            rows = [Metric(key, float(value), now, 0, model_id=model.model_id) for key, value in metrics.items()]
            client.log_batch(run_id, metrics=rows, synchronous=True)
        except BaseException:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
        return client.finalize_logged_model(model.model_id, "READY")

    def _folder(self, model: Model) -> Path:
        if not re.fullmatch("[0-9a-f]{16}", model.content):  # it names a folder below, and anybody may set a tag
            raise BadInput(f"{model.reference} has no sound tag 'content' ({model.content!r}): promote it again.")
        with self._tracker.asking(f"the files of {model.reference}") as client:
            uri = client.get_model_version_download_uri(model.name, str(model.version))
            if uri.startswith("models:/"):
                uri = client.get_logged_model(model.model_id).artifact_location
            if place := local_path(uri):
                if not (place / "MANIFEST.json").is_file():
                    raise NotFound(f"the files of {model.reference} are not at {place}: moved, or on another machine.")
                _check_content(place, model)
                return place
            place = self._tracker.storage / "models" / model.content
            if not place.is_dir():
                from mlflow.artifacts import download_artifacts

                draft = place.with_name(f".{model.content}.{uuid.uuid4().hex[:8]}")
                draft.mkdir(parents=True)
                try:
                    download_artifacts(artifact_uri=uri, dst_path=str(draft), tracking_uri=self._tracker.uri)
                    manifest = next(draft.rglob("MANIFEST.json"), None)
                    if manifest is None:
                        raise NotFound(f"the server has no files of {model.reference}: promote it again.")
                    _check_content(manifest.parent, model)
                    if not place.is_dir():
                        manifest.parent.rename(place)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
            _check_content(place, model)
            return place


def _model(version: Any, aliases: Mapping[str, Any]) -> Model:
    tags = version.tags
    return Model(
        name=version.name,
        version=int(version.version),
        aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == int(version.version))),
        trial_uid=tags.get("trial_uid", ""),
        run=tags.get("run", ""),
        run_id=version.run_id or "",
        data_hash=tags.get("data_hash", ""),
        objective=tags.get("objective", ""),
        metrics={k.removeprefix(_METRIC): float(v) for k, v in tags.items() if k.startswith(_METRIC)},
        created=version.creation_timestamp / 1000,
        content=tags.get("content", ""),
        model_id=tags.get("model_id", ""),
    )


def _content(folder: Path) -> str:
    return fingerprint((folder / "MANIFEST.json").read_text(encoding="utf-8"))


def _check_content(folder: Path, model: Model) -> None:
    if _content(folder) != model.content:
        raise BadInput(f"{folder} is not what was promoted as {model.reference}; promote it again.")


def _registered(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return client.create_registered_model(name, tags={"vltune": "true"})


def _pages(search: Any, **arguments: Any) -> list[Any]:
    found, token = [], None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found


def check_names(name: str, alias: str) -> None:
    """Checks what a registered model and its alias are called.

    Raises:
        BadInput: MLflow would refuse a name, or take it for something else.
    """
    _check_name("name of a model", name, r"[\w.-]{1,200}")
    _check_name("alias", alias, r"(?![vV]\d+$)(?!(?i:latest)$)[\w-]{1,200}")


def _check_name(what: str, name: str, pattern: str) -> None:
    if not re.fullmatch(pattern, name):
        raise BadInput(
            f"{name!r} is not possible as {what}: letters, digits, '_', '-'"
            + (" and '.' only." if "." in pattern[:6] else " only, and neither 'latest' nor 'v1'.")
        )


def _check_files(folder: Path) -> None:
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise BadInput(f"{folder} holds no {name}: only a committed checkpoint can be promoted.")
    for path in folder.rglob("*"):
        if path.is_symlink() or (path.is_file() and path.suffix not in _FILES):
            raise BadInput(f"{path} cannot be promoted: only plain files of the kinds {', '.join(_FILES)} can.")
