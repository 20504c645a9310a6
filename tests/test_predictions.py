import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainables.parts.datasets import open_folder
from trainables.predictions import CAPTIONS, Predictions, PredictionsConfig, check_covered, read_predictions
from vltune.cli import main
from vltune.contract import Data, Sample
from vltune.errors import BadInput, NotFound
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.library import PromotedModels
from vltune.runtime import LocalRuntime
from vltune.summary import rows_of, table, trial_folder
from vltune.train import Trial, fit


def data() -> Data:
    splits = {name: [Sample(f"{name}-{i}.jpg", None, ("a",)) for i in range(2)] for name in ("validation", "test")}
    return Data("pictures", "hash", {"train": [Sample("7", None, ("a",))], **splits})


def entries(*ids: Any, **further: Any) -> list[dict[str, Any]]:
    return [{"image_id": i, "caption": f"a {i}", **further} for i in ids]


def test_pictures_are_known_by_numbers_and_by_names(tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(entries(7, "test-0.jpg", extra=1)), encoding="utf-8-sig")
    assert read_predictions(str(file), data()) == ({"7": "a 7", "test-0.jpg": "a test-0.jpg"}, [])


def test_captions_come_out_clean_and_their_change_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    told = {
        "test-0.jpg": "a dog\ud83d runs",
        "test-1.jpg": " two\u2028lines\n",
        "validation-0.jpg": "as it was",
        "7": "",
    }
    file.write_text(json.dumps([{"image_id": i, "caption": text} for i, text in told.items()]))
    found, notes = read_predictions(str(file), data())
    assert found == {
        "test-0.jpg": "a dog runs",
        "test-1.jpg": "two lines",
        "validation-0.jpg": "as it was",
        "7": "",
    }
    assert len(notes) == 1
    assert notes[0].startswith("2 of 4 captions of the file were cleaned")


