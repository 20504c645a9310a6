"""Whatever a person gets wrong: one line that begins with ``error: ``, the right exit code, and nothing half-made."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainables.captioning import Captioning, CaptioningConfig
from trainables.parts.scenes import write_scenes
from trainables.parts.text import CaptionTokenizer
from vltune import cluster
from vltune import search as searching
from vltune.checkpoints import seal
from vltune.cli import main
from vltune.contract import EpochReport
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.models import write_model

LONG = "x" * 300
TINY = ("--set", "cnn_width=16", "epochs=1")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Things to get wrong: a sound data set, broken ones, search files, pictures, a model."""
    root = tmp_path_factory.mktemp("world")
    write_scenes(str(root / "data"), pictures=16, picture_size=32)
    (root / "empty").mkdir()
    (root / "file.txt").write_text("a text")
    (root / "text.jpg").write_text("this is no picture")
    (root / "picture.png").write_bytes(_picture(root, "data", 0).read_bytes())
    _flickr(root, "broken_line", "a.jpg,a dog\nno comma here\n")
    _flickr(root, "bad_utf8", "a.jpg,a dog\na.jpg,caf\xe9 \xff\n".encode("latin-1"))
    _flickr(root, "no_pictures", "a.jpg,a dog\nb.jpg,a cat\nc.jpg,a cow\n", pictures=())
    _flickr(root, "few", "a.jpg,a dog\nb.jpg,a cat\n", pictures=("a.jpg", "b.jpg"))
    _flickr(root, "outside", "../a.jpg,a dog\n")
    write_scenes(str(root / "corrupt"), pictures=16, picture_size=32)
    _picture(root, "corrupt", 3).write_bytes(b"GIF89a is all there is")
    write_scenes(str(root / "duplicate"), pictures=16, picture_size=32)
    for file in (root / "duplicate").rglob("captions_*.json"):
        tree = json.loads(file.read_text())
        tree["images"].append(tree["images"][0])
        file.write_text(json.dumps(tree))
    for file in (root / "duplicate").rglob("dataset_*.json"):
        tree = json.loads(file.read_text())
        tree["images"].append(tree["images"][0])
        file.write_text(json.dumps(tree))
    _searches(root)
    config = CaptioningConfig(picture_size=32, cnn_width=1, embedding_width=8, hidden_width=8, attention_width=8)
    write_captioner(root / "model", config)
    write_captioner(root / "damaged", config)
    (root / "damaged" / "model.safetensors").write_bytes(b"\0" * 64)
    return root


def _picture(root: Path, folder: str, number: int) -> Path:
    return sorted(p for p in (root / folder).rglob("*") if p.suffix in (".png", ".jpg"))[number]


def _flickr(root: Path, name: str, text: str | bytes, *, pictures: tuple[str, ...] = ("a.jpg",)) -> None:
    (root / name / "Images").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        shutil.copy(_picture(root, "data", number), root / name / "Images" / picture)
    (root / name / "captions.txt").write_bytes(text.encode() if isinstance(text, str) else text)


