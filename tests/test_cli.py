"""The command line as a person meets it: help, JSON, and commands on a ledger that was filled by hand."""

import argparse
import csv
import datetime as dt
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.captioning import Captioning, CaptioningConfig
from trainables.parts.annotations import refuse
from trainables.parts.layouts import read_listing
from trainables.parts.scenes import write_scenes
from vltune import commands, evaluation, launch, repeats, reports
from vltune import search as searching
from vltune.checkpoints import RECORDS
from vltune.cli import _parser, main
from vltune.columns import read_records
from vltune.contract import is_better
from vltune.events import LedgerEvents
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.runtime import LocalRuntime
from vltune.sender import SearchRun, Sender
from vltune.summary import best_report, checkpoint_folder, trial_folder
from vltune.tracking import Tracker
from vltune.train import Trial, fit

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for name in ("MLFLOW_TRACKING_URI", "VLTUNE_LEDGER", "VLTUNE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*argv: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as end:  # argparse ends so after --help
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def _commands() -> Iterator[tuple[str, ...]]:
    def below(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        tables = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        for name, child in tables[0].items() if tables else ():
            yield (*path, name)
            yield from below(child, (*path, name))

    return below(_parser(), ())


# -- help


@pytest.mark.parametrize("path", [(), *_commands()], ids=" ".join)
@pytest.mark.parametrize("width", ["80", "140"])
def test_help_has_an_example_and_fits(
    say: Say, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...], width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    code, out, err = say(*path, "--help")
    assert (code, err) == (0, "")
    (example,) = [line for line in out.splitlines() if line.startswith("example: vltune ")]
    assert " ".join(("vltune", *path)) in example
    assert max(map(len, out.splitlines())) <= int(width)


@pytest.mark.parametrize("path", [p for p in _commands() if p != ("data",)], ids=" ".join)
def test_every_example_is_understood(path: tuple[str, ...], say: Say) -> None:
    _, out, _ = say(*path, "--help")
    (example,) = [line for line in out.splitlines() if line.startswith("example: ")]
    words = shlex.split(example.removeprefix("example: vltune "))
    arguments = _parser().parse_args(words)
    assert any(
        callable(getattr(place, arguments.command, None)) for place in (launch, repeats, evaluation, reports, commands)
    )


def test_help_and_version_wait_for_nothing_heavy() -> None:
    code = (
        "import sys; from vltune.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "main(['--version']); main(['serach']); main(['search', '--trials', 'x'])\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'ray', 'mlflow', 'optuna', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr.count("error: ") == 2


def test_without_a_command_the_help_is_shown(say: Say) -> None:
    code, out, err = say()
    assert code == 0
    assert "commands:" in out
    assert err == ""


# -- spaces


@pytest.mark.parametrize("width", [40, 80, 100, 140])
@pytest.mark.parametrize("argv", [("spaces",), ("spaces", "captioning_architectures"), ("spaces", "quickstart")])
def test_spaces_fit_the_terminal(say: Say, monkeypatch: pytest.MonkeyPatch, width: int, argv: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = say(*argv)
    assert code == 0
    assert max(map(len, out.splitlines())) <= width
    assert " ".join(out.split()).count("best") >= 1


def test_spaces_as_json(say: Say) -> None:
    _, out, err = say("spaces", "--json")
    assert err == ""
    listed = json.loads(out)
    assert "quickstart" in [entry["name"] for entry in listed]
    assert all(entry["question"].endswith("?") for entry in listed)
    _, out, _ = say("spaces", "quickstart", "--json")
    shown = json.loads(out)
    assert shown["direction"] == "max"
    assert {"name", "kind", "condition"} <= shown["parameters"][0].keys()


# -- nothing there yet


def test_looking_makes_nothing(say: Say, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    assert say("status", "--storage", storage)[:2] == (0, "no run was started here yet: vltune search quickstart\n")
    assert json.loads(say("status", "--storage", storage, "--json")[1]) == []
    assert json.loads(say("models", "--storage", storage, "--json")[1]) == []
    for argv in (("status", "x"), ("compare", "x"), ("promote", "x"), ("resume", "x"), ("stop", "x"), ("rerun", "x")):
        assert say(*argv, "--storage", storage)[0] == 3
    assert say("predict", "x@champion", "a.jpg", "--storage", storage)[0] == 3
    assert not storage.exists()


# -- data


def test_data_commands_on_scenes(say: Say, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    code, out, err = say("data", "scenes", folder, "--pictures", "16", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"path": str(folder), "pictures": 16, "seed": 0}
    code, out, err = say("data", "validate", folder)
    assert (code, out, err) == (0, f"{folder}: nothing is wrong\n", "")
    assert json.loads(say("data", "validate", folder, "--json")[1]) == []
    code, out, err = say("data", "stats", folder, "--out", tmp_path / "plots", "--json")
    stats = json.loads(out)
    assert (code, err) == (0, "")
    assert (stats["pictures"], stats["captions"]) == (16, 80)
    assert all(Path(plot).stat().st_size > 5000 for plot in stats["plots"])
    assert sum(split["pictures"] for split in stats["splits"].values()) == 16


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["flickr8k", "coco-mini"])
def test_data_commands_on_real_pictures(say: Say, shared_data: Path, tmp_path: Path, name: str) -> None:
    code, out, err = say("data", "validate", shared_data / name, "--json")
    findings = json.loads(out)
    assert err == ""
    assert code == (2 if findings else 0)
    assert {finding["kind"] for finding in findings} <= {"duplicate_picture", "leakage"}, findings[:3]
    code, out, err = say("data", "stats", shared_data / name, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert (tmp_path / "picture_sizes.png").stat().st_size > 5000
    assert (tmp_path / "caption_lengths.png").stat().st_size > 5000


@pytest.mark.shared_data
def test_one_corrupt_picture_is_skipped_and_named(
    say: Say, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = shared_data / "flickr8k", tmp_path / "farm"
    pictures = [path for path in source.rglob("*") if path.is_file()]
    for path in pictures:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    victim = sorted(path for path in folder.rglob("*.jpg"))[7]
    whole = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(whole[: len(whole) // 3])
    code, out, _ = say("data", "validate", folder, "--json")
    assert code == 2
    assert [f["where"] for f in json.loads(out) if f["kind"] == "corrupt"] == [victim.name]

    def over(*_: object, **__: object) -> None:
        raise searching.Interrupted

    monkeypatch.setattr(searching, "run", over)
    argv = ("search", "quickstart", "--data", folder, "--storage", tmp_path / "runs", "--set", "picture_size=16")
    code, out, err = say(*argv)
    assert (code, out) == (130, "")
    (line,) = [line for line in err.splitlines() if "were skipped" in line]
    assert line.startswith("data: 1 of ")
    assert victim.name in line


# -- a run that was made by hand


def _train(ledger: Ledger, storage: Path, run: str, config: CaptioningConfig, *, row: str, number: int) -> str:
    """A trial as the driver would enter it, trained in this process."""
    added = ledger.add_trial(run, number, row=row, config=config.fields(), searched=("learning_rate",))
    ledger.start_attempt(added.uid, time=1.0)
    runtime = LocalRuntime(str(storage / "cache"))
    record = {"uid": added.uid, "run": run, "row": row}
    fit(Trial(added.uid, Captioning, config, trial_folder(storage, added), record=record), runtime)
    for report in runtime.reports:
        ledger.record_epoch(added.uid, report)
    ledger.end_trial(added.uid, "finished")
    return added.uid


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished trials with real checkpoints, one that runs and one that failed; all of it is in MLflow."""
    for name in ("MLFLOW_TRACKING_URI", "VLTUNE_LEDGER"):
        os.environ.pop(name, None)
    root = tmp_path_factory.mktemp("made")
    storage, data = root / "runs", root / "scenes"
    write_scenes(str(data), pictures=16, picture_size=32)
    base: dict[str, Any] = {
        "data": str(data),
        "objective": "val_loss",
        "picture_size": 16,
        "max_tokens": 12,
        "epochs": 2,
        "cnn_width": 2,
        "embedding_width": 8,
        "hidden_width": 8,
        "attention_width": 8,
        "min_word_count": 1,
    }
    config = CaptioningConfig(**base)
    data_hash = Captioning.load(config, str(storage / "cache")).hash
    ledger = Ledger.of(storage)
    record = SearchRecord(
        name="tiny",
        search="tiny",
        space="quickstart",
        source="x = 1\n",
        question="Which?",
        objective="val_loss",
        direction="min",
        num_trials=4,
        sampler="tpe",
        pruner="none",
        seed=0,
        pins={},
        data=str(data),
        data_hash=data_hash,
        family="captioning",
        metrics=Captioning.measures(CaptioningConfig()),
        columns=("val_loss", "cider"),
        created=1.0,
    )
    ledger.create_search(record)
    for number, (row, rate) in enumerate({"slow": 1e-5, "fast": 1e-2}.items()):
        changed = CaptioningConfig(**base, data_hash=data_hash, learning_rate=rate)
        _train(ledger, storage, "tiny", changed, row=row, number=number)
    for number, state in ((2, "running"), (3, "failed")):
        config = CaptioningConfig(**base, data_hash=data_hash, learning_rate=1e-3 * number)
        uid = ledger.add_trial("tiny", number, row="", config=config.fields(), searched=("learning_rate",)).uid
        ledger.start_attempt(uid, time=1.0)
        if state == "failed":
            ledger.end_trial(uid, state, error="the training loss is not finite")
    ledger.set_state("tiny", "interrupted")
    sender = Sender(
        Tracker(storage),
        LedgerEvents(ledger, record, storage / "tiny"),
        search=SearchRun(
            uid=record.uid, run_name="tiny", search="tiny", source_text="", question="Which?", objective="val_loss"
        ),
    )
    sender.start()
    assert sender.flush(timeout=120), sender.trouble
    sender.stop()
    assert sender.refused == []
    return storage


@pytest.mark.integration
def test_status(say: Say, storage: Path) -> None:
    code, out, err = say("status", "--storage", storage)
    assert (code, err) == (0, "")
    assert "tiny" in out
    assert "2 finished" in out
    code, out, _ = say("status", "tiny", "--storage", storage)
    assert "tiny-003" in out
    assert "the training loss is not finite" in " ".join(out.split())
    assert f"vltune resume tiny --storage {storage}" in out
    (document,) = json.loads(say("status", "--storage", storage, "--json")[1])
    assert document["trials"] == {"finished": 2, "interrupted": 1, "failed": 1}
    assert document["unsent_to_mlflow"] == 0
    one = json.loads(say("status", "tiny", "--storage", storage, "--json")[1])
    assert one == document


@pytest.mark.integration
def test_compare(say: Say, storage: Path) -> None:
    code, out, err = say("compare", "tiny", "--storage", storage)
    assert (code, err) == (0, "")
    assert out.index("fast") < out.index("slow")
    ledger = Ledger.of(storage)
    reports = [best_report(ledger.epochs(f"tiny-00{number}")) for number in (0, 1)]
    values = [report.metrics["val_loss"] for report in reports if report]
    assert is_better(values[1], values[0], "min")
    document = json.loads(say("compare", "tiny", "--storage", storage, "--json")[1])
    assert values[1] in [row["val_loss"] for row in document["rows"]]
    _, out, _ = say("compare", "tiny", "--storage", storage, "--sort", "cider", "--format", "md")
    assert next(line.count("|") for line in out.splitlines() if line.startswith("|")) > 3
    _, out, _ = say("compare", "tiny", "--storage", storage, "--format", "csv")
    assert out.endswith("\n")
    assert not out.endswith("\n\n")
    head, *rows = csv.reader(out.splitlines())
    assert len(rows) == 4
    assert all(len(row) == len(head) for row in rows)


@pytest.mark.integration
@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_tables_fit(say: Say, storage: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for argv in (("status",), ("status", "tiny"), ("compare", "tiny")):
        lines = say(*argv, "--storage", storage)[1].splitlines()
        assert max(len(line) for line in lines if "vltune resume" not in line) <= width


@pytest.mark.integration
def test_a_run_that_is_driven_is_left_alone(say: Say, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.of(storage)
    ledger.acquire("tiny")
    monkeypatch.setattr(launch, "same_search", lambda record: None)
    try:
        code, out, err = say("resume", "tiny", "--trials", "99", "--storage", storage)
    finally:
        ledger.release("tiny")
    assert (code, out) == (2, "")
    assert f"driven by another process ({ledger.holder})" in err
    assert ledger.search("tiny").num_trials == 4


@pytest.mark.integration
def test_a_bad_trial_is_not_promoted(say: Say, storage: Path) -> None:
    for uid, state in (("tiny-002", "running"), ("tiny-003", "failed")):
        code, out, err = say("promote", "tiny", "--trial", uid, "--storage", storage)
        assert (code, out) == (2, "")
        assert f"{uid} is {state}" in err
    code, out, err = say("promote", "tiny", "--data", storage / "nowhere", "--storage", storage)
    assert (code, out) == (3, "")
    assert f"the data is not at {storage / 'nowhere'}" in err
    assert json.loads(say("models", "--storage", storage, "--json")[1]) == []


@pytest.mark.integration
def test_promote_then_predict_elsewhere(
    say: Say, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = say("promote", "tiny", "--storage", storage, "--json")
    assert code == 0, err
    first = json.loads(out)
    assert (first["reference"], first["version"], first["trial_uid"]) == ("tiny@champion", 1, "tiny-001")
    assert set(first["test"]) == set(Captioning.measures(CaptioningConfig()))
    assert "scoring 2 test samples" in err

    # again: no second version, and the test split stays unread
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the test split was read a second time")

    monkeypatch.setattr("vltune.held_out.evaluate", read)
    code, out, err = say("promote", "tiny", "--storage", storage, "--as", "second", "--json")
    assert code == 0, err
    second = json.loads(out)
    assert (second["version"], second["test"]) == (1, first["test"])
    assert second["aliases"] == ["champion", "second"]
    (listed,) = json.loads(say("models", "--storage", storage, "--json")[1])
    assert listed["metrics"] == pytest.approx({f"test_{key}": value for key, value in first["test"].items()})
    shown = say("models", "--storage", storage)[1]
    assert "tiny/1" in shown
    assert f"val_loss {first['test']['val_loss']:.4g}" in shown

    # what the validation split got stands beside the checkpoint; the same picture gets the same caption elsewhere
    ledger = Ledger.of(storage)
    trial = ledger.trial("tiny-001")
    best = best_report(ledger.epochs(trial.uid))
    assert best is not None
    record = read_records(checkpoint_folder(storage, trial, best) / RECORDS)[0]
    entries = read_listing(str(storage.parent / "scenes"), refuse).entries
    picture = next(entry.path for entry in entries if entry.id == record["id"])
    shutil.copy(picture, tmp_path / "new.png")
    command = [sys.executable, "-m", "vltune.cli", "predict", "tiny@champion", "new.png", "--json"]
    done = subprocess.run(
        [*command, "--storage", str(storage)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["source"] == "new.png"
    assert told["caption"] == record["caption"]


@pytest.mark.integration
def test_compare_reads_the_test_split_once_and_orders_by_validation(
    say: Say, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = json.loads(say("compare", "tiny", "--storage", storage, "--json")[1])
    code, out, err = say("compare", "tiny", "--with-test", "--storage", storage, "--json")
    assert code == 0, err
    assert "test split: fast (" in err
    document = json.loads(out)
    assert [row["uid"] for row in document["rows"]] == [row["uid"] for row in plain["rows"]]
    finished = {row["uid"]: row["test_val_loss"] for row in document["rows"] if row["state"] == "finished"}
    assert all(math.isfinite(value) for value in finished.values())
    assert any("test" in note and str(dt.datetime.now(tz=dt.UTC).year) in note for note in document["notes"])
    # What promote reads is the same, and nothing is read again.
    ledger = Ledger.of(storage)
    for uid, value in finished.items():
        kept = json.loads((trial_folder(storage, ledger.trial(uid)) / "test_scores.json").read_text())
        assert kept["metrics"]["val_loss"] == value

    def read(*_: object, **__: object) -> None:
        raise AssertionError("the test split was read a second time")

    monkeypatch.setattr("vltune.held_out.evaluate", read)
    assert say("compare", "tiny", "--with-test", "--storage", storage, "--json")[1] == out
