"""Decoding trials: the captioner stays as it is, and writes as each configuration says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_captioners import write_captioner

from trainables import pretrained
from trainables.captioning import Captioning
from trainables.decoding import Decoding, DecodingTrialConfig
from trainables.parts import vision_language
from trainables.parts.decoding_fields import DecodingConfig, Way, decoding_uniforms
from trainables.parts.scenes import write_scenes
from trainables.pretrained import Pretrained, PretrainedConfig
from vltune import checkpoints
from vltune.columns import read_records
from vltune.errors import BadInput
from vltune.library import PromotedModels
from vltune.models import read_model
from vltune.preflight import check_models, rehearse
from vltune.runtime import LocalRuntime, Residents
from vltune.train import Trial, evaluate, fit

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_flush", lambda path: None)
        yield


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    write_scenes(str(folder / "scenes"), pictures=48, picture_size=32)
    widths = {"embedding_width": 16, "hidden_width": 16, "attention_width": 8, "cnn_width": 4}
    config = Captioning.Config.from_fields(
        {
            "data": str(folder / "scenes"),
            "picture_size": 32,
            "min_word_count": 1,
            "max_tokens": 16,
            "epochs": 4,
            "batch_size": 8,
            "learning_rate": 0.01,
            "cnn_batch_norm": True,
            **widths,
        }
    )
    fit(Trial("c", Captioning, config, folder / "captioner"), LocalRuntime(cache=str(folder / "cache")))
    return folder


def captioner(storage: Path) -> str:
    return str(next((storage / "captioner" / "checkpoints").glob("epoch-*")))


def config(storage: Path, **fields: Any) -> DecodingTrialConfig:
    given = {"captioner": captioner(storage), "data": str(storage / "scenes"), "max_tokens": 16, **fields}
    return DecodingTrialConfig.from_fields(given).find_sources(PromotedModels(storage))


def run(storage: Path, folder: Path, **fields: Any) -> dict[str, float]:
    runtime = LocalRuntime(cache=str(storage / "cache"))
    fit(Trial("t", Decoding, config(storage, objective="cider", **fields), folder), runtime)
    return dict(runtime.reports[0].metrics)


def captions(folder: Path) -> list[str]:
    records = next((folder / "checkpoints").iterdir()) / checkpoints.RECORDS
    return [record["caption"] for record in read_records(records)]


@pytest.mark.parametrize(
    "settings",
    [
        {"decoding": "greedy"},
        {"decoding": "beam", "beam_width": 4, "length_penalty": 0.5},
        {"decoding": "sample", "top_k": 10, "temperature": 0.7, "top_p": 0.9},
        {"decoding": "greedy", "repetition_penalty": 1.4, "prompt": "there is a", "score_prompt": True},
    ],
)
def test_it_writes_what_the_captioner_itself_would_write_so(
    storage: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    metrics = run(storage, tmp_path, **settings)
    model, theirs = read_model(Path(captioner(storage)), {"captioning": Captioning})
    own = {k: v for k, v in settings.items() if k != "score_prompt"}
    again = Captioning(dataclasses.replace(theirs, **own), {"tokenizer.json": model.tokenizer.to_text()})  # pyright: ignore
    again.load_state_dict(model.state_dict())
    split = Captioning.load(again.config, str(storage / "cache")).splits["validation"]
    scores, records = evaluate(again, split, batch_size=4)
    assert captions(tmp_path) == [record["caption"] for record in records]
    for metric in ("cider", "bleu_4", "rouge_l"):
        assert metrics[metric] == pytest.approx(scores.metrics[metric], rel=1e-9)


def test_a_trial_stores_nothing_of_the_captioner(storage: Path, tmp_path: Path) -> None:
    run(storage, tmp_path)
    folder = next((tmp_path / "checkpoints").iterdir())
    assert checkpoints.read_tensors(folder / checkpoints.MODEL) == {}
    model, _ = read_model(folder, {"decoding": Decoding}, cache=str(storage / "cache"))
    picture = next((storage / "scenes" / "val2017").iterdir())
    records = evaluate_one(model, str(picture))
    assert records[0]["caption"]


def evaluate_one(model: Any, path: str) -> list[dict[str, Any]]:
    from vltune.train import predict

    return predict(model, model.read([path]), batch_size=1)


def test_the_prompt_does_not_count_unless_it_is_wanted(storage: Path, tmp_path: Path) -> None:
    prompt = {"prompt": "a column of"}
    without = run(storage, tmp_path / "without", **prompt)
    with_it = run(storage, tmp_path / "with", score_prompt=True, **prompt)
    assert captions(tmp_path / "without") == captions(tmp_path / "with")
    assert all(text.startswith("a column of") for text in captions(tmp_path / "with"))
    assert with_it["caption_length"] == pytest.approx(without["caption_length"] + 3)


def test_some_pictures_are_the_first_ones(storage: Path, tmp_path: Path) -> None:
    run(storage, tmp_path / "all")
    run(storage, tmp_path / "some", pictures=2)
    assert captions(tmp_path / "some") == captions(tmp_path / "all")[:2]
    with pytest.raises(BadInput, match=r"pictures=999 is more than the \d+ of the validation split"):
        run(storage, tmp_path / "many", pictures=999)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"epochs": 2}, "decoding trains nothing"),
        ({"captioner": ""}, "captioner='' is missing"),
        ({"temperature": 0.0, "decoding": "sample"}, "temperature=0.0 is out of range"),
        ({"decoding": "beems"}, "did you mean 'beam'"),
        ({"pictures": -1}, "pictures=-1 is out of range"),
    ],
)
def test_bad_settings_are_one_line(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        DecodingTrialConfig.from_fields(fields)


def test_what_the_captioner_cannot_do_is_one_line(storage: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="max_tokens=40 is more than the 16"):
        run(storage, tmp_path / "long", max_tokens=40)
    with pytest.raises(BadInput, match="the word 'depiction' is not in the vocabulary"):
        run(storage, tmp_path / "prompt", prompt="a depiction of")
    with pytest.raises(BadInput, match="must have fewer than max_tokens"):
        run(storage, tmp_path / "full", prompt="a " * 20)


def test_a_model_that_writes_nothing_is_refused(storage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    run(storage, folder)
    decoder = str(next((folder / "checkpoints").iterdir()))
    found = config(storage, captioner=decoder)
    with pytest.raises(BadInput, match="is a model of the family 'decoding': decoding stands on one of"):
        check_models(found, Decoding, pins=(), cache=str(storage / "cache"))


# --- over somebody else's captioner


@pytest.fixture(scope="module")
def foreign(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint of a BLIP as it is."""
    folder = write_captioner("blip", tmp_path_factory.mktemp("blip"))
    theirs = PretrainedConfig.from_fields(
        {"captioner_model": folder, "data": str(storage / "scenes"), "max_tokens": 12}
    )
    fit(
        Trial("p", Pretrained, theirs.find_sources(PromotedModels(storage)), storage / "foreign"),
        LocalRuntime(cache=str(storage / "cache")),
    )
    return str(next((storage / "foreign" / "checkpoints").glob("epoch-*")))