def _searches(root: Path) -> None:
    start = "from trainables.captioning import Captioning, CaptioningConfig\nfrom vltune.contract import Search\n"
    end = "SEARCH = Search(name='own', family=Captioning, define=define, objective='val_loss', num_trials=2)\n"
    for name, text in {
        "syntax": "def define(trial:\n",
        "nothing": "x = 1\n",
        "wrong_type": "SEARCH = 'quickstart'\n",
        "raises_at_import": "1 / 0\n",
        "exits": "raise SystemExit(3)\n",
        "no_module": "import there_is_no_such_module\n",
        "raises": f"{start}def define(trial):\n    raise KeyError('oh')\n{end}",
        "returns_none": f"{start}def define(trial):\n    pass\n{end}",
        "low_high": f"{start}def define(trial):\n"
        f"    return CaptioningConfig(dropout=trial.suggest_float('dropout', 0.5, 0.1))\n{end}",
        "log_zero": f"{start}def define(trial):\n"
        f"    return CaptioningConfig(learning_rate=trial.suggest_float('learning_rate', 0, 0.1, log=True))\n{end}",
        "no_choices": f"{start}def define(trial):\n"
        f"    return CaptioningConfig(decoder=trial.suggest_categorical('decoder', ()))\n{end}",
        "bad_step": f"{start}def define(trial):\n"
        f"    return CaptioningConfig(heads=trial.suggest_int('heads', 1, 4, step=2))\n{end}",
        "unknown_parameter": f"{start}def define(trial):\n"
        f"    trial.suggest_float('dropuot', 0, 0.1)\n    return CaptioningConfig()\n{end}",
        "bad_name": f"{start}def define(trial):\n    return CaptioningConfig()\n{end.replace('own', '../own')}",
        "reserved_name": f"{start}def define(trial):\n    return CaptioningConfig()\n{end.replace('own', 'cache')}",
        "bad_objective": f"{start}def define(trial):\n    return CaptioningConfig()\n{end.replace('val_loss', 'cidr')}",
        "row_unknown_key": f"{start}def define(trial):\n    return CaptioningConfig()\n"
        + end.replace("num_trials=2", "num_trials=2, rows={'a': {'haeds': 2}}"),
    }.items():
        (root / f"{name}.py").write_text(text)


