"""What a command makes of its arguments before anything trains: pins, names, and records that repeat a trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import NoLibrary

from trainables.captioning import Captioning, CaptioningConfig
from trainables.parts.encoders import build_encoder
from trainables.parts.scenes import write_scenes
from vltune import search as searching
from vltune.cli import main
from vltune.contract import EpochReport, Search
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.space import resolve
from vltune.summary import table

Launch = Callable[..., int]
OWN = """
from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search
def define(trial):
    decoder = trial.suggest_categorical('decoder', ('lstm', 'transformer'))
    heads = trial.suggest_categorical('heads', (2, 4)) if decoder == 'transformer' else 4
    return CaptioningConfig(picture_size=16, cnn_width=2, embedding_width=8, decoder=decoder, heads=heads)
SEARCH = Search(
    name='own', family=Captioning, define=define, objective='cider', num_trials=1, base_row='LSTM',
    rows={'LSTM': {'decoder': 'lstm'}},
)
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Runs a command up to the driver, which enters the run's named rows as trials; returns its exit code."""
    torch.set_num_threads(1)
    for name in ("MLFLOW_TRACKING_URI", "VLTUNE_LEDGER", "VLTUNE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    write_scenes(str(tmp_path / "data"), pictures=24, picture_size=32)
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)

    def enter(search: Search, ledger: Ledger, record: SearchRecord, **_: Any) -> None:
        ledger.create_search(record)
        defaults = {"data": record.data, "data_hash": record.data_hash, "seed": record.seed}
        for number, (name, row) in enumerate(record.rows.items()):
            found = resolve(search, None, row=row, pins=record.pins, defaults=defaults, sources=NoLibrary())
            ledger.add_trial(record.name, number, row=name, config=found.config.fields(), searched=())

    monkeypatch.setattr(searching, "run", enter)

    def run(command: str, *argv: object) -> int:
        return main([command, "--storage", str(tmp_path / "runs"), *map(str, argv)])

    return run


def _trial(storage: Path, uid: str) -> Any:
    return Ledger.of(storage).trial(uid)


def test_a_trial_is_repeated_again_and_again_under_short_names(launch: Launch, tmp_path: Path) -> None:
    name = "n" * 64
    assert launch("train", "own.py", "--data", tmp_path / "data", "--name", name, "--set", "seed=5") == 0
    first = _trial(tmp_path / "runs", f"{name}-000")
    uid, names = first.uid, []
    for _ in range(3):
        assert launch("rerun", uid) == 0
        newest = max(Ledger.of(tmp_path / "runs").searches(), key=lambda record: record.created)
        uid = f"{newest.name}-000"
        names.append(newest.name)
        again = _trial(tmp_path / "runs", uid)
        assert again.config == first.config
        assert again.row == "LSTM again"
    stem = names[0].removesuffix("-again")
    assert names == [f"{stem}-again", f"{stem}-again-2", f"{stem}-again-3"]
    assert max(map(len, names)) <= 64


def test_data_of_a_repeated_trial_may_have_moved(launch: Launch, tmp_path: Path) -> None:
    assert launch("train", "own.py", "--data", tmp_path / "data", "--name", "a") == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    assert launch("rerun", "a-000", "--data", tmp_path / "moved") == 0
    changed = {**_trial(tmp_path / "runs", "a-000").config, "data": str(tmp_path / "moved")}
    assert _trial(tmp_path / "runs", "a-000-again-000").config == changed


def test_weights_are_found_from_elsewhere_and_must_be_the_same(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"weights": "none", "picture_size": 16, "features": "grid", "embedding_width": 8}
    settings |= {"cnn_width": 2, "cnn_extra_layers": 0, "cnn_activation": "relu"}
    torch.save(build_encoder("cnn", **settings).state_dict(), "enc.pth")
    assert launch("train", "own.py", "--data", "data", "--name", "a", "--set", "weights=enc.pth") == 0
    assert Ledger.of(tmp_path / "runs").search("a").pins == {"weights": str(tmp_path / "enc.pth")}
    config = _trial(tmp_path / "runs", "a-000").config
    assert config["weights"] == str(tmp_path / "enc.pth")
    assert len(config["weights_hash"]) == 64
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert launch("rerun", "a-000") == 0
    assert _trial(tmp_path / "runs", "a-000-again-000").config == config
    (tmp_path / "enc.pth").write_bytes(b"something else")
    capsys.readouterr()
    assert launch("rerun", "a-000") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "enc.pth has changed since the trial was recorded" in line
    assert CaptioningConfig.from_fields(config).without_sources().weights_hash == ""


