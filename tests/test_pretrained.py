"""The pretrained family: foreign captioners as they are, fine-tuned whole, and through adapters."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from families import NoLibrary
from tiny_captioners import KINDS, SIZE, write_captioner

from trainables.parts.lora import is_adapter
from trainables.parts.scenes import write_scenes
from trainables.pretrained import Pretrained, PretrainedConfig
from vltune.checkpoints import hash_tensors, seal
from vltune.contract import Data, Draws, Sample
from vltune.errors import BadInput, NotFound
from vltune.models import read_model, write_model

torch.set_num_threads(1)
every_kind = pytest.mark.parametrize("kind", KINDS)
NO_DATA = Data("", "", {})
CAPTIONS = ("a red dog on the grass", "a blue cat that runs", "the white house of wood")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: write_captioner(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def samples(count: int = 4, *, captions: int = 3) -> list[Sample]:
    """Pictures that anybody can tell apart, with captions of unequal numbers."""
    made = []
    for i in range(count):
        picture = np.random.default_rng(i).integers(0, 64, (SIZE, SIZE, 3), dtype=np.uint8)
        picture[:, i * SIZE // count :, i % 3] += 150
        made.append(Sample(f"p{i}", picture, (CAPTIONS[i % 3], *CAPTIONS)[: 1 + i % captions]))
    return made


def make(folder: str, **changes: Any) -> Pretrained:
    defaults: dict[str, Any] = {
        "captioner_model": folder,
        "max_tokens": 12,
        "prompt": "red" if "llava" in folder else "",
    }
    if changes.get("finetune", "none") != "none":
        defaults["epochs"] = 1
    config = PretrainedConfig.from_fields({**defaults, **changes})
    torch.manual_seed(0)
    return Pretrained(config, Pretrained.prepare(config, NO_DATA))


def without_dropout(model: Pretrained) -> Pretrained:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def train(model: Pretrained, steps: int, rate: float) -> list[float]:
    """Means of the loss, step by step; what is learnt is the first caption of each picture."""
    pictures = [dataclasses.replace(s, captions=s.captions[:1]) for s in samples()]
    batch, losses = model.collate(pictures, Draws(0, 1)), []
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    without_dropout(model).train()
    for _ in range(steps):
        loss = model(batch)
        mean = loss.sum / loss.count
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        losses.append(mean.item())
        if losses[-1] < 0.05:
            break
    model.eval()
    return losses


def saved(model: Pretrained, folder: Path) -> Path:
    record = {"family": model.name, "config": model.config.fields(), "assets": ["captioner.json"]}
    folder.mkdir()
    write_model(folder, model, record=record, assets=Pretrained.prepare(model.config, NO_DATA))
    seal(folder)
    return folder


def predictions(model: Any) -> list[dict[str, Any]]:
    return model.predict(model.collate(samples(), None))


# --- as they are


@every_kind
def test_as_it_is_it_writes_and_reads_and_nothing_of_it_is_trained_or_stored(
    kind: str, folders: dict[str, str], tmp_path: Path
) -> None:
    model = make(folders[kind]).eval()
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(map(model.is_stored, model.state_dict()))
    records = predictions(model)
    assert [r["id"] for r in records] == [s.id for s in samples()]
    assert [r["references"] for r in records] == [[*s.captions] for s in samples()]
    assert len({r["caption"] for r in records}) > 1
    assert json.loads(json.dumps(records)) == records
    # A model that knows nothing is about as good as one that guesses among its tokens.
    surprise = sum(r["nll"] for r in records) / sum(r["tokens"] for r in records)
    assert surprise > 0.5 * math.log(len(model.processor.tokenizer))
    again, _ = read_model(saved(model, tmp_path / "saved"), {"pretrained": Pretrained})
    assert predictions(again) == records
    assert model.notes if kind in ("git", "llava") else not model.notes


@every_kind
@pytest.mark.parametrize("decoding", ["greedy", "beam", "sample"])
def test_records_do_not_depend_on_the_batch(kind: str, decoding: str, folders: dict[str, str]) -> None:
    model = make(folders[kind], decoding=decoding, repetition_penalty=1.3).eval()
    together = predictions(model)
    apart = [r for s in samples() for r in model.predict(model.collate([s], None))]
    assert [r["nll"] for r in apart] == pytest.approx([r["nll"] for r in together], rel=1e-4)
    assert [r | {"nll": 0} for r in apart] == [r | {"nll": 0} for r in together]


def test_sampled_captions_follow_the_seed_and_the_sample(folders: dict[str, str]) -> None:
    written = [
        [r["caption"] for r in predictions(make(folders["git"], decoding="sample", seed=s).eval())] for s in (1, 1, 2)
    ]
    assert written[0] == written[1] != written[2]
    narrow = make(folders["git"], decoding="sample", top_k=1).eval()
    greedy = make(folders["git"]).eval()
    assert [r["caption"] for r in predictions(narrow)] == [r["caption"] for r in predictions(greedy)]


def test_pictures_without_captions_get_a_caption_and_nothing_else(folders: dict[str, str]) -> None:
    model = make(folders["blip"]).eval()
    bare = [dataclasses.replace(s, captions=()) for s in samples()]
    expected = [{"id": r["id"], "caption": r["caption"]} for r in predictions(model)]
    assert model.predict(model.collate(bare, None)) == expected
    mixed = model.predict(model.collate([samples()[2], bare[1]], None))
    assert mixed == [predictions(model)[2], expected[1]]


# --- for trials that stand on them


@every_kind
def test_what_was_kept_of_pictures_changes_no_caption(kind: str, folders: dict[str, str]) -> None:
    model = make(folders[kind]).eval()
    assert model.features() is None
    features = model.features(fixed=True)
    assert features is not None
    rows = features.encode(samples())
    assert rows.dtype == np.float32
    assert all(np.allclose(rows[i], features.encode([s])[0], atol=1e-5) for i, s in enumerate(samples()))
    kept = [dataclasses.replace(s, picture=None, features=row) for s, row in zip(samples(), rows, strict=True)]
    as_it_is = model.config
    for settings in ({}, {"decoding": "beam", "length_penalty": 0.5}, {"decoding": "sample", "top_k": 20}):
        model.config = dataclasses.replace(as_it_is, **settings)
        expected = predictions(model)
        looked = counted_convolutions(model)
        found = model.predict(model.collate(kept, None))
        assert [r | {"nll": 0} for r in found] == [r | {"nll": 0} for r in expected]
        assert [r["nll"] for r in found] == pytest.approx([r["nll"] for r in expected], rel=1e-4)
        # All of these see pictures through a convolution. GIT takes nothing but pixels, and LLaVA is not known by name.
        assert bool(looked) == (kind in ("git", "llava"))


def counted_convolutions(model: Pretrained) -> list[int]:
    """How many pictures a convolution is shown from now on, call by call."""
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    return seen


def test_features_are_named_by_weights_processor_and_size(folders: dict[str, str], tmp_path: Path) -> None:
    def key(folder: str, **changes: Any) -> str:
        features = make(folder, **changes).features(fixed=True)
        assert features is not None
        return features.key()

    brighter = shutil.copytree(folders["blip"], tmp_path / "brighter")
    for file in brighter.glob("*processor*.json"):
        file.write_text(file.read_text().replace("0.48145466", "0.2"))
    moved = str(shutil.copytree(folders["blip"], tmp_path / "moved"))
    assert key(moved) == key(folders["blip"])
    others = [key(str(brighter)), key(moved, picture_size=24), key(moved, precision="bf16")]
    assert len({key(moved), *others}) == 4


# --- learning


@every_kind
def test_the_loss_is_a_sum_that_splits_over_batches(kind: str, folders: dict[str, str]) -> None:
    model = make(folders[kind], captions_per_picture=2, finetune="full").eval()
    whole = model(model.collate(samples(), Draws(0, 1)))
    parts = [model(model.collate(part, Draws(0, 1))) for part in (samples()[:1], samples()[1:])]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count
    everything = model(model.collate(samples(), None))
    records = predictions(model)
    assert everything.sum.item() == pytest.approx(sum(r["nll"] for r in records), rel=1e-4)
    assert everything.count == sum(r["tokens"] for r in records)


@every_kind
def test_fine_tuned_whole_it_learns_pictures_by_heart(kind: str, folders: dict[str, str]) -> None:
    model = make(folders[kind], finetune="full")
    losses = train(model, 1, 1e-3)
    grads = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (grads[name] is not None), name
    losses += train(model, 250, 1e-2)
    assert losses[-1] < 0.1
    # What it reads it also writes, with its own cache of keys and values and a picture that it encodes anew.
    assert [r["caption"] for r in predictions(model)] == [s.captions[0] for s in samples()]


@every_kind
def test_through_adapters_nothing_else_learns_and_nothing_else_is_stored(
    kind: str, folders: dict[str, str], tmp_path: Path
) -> None:
    def others(model: Any) -> str:
        return hash_tensors({name: t for name, t in model.state_dict().items() if not is_adapter(name)})

    model = make(folders[kind], finetune="lora", lora_rank=4)
    before, untrained = others(model), predictions(model.eval())
    plain = predictions(make(folders[kind]).eval())
    assert [r["nll"] for r in untrained] == pytest.approx([r["nll"] for r in plain])
    losses = train(model, 30, 3e-2)
    assert losses[-1] < 0.9 * losses[0]
    assert others(model) == before
    stored = {name for name in model.state_dict() if model.is_stored(name)}
    assert stored == {name for name in model.state_dict() if is_adapter(name)} != set()
    trained = predictions(model)
    assert [r["nll"] for r in trained] != [r["nll"] for r in untrained]
    again, _ = read_model(saved(model, tmp_path / "saved"), {"pretrained": Pretrained})
    assert predictions(again) == trained
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 0.6 * _size(folders[kind])


@every_kind
def test_a_model_that_learnt_as_a_whole_needs_its_first_files_no_more(
    kind: str, folders: dict[str, str], tmp_path: Path
) -> None:
    folder = str(shutil.copytree(folders[kind], tmp_path / kind))
    model = make(folder, finetune="full")
    train(model, 3, 1e-3)
    kept = saved(model, tmp_path / "saved")
    shutil.rmtree(folder)
    again, config = read_model(kept, {"pretrained": Pretrained})
    assert config.fields() == model.config.fields()
    assert predictions(again) == predictions(model)


@every_kind
@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_gradient_checkpointing_computes_again_and_changes_no_gradient(
    kind: str, finetune: str, folders: dict[str, str]
) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = make(folders[kind], finetune=finetune, gradient_checkpointing=checkpointing).train()
        calls.append(0)
        for module in model.modules():
            module.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))
        torch.manual_seed(1)
        model(model.collate(samples(), Draws(0, 1))).sum.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert calls[1] > calls[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_smoothed_training_leaves_the_records_unsmoothed(folders: dict[str, str]) -> None:
    plain, smooth = (make(folders["blip"], finetune="full", label_smoothing=s).eval() for s in (0.0, 0.2))
    batch = plain.collate(samples(), None)
    assert smooth(batch).sum > plain(batch).sum
    assert predictions(smooth) == predictions(plain)


def test_what_is_not_trained_lies_in_half_the_memory_with_bf16(folders: dict[str, str]) -> None:
    whole, half = (make(folders["blip"], finetune="lora", precision=p).eval() for p in ("float32", "bf16"))
    kinds = {is_adapter(name): p.dtype for name, p in half.named_parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = half(half.collate(samples(), Draws(0, 1)))
    loss.sum.backward()
    assert loss.sum.item() == pytest.approx(whole(whole.collate(samples(), Draws(0, 1))).sum.item(), rel=0.03)
    # Whoever predicts with a promoted model does so without autocast.
    assert [r["nll"] for r in predictions(half)] == pytest.approx([r["nll"] for r in predictions(whole)], rel=0.03)


# --- data, sources, errors


def test_pictures_are_opened_at_the_processors_size(folders: dict[str, str], tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "data"), pictures=12, picture_size=32)
    for size in (0, 24):
        config = PretrainedConfig(data=str(tmp_path / "data"), captioner_model=folders["git"], picture_size=size)
        split = Pretrained.load(config, str(tmp_path / "cache")).splits["train"]
        assert split[0].picture is not None
        assert split[0].picture.shape == (size or SIZE, size or SIZE, 3)
        model = make(folders["git"], picture_size=size).eval()
        assert len(model.predict(model.collate([split[0]], None))) == 1
        picture = next((tmp_path / "data").rglob("*.png"), None) or next((tmp_path / "data").rglob("*.jpg"))
        (sample,) = model.read([str(picture)])
        assert sample.picture is not None
        assert sample.picture.shape == split[0].picture.shape


def test_sources_are_recorded(folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folders["blip"], tmp_path / "blip")
    monkeypatch.chdir(tmp_path)
    found = PretrainedConfig(captioner_model="blip").find_sources(NoLibrary())
    assert (found.captioner_model, len(found.captioner_model_hash)) == (str(tmp_path / "blip"), 64)
    assert found.picture_size == SIZE
    assert found.find_sources(NoLibrary()) == found
    assert PretrainedConfig.with_absolute_paths({"captioner_model": "a/b", "epochs": 0}) == {
        "captioner_model": "a/b",
        "epochs": 0,
    }
    shutil.copy(Path(folders["git"]) / "model.safetensors", tmp_path / "blip" / "model.safetensors")
    for read in (
        lambda: found.find_sources(NoLibrary()),
        lambda: Pretrained(found, Pretrained.prepare(found, NO_DATA)),
    ):
        with pytest.raises(BadInput, match=r"captioner_model=.* has changed since the trial was recorded"):
            read()
    with pytest.raises(BadInput, match=r"another architecture|cannot be read as a model") as caught:
        make("blip")
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_a_line_where_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    config = PretrainedConfig(captioner_model="nobody/no-such-captioner")
    for read in (lambda: config.find_sources(NoLibrary()), lambda: Pretrained.load(config, "")):
        with pytest.raises(NotFound, match="'nobody/no-such-captioner' is not in the Hugging Face cache") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_model_without_a_switch_says_so(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BlipForConditionalGeneration

    monkeypatch.setattr(BlipForConditionalGeneration, "supports_gradient_checkpointing", False)
    with pytest.raises(
        BadInput, match=r"gradient_checkpointing=True is not possible with '.*blip.*', which has no switch"
    ):
        make(folders["blip"], finetune="full", gradient_checkpointing=True)


def test_scores_are_the_declared_metrics() -> None:
    record = {"id": "a", "caption": "a red dog", "references": ["a red dog"], "nll": 6.0, "tokens": 4, "correct": 3}
    model: Any = SimpleNamespace(config=PretrainedConfig(), cache="")
    scores = Pretrained.score(model, [record])
    assert list(scores.metrics) == [*Pretrained.measures(model.config)]
    assert scores.metrics["val_loss"] == 1.5
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(1.5))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "a dog " * 40}, r"prompt='a dog .* with max_tokens=30 needs \d+ places, and the model has 64"),
        ({"max_tokens": 99}, r"with max_tokens=99 needs 100 places, and the model has 64"),
        (
            {"finetune": "lora", "lora_targets": "q_prj"},
            r"lora_targets='q_prj': the model has no linear layers 'q_prj'",
        ),
    ],
)
def test_what_does_not_fit_is_known_before_weights_are_read(
    fields: dict[str, Any], text: str, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("safetensors.torch.load_file", never)
    monkeypatch.setattr("trainables.pretrained.build_model", never)
    with pytest.raises(BadInput, match=text) as caught:
        PretrainedConfig.from_fields({"captioner_model": folders["blip"], **fields}).find_sources(NoLibrary())
    assert "\n" not in str(caught.value)


@every_kind
def test_sources_are_found_of_every_kind(kind: str, folders: dict[str, str]) -> None:
    fields = {"captioner_model": folders[kind], "prompt": "red" if kind == "llava" else "", "max_tokens": 12}
    for finetune in ({}, {"finetune": "lora", "gradient_checkpointing": True}):
        config = PretrainedConfig.from_fields(fields | finetune)
        assert config.find_sources(NoLibrary()).find_sources(NoLibrary()).picture_size == SIZE


def test_weights_of_another_shape_are_known_before_they_are_read(folders: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["blip"], tmp_path / "blip")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["intermediate_size"] = 48
    file.write_text(json.dumps(config))
    with pytest.raises(
        BadInput, match=r"of other shapes, such as vision_model\.\S+: \(32,\) there, \(48,\) by"
    ) as caught:
        PretrainedConfig(captioner_model=str(folder)).find_sources(NoLibrary())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"finetune": "qlora"}, r"finetune='qlora' is not possible"),
        ({"epochs": 3}, r"epochs=3 has nothing to train with finetune='none': set finetune, or epochs=0"),
        ({"lora_rank": 4}, r"lora_rank=4 has no effect with finetune='none': set finetune to lora"),
        ({"finetune": "full", "lora_alpha": 4.0}, r"lora_alpha=4.0 has no effect with finetune='full'"),
        ({"label_smoothing": 0.1}, r"label_smoothing=0.1 has no effect .* set finetune to full or lora"),
        ({"gradient_checkpointing": True}, r"gradient_checkpointing=True has no effect with finetune='none'"),
        ({"finetune": "lora", "lora_rank": 0}, r"lora_rank=0 is out of range"),
        ({"finetune": "lora", "lora_dropout": 1.0}, r"lora_dropout=1.0 is out of range"),
        ({"picture_size": -1}, r"picture_size=-1 is out of range"),
        ({"decoding": "beam", "top_p": 0.5}, r"top_p=0.5 has no effect with decoding='beam'"),
        ({"temperature": 0.0, "decoding": "sample"}, r"temperature=0.0 is out of range"),
        ({"captioner": "x"}, r"unknown key 'captioner' for PretrainedConfig; did you mean 'captioner_model'"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        PretrainedConfig.from_fields(fields)
    assert "\n" not in str(caught.value)


def _size(folder: str) -> int:
    return (Path(folder) / "model.safetensors").stat().st_size