def write_captioner(folder: Path, config: CaptioningConfig) -> None:
    """A committed model with random weights."""
    folder.mkdir()
    assets = {"tokenizer.json": CaptionTokenizer.fit(["a red circle", "a blue square"], min_word_count=1).to_text()}
    torch.manual_seed(0)
    record = {"family": "captioning", "config": config.fields(), "assets": list(assets)}
    write_model(folder, Captioning(config, assets), record=record, assets=assets)
    seal(folder)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A storage folder with runs of every kind."""
    storage = tmp_path_factory.mktemp("filled")
    ledger = Ledger.of(storage)
    for name, data_hash, state in (
        ("done", "a" * 64, "finished"),
        ("elsewhere", "b" * 64, "finished"),
        ("going", "a" * 64, "running"),
        ("broken", "a" * 64, "failed"),
        ("blank", "a" * 64, ""),
    ):
        ledger.create_search(_record(name, data_hash, world))
        if not state:
            continue
        config = CaptioningConfig(data=str(world / "data"), data_hash=data_hash, picture_size=32).fields()
        uid = ledger.add_trial(name, 0, row="", config={} if state == "failed" else config, searched=()).uid
        ledger.start_attempt(uid, time=1.0)
        if state == "finished":
            metrics = {"val_loss": 2.0, "cider": 0.5, "parameters": 10.0}
            report = EpochReport(epoch=1, metrics=metrics, time=2.0, last=True, best=True, checkpoint="epoch-0001.aa")
            ledger.record_epoch(uid, report)
        if state != "running":
            ledger.end_trial(uid, state, error="it could not be configured" if state == "failed" else "")
        ledger.set_state(name, "interrupted" if state == "running" else "finished")
    return storage


def _record(name: str, data_hash: str, world: Path) -> SearchRecord:
    return SearchRecord(
        name=name,
        search="quickstart",
        space="quickstart",
        source="the space was another one then",
        question="Which?",
        objective="val_loss",
        direction="min",
        num_trials=3,
        sampler="tpe",
        pruner="none",
        seed=0,
        pins={},
        data=str(world / "data"),
        data_hash=data_hash,
        family="captioning",
        metrics=Captioning.measures(CaptioningConfig()),
    )


@pytest.fixture
def attempt(
    tmp_path: Path,
    world: Path,
    filled: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, str]]:
    """Runs a command that must be refused; returns its exit code and its only line."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the search was about to start")

    def offline(url: str, **_: object) -> None:
        raise urllib.error.URLError(f"no network for {url}")

    monkeypatch.setattr(searching, "run", never)
    monkeypatch.setattr(cluster, "start", never)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("VLTUNE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("VLTUNE_LEDGER", raising=False)
    storage = tmp_path / "storage"

    def refused(*argv: str) -> tuple[int, str]:
        places = {"{w}": str(world), "{s}": str(storage), "{f}": str(filled), "{long}": LONG}
        for mark, place in places.items():
            argv = tuple(word.replace(mark, place) for word in argv)
        if argv and argv[0] != "data" and "--storage" not in argv:
            argv = (argv[0], "--storage", str(storage), *argv[1:])
        runs = [record.name for record in Ledger.of(filled).searches()]
        code = main(argv)
        said = capsys.readouterr()
        assert said.out == ""
        *remarks, line = said.err.splitlines()
        assert all(
            remark.startswith(("no --data was given", "data: ", "decoding pictures", "reading pictures"))
            for remark in remarks
        ), said.err
        assert line.startswith("error: ")
        assert "Traceback" not in said.err
        assert not (storage / "ledger.db").exists() or not Ledger.of(storage).searches()
        assert [record.name for record in Ledger.of(filled).searches()] == runs
        return code, line

    return refused


DATA = ("--data", "{w}/data")
FILLED = ("--storage", "{f}")

CASES: dict[str, tuple[tuple[str, ...], int, str]] = {
    # names
    "command": (("serach", "quickstart"), 3, "did you mean 'search'"),
    "command far": (("frobnicate",), 3, "unknown command 'frobnicate'"),
    "option": (("search", "quickstart", "--trails", "3"), 2, "did you mean '--trials'"),
    "surplus word": (("status", "a", "b"), 2, "'b'"),
    "no name": (("search",), 2, "NAME"),
    "data command": (("data", "stat", "x"), 2, "stats"),
    "search": (("search", "quickstrat"), 3, "did you mean 'quickstart'"),
    "search far": (("search", "zzz"), 3, "captioning_losses"),
    "search empty": (("search", ""), 3, "unknown search"),
    "spaces": (("spaces", "captioning_loses"), 3, "did you mean 'captioning_losses'"),
    "train": (("train", "captioning_rn"), 3, "did you mean 'captioning_rnn'"),
    "row": (("train", "captioning_rnn", "--row", "LSMT"), 3, "did you mean 'LSTM'"),
    "search file": (("search", "{w}/nowhere.py"), 3, "nowhere.py: there is no such file"),
    "search file is a folder": (("search", "{w}"), 3, "unknown search"),
    # values
    "set key": (("search", "quickstart", "--set", "epoch=3"), 2, "did you mean 'epochs'"),
    "set no sign": (("search", "quickstart", "--set", "epochs"), 2, "key=value"),
    "set int": (("search", "quickstart", "--set", "epochs=many"), 2, "whole number"),
    "set fraction": (("search", "quickstart", "--set", "epochs=1.5"), 2, "whole number"),
    "set float": (("search", "quickstart", "--set", "dropout=much"), 2, "finite number"),
    "set nan": (("search", "quickstart", "--set", "dropout=nan"), 2, "finite number"),
    "set bool": (("search", "quickstart", "--set", "train_encoder=yes"), 2, "true or false"),
    "set range": (("search", "quickstart", "--set", "dropout=1"), 2, "dropout=1.0 is out of range"),
    "set negative": (("search", "quickstart", "--set", "epochs=-1"), 2, "epochs=-1 is out of range"),
    "set choice": (("search", "quickstart", "--set", "optimizer=adamm"), 2, "did you mean 'adam'"),
    "set objective": (("search", "quickstart", "--set", "objective=cidr"), 3, "did you mean 'cider'"),
    "set data": (("search", "quickstart", "--set", "data=elsewhere"), 2, "give the folder with --data"),
    "set data_hash": (("train", "quickstart", "--set", "data_hash=ab"), 2, "give the folder with --data"),
    "set without effect on a row": (
        ("train", "captioning_architectures", "--row", "LSTM", "--set", "heads=8"),
        2,
        "heads=8 has no effect on row 'LSTM'",
    ),
    "set weights_hash": (("train", "quickstart", "--set", "weights_hash=ab"), 2, "no effect with weights='none'"),
    "set twice": (("search", "quickstart", "--set", "epochs=1", "--set", "epochs=2"), 2, "set twice"),
    "set without effect": (("search", "quickstart", "--set", "decoding=greedy", "beam_width=5"), 2, "no effect"),
    "set never asked": (("search", "quickstart", "--set", "decoder=lstm", "heads=2"), 2, "'heads' is never asked"),
    "set heads": (
        ("train", "quickstart", "--row", "Transformer", "--set", "heads=3"),
        2,
        "heads=3 does not divide embedding_width=128",
    ),
    "set picture size": (
        ("search", "quickstart", "--set", "picture_encoder=inception_v3", "picture_size=48"),
        2,
        "at least 75 pixels",
    ),
    "set precision": (("train", "quickstart", *DATA, "--set", "precision=fp16"), 2, "needs GPUs"),
    "set train_pictures": (("train", "quickstart", *DATA, "--set", "train_pictures=99"), 2, "more than the 12"),
    "trials 0": (("search", "quickstart", "--trials", "0"), 2, "at least 1"),
    "trials -1": (("search", "quickstart", "--trials", "-1"), 2, "--trials"),
    "trials x": (("search", "quickstart", "--trials", "x"), 2, "'x'"),
    "trials 1.5": (("search", "quickstart", "--trials", "1.5"), 2, "'1.5'"),
    "workers 0": (("search", "quickstart", "--workers", "0"), 2, "at least 1"),
    "workers over batch": (
        ("train", "quickstart", "--workers", "3", "--set", "batch_size=2"),
        2,
        "batch_size=2 is below one sample for each of 3 workers",
    ),
    "concurrent 0": (("search", "quickstart", "--concurrent", "0"), 2, "at least 1"),
    "gpus 1.5": (("search", "quickstart", "--gpus-per-worker", "1.5"), 2, "fraction below 1"),
    "gpus inf": (("search", "quickstart", "--gpus-per-worker", "inf"), 2, "inf"),
    "gpus nan": (("search", "quickstart", "--gpus-per-worker", "nan"), 2, "nan"),
    "gpus -1": (("search", "quickstart", "--gpus-per-worker", "-1"), 2, "-1"),
    "gpus missing": (("search", "quickstart", "--gpus-per-worker", "1"), 2, "this machine has 0"),
    "gpus shared": (("search", "quickstart", "--workers", "2", "--gpus-per-worker", "0.5"), 2, "--workers 1, not 2"),
    "sampler": (("search", "quickstart", "--sampler", "tpee"), 2, "tpe"),
    "pruner": (("search", "quickstart", "--pruner", "medain"), 2, "successive_halving"),
    "grid continuous": (("search", "quickstart", *DATA, "--sampler", "grid"), 2, "--set learning_rate=VALUE"),
    "objectives": (("search", "quickstart", *DATA, "--objectives", "cider,parametrs"), 3, "did you mean 'parameters'"),
    "objectives first": (("search", "quickstart", *DATA, "--objectives", "parameters,cider"), 3, "first objective"),
    "objectives empty": (("search", "quickstart", *DATA, "--objectives", "cider,"), 2, "with commas between them"),
    "objectives twice": (("search", "quickstart", *DATA, "--objectives", "cider,cider"), 2, "'cider' is named twice"),
    "objectives latency": (
        ("search", "quickstart", *DATA, "--objectives", "cider,latency_ms", "--pruner", "none"),
        2,
        "--set measure_latency=true",
    ),
    "objectives and pruner": (
        ("search", "quickstart", *DATA, "--objectives", "cider,parameters", "--pruner", "median"),
        2,
        "compare trials by one value",
    ),
    "objectives and objective": (
        ("search", "quickstart", *DATA, "--objectives", "cider,parameters", "--set", "objective=val_loss"),
        2,
        "give one of them",
    ),
    "port": (("ui", "--port", "70000"), 2, "65535"),
    "ui without runs": (("ui",), 3, "holds no runs"),
    # run names
    **{
        f"run name {name[:12]!r}": (("search", "quickstart", "--name", name), 2, "letters, digits")
        for name in ("a/b", "../x", "/abs", "a\nb", "", "{long}", ".hidden", "a b", "ä", "a" * 65)
    },
    **{
        f"run name {name}": (("search", "quickstart", "--name", name), 2, "something else there")
        for name in ("cache", "scenes", "models", "locks", "artifacts", "ledger.db", "mlflow.db", "Cache")
    },
    "run name like an option": (("search", "quickstart", "--name", "-x"), 2, "--name"),
    "train name empty": (("train", "quickstart", "--name", ""), 2, "letters, digits"),
    "run name taken": (("search", "quickstart", "--name", "done", *DATA, *FILLED), 2, "vltune resume done"),
    # data
    "data missing": (("search", "quickstart", "--data", "{w}/nowhere"), 3, "nowhere: there is no such folder"),
    "data a file": (("search", "quickstart", "--data", "{w}/file.txt"), 2, "is a file"),
    "data empty": (("search", "quickstart", "--data", "{w}/empty"), 2, "no known layout"),
    "data broken line": (("search", "quickstart", "--data", "{w}/broken_line"), 2, "captions.txt:2:"),
    "data bad UTF-8": (("search", "quickstart", "--data", "{w}/bad_utf8"), 2, "captions.txt:2: is not UTF-8"),
    "data no pictures": (("search", "quickstart", "--data", "{w}/no_pictures"), 2, "3 of 3 pictures are missing"),
    "data too few": (("search", "quickstart", "--data", "{w}/few"), 2, "at least 3"),
    "data outside": (("search", "quickstart", "--data", "{w}/outside"), 2, "not a path inside"),
    "data duplicate": (("search", "quickstart", "--data", "{w}/duplicate"), 2, "occurs twice"),
    "data corrupt": (("search", "quickstart", "--data", "{w}/corrupt"), 2, "1 of 16 pictures cannot be used"),
    "validate missing": (("data", "validate", "{w}/nowhere"), 3, "no such folder"),
    "stats missing": (("data", "stats", "{w}/nowhere"), 3, "no such folder"),
    "stats empty": (("data", "stats", "{w}/empty"), 2, "no known layout"),
    "stats out": (("data", "stats", "{w}/data", "--out", "{w}/file.txt"), 2, "--out"),
    "scenes over data": (("data", "scenes", "{w}/data", "--pictures", "32"), 2, "{w}/data"),
    "scenes few": (("data", "scenes", "{s}/x", "--pictures", "4"), 2, "pictures=4 is out of range"),
    "scenes seed": (("data", "scenes", "{s}/x", "--seed", "-1"), 2, "--seed"),
    "storage is a file": (("search", "quickstart", *DATA, "--storage", "{w}/file.txt"), 2, "--storage"),
    "storage below a file": (("search", "quickstart", *DATA, "--storage", "{w}/file.txt/x"), 2, "--storage"),
    # weights
    "weights imagenet": (
        ("train", "captioning_rnn", *DATA, "--row", "LSTM"),
        2,
        "inception_v3_google-0cc3c7bd.pth",
    ),
    "weights not there": (
        ("search", "captioning_rnn", *DATA, "--set", "weights={w}/none.pth"),
        3,
        "none.pth' is no file",
    ),
    "weights of cnn": (("train", "quickstart", "--set", "weights=imagenet"), 2, "does not exist for 'cnn'"),
    # a person's own file
    "file syntax": (("search", "{w}/syntax.py"), 2, "syntax.py:1:"),
    "file nothing": (("search", "{w}/nothing.py"), 2, "defines no SEARCH"),
    "file wrong type": (("spaces", "{w}/wrong_type.py"), 2, "SEARCH is a str"),
    "file import error": (("search", "{w}/no_module.py"), 2, "there_is_no_such_module"),
    "file raises": (("search", "{w}/raises_at_import.py"), 2, "raises_at_import.py:1: ZeroDivisionError"),
    "file exits": (("search", "{w}/exits.py"), 2, "exits.py:1: SystemExit"),
    "define raises": (("search", "{w}/raises.py"), 2, "raises.py:4: KeyError"),
    "define returns nothing": (("search", "{w}/returns_none.py"), 2, "must return a CaptioningConfig"),
    "low over high": (("search", "{w}/low_high.py"), 2, "low <= high"),
    "log of 0": (("search", "{w}/log_zero.py"), 2, "low > 0"),
    "no choices": (("search", "{w}/no_choices.py"), 2, "no choices"),
    "step": (("search", "{w}/bad_step.py"), 2, "step must divide"),
    "unknown parameter": (("search", "{w}/unknown_parameter.py"), 2, "did you mean 'dropout'"),
    "search name": (("search", "{w}/bad_name.py", *DATA), 2, "'../own' is not possible"),
    "search name reserved": (("search", "{w}/reserved_name.py", *DATA), 2, "'cache'"),
    "objective": (("search", "{w}/bad_objective.py"), 2, "did you mean 'cider'"),
    "row key": (("search", "{w}/row_unknown_key.py"), 2, "did you mean 'heads'"),
    # runs and trials
    "resume nothing": (("resume", "quickstart"), 3, "holds no runs"),
    "resume unknown": (("resume", "doen", *FILLED), 3, "did you mean 'done'"),
    "resume changed": (("resume", "done", *FILLED), 2, "has changed"),
    "stop unknown": (("stop", "doen", *FILLED), 3, "did you mean 'done'"),
    "stop idle": (("stop", "done", *FILLED), 2, "nothing to stop"),
    "status unknown": (("status", "doen", *FILLED), 3, "did you mean 'done'"),
    "compare unknown": (("compare", "done", "elsewher", *FILLED), 3, "did you mean 'elsewhere'"),
    "compare other data": (("compare", "done", "elsewhere", *FILLED), 2, "different data"),
    "compare blank": (("compare", "blank", *FILLED), 2, "no trial of blank"),
    "compare metric": (("compare", "done", "--sort", "val_los", *FILLED), 3, "did you mean 'val_loss'"),
    "compare format": (("compare", "done", "--format", "pdf", *FILLED), 2, "csv"),
    "compare intervals": (("compare", "done", "--intervals", "some", *FILLED), 2, "objective"),
    "compare budget": (("compare", "done", "--at-seconds", "0", *FILLED), 2, "0 must be above 0"),
    "compare budgets": (("compare", "done", "--at-seconds", "9", "--at-samples", "9", *FILLED), 2, "not allowed with"),
    "compare budget and test": (
        ("compare", "done", "--at-samples", "9", "--with-test", *FILLED),
        2,
        "--with-test scores the best model of a trial's whole training",
    ),
    "confirm unknown": (("confirm", "don", *FILLED), 3, "did you mean 'done'"),
    "confirm none": (("confirm", "done", "--top", "0", *FILLED), 2, "0 must be at least 1"),
    "rerun unknown": (("rerun", "done-001", *FILLED), 3, "did you mean 'done-000'"),
    "rerun changed": (("rerun", "done-000", *FILLED), 2, "has changed"),
    "rerun never configured": (("rerun", "broken-000", *FILLED), 2, "was never configured"),
    # models
    "promote unknown": (("promote", "doen", *FILLED), 3, "did you mean 'done'"),
    "promote other data": (("promote", "done", "elsewhere", *FILLED), 2, "are on different data"),
    "promote metric": (("promote", "done", "--by", "cidre", *FILLED), 3, "did you mean 'cider'"),
    "promote trial and metric": (("promote", "done", "--trial", "done-000", "--by", "cider", *FILLED), 2, "give one"),
    "promote trial of runs": (("promote", "done", "going", "--trial", "done-000", *FILLED), 2, "its run alone"),
    "promote blank": (("promote", "blank", *FILLED), 2, "nothing to promote"),
    "promote running": (("promote", "going", "--trial", "going-000", *FILLED), 2, "going-000 is running"),
    "promote failed": (("promote", "broken", "--trial", "broken-000", *FILLED), 2, "broken-000 is failed"),
    "promote unknown trial": (("promote", "done", "--trial", "done-9", *FILLED), 3, "'done-9'"),
    "promote other's trial": (("promote", "done", "--trial", "elsewhere-000", *FILLED), 2, "of the run 'elsewhere'"),
    "promote model name": (("promote", "done", "--model", "a/b", *FILLED), 2, "'a/b' is not possible"),
    "promote alias": (("promote", "done", "--as", "latest", *FILLED), 2, "'latest' is not possible"),
    "promote alias empty": (("promote", "done", "--as", "", *FILLED), 2, "'' is not possible"),
    "promote not in MLflow": (("promote", "done", *FILLED), 2, "vltune resume done"),
    "predict unknown": (("predict", "quickstart@champion", "{w}/picture.png"), 3, "no promoted model 'quickstart'"),
    "predict no reference": (("predict", "quickstart", "{w}/picture.png"), 2, "NAME@ALIAS"),
    "predict empty folder": (("predict", "{w}/empty", "{w}/picture.png"), 2, "holds no model"),
    "predict damaged": (("predict", "{w}/damaged", "{w}/picture.png"), 2, "is not what was committed"),
    "predict no picture": (("predict", "{w}/model", "{w}/none.jpg"), 3, "none.jpg: there is no such picture"),
    "predict text": (("predict", "{w}/model", "{w}/text.jpg"), 2, "text.jpg: is not a picture"),
    "predict a folder": (("predict", "{w}/model", "{w}/data"), 2, "data: cannot be read"),
    "predict space": (("predict", "{w}/model", "{w}/picture.png", "--space", "{w}/nothing.py"), 2, "no SEARCH"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_to_do(attempt: Callable[..., tuple[int, str]], world: Path, case: str) -> None:
    argv, code, words = CASES[case]
    found, line = attempt(*argv)
    assert words.replace("{w}", str(world)) in line
    assert found == code


def test_imagenet_weights_say_where_they_belong(attempt: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    _, line = attempt("train", "captioning_rnn", *DATA)
    assert f"put it into {tmp_path / 'weights'}" in line


def test_the_same_command_without_its_fault_would_start(
    attempt: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table proves nothing if everything is refused."""
    with pytest.raises(AssertionError, match="about to start"):
        attempt("search", "quickstart", *DATA, *TINY, "--trials", "1", "--name", "fine")


@pytest.mark.integration
@pytest.mark.parametrize(
    "argv", [("models",), ("predict", "a@champion", "{w}/picture.png"), ("promote", "done", *FILLED)]
)
def test_mlflow_that_is_down(
    attempt: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, line = attempt(*argv)
    assert code == 4
    assert "127.0.0.1:9" in line


@pytest.mark.parametrize("content", [b"this is no database, but long enough to be looked at" * 40, b"\0" * 5000])
def test_a_ledger_that_is_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.delenv("VLTUNE_LEDGER", raising=False)
    (tmp_path / "ledger.db").write_bytes(content)
    assert main(["status", "--storage", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: the ledger ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("url", ["nonsense", "nosuch://host/name"])
def test_a_ledger_address_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("VLTUNE_LEDGER", url)
    assert main(["status", "x", "--storage", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: VLTUNE_LEDGER ")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