def test_what_changes_a_metric_is_kept_with_the_run(launch: Launch, tmp_path: Path) -> None:
    for name, tokens in (("a", 12), ("b", 20)):
        words = ("--name", name, "--set", f"max_tokens={tokens}")
        assert launch("train", "own.py", "--data", tmp_path / "data", *words) == 0
    assert "max_tokens" in Ledger.of(tmp_path / "runs").search("a").measured_by["val_loss"]


# -- seeds


def _refused(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["captioning_pbt", "--seeds", "2"], "--seeds cannot be said of a population"),
        (["own.py", "--seeds", "2", "--pruner", "median"], "--pruner median is not possible with --seeds"),
        (["own.py", "--seeds", "0"], "0 must be at least 1"),
        (["own.py", "--seeds", "2", "--set", "seed=4294967295"], "would count up to 4294967296"),
        (["seeded.py", "--seeds", "2"], "own searches over seed itself"),
    ],
)
def test_seeds_that_make_no_sense_are_refused_in_one_line(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    asked = "CaptioningConfig(seed=trial.suggest_int('seed', 0, 3), "
    text = OWN.replace("CaptioningConfig(picture", f"{asked}picture").replace("'lstm'}}", "'lstm', 'seed': 1}}")
    (tmp_path / "seeded.py").write_text(text)
    assert launch("search", *arguments, "--data", tmp_path / "data") == 2
    assert said in _refused(capsys)
    assert not Ledger.of(tmp_path / "runs").searches()


def test_the_searchs_own_pruner_is_off_with_several_seeds(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN.replace("num_trials=1", "num_trials=1, pruner='median'"))
    assert launch("search", "own.py", "--seeds", "3", "--data", tmp_path / "data") == 0
    record = Ledger.of(tmp_path / "runs").search("own")
    assert (record.seeds, record.pruner) == (3, "none")
    assert "with several seeds nothing is pruned: the search's own pruner median is off" in capsys.readouterr().err


def _finish(storage: Path, run: str, values: dict[str, float]) -> None:
    ledger = Ledger.of(storage)
    for trial in ledger.trials(run):
        told = {
            **dict.fromkeys(Captioning.measures(CaptioningConfig()), 0.0),
            "cider": values[trial.row],
            "parameters": 1.0,
        }
        ledger.record_epoch(trial.uid, EpochReport(epoch=1, metrics=told, time=0.0, last=True, best=True))
        ledger.end_trial(trial.uid, "finished")


def test_confirming_trains_the_same_configurations_with_seeds_not_used_before(launch: Launch, tmp_path: Path) -> None:
    rows = "{'LSTM': {'decoder': 'lstm'}, 'two': {'decoder': 'transformer', 'heads': 2}, "
    rows += "'four': {'decoder': 'transformer', 'heads': 4}}"
    (tmp_path / "own.py").write_text(
        OWN.replace("{'LSTM': {'decoder': 'lstm'}}", rows).replace("num_trials=1", "num_trials=3")
    )
    storage = tmp_path / "runs"
    assert launch("search", "own.py", "--data", tmp_path / "data", "--set", "seed=7", "dropout=0.2") == 0
    assert launch("confirm", "own") == 2, "nothing has finished"
    _finish(storage, "own", {"LSTM": 0.5, "two": 0.9, "four": 0.7})
    assert launch("confirm", "own", "--top", "2", "--seeds", "4") == 0
    ledger = Ledger.of(storage)
    record = ledger.search("own-confirmed")
    assert (record.seeds, record.seed, record.num_trials, record.pruner) == (4, 8, 2, "none")
    assert list(record.rows) == ["two", "four"]
    assert record.confirms == {"run": "own", "values": {"two": 0.9, "four": 0.7}}
    first = {trial.row: trial.config for trial in ledger.trials("own")}
    for trial in ledger.trials("own-confirmed"):
        assert trial.config == {**first[trial.row], "seed": 8}
        assert trial.notes == (), "nothing was set in place of what a row promises"
    _finish(storage, "own-confirmed", {"two": 0.6, "four": 0.8})
    shown = table(ledger, ["own-confirmed"])
    assert shown.column("name") == ["four", "two"]
    assert shown.column("search_cider") == [0.7, 0.9]
    keys = [column.key for column in shown.columns]
    assert keys.index("search_cider") == keys.index("cider") + 1
    assert any(note.endswith("as its best; the order there was two, four.") for note in shown.notes)
