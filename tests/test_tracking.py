"""MLflow for real, on SQLite and behind a proxy that spoils requests."""

import http.client
import http.server
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from vltune.errors import BadInput, NotFound, Unreachable
from vltune.ledger_records import Event
from vltune.notes import LONGEST, search_note, trial_note
from vltune.registry import Registry
from vltune.sender import SearchRun, Sender
from vltune.tracking import EpochPoint, Refused, Tracker
from vltune.ui import database, settle_environment, ui_command

PARAMS = {f"field_{k}": k for k in range(140)} | {"learning_rate": 1e-3, "words": "x" * 7000}


class Ledger:
    """Events in a list, as the ledger keeps them in its database."""

    def __init__(self):
        self.events, self.marks = [], []

    def add(self, uid, kind, **payload):
        number = len(self.events) + 1
        self.events.append(Event(number, "", uid, kind, 1_700_000_000 + 10.0 * number, payload))

    def pending(self, after, limit):
        return [e for e in self.events if e.sequence > after][:limit]

    def mark_sent(self, sequence):
        self.marks.append(sequence)


def add_trial(ledger, uid, folder, *, epochs=5, state="finished"):
    ledger.add(
        uid, "started", params={**PARAMS, "uid_of": uid}, searched=["learning_rate"], name=f"row {uid}", number=3
    )
    for epoch in range(1, epochs + 1):
        metrics = {f"metric_{k}": epoch + k / 8 for k in range(15)}
        samples = [{"time": 1.7e9 + 10 * epoch + k, "step": 2 * epoch + k, "cpu": 12.5 * k} for k in range(2)]
        # An epoch that an older version wrote down has none.
        ledger.add(uid, "epoch", epoch=epoch, metrics=metrics, **({"resources": samples} if epoch > 1 else {}))
    made = {"checkpoint": make_checkpoint, "samples": make_samples, "illustrations": make_illustrations}
    places = {name: str(make(folder / uid)) for name, make in made.items()}
    ledger.add(uid, "ended", state=state, **places, best_epoch=2, best={"cider": 0.5})


def make_checkpoint(folder, *, size=1000):
    place = folder / "checkpoint"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(os.urandom(size))
    (place / "config.json").write_text("{}")
    (place / "tokenizer.json").write_text("{}")
    (place / "MANIFEST.json").write_text(json.dumps({"files": os.urandom(8).hex()}))
    return place


def make_samples(folder):
    place = folder / "samples"
    place.mkdir(parents=True)
    for k in range(10):
        (place / f"{k:02d}.jpg").write_bytes(os.urandom(3000))
    said = [{"id": str(k), "picture": f"{k:02d}.jpg", "caption": f"a dog number {k} | on grass"} for k in range(10)]
    (place / "samples.json").write_text(json.dumps(said))
    return place


def make_illustrations(folder):
    place = folder / "illustrations"
    (place / "figures").mkdir(parents=True)
    (place / "model.txt").write_text("module\n")
    (place / "figures" / "confusion.png").write_bytes(os.urandom(3000))
    shown = [{"file": "confusion.png", "title": "Confusion", "reads": "Dark | is much."}]
    (place / "figures" / "figures.json").write_text(json.dumps(shown))
    return place


def search(name, *, uid=""):
    return SearchRun(
        uid=uid or f"uid of {name}",
        run_name=f"{name}-1",
        search=name,
        source_text="SEARCH = 1\n",
        question="Which is best?",
        objective="cider",
    )


def open_search(tracker, name, *, uid=""):
    run = search(name, uid=uid)
    return tracker.ensure_parent(
        run.uid, run_name=run.run_name, search=name, source_text="", question="", objective="cider", tags={}
    )


def run_of(tracker, name, uid):
    return tracker.find_run(uid, parent=tracker.find_parent(search(name).uid, search=name))


def stored(tracker, name, uid):
    """All (key, step, timestamp, value) that MLflow has of a trial."""
    run_id = run_of(tracker, name, uid)
    keys = tracker.client.get_run(run_id).data.metrics
    rows = [m for key in keys for m in tracker.client.get_metric_history(run_id, key)]
    return sorted((m.key, m.step, m.timestamp, m.value) for m in rows)