def test_a_foreign_captioner_looks_at_each_picture_once_for_all_trials(
    storage: Path, foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    def encode(captioner: Any, pictures: torch.Tensor) -> torch.Tensor:
        shown.append(len(pictures))
        return vision_language.encode(captioner, pictures)

    monkeypatch.setattr(pretrained, "encode", encode)
    model, theirs = read_model(Path(foreign), {"pretrained": Pretrained})
    assert isinstance(model, Pretrained)
    split = Pretrained.load(theirs, str(storage / "cache")).splits["validation"]
    for number, settings in enumerate(({"decoding": "greedy"}, {"decoding": "beam", "beam_width": 2, "prompt": "a"})):
        shown.clear()
        run(storage, tmp_path / str(number), captioner=foreign, max_tokens=9, **settings)
        # Single ones are looked at again: to tell how much room all need, and how long one takes alone.
        assert [count for count in shown if count > 1] == ([len(split)] if number == 0 else [])
        own = config(storage, captioner=foreign, max_tokens=9, **settings)
        alone = [model.caption(model.collate([s], None), [Way(own, None)]) for s in split]
        assert captions(tmp_path / str(number)) == [said for ((said,),) in alone]


@pytest.mark.parametrize("family", [Captioning, Pretrained])
def test_a_picture_is_looked_at_once_for_its_caption_and_its_samples(
    storage: Path, foreign: str, monkeypatch: pytest.MonkeyPatch, family: Any
) -> None:
    shown: list[int] = []

    def counted(encode: Any) -> Any:
        return lambda *given, **also: shown.append(len(given[-1])) or encode(*given, **also)

    folder = captioner(storage) if family is Captioning else foreign
    theirs: Any = read_model(Path(folder), {family.name: family})[0]
    split = family.load(theirs.config, str(storage / "cache")).splits["validation"][:3]
    monkeypatch.setattr(pretrained, "encode", counted(vision_language.encode))
    if family is Captioning:
        monkeypatch.setattr(theirs.picture_encoder, "forward", counted(theirs.picture_encoder.forward))
    settings = {"decoding": "beam", "beam_width": 2, "max_tokens": 9, "temperature": 2.0, "seed": 3}
    asked = {"captioner": folder, "further_metrics": "samples", "samples_per_picture": 4}
    model = Decoding(DecodingTrialConfig.from_fields(settings | asked), {}, {"captioner": theirs})
    records = model.eval().predict(model.collate(split, None))
    assert shown == [3]
    own = DecodingConfig.from_fields({k: v for k, v in settings.items() if k != "temperature"})
    drawing = DecodingConfig(decoding="sample", max_tokens=9, temperature=2.0, seed=3)
    batch, ids = theirs.collate(split, None), [s.id for s in split]
    ways = [Way(own, None)]
    ways += [Way(drawing, decoding_uniforms(drawing, ids, purpose=f"sample {number}")) for number in range(4)]
    said = [theirs.caption(batch, [way])[0] for way in ways]  # as if there were no other
    together = [(record["caption"], *record["samples"]) for record in records]
    assert together == [*zip(*said, strict=True)]
    assert len({text for texts in said for text in texts}) > 6


def test_a_foreign_captioner_is_not_built_where_a_search_starts(
    storage: Path, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr(Pretrained, "__init__", never)
    cache = str(storage / "cache")
    found = config(storage, captioner=foreign, max_tokens=9, prompt="a red", objective="cider")
    rehearse(found, Decoding, Decoding.load(found, cache), cache=cache)
    with pytest.raises(BadInput, match=r"prompt='a dog .* with max_tokens=9 needs \d+ places, and the model has 64"):
        Decoding.load(dataclasses.replace(found, prompt="a dog " * 40), cache)
    with pytest.raises(AssertionError, match="it was built"):  # as in a worker
        fit(Trial("t", Decoding, found, storage / "never"), LocalRuntime(cache=cache, residents=Residents()))
