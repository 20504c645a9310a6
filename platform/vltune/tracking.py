"""MLflow as a view of the ledger: a parent run per search, a child run per trial.

Only this file and ``registry.py`` import mlflow, and only when something is asked of it: the import takes seconds.

Long, because that a thing which is sent twice is stored once is a property of all writing calls together.
"""

import getpass
import json
import math
import os
import re
import shutil
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vltune.errors import BadInput, Unreachable
from vltune.notes import EXPERIMENT_ID, RUN_ID, search_note, trial_note
from vltune.ui import database, settle_environment

PREFIX = "vltune/"
"""What the names of our experiments begin with, so that a server shared with others stays readable."""

STATUS = {"finished": "FINISHED", "pruned": "KILLED", "stopped": "KILLED", "failed": "FAILED"}
"""MLflow has no word for a trial that was pruned: the tag ``vltune.state`` says which of the two it was."""

_SYSTEM = "system/"
"""What MLflow's page shows under "System metrics"."""

_FOR_GOOD = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
_OUR_BUGS = (TypeError, ValueError, AttributeError, LookupError, AssertionError)
_METRICS_PER_BATCH, _PARAMS_PER_BATCH, _LONGEST_PARAM, _LONGEST_TAG = 1000, 100, 6000, 8000


class Refused(BadInput):
    """MLflow answered, and will never accept what it was sent."""


@dataclass(frozen=True)
class EpochPoint:
    """The metrics of one epoch."""

    epoch: int
    metrics: Mapping[str, float]
    time: float
    """Seconds since 1970."""
    resources: Sequence[Mapping[str, float]] = ()
    """Samples of the machine, each with its own ``time`` and ``step``."""