def expected(ledger, uid):
    rows = []
    for event in ledger.events:
        if event.uid == uid and event.kind == "epoch":
            step, at = event.payload["epoch"], round(event.time * 1000)
            rows += [(key, step, at, value) for key, value in event.payload["metrics"].items()]
            samples = event.payload.get("resources", ())
            rows += [("system/cpu", s["step"], round(s["time"] * 1000), s["cpu"]) for s in samples]
        if event.uid == uid and event.kind == "ended":
            rows += [(f"best/{k}", 2, round(event.time * 1000), v) for k, v in event.payload["best"].items()]
    return sorted(rows)


def runs_of(tracker, name):
    experiment = tracker.client.get_experiment_by_name(f"vltune/{name}")
    return tracker.client.search_runs([experiment.experiment_id])


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return Tracker(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real MLflow server on a free port of this machine."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settle_environment()
    command = ui_command(folder, port=port)
    # Ours serves runs that lie on this disk; a team's takes artifacts over the network.
    command[command.index("--default-artifact-root")] = "--artifacts-destination"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    for _ in range(240):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.5)
    yield port
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


@pytest.fixture
def proxy(server):
    """Stands before the server; ``proxy.fault(method, path)`` says what to do with a request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = stand.fault(self.command, self.path)
            if fault == "error":
                self.send_response(500)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            connection = http.client.HTTPConnection("127.0.0.1", server, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            if fault == "lost":  # the request arrived, its answer does not
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - the server's names

        def log_message(self, *_):
            pass

    stand: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand.daemon_threads = True
    stand.handle_error = lambda *_: None
    stand.fault = lambda *_: ""
    stand.uri = f"http://127.0.0.1:{stand.server_port}"
    threading.Thread(target=stand.serve_forever, daemon=True).start()
    yield stand
    stand.shutdown()
    stand.server_close()


def test_the_module_is_imported_without_mlflow():
    code = "import sys, vltune.sender, vltune.registry; print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_where_runs_go(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracker(tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert Tracker(tmp_path).uri == "http://mlflow.example"
    assert Tracker(tmp_path, tracking_uri="http://other.example").uri == "http://other.example"
    command = ui_command(tmp_path, port=5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert f"sqlite:///{database(tmp_path)}" in command


def test_the_users_own_settings_stay(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    settle_environment()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_notes_fit_and_say_what_they_left_out():
    table = "\n".join(["| a | b |", "|---|---|", *(f"| row {k} | {'y' * 60} |" for k in range(300))])
    note = search_note(
        question="Why?",
        objective="cider",
        trials={"finished": 300},
        best="row 3",
        table=table,
        promote="vltune promote r-1",
    )
    shown = note.count("| row ")
    assert len(note) <= LONGEST
    assert 0 < shown < 300
    assert f"({300 - shown} more lines are left out here.)" in note
    assert "vltune promote r-1" in note
    note = trial_note(uid="u1", state="pruned", searched={"a": 1}, captions={"0.jpg": "x | y"}, picture_url="p?{}&r")
    assert "| ![0.jpg](p?0.jpg&r) |\n| --- |\n| x \\| y |" in note
    assert "vltune rerun u1" in note
    note = trial_note(uid="u1", state="finished", searched={}, figures={"figures/a.png": "Confusion. Dark | is much."})
    assert note.endswith("\n\n`figures/a.png`: Confusion. Dark \\| is much.")


@pytest.mark.integration
def test_a_search_arrives_once_whatever_is_sent_again(tracker, tmp_path):
    ledger = Ledger()
    for k in range(2):
        add_trial(ledger, f"a{k}", tmp_path, state=["finished", "pruned"][k])
    files = tmp_path / "files"
    files.mkdir()
    (files / "comparison.md").write_text("| a |\n|---|\n| 1 |\n")
    table = {"trial": ["a0", "a1"], "cider": [0.5, None]}
    done = search_note(question="Why?", objective="cider", report="comparison/report.html")
    ledger.add("", "summary", state="finished", note=done, files=str(files), table=table, best={"cider": 0.5})

    for after in (0, 0, 4):  # a driver that died before it marked anything, and one that died in the middle
        sender = Sender(tracker, ledger, search=search("again"), after=after, poll=0.01)
        sender.start()
        assert sender.flush(60), sender.trouble
        sender.stop()
        assert sender.refused == []
        assert sender.backlog() == 0

    runs = {r.data.tags.get("trial_uid", "parent"): r for r in runs_of(tracker, "again")}
    assert sorted(runs) == ["a0", "a1", "parent"]
    assert len(runs_of(tracker, "again")) == 3
    for k in range(2):
        run = runs[f"a{k}"]
        assert stored(tracker, "again", f"a{k}") == expected(ledger, f"a{k}")
        assert run.data.params == {
            **{key: str(v) for key, v in PARAMS.items()}, "words": "x" * 5999 + "…", "uid_of": f"a{k}"
        }  # fmt: skip
        assert run.data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        assert run.data.tags["vltune.searched"] == "learning_rate"
        assert (run.info.status, run.data.tags["vltune.state"]) == [("FINISHED", "finished"), ("KILLED", "pruned")][k]
        assert run.info.run_name == f"row a{k}"
        assert "a dog number 0 \\| on grass" in run.data.tags["mlflow.note.content"]
        shown = f"\n\n![figures/confusion.png](get-artifact?path=figures/confusion.png&run_uuid={run.info.run_id})"
        note = run.data.tags["mlflow.note.content"]
        assert note.endswith("| metric | value |\n| --- | --- |\n| cider | 0.5 |")
        assert note.index("| learning_rate |") < note.index(shown) < note.index("| metric |")
        root = Path(run.info.artifact_uri)
        assert root.is_relative_to(tracker.storage)
        kept = {"checkpoint": "checkpoint", "samples/best": "samples", "figures": "illustrations/figures"}
        for place, source in kept.items():
            for file in (tmp_path / f"a{k}" / source).iterdir():
                assert (root / place / file.name).read_bytes() == file.read_bytes()
                assert (root / place / file.name).stat().st_ino == file.stat().st_ino  # no second copy on the disk
        assert (root / "model.txt").read_text() == "module\n"
    parent = runs["parent"]
    assert parent.data.metrics == {"best/cider": 0.5}
    run_id, experiment = parent.info.run_id, parent.info.experiment_id
    page = f"#/experiments/{experiment}/runs/{run_id}/artifacts/comparison/report.html?workflowType=machine_learning"
    file = f"get-artifact?path=comparison/report.html&run_uuid={run_id}"
    first, *rest = parent.data.tags["mlflow.note.content"].split("\n\n")
    assert first == f"**[Read the report]({page})**, with pictures and plots, or [keep it as a file]({file})."
    assert rest[0] == "Why?"
    assert json.loads((Path(parent.info.artifact_uri) / "comparison.json").read_text()) == {
        "columns": ["trial", "cider"], "data": [["a0", 0.5], ["a1", None]]
    }  # fmt: skip
    assert json.loads(parent.data.tags["mlflow.loggedArtifacts"]) == [{"path": "comparison.json", "type": "table"}]
    assert (Path(parent.info.artifact_uri) / "search.py").read_text() == "SEARCH = 1\n"
    assert database(tracker.storage).stat().st_mode & 0o777 == 0o600


@pytest.mark.integration
def test_a_trial_costs_little(tracker, tmp_path):
    ledger = Ledger()
    for k in range(3):
        add_trial(ledger, f"cost{k}", tmp_path)
    sender = Sender(tracker, ledger, search=search("cost"), poll=0.01)
    tracker.client.search_experiments()
    before = time.process_time()
    sender.start()
    assert sender.flush(60)
    sender.stop()
    assert (time.process_time() - before) / 3 < 0.4


@pytest.mark.integration
def test_values_that_are_not_finite_never_look_best(tracker):
    parent = open_search(tracker, "nan")
    run_id = tracker.ensure_trial(parent, "n1", name="n", params={}, searched=(), tags={})
    for _ in range(2):
        points = [EpochPoint(e, {"cider": v}, 5.0) for e, v in enumerate([1.0, math.nan, math.inf, -math.inf])]
        tracker.send_epochs(run_id, points)
    history = {m.step: m.value for m in tracker.client.get_metric_history(run_id, "cider")}
    assert len(tracker.client.get_metric_history(run_id, "cider")) == 4
    assert history[0] == 1.0
    assert all(math.isnan(history[step]) for step in (1, 2, 3))


@pytest.mark.integration
def test_what_mlflow_never_takes_is_left_out_and_the_rest_arrives(tracker, tmp_path, caplog):
    ledger = Ledger()
    ledger.add("r1", "started", params={"a": 1}, name="r1")
    ledger.add("r1", "epoch", epoch=1, metrics={"cider": 0.1})
    ledger.add("r1", "epoch", epoch=2, metrics={"recall@1": 0.1})  # MLflow takes no '@'
    ledger.add("r1", "epoch", epoch=3, metrics={"cider": 0.3})
    ledger.add("nobody", "epoch", epoch=1, metrics={"cider": 0.3})
    ledger.add("r1", "ended", state="finished", checkpoint=str(tmp_path / "gone"))
    ledger.add("r1", "strange")
    sender = Sender(tracker, ledger, search=search("refused"), poll=0.01)
    sender.start()
    assert sender.flush(60)
    sender.stop()
    assert [sequence for sequence, _ in sender.refused] == [3, 5, 6, 7]
    assert "recall@1" in sender.refused[0][1]
    assert ledger.marks[-1] == 7
    assert [row[1] for row in stored(tracker, "refused", "r1")] == [1, 3]
    assert tracker.client.get_run(run_of(tracker, "refused", "r1")).info.status == "FINISHED"
    assert sum("left out" in r.message for r in caplog.records) == 4


@pytest.mark.integration
def test_figures_that_come_later_go_alone(tracker, tmp_path, monkeypatch):
    ledger, sent, log_files = Ledger(), [], tracker.log_files
    add_trial(ledger, "r1", tmp_path, state="pruned")
    illustrations = ledger.events[-1].payload.pop("illustrations")
    ledger.add("r1", "illustrated", **ledger.events[-1].payload, illustrations=illustrations)
    monkeypatch.setattr(tracker, "log_files", lambda run, *what: (sent.append(what), log_files(run, *what)))
    sender = Sender(tracker, ledger, search=search("late"), poll=0.01)
    sender.start()
    assert sender.flush(60)
    sender.stop()
    assert not sender.refused
    assert [Path(folder).name for folder, *_ in sent] == ["samples", "checkpoint", "illustrations"]
    note = tracker.client.get_run(run_of(tracker, "late", "r1")).data.tags["mlflow.note.content"]
    assert "figures/confusion.png" in note


@pytest.mark.integration
def test_doubles_become_one_run(tracker):
    parent = open_search(tracker, "double")
    experiment = tracker.client.get_run(parent).info.experiment_id
    tags = {"trial_uid": "d1", "mlflow.parentRunId": parent}
    ids = [tracker.client.create_run(experiment, tags=tags).info.run_id for _ in range(3)]
    tracker.client.log_metric(ids[1], "cider", 1.0)
    assert run_of(tracker, "double", "d1") == ids[1]
    assert {r.info.run_id for r in runs_of(tracker, "double")} == {parent, ids[1]}

    # a double of the search itself: the one with the trials stays, however little it says otherwise
    for _ in range(3):
        other = tracker.client.create_run(experiment, tags={"vltune.uid": "uid of double"}).info.run_id
        tracker.client.log_metric(other, "cider", 1.0)
    assert open_search(tracker, "double") == parent
    assert {r.info.run_id for r in runs_of(tracker, "double")} == {parent, ids[1]}


@pytest.mark.integration
def test_equal_names_on_one_server_stay_apart(tmp_path, monkeypatch):
    """Two people, or one whose ledger was lost: their searches have the same name, and their trials the same uids."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    trackers, parents = {}, {}
    for who, rate in (("ann", 0.1), ("bob", 0.2), ("ann", 0.1)):  # ann resumes hers when bob's is done
        tracker, ledger = trackers.setdefault(who, Tracker(tmp_path / who)), Ledger()
        ledger.add("quickstart-000", "started", params={"learning_rate": rate}, name="base")
        ledger.add("quickstart-000", "epoch", epoch=1, metrics={"cider": rate})
        ledger.add("quickstart-000", "ended", state="finished")
        sender = Sender(tracker, ledger, search=search("quickstart", uid=who), poll=0.01)
        sender.start()
        assert sender.flush(60), sender.trouble
        sender.stop()
        assert sender.refused == []
        assert parents.setdefault(who, sender.parent) == sender.parent
    runs = runs_of(trackers["ann"], "quickstart")
    assert len(runs) == 4
    for who, rate in (("ann", 0.1), ("bob", 0.2)):
        parent = trackers["bob"].find_parent(who, search="quickstart")
        assert parent == parents[who]
        run = trackers["bob"].client.get_run(trackers["bob"].find_run("quickstart-000", parent=parent))
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.tags["trial_uid"] == "quickstart-000"
        assert (run.data.params, run.data.metrics) == ({"learning_rate": str(rate)}, {"cider": rate})
    assert trackers["ann"].find_parent("eve", search="quickstart") is None
    assert trackers["ann"].find_parent("ann", search="slowstart") is None