BROKEN: dict[str, tuple[Any, str]] = {
    "no list": ({"7": "a"}, "is no list of results"),
    "nothing": ([], "is no list of results"),
    "no object": (["a"], "entry 0 needs 'image_id'"),
    "no caption": ([{"image_id": 7}], "entry 0 needs 'image_id'"),
    "caption of another type": ([*entries("test-0.jpg"), {"image_id": 7, "caption": ["a"]}], "entry 1 needs"),
    "id of another type": (entries(True), "entry 0 needs 'image_id'"),
    "id with a fraction": (entries(7.0), "entry 0 needs 'image_id'"),
    "twice": (entries(7, "7"), "entry 1 is a second caption of picture '7'"),
    "unknown": (entries(7, 8, 9), "2 of 3 captions are of pictures that pictures does not have, the first is '8'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput) as caught:
        read_predictions(str(file), data())
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends too early"),
        ("[{", "ends too early"),
        ("captions", "is not JSON"),
        ("[" * 100_000, "is nested too deep"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_what_is_no_json_is_said(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "theirs.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=reason):
        read_predictions(str(file), data())
    with pytest.raises(NotFound, match="there is no such file"):
        read_predictions(str(tmp_path / "nowhere.json"), data())


def test_every_picture_of_the_split_needs_a_caption() -> None:
    of_test = {f"test-{i}.jpg": "a" for i in range(2)}
    check_covered(of_test, data(), split="test", file="f")
    with pytest.raises(
        BadInput, match=r"2 of the 2 pictures of the validation split .*'validation-0.jpg'.*--split test"
    ):
        check_covered(of_test, data(), split="validation", file="f")
    with pytest.raises(BadInput, match=r"1 of the 2 pictures of the validation split .*caption these too"):
        check_covered({"validation-1.jpg": "a"}, data(), split="validation", file="f")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"epochs": 1}, "epochs=1 has no effect"),
        ({"measure_latency": True}, "measure_latency=True is not possible"),
        ({"further_metrics": "samples"}, "samples needs a model"),
    ],
)
def test_what_captions_from_elsewhere_cannot_have(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        PredictionsConfig(**fields)


@pytest.mark.parametrize(
    ("splits", "reason"),
    [
        (("validation", "test"), ""),
        (("validation",), "no captions of the test split"),
        (("validation", "some"), "no captions of 1 of 2 pictures of the test split"),
    ],
)
def test_a_file_has_captions_of_a_split_or_says_so(splits: Sequence[str], reason: str) -> None:
    known = {**data().splits, "some": data().splits["test"][:1]}
    said = {sample.id: "a" for split in splits for sample in known[split]}
    model = Predictions(PredictionsConfig(), {CAPTIONS: json.dumps(said)})
    assert model.unable(known["test"], split="test") == reason
    assert model.unable(known["validation"], split="validation") == ""


# -- the command


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["evaluate", "--storage", str(tmp_path / "runs"), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data without splits, beside it a results file of two splits: captions of people, the first soiled."""
    root = tmp_path_factory.mktemp("folder")
    lines = ["image,caption"]
    (root / "data" / "Images").mkdir(parents=True)
    for i in range(30):
        Image.new("RGB", (16, 16), (8 * i, 0, 0)).save(root / "data" / "Images" / f"{i:02}.png")
        lines += [
            f"{i:02}.png,a picture of {word} in red" for word in ("xy"[i % 2] * (i + 1), "one thing", "some things")
        ]
    (root / "data" / "captions.txt").write_text("\n".join(lines))
    opened = open_folder(str(root / "data"), picture_size=16, cache=str(root / "cache"))
    for split in ("validation", "test"):
        found = [{"image_id": s.id, "caption": s.captions[0]} for s in opened.splits[split]]
        found[0]["caption"] += " \ud83d"
        (root / f"{split}.json").write_text(json.dumps(found))
    return root


def enter(storage: Path, name: str, file: Path, folder: Path) -> None:
    """A run of one finished row, as the command leaves it behind, without MLflow."""
    ledger, cache = Ledger.of(storage), str(storage / "cache")
    given = PredictionsConfig(predictions=str(file), data=str(folder / "data"), objective="cider")
    config = given.find_sources(PromotedModels(storage))
    config = dataclasses.replace(config, data_hash=Predictions.load(config, cache).hash)
    facts: dict[str, Any] = {"sampler": "tpe", "pruner": "none", "seed": 0, "pins": {}, "num_trials": 1}
    facts |= {"search": "predictions", "space": "predictions", "source": "", "question": "", "family": "predictions"}
    facts |= {"data": config.data, "data_hash": config.data_hash, "objective": "cider", "direction": "max"}
    ledger.create_search(SearchRecord(name=name, metrics=Predictions.measures(config), columns=("cider",), **facts))
    trial = ledger.add_trial(name, 0, row=name, config=config.fields(), searched=())
    runtime = LocalRuntime(cache)
    fit(Trial(trial.uid, Predictions, config, trial_folder(storage, trial)), runtime)
    for report in runtime.reports:
        ledger.record_epoch(trial.uid, report)
    ledger.end_trial(trial.uid, "finished")


def test_rows_without_captions_of_the_test_split_stand_beside_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has none is known before the split is read for anybody; nobody needs the files themselves."""
    both, split = tmp_path / "both.json", tmp_path / "one.json"
    of_split, of_test = (json.loads((folder / f"{name}.json").read_text()) for name in ("validation", "test"))
    both.write_text(json.dumps(of_split + of_test))
    split.write_text(json.dumps(of_split))
    monkeypatch.setattr(Predictions, "illustrate", lambda *_: ())  # drawing takes longer than all else
    for name, file in (("both", both), ("one", split)):
        enter(tmp_path, name, file, folder)
        file.unlink()
    happened: list[str] = []

    def watched(name: str, method: Any) -> Any:
        return lambda self, *given, **named: happened.append(name) or method(self, *given, **named)

    for name in ("unable", "score"):
        monkeypatch.setattr(Predictions, name, watched(name, getattr(Predictions, name)))
    assert main(["compare", "both", "one", "--with-test", "--json", "--storage", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert happened == ["unable", "unable", "score"]
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert rows["both"]["test_cider"] > 0
    assert rows["one"]["test_cider"] is None
    assert rows["one"]["cider"] == rows["both"]["cider"]
    assert "no captions of the test split" in rows["one"]["remark"]
    assert "no captions" not in rows["both"]["remark"]
    assert "test split: both (1 of 1)" in err


@pytest.mark.integration
@pytest.mark.shared_data
def test_somebody_else_s_captions_become_a_row(
    say: Callable[..., tuple[int, str, str]], shared_data: Path, tmp_path: Path
) -> None:
    flickr, storage, files = str(shared_data / "flickr8k"), tmp_path / "runs", {}
    opened = open_folder(flickr, picture_size=128, cache=str(storage / "cache"))
    for split in ("validation", "test"):
        files[split] = str(tmp_path / f"{split} of people.json")
        # The first caption stays among its references, so that BLEU-1 is 1.
        Path(files[split]).write_text(
            json.dumps([{"image_id": s.id, "caption": s.captions[0]} for s in opened.splits[split]])
        )
    code, out, err = say("--predictions", files["validation"], "--data", flickr, "--metrics", "diversity", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["run"] == "validation-of-people"
    assert document["best"]["metrics"]["bleu_1"] == pytest.approx(1)
    assert "Ray" not in err
    assert "promote" not in err

    ledger = Ledger.of(storage)
    (row,) = rows_of(ledger, "validation-of-people", storage=storage)
    assert (row.state, row.epochs, row.parameters) == ("finished", 0, 0)
    assert "parameters" not in row.metrics
    assert row.resampled is not None
    assert {"cider", "bleu_4", "self_bleu"} <= row.resampled.values.keys()
    assert 0 < row.metrics["vocabulary_used"] < 2000
    shown = table(ledger, ["validation-of-people"], storage=storage)
    assert shown.column("parameters") == shown.column("seconds") == [None]
    assert shown.column("distinct_1") == [row.metrics["distinct_1"]]
    folder = storage / "validation-of-people" / "trials" / row.uid
    assert len([*folder.glob("checkpoints/epoch-*/records.parquet")]) == 1
    assert len([*folder.glob("checkpoints/epoch-*/samples/samples.html")]) == 1
    assert ledger.backlog("validation-of-people") == 0, "MLflow has it all"
    assert main(["confirm", "validation-of-people", "--storage", str(storage)]) == 2, "there is no model to train"

    # a second file of that name is another run; the test split is no run
    code, out, err = say("--predictions", files["test"], "--data", flickr, "--split", "test", "--json")
    assert code == 0, err
    found = {entry["metric"]: entry for entry in json.loads(out)["metrics"]}
    assert found["cider"]["low"] < found["cider"]["value"] < found["cider"]["high"]
    assert [record.name for record in ledger.searches()] == ["validation-of-people"]
    assert say("--predictions", files["test"], "--data", flickr)[0] == 2
    assert main(["promote", "validation-of-people", "--storage", str(storage)]) == 2
    assert main(["compare", "validation-of-people", "--sort", "similarity", "--storage", str(storage)]) == 2


def test_the_test_split_is_shown_with_all_that_is_to_be_known(
    say: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    words = ("--predictions", str(folder / "test.json"), "--data", str(folder / "data"), "--split", "test")
    code, out, err = say(*words, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [entry["value"] for entry in document["metrics"] if entry["metric"] == "bleu_1"] == [pytest.approx(1)]
    notes = "\n".join(document["notes"])
    assert "1 of 3 captions of the file were cleaned" in notes
    assert "written elsewhere" in notes
    assert "interval of cider: document frequencies stay" in notes
    assert "data: Split 80/10/10" in notes
    assert notes in say(*words)[1]


def test_no_picture_is_kept_for_captions(folder: Path, tmp_path: Path) -> None:
    opened = Predictions.load(PredictionsConfig(data=str(folder / "data")), str(tmp_path))
    assert not [*tmp_path.glob("pictures-*")]
    assert not any("decoded" in note for note in opened.notes)
    picture = opened.splits["validation"][0].picture
    assert picture is not None
    assert picture.shape == (128, 128, 3)


def test_what_is_set_twice_or_wrong_is_refused(
    say: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    words = ("--predictions", str(folder / "test.json"), "--data", str(folder / "data"))
    for split in ("validation", "test"):
        code, out, err = say(*words, "--split", split, "--set", "predictions=other.json")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "--set predictions=…" in err
        code, out, err = say(*words, "--split", split, "--set", "objective=cidr")
        assert (code, out, err.count("\n")) == (3, "", 1)  # as of every command that does not know a name
        assert "unknown metric 'cidr'; did you mean 'cider'" in err
        code, out, err = say(*words, "--split", split, "--set", "objective=meteor")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "say --set further_metrics=meteor" in err
    assert not (tmp_path / "runs" / "theirs").exists()


def test_the_command_says_what_it_lacks(say: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert say("--data", "x")[0] == 2
    code, _, err = say("--predictions", "x.json", "--data", str(tmp_path / "nowhere"))
    assert (code, err.count("\n")) == (3, 1)
    code, _, err = say("--predictions", "x.json", "--data", str(tmp_path))
    assert (code, err.count("\n")) == (3, 1)
    assert "predictions='" in err
    code, _, err = say("--predictions", "x.json", "--data", str(tmp_path), "--metrics", "metor")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'meteor'" in err