class Tracker:
    """Writes runs into MLflow. Every method may be called again with the same values: nothing is stored twice."""

    def __init__(self, storage: Path, *, tracking_uri: str | None = None) -> None:
        """``tracking_uri`` comes before ``MLFLOW_TRACKING_URI``, and that before SQLite in ``storage``."""
        self.storage = storage.absolute()
        self.uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database(storage)}"
        scheme = urllib.parse.urlsplit(self.uri).scheme.partition("+")[0]
        self.is_database = scheme in ("sqlite", "postgresql", "mysql", "mssql")
        self._lock = threading.Lock()
        self._client: Any = None
        self._experiments: dict[str, str] = {}
        self._artifacts: dict[str, str] = {}

    @property
    def client(self) -> Any:
        """The ``MlflowClient``. The first call imports MLflow and may create the database: several seconds."""
        with self._lock:
            if self._client is None:
                settle_environment()
                from mlflow import MlflowClient

                if self.uri == f"sqlite:///{database(self.storage)}":
                    self.storage.mkdir(parents=True, exist_ok=True)
                    database(self.storage).touch(mode=0o600)
                self._client = MlflowClient(self.uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or self.uri)
            return self._client

    @property
    def exists(self) -> bool:
        """Whether there is anything to look at: a database of our own is made when the first run is written."""
        return self.uri != f"sqlite:///{database(self.storage)}" or database(self.storage).is_file()

    @contextmanager
    def asking(self, what: str) -> Iterator[Any]:
        """Gives the client, and turns what it raises into our errors.

        Raises:
            Refused: MLflow will never accept it.
            Unreachable: MLflow is down, slow, or has trouble of its own.
        """
        try:
            yield self.client
        except (BadInput, Unreachable):
            raise
        except Exception as error:
            line = " ".join(str(error).split()).rpartition("Caused by ")[2][:300] or type(error).__name__
            code = getattr(error, "error_code", "")
            if code in _FOR_GOOD:
                raise Refused(f"MLflow refused {what}: {line}") from error
            if isinstance(error, _OUR_BUGS) and not isinstance(error, OSError):
                raise
            where = re.sub(r"//[^/@]*@", "//", self.uri)
            raise Unreachable(f"MLflow at {where} could not take {what}: {line}") from error

    def ensure_parent(
        self,
        uid: str,
        *,
        run_name: str,
        search: str,
        source_text: str,
        question: str,
        objective: str,
        tags: Mapping[str, str],
        start_time: float | None = None,
    ) -> str:
        """The run of a whole search: found by its uid, created when it is not there.

        Args:
            uid: the search's, which no other search has, whoever else writes to this MLflow.
            run_name: what people call it; others may have the same.
            search: name of the space, and so of the experiment.
            source_text: the file that defines the space.
            question: what it asks.
            objective: the metric that it optimises.
            tags: more tags.
            start_time: seconds since 1970.
        """
        with self.asking(f"the search {run_name!r}") as client:
            experiment = self._experiment(client, search, question)
            found = self._find(client, experiment, {"vltune.uid": uid})
            if found is None:
                found = self._create(
                    client,
                    experiment,
                    run_name,
                    identity={"vltune.uid": uid},
                    tags={
                        "vltune.kind": "search",
                        "vltune.run": run_name,
                        "vltune.search": search,
                        "vltune.objective": objective,
                        "vltune.state": "running",
                        "mlflow.note.content": search_note(question=question, objective=objective),
                        **tags,
                    },
                    start_time=start_time,
                )
            self._set_running(client, found)
            if source_text:
                client.log_text(found.info.run_id, source_text, "search.py")
            return found.info.run_id

    def ensure_trial(
        self,
        parent: str,
        uid: str,
        *,
        name: str,
        params: Mapping[str, object],
        searched: Sequence[str],
        tags: Mapping[str, str],
        start_time: float | None = None,
    ) -> str:
        """The run of one trial, nested under its search, with all its parameters.

        Args:
            parent: run id of the search.
            uid: the trial's, the same through all attempts.
            name: what the table calls it.
            params: the whole configuration.
            searched: names of those parameters that the sampler chose.
            tags: more tags.
            start_time: seconds since 1970.
        """
        with self.asking(f"the trial {uid}") as client:
            experiment = client.get_run(parent).info.experiment_id
            found = self._find(client, experiment, _trial_tags(uid, parent))
            if found is None:
                found = self._create(
                    client,
                    experiment,
                    name,
                    identity=_trial_tags(uid, parent),
                    tags={
                        "vltune.kind": "trial",
                        "vltune.searched": ", ".join(searched),
                        "vltune.state": "running",
                        **tags,
                    },
                    start_time=start_time,
                )
            run_id = found.info.run_id
            self._set_running(client, found)
            from mlflow.entities import Param

            entries = [Param(key, _cut(str(value), _LONGEST_PARAM)) for key, value in params.items()]
            for start in range(0, len(entries), _PARAMS_PER_BATCH):
                client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_BATCH], synchronous=True)
            return run_id

    def send_epochs(self, run_id: str, points: Sequence[EpochPoint]) -> None:
        """The metrics of several epochs, in as few calls as MLflow allows.

        Infinities go as NaN: MLflow would store them as 1.8e308, which flattens every chart and sorts as the best.
        """
        from mlflow.entities import Metric

        rows = [
            Metric(key, value if math.isfinite(value) else math.nan, round(p.time * 1000), p.epoch)
            for p in points
            for key, value in p.metrics.items()
        ]
        rows += [
            Metric(f"{_SYSTEM}{key}", value, round(sample["time"] * 1000), int(sample["step"]))
            for p in points
            for sample in p.resources
            for key, value in sample.items()
            if key not in ("time", "step")
        ]
        with self.asking(f"the metrics of run {run_id}") as client:
            for start in range(0, len(rows), _METRICS_PER_BATCH):
                client.log_batch(run_id, metrics=rows[start : start + _METRICS_PER_BATCH], synchronous=True)

    def finish_trial(
        self,
        run_id: str,
        state: str,
        *,
        end_time: float,
        error: str = "",
        note: str = "",
        best_epoch: int | None = None,
        best: Mapping[str, float] | None = None,
        captions: Mapping[str, str] | None = None,
        figures: Mapping[str, str] | None = None,
    ) -> None:
        """Ends the run of a trial and writes its note.

        Args:
            run_id: the trial's run.
            state: a key of ``STATUS``.
            end_time: seconds since 1970.
            error: why it failed, a line.
            note: lines of Markdown that the note shall hold too.
            best_epoch: the epoch that counts.
            best: its metrics. Logged as ``best/NAME``, since MLflow's table shows each metric's last value.
            captions: picture in ``samples/best`` -> what the model said of it.
            figures: path of an artifact -> what it shows.
        """
        self._send_best(run_id, best_epoch or 0, best, end_time)
        with self.asking(f"the end of run {run_id}") as client:
            run = client.get_run(run_id)
            searched = [s for s in run.data.tags.get("vltune.searched", "").split(", ") if s]
            text = trial_note(
                uid=run.data.tags.get("trial_uid", ""),
                state=state,
                searched={key: run.data.params.get(key, "") for key in searched},
                best_epoch=best_epoch,
                metrics=best or {},
                captions={f"samples/best/{name}": said for name, said in (captions or {}).items()},
                figures=figures,
                remarks=note,
                error=error,
                picture_url=f"get-artifact?path={{}}&run_uuid={run_id}",
            )
            tags = {"vltune.state": state, "vltune.error": error, "mlflow.note.content": text}
            tags["vltune.best_epoch"] = "" if best_epoch is None else str(best_epoch)
            self._tag(client, run_id, {key: value for key, value in tags.items() if value})
            client.set_terminated(run_id, STATUS[state], round(end_time * 1000))

    def finish_parent(
        self,
        run_id: str,
        state: str,
        *,
        end_time: float,
        note: str,
        files: Path | None = None,
        table: Mapping[str, Sequence[object]] | None = None,
        best: Mapping[str, float] | None = None,
    ) -> None:
        """Ends the run of a search: its note, its files, and the comparison as a table that MLflow can show.

        Args:
            run_id: the search's run.
            state: a key of ``STATUS``.
            end_time: seconds since 1970.
            note: Markdown, such as ``search_note`` makes; the ids of the run take their places in it.
            files: folder with the comparison and the plots.
            table: the comparison, column by column.
            best: metrics of the best trial, logged as ``best/NAME``.
        """
        self._send_best(run_id, 0, best, end_time)
        if files is not None:
            self.log_files(run_id, files, "comparison")
        with self.asking(f"the end of run {run_id}") as client:
            experiment = client.get_run(run_id).info.experiment_id
            note = note.replace(RUN_ID, run_id).replace(EXPERIMENT_ID, experiment)
            tags = {"vltune.state": state, "mlflow.note.content": note}
            if table:
                # log_table would append to the table that is there, so that sending twice would double its rows.
                rows = [list(row) for row in zip(*table.values(), strict=True)]
                client.log_dict(run_id, {"columns": list(table), "data": rows}, "comparison.json")
                tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "comparison.json", "type": "table"}])
            self._tag(client, run_id, tags)
            client.set_terminated(run_id, STATUS[state], round(end_time * 1000))

    def log_files(self, run_id: str, folder: Path, artifact_path: str = "") -> None:
        """All files of a folder as artifacts. Where artifacts lie on this disk they are hard links: no second copy.

        Args:
            run_id: the run's.
            folder: whose files.
            artifact_path: folder of the run's artifacts; empty: directly among them.

        Raises:
            Refused: the folder is gone.
        """
        if not folder.is_dir():
            raise Refused(f"the folder {folder} is gone: its files cannot be logged as {artifact_path!r}")
        with self.asking(f"the files of {folder}") as client:
            if run_id not in self._artifacts:
                self._artifacts[run_id] = client.get_run(run_id).info.artifact_uri
            root = local_path(self._artifacts[run_id])
            if root is None:
                client.log_artifacts(run_id, str(folder), artifact_path or None)
            else:
                shutil.copytree(folder, root / artifact_path, copy_function=_link, dirs_exist_ok=True)

    def find_parent(self, uid: str, *, search: str) -> str | None:
        """The run id of a search by its uid and the name of its space, or None."""
        if not self.exists:
            return None
        with self.asking(f"a look for the search {search!r}") as client:
            experiment = client.get_experiment_by_name(PREFIX + search)
            found = experiment and self._find(client, experiment.experiment_id, {"vltune.uid": uid})
            return found and found.info.run_id

    def find_run(self, uid: str, *, parent: str) -> str | None:
        """The run id of a trial of the search whose run id is ``parent``, or None."""
        with self.asking(f"a look for the trial {uid}") as client:
            experiment = client.get_run(parent).info.experiment_id
            found = self._find(client, experiment, _trial_tags(uid, parent))
            return found and found.info.run_id

    def page(self, run_id: str) -> str:
        """The address of a run's page, after the server's own."""
        with self.asking(f"a look at run {run_id}") as client:
            experiment = client.get_run(run_id).info.experiment_id
        return f"/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"

    def _send_best(self, run_id: str, epoch: int, best: Mapping[str, float] | None, at: float) -> None:
        if best:
            self.send_epochs(run_id, [EpochPoint(epoch, {f"best/{key}": value for key, value in best.items()}, at)])

    def _experiment(self, client: Any, search: str, question: str) -> str:
        name = PREFIX + search
        if name not in self._experiments:
            found = client.get_experiment_by_name(name)
            if found is None:
                place = str(self.storage / "artifacts" / re.sub(r"[^\w.-]", "-", search)) if self.is_database else None
                # The kind spares the user a question that MLflow's page would ask.
                tags = {"mlflow.note.content": question, "mlflow.experimentKind": "custom_model_development"}
                self._experiments[name] = client.create_experiment(name, artifact_location=place, tags=tags)
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _find(self, client: Any, experiment: str, identity: Mapping[str, str]) -> Any:
        """The run with these tags. They must name one thing alone: a second run that has them is deleted as a double.

        A request whose answer was lost may have been repeated below us, and then there are two: the fuller one stays.
        """
        runs = _tagged(client, experiment, identity)
        if len(runs) < 2:
            return runs[0] if runs else None
        children = {
            run.info.run_id: len(_tagged(client, experiment, {"mlflow.parentRunId": run.info.run_id})) for run in runs
        }

        def emptiness(run: Any) -> tuple[int, int, str]:
            return -children[run.info.run_id], -len(run.data.metrics) - len(run.data.params), run.info.run_id

        first, *doubles = sorted(runs, key=emptiness)
        for double in doubles:
            if not children[double.info.run_id]:
                client.delete_run(double.info.run_id)
        return first

    def _create(
        self,
        client: Any,
        experiment: str,
        name: str,
        *,
        identity: Mapping[str, str],
        tags: Mapping[str, str],
        start_time: float | None,
    ) -> Any:
        source = {"mlflow.source.name": "vltune", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
        tags = {key: _cut(value, _LONGEST_TAG) for key, value in {**source, **identity, **tags}.items() if value}
        run = client.create_run(experiment, round((start_time or time.time()) * 1000), tags, name)
        if self.is_database:
            return run
        return self._find(client, experiment, identity) or run

    def _set_running(self, client: Any, run: Any) -> None:
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
            self._tag(client, run.info.run_id, {"vltune.state": "running"})

    def _tag(self, client: Any, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        client.log_batch(run_id, tags=[RunTag(k, _cut(v, _LONGEST_TAG)) for k, v in tags.items()], synchronous=True)


def _trial_tags(uid: str, parent: str) -> dict[str, str]:
    """What only one trial has: other people's runs on the same server may have trials of the same uid."""
    return {"trial_uid": uid, "mlflow.parentRunId": parent}


def _tagged(client: Any, experiment: str, tags: Mapping[str, str]) -> list[Any]:
    quoted = {key: f'"{value}"' if "'" in value else f"'{value}'" for key, value in tags.items()}
    wanted = " AND ".join(f"tags.`{key}` = {value}" for key, value in quoted.items())
    return list(client.search_runs([experiment], wanted, max_results=10))


def local_path(uri: str) -> Path | None:
    """The folder of an artifact URI, or None where it is not on this machine."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return Path(uri) if not parts.scheme else None


def _link(source: str, target: str) -> None:
    draft = f"{target}.{uuid.uuid4().hex[:8]}"
    try:
        os.link(source, draft)
    except OSError:
        shutil.copy2(source, draft)
    Path(draft).replace(target)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"