@pytest.mark.integration
def test_a_resumed_trial_runs_again_under_the_same_id(tracker):
    parent = open_search(tracker, "resume")
    run_id = tracker.ensure_trial(parent, "s1", name="s1", params={"a": 1}, searched=(), tags={})
    tracker.finish_trial(run_id, "failed", end_time=10.0, error="out of memory")
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.data.tags["vltune.error"]) == ("FAILED", "out of memory")
    assert open_search(tracker, "resume") == parent
    assert tracker.ensure_trial(parent, "s1", name="s1", params={"a": 1}, searched=(), tags={}) == run_id
    assert tracker.client.get_run(run_id).info.status == "RUNNING"
    with pytest.raises(Refused, match="'a'"):
        tracker.ensure_trial(parent, "s1", name="s1", params={"a": 2}, searched=(), tags={})


@pytest.mark.integration
def test_promotion(tracker, tmp_path):
    parent = open_search(tracker, "promote")
    registry = Registry(tracker)
    folders, facts = {}, {}
    for uid in ("p1", "p2"):
        run_id = tracker.ensure_trial(parent, uid, name=uid, params={}, searched=(), tags={})
        folders[uid] = make_checkpoint(tmp_path / uid)
        facts[uid] = {
            "run_id": run_id, "metrics": {"test_cider": 0.25}, "params": {"a": 1},
            "tags": {"trial_uid": uid, "run": "promote-1", "data_hash": "d0"},
        }  # fmt: skip
    first = registry.promote(folders["p1"], name="captioning", alias="champion", **facts["p1"])
    second = registry.promote(folders["p2"], name="captioning", alias="champion", **facts["p2"])
    again = registry.promote(folders["p1"], name="captioning", alias="champion", **facts["p1"])
    assert (first.version, second.version, again.version) == (1, 2, 1)
    assert {m.version: m.aliases for m in registry.models()} == {1: ("champion",), 2: ()}
    found = registry.resolve("captioning@champion")
    assert found.model == again
    assert (again.trial_uid, again.run, again.data_hash) == ("p1", "promote-1", "d0")
    assert again.metrics == {"test_cider": 0.25}
    assert again.run_id == facts["p1"]["run_id"]
    for reference in ("models:/captioning@champion", "captioning/1", "models:/captioning/1"):
        assert registry.resolve(reference).folder == found.folder
    assert {p.name: p.read_bytes() for p in found.folder.iterdir()} == {
        p.name: p.read_bytes() for p in folders["p1"].iterdir()
    }
    run = tracker.client.get_run(again.run_id)
    assert [m.model_id for m in run.outputs.model_outputs] == [again.model_id]
    assert run.data.metrics == {"test_cider": 0.25}

    for reference, error, text in [
        ("captionin@champion", NotFound, "did you mean 'captioning'"),
        ("captioning@champoin", NotFound, "Did you mean captioning@champion?"),
        ("captioning/9", NotFound, "captioning/1"),
        ("../captioning", BadInput, "NAME@ALIAS"),
    ]:
        with pytest.raises(error, match=text) as caught:
            registry.resolve(reference)
        assert "\n" not in str(caught.value)

    with FileLock(tracker.storage / "locks" / "promote-captioning.lock"), pytest.raises(BadInput, match="under way"):
        registry.promote(folders["p2"], name="captioning", alias="champion", **facts["p2"])
    with pytest.raises(BadInput, match="alias"):
        registry.promote(folders["p2"], name="captioning", alias="v3", **facts["p2"])
    with pytest.raises(BadInput, match="name of a model"):
        registry.promote(folders["p2"], name="a/b", alias="champion", **facts["p2"])
    (folders["p2"] / "old.pth").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"old\.pth"):
        registry.promote(folders["p2"], name="captioning", alias="champion", **facts["p2"])
    with pytest.raises(BadInput, match=r"holds no model\.safetensors"):
        registry.promote(tmp_path, name="captioning", alias="champion", **facts["p2"])
    assert registry.resolve("captioning@champion").model.version == 1


@pytest.mark.integration
def test_an_alias_that_moved_meanwhile_is_left_alone(tracker, tmp_path, monkeypatch):
    parent = open_search(tracker, "race")
    registry = Registry(tracker)
    facts = {}
    for uid in ("x1", "x2"):
        run_id = tracker.ensure_trial(parent, uid, name=uid, params={}, searched=(), tags={})
        facts[uid] = {"run_id": run_id, "tags": {"trial_uid": uid, "run": "race-1", "data_hash": "d"}}
    registry.promote(
        make_checkpoint(tmp_path / "x1"), name="race", alias="champion", metrics={}, params={}, **facts["x1"]
    )
    log_model = registry._log_model

    def slow(client, *arguments):  # somebody on another machine is faster
        other = client.create_model_version("race", "elsewhere", tags={"trial_uid": "other"})
        client.set_registered_model_alias("race", "champion", other.version)
        return log_model(client, *arguments)

    monkeypatch.setattr(registry, "_log_model", slow)
    with pytest.raises(BadInput, match="went to version 2 meanwhile"):
        registry.promote(
            make_checkpoint(tmp_path / "x2"), name="race", alias="champion", metrics={}, params={}, **facts["x2"]
        )
    assert tracker.client.get_model_version_by_alias("race", "champion").version == 2


@pytest.mark.integration
@pytest.mark.parametrize("fault", ["error", "lost", "down"])
def test_rows_arrive_once_through_faults(proxy, tmp_path, fault):
    name = f"fault-{fault}"
    ledger = Ledger()
    add_trial(ledger, f"{fault}-1", tmp_path, epochs=3)
    tracker = Tracker(tmp_path / "storage", tracking_uri=proxy.uri)
    seen = set()

    def once(method, path):  # spoils the first request of each kind
        kind = (method, "/".join(path.partition("?")[0].split("/")[:6]))
        if kind in seen or "health" in path:
            return ""
        seen.add(kind)
        return fault

    if fault == "down":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            tracker.uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    else:
        proxy.fault = once
    sender = Sender(tracker, ledger, search=search(name), poll=0.01, longest_wait=0.2)
    sender.start()
    if fault == "down":
        assert not sender.flush(1.5)
        assert sender.trouble
        assert sender.backlog() == len(ledger.events)
        tracker.uri = proxy.uri
        with tracker._lock:
            tracker._client = None  # as if the server had come back at its address
    assert sender.flush(60), sender.trouble
    sender.stop()
    proxy.fault = lambda *_: ""
    assert sender.refused == []
    assert stored(tracker, name, f"{fault}-1") == expected(ledger, f"{fault}-1")
    assert len(runs_of(tracker, name)) == 2
    assert fault == "down" or ("POST", "/api/2.0/mlflow/runs/create") in seen
    run_id = run_of(tracker, name, f"{fault}-1")
    assert {f.path for f in tracker.client.list_artifacts(run_id, "checkpoint")} == {
        f"checkpoint/{p.name}" for p in (tmp_path / f"{fault}-1" / "checkpoint").iterdir()
    }


@pytest.mark.integration
def test_promotion_through_a_server(proxy, tmp_path):
    tracker = Tracker(tmp_path / "storage", tracking_uri=proxy.uri)
    parent = open_search(tracker, "far")
    run_id = tracker.ensure_trial(parent, "f1", name="f1", params={}, searched=(), tags={})
    tracker.send_epochs(run_id, [EpochPoint(1, {"val_loss": math.nan}, 1.0)])
    folder = make_checkpoint(tmp_path)
    registry = Registry(tracker)
    tags = {"trial_uid": "f1", "run": "far-1", "data_hash": "d"}
    model = registry.promote(folder, name="far", alias="champion", run_id=run_id, metrics={}, params={}, tags=tags)
    for _ in range(2):
        found = registry.resolve("far@champion")
        assert found.model == model
        assert found.folder.is_relative_to(tmp_path / "storage")
        assert {p.name: p.read_bytes() for p in found.folder.iterdir()} == {
            p.name: p.read_bytes() for p in folder.iterdir()
        }
    assert [p.name for p in found.folder.parent.iterdir()] == [found.folder.name]

    # what was downloaded has changed since, and what the server gives is not what was promoted
    (found.folder / "MANIFEST.json").write_text("{}")
    with pytest.raises(BadInput, match="is not what was promoted as models:/far/1"):
        registry.resolve("far@champion")
    shutil.rmtree(found.folder)
    for content, text in {"0" * 16: "is not what was promoted", "../../elsewhere": "no sound tag 'content'"}.items():
        tracker.client.set_model_version_tag("far", "1", "content", content)
        with pytest.raises(BadInput, match=text):
            registry.resolve("far@champion")
        assert list((tmp_path / "storage" / "models").iterdir()) == []
    assert not (tmp_path / "elsewhere").exists()
    proxy.fault = lambda *_: "error"
    with pytest.raises(Unreachable) as caught:
        registry.models()
    assert "\n" not in str(caught.value)
    assert proxy.uri in str(caught.value)
