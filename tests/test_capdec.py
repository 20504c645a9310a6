"""The family that is trained on text alone: batches, noise, records, sources, and that it can learn."""

import dataclasses
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from families import Line, LineConfig, NoLibrary
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainables.capdec import OFFSET, PICTURES, Capdec, CapdecConfig
from trainables.parts.caption_fields import TOKENIZER
from trainables.parts.decoders import DECODERS
from trainables.parts.decoding_fields import DecodingConfig, Way, decoding_uniforms
from trainables.parts.noise import NOISES, cosine_directed
from trainables.parts.text import CaptionTokenizer
from vltune.checkpoints import seal
from vltune.contract import Data, Draws, Sample
from vltune.errors import BadInput, NotFound
from vltune.library import PromotedModels
from vltune.models import assets_of_parts, new_model, write_model

torch.set_num_threads(1)
COLOURS, THINGS = ("red", "green", "blue", "white"), ("dog", "cat", "ball")
WIDTH, SIZE = 24, 8
SMALL: dict[str, Any] = {
    "min_word_count": 1,
    "max_tokens": 8,
    "embedding_width": 16,
    "hidden_width": 16,
    "attention_width": 16,
    "feedforward_width": 32,
    "heads": 2,
    "dropout": 0.0,
    "prefix_length": 3,
}
every_noise = pytest.mark.parametrize("noise", NOISES)


@dataclass(frozen=True, kw_only=True)
class WordsConfig(LineConfig):
    picture_size: int = SIZE


class Words(Line):
    """A promoted embedder as others see it: texts are sums of fixed vectors, pictures those of a text and a gap."""

    def __init__(self, *, gap: float = 0.0) -> None:
        super().__init__(LineConfig(), {})
        self.scale, self.dropout, self.asked = nn.Parameter(torch.ones(())), nn.Dropout(0.5), 0
        self.width, self.config = WIDTH, WordsConfig()
        self.gap = gap * normalize(torch.ones(WIDTH), dim=0)
        self.requires_grad_(requires_grad=False)

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> dict[str, Any]:
        return {"numbers": [int(s.picture[0, 0, 0]) for s in samples if s.picture is not None]}

    def encode_pictures(self, batch: dict[str, Any]) -> Tensor:
        return self.encode_texts([caption(number) for number in batch["numbers"]]) + self.gap

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.asked += 1
        vectors = [sum(_vector(word) for word in text.lower().split()) for text in texts]
        return self.dropout(self.scale * 3 * normalize(torch.stack([torch.tensor(v) for v in vectors]), dim=1).float())


def _vector(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(WIDTH)


def caption(number: int) -> str:
    return f"a {COLOURS[number % 4]} {THINGS[number // 4 % 3]}"


def texts(count: int = 12) -> list[Sample]:
    return [
        Sample(f"text-{i:06d}", None, (caption(i) if i % 3 else f"there is {caption(i)} here",)) for i in range(count)
    ]


def pictures(count: int = 6) -> list[Sample]:
    shown = [np.full((SIZE, SIZE, 3), i, np.uint8) for i in range(count)]
    return [Sample(f"p{i}", p, (caption(i), f"here is {caption(i)}")[: 1 + i % 2]) for i, p in enumerate(shown)]


def make(*, gap: float = 0.0, train: Sequence[Sample] = (), **changes: Any) -> Capdec:
    config = CapdecConfig.from_fields(SMALL | {"noise": "none"} | changes)
    data = Data("", "", {"train": train or texts(), "validation": pictures(), PICTURES: pictures(12)})
    models: Any = {"embedder": Words(gap=gap).eval()}
    torch.manual_seed(0)
    return Capdec(config, {**Capdec.prepare(config, data), **Capdec.prepare_with(models, config, data)}, models)


def heard(model: Capdec) -> list[Tensor]:
    """What the mapper is given, from now on."""
    seen: list[Tensor] = []
    model.mapper.register_forward_hook(lambda _, given, __: seen.append(given[0].detach().clone()))
    return seen


# --- training


@every_noise
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_trainable_parameter_gets_a_gradient_and_the_embedder_none(noise: str, decoder: str) -> None:
    model = make(noise=noise, decoder=decoder, mapper="transformer", mapper_layers=1, mapper_heads=2).train()
    assert not any(module.training for module in model.embedder.modules())
    model(model.collate(texts(), Draws(0, 1))).sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("embedder.")), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name
    assert not any(model.is_stored(name) == name.startswith("embedder.") for name in model.state_dict())


@every_noise
@pytest.mark.parametrize("kept", [False, True])
def test_loss_is_a_sum_over_tokens_and_splits_over_batches(noise: str, *, kept: bool) -> None:
    model, samples, draws = make(noise=noise).eval(), texts(), Draws(0, 1)
    if kept:
        rows = model.embed(samples)
        samples = [dataclasses.replace(s, features=row) for s, row in zip(samples, rows, strict=True)]
    whole = model(model.collate(samples, draws))
    assert whole.count == sum(len(s.captions[0].split()) + 1 for s in samples)
    parts = [model(model.collate(part, draws)) for part in (samples[:1], samples[1:8], samples[8:])]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count
    later = model(model.collate(samples, Draws(0, 2))).sum
    assert torch.equal(later, whole.sum) == (noise in ("none", "gradient"))


def test_kept_embeddings_are_used_and_change_nothing() -> None:
    model, draws = make(noise="gaussian", correct_offset=True, gap=1.0).eval(), Draws(0, 1)
    inner: Any = model.embedder.get_submodule("model")
    expected = model(model.collate(texts(), draws)).sum, model.predict(model.collate(pictures(), None))
    kept = []
    for samples in (texts(), pictures()):
        rows = model.embed(samples)
        assert rows.dtype == np.float32
        kept.append([dataclasses.replace(s, picture=None, features=r) for s, r in zip(samples, rows, strict=True)])
    before = inner.asked
    torch.testing.assert_close(model(model.collate(kept[0], draws)).sum, expected[0])
    again = model.predict(model.collate(kept[1], None))
    assert inner.asked == before
    for one, other in zip(again, expected[1], strict=True):
        for key in one:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-5, atol=1e-6) if key[0] == "_" else None
        assert (one["caption"], one["references"]) == (other["caption"], other["references"])
        assert one["nll"] == pytest.approx(other["nll"], rel=1e-5)


def test_noise_is_drawn_anew_for_each_text_and_epoch_whatever_the_batch() -> None:
    model = make(noise="gaussian", seed=1)
    keys = [model.collate(texts(), Draws(1, epoch))["noise_keys"] for epoch in (1, 2)]
    assert len({*keys[0], *keys[1]}) == 24
    assert model.collate(texts()[5:7], Draws(1, 1))["noise_keys"] == keys[0][5:7]
    assert make(noise="gaussian", seed=2).collate(texts(), Draws(2, 1))["noise_keys"] != keys[0]
    # In evaluation it is the same in each epoch, so that what is accepted can be compared.
    assert model.collate(pictures(), None)["noise_keys"] == model.collate(pictures(), None)["noise_keys"]


@every_noise
@pytest.mark.parametrize("normalized", [True, False])
def test_embeddings_are_normalised_whatever_the_noise(noise: str, *, normalized: bool) -> None:
    model = make(noise=noise, normalize=normalized).eval()
    seen = heard(model)
    model(model.collate(texts(), Draws(0, 1)))
    given = torch.tensor(model.embed(texts()))
    assert torch.allclose(seen[-1].norm(dim=1), torch.ones(12)) == normalized
    if noise == "none":
        torch.testing.assert_close(seen[-1], normalize(given, dim=1) if normalized else given)
    elif not normalized:
        assert (seen[-1] - given).norm(dim=1).max() > 0.01


def test_noise_of_size_zero_still_normalises() -> None:
    given = normalize(torch.tensor(make().embed(texts())), dim=1)
    for settings in ({"noise": "gaussian", "noise_std": 0.0}, {"noise": "gradient", "noise_epsilon": 0.0}):
        model = make(**settings).eval()
        seen = heard(model)
        model(model.collate(texts(), Draws(0, 1)))
        torch.testing.assert_close(seen[-1], given)


def test_gradient_noise_goes_up_the_loss_and_leaves_the_weights_alone() -> None:
    # The loss of one text along its embedding, by differences; without normalisation, which would bend the way.
    model = make(noise="gradient", noise_epsilon=1e-3, normalize=False).eval().double()
    batch = model.collate(texts(1), Draws(0, 1))
    at = torch.tensor(model.embed(texts(1))).double()
    batch["embeddings"] = at
    seen = heard(model)
    model(batch)
    assert all(p.grad is None for p in model.parameters())
    step = seen[-1] - at

    quiet = make(normalize=False).eval().double()
    quiet.load_state_dict(model.state_dict())

    def loss(where: Tensor) -> float:
        return quiet(batch | {"embeddings": where}).sum.item()

    slopes = [(loss(at + d) - loss(at - d)) / 2e-5 for d in 1e-5 * torch.eye(WIDTH, dtype=torch.float64)[:, None]]
    expected = torch.tensor(slopes, dtype=torch.float64)
    torch.testing.assert_close(step[0], 1e-3 * expected / expected.norm(), atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("noise", ["gaussian", "gradient"])
def test_gradient_checkpointing_changes_no_gradient(noise: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make(noise=noise, gradient_checkpointing=checkpointing, decoder="transformer").train()
        model(model.collate(texts(), Draws(0, 1))).sum.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# --- pictures


def test_a_decoder_trained_on_text_describes_pictures() -> None:
    every = [Sample(f"text-{i:06d}", None, (caption(i),)) for i in range(12)]
    model = make(train=every, noise="gaussian", noise_std=0.05, embedding_width=32).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for epoch in range(150):
        loss = model(model.collate(every, Draws(0, epoch)))
        mean = loss.sum / loss.count
        optimizer.zero_grad()
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    records = model.eval().predict(model.collate(pictures(12), None))
    assert [r["caption"] for r in records] == [caption(i) for i in range(12)]
    scores = model.score(records)
    assert scores.metrics["text_val_loss"] < 0.2


@torch.no_grad()
@pytest.mark.parametrize("decoding", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("noise", ["none", "cosine_directed"])
def test_records_do_not_depend_on_the_batch(decoding: str, noise: str) -> None:
    model = make(decoding=decoding, noise=noise).eval()
    together = model.predict(model.collate(pictures(), None))
    for size in (1, 4):
        parts = [pictures()[start : start + size] for start in range(0, 6, size)]
        apart = [record for part in parts for record in model.predict(model.collate(part, None))]
        for one, other in zip(apart, together, strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                if isinstance(value, float | np.ndarray):
                    np.testing.assert_allclose(value, other[key], rtol=1e-4, atol=1e-6)
                else:
                    assert value == other[key]


@torch.no_grad()
def test_a_picture_is_embedded_once_however_often_it_is_captioned() -> None:
    model, shown = make(gap=0.5).eval(), pictures()
    batch, seen = model.collate(shown, None), heard(model)
    drawing = DecodingConfig(decoding="sample", max_tokens=8, temperature=2.0)
    ways = [Way(DecodingConfig(max_tokens=6), None)]
    ways += [Way(drawing, decoding_uniforms(drawing, batch["ids"], purpose=text)) for text in "abc"]
    together = model.caption(batch, ways)
    assert len(seen) == 1
    assert together == [model.caption(batch, [way])[0] for way in ways]
    assert len({*map(tuple, together)}) == 4


def test_pictures_without_captions_get_a_caption_and_nothing_else(tmp_path: Path) -> None:
    model = make().eval()
    expected = [r["caption"] for r in model.predict(model.collate(pictures(3), None))]
    bare = [dataclasses.replace(s, captions=()) for s in pictures(3)]
    assert model.predict(model.collate(bare, None)) == [
        {"id": f"p{i}", "caption": text} for i, text in enumerate(expected)
    ]
    mixed = model.predict(model.collate([pictures()[0], bare[1]], None))
    assert ["references" in record for record in mixed] == [True, False]
    Image.fromarray(np.full((20, 20, 3), 2, np.uint8)).save(tmp_path / "two.png")
    (sample,) = model.read([str(tmp_path / "two.png")])
    assert sample.picture is not None
    assert sample.picture.shape == (SIZE, SIZE, 3)
    assert model.predict(model.collate([sample], None))[0]["caption"] == expected[2]


@torch.no_grad()
def test_the_offset_between_the_modalities_is_taken_from_pictures() -> None:
    def gap(**settings: Any) -> tuple[float, Tensor]:
        model = make(gap=2.0, **settings).eval()
        seen = heard(model)
        records = model.predict(model.collate(pictures(12), None))
        return _gap(records), seen[0]

    inner = Words(gap=2.0).eval()
    shown = inner.encode_pictures({"numbers": range(12)})
    read = inner.encode_texts([s.captions[0] for s in texts()])
    unit = (normalize(shown, dim=1), normalize(read, dim=1))
    uncorrected, plain = gap()
    torch.testing.assert_close(plain, unit[0])
    corrected, moved = gap(correct_offset=True)
    torch.testing.assert_close(moved, normalize(unit[0] - (unit[0].mean(0) - unit[1].mean(0)), dim=1))
    assert corrected < 0.4 * uncorrected
    torch.testing.assert_close(gap(correct_offset=True, normalize=False)[1], shown - (shown.mean(0) - read.mean(0)))


def _gap(records: Sequence[dict[str, Any]]) -> float:
    return float(
        np.linalg.norm(np.mean([r["_picture"] for r in records], 0) - np.mean([r["_texts"] for r in records], 0))
    )


@pytest.mark.integration
@torch.no_grad()
def test_scores_are_the_declared_metrics() -> None:
    settings = {"noise_candidates": 40, "noise_beta": 0.2, "noise_threshold": 0.7}
    model = make(gap=2.0, noise="cosine_directed", **settings).eval()
    records = model.predict(model.collate(pictures(), None))
    scores = model.score(records)
    assert list(scores.metrics) == [*Capdec.measures(model.config)]
    shown, read = (torch.tensor(model.embed(pictures()))[:, row] for row in (0, 1))
    difference = normalize(shown, dim=1).mean(0) - read.mean(0)
    assert scores.metrics["modality_gap"] == pytest.approx(difference.norm().item(), rel=1e-5)
    captions = [normalize(Words().eval().encode_texts(s.captions), dim=1) for s in pictures()]
    torch.testing.assert_close(read, torch.stack([some.mean(0) for some in captions]))
    first = torch.stack([some[0] for some in captions])
    accepted = cosine_directed(first, model.collate(pictures(), None)["noise_keys"], **settings).accepted
    assert 0 < accepted.mean() < 1
    assert scores.metrics["noise_acceptance"] == pytest.approx(accepted.mean().item())
    assert scores.metrics["noise_unmoved"] == pytest.approx((accepted == 0).float().mean().item())
    # Given its own embedding, and without noise, as a text of training is.
    quiet = make().eval()
    quiet.load_state_dict(model.state_dict(), strict=False)
    alone = quiet(quiet.collate([Sample(s.id, None, s.captions[:1]) for s in pictures()], Draws(0, 1)))
    assert scores.metrics["text_val_loss"] == pytest.approx((alone.sum / alone.count).item(), rel=1e-5)
    assert all(json.dumps({k: v for k, v in r.items() if k[0] != "_"}) for r in records)
    quiet_scores = quiet.score(quiet.predict(quiet.collate(pictures(), None))).metrics
    assert (quiet_scores["noise_acceptance"], quiet_scores["noise_unmoved"]) == (1.0, 0.0)


# --- GPT-2 and CLIP


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {kind: tmp_path_factory.mktemp(kind) for kind in ("clip", "gpt2")}
    return {"clip": str(tiny_models.clip(made["clip"])), "gpt2": str(tiny_models.gpt2(made["gpt2"]))}


@pytest.mark.parametrize("trained", [True, False])
def test_a_clip_and_a_gpt2_from_folders(folders: dict[str, str], *, trained: bool) -> None:
    fields = {"embedder": folders["clip"], "decoder": "gpt2", "language_model": folders["gpt2"], "max_tokens": 12}
    fields |= {"train_language_model": trained, "prefix_length": 4, "dropout": 0.0, "noise": "none"}
    config = CapdecConfig.from_fields(fields).find_sources(NoLibrary())
    assert len(config.embedder_hash) == len(config.language_model_hash) == 64
    assert config.models() == {}
    data = Data("", "", {"train": texts()})
    assets = Capdec.prepare(config, data)
    torch.manual_seed(0)
    model = Capdec(config, assets).train()
    shown = [
        Sample(f"p{i}", np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8), (caption(i),))
        for i in range(4)
    ]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    means = []
    for epoch in range(12):
        loss = model(model.collate(texts(), Draws(0, epoch)))
        means.append((loss.sum / loss.count).item())
        optimizer.zero_grad()
        loss.sum.backward()
        optimizer.step()
    assert means[-1] < (0.8 if trained else 0.95) * means[0]
    # Only what learnt is stored, and that is enough to build the model anew.
    stored = {name: tensor for name, tensor in model.state_dict().items() if model.is_stored(name)}
    parts = {name.partition(".")[0] for name in stored}
    assert parts == ({"mapper", "decoder"} if trained else {"mapper"})
    again = Capdec(config.without_sources(), assets)
    again.load_state_dict(stored, strict=False)
    assert (config.without_sources().language_model == "") == trained
    with torch.no_grad():
        expected = model.eval().predict(model.collate(shown, None))
        found = again.eval().predict(again.collate(shown, None))
    assert [r["nll"] for r in found] == pytest.approx([r["nll"] for r in expected])
    assert [r["caption"] for r in found] == [r["caption"] for r in expected]
    ours, theirs = model.features(), again.features()
    assert ours is not None
    assert theirs is not None
    assert ours.key() == theirs.key()


def test_a_gpt2_and_its_mapper_start_with_the_weights_of_another_model(folders: dict[str, str], tmp_path: Path) -> None:
    fields = {"embedder": folders["clip"], "decoder": "gpt2", "language_model": folders["gpt2"], "max_tokens": 12}
    fields |= {"prefix_length": 4, "noise": "none", "dropout": 0.0}
    data = Data("", "", {"train": texts()})
    shown = [
        Sample(f"p{i}", np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8), (caption(i),))
        for i in range(4)
    ]

    def new(**changes: Any) -> Capdec:
        config = CapdecConfig.from_fields(fields | changes).find_sources(PromotedModels(tmp_path))
        cache = str(tmp_path / "cache")
        assets = {**Capdec.prepare(config, data), **assets_of_parts(Capdec, config, cache=cache)}
        model = new_model(Capdec, config, assets, {}, cache=cache)
        assert isinstance(model, Capdec)
        return model.eval()

    first = new(seed=1)
    with torch.no_grad():  # as if it had learnt
        for parameter in (*first.mapper.parameters(), *first.decoder.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assets = Capdec.prepare(first.config, data)
    (tmp_path / "first").mkdir()
    record = {"family": "capdec", "config": first.config.fields(), "assets": [*assets]}
    write_model(tmp_path / "first", first, record=record, assets=assets)
    seal(tmp_path / "first")

    started = new(init_from=f"mapper={tmp_path / 'first'},decoder={tmp_path / 'first'}")
    expected, found = ({n: t for n, t in m.state_dict().items() if m.is_stored(n)} for m in (first, started))
    assert {name.partition(".")[0] for name in found} == {"mapper", "decoder"}
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    records, others = ([m.predict(m.collate(shown, None)) for m in some] for some in ((first, started), (new(),)))
    assert [r["caption"] for r in records[0]] == [r["caption"] for r in records[1]]
    assert [r["nll"] for r in records[0]] == [r["nll"] for r in records[1]] != [r["nll"] for r in others[0]]
    # A frozen language model that started from another one is no longer that of its files: it is stored.
    frozen = new(init_from=f"decoder={tmp_path / 'first'}", train_language_model=False)
    assert {n.partition(".")[0] for n in frozen.state_dict() if frozen.is_stored(n)} == {"mapper", "decoder"}
    assert not any(p.requires_grad for p in frozen.decoder.parameters())


# --- data and sources


def _flickr(folder: Path) -> Path:
    """Thirty pictures in Flickr8k's layout."""
    (folder / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    for i in range(30):
        Image.fromarray(np.full((16, 16, 3), 8 * i, np.uint8)).save(folder / "Images" / f"{i}.png")
        lines += [f"{i}.png,number {i} one", f"{i}.png,number {i} two"]
    (folder / "captions.txt").write_text("\n".join(lines))
    return folder


def test_training_text_comes_from_a_file_without_what_is_held_out(folders: dict[str, str], tmp_path: Path) -> None:
    data, file = _flickr(tmp_path / "data"), tmp_path / "texts.txt"
    fields = {"data": str(data), "embedder": folders["clip"]}
    own = Capdec.load(CapdecConfig.from_fields(fields), str(tmp_path / "cache"))
    held_out = [text for name in ("validation", "test") for s in own.splits[name] for text in s.captions]
    train = {s.captions for s in own.splits["train"]}
    assert len(train) == 48
    assert not train & {(text,) for text in held_out}
    assert set(own.splits) == {"train", "validation", "test"}
    file.write_text("\n".join(["A bird .", held_out[0].upper() + " .", "a fish", held_out[-1]]))
    config = CapdecConfig.from_fields({**fields, "text_file": str(file), "correct_offset": True})
    found = Capdec.load(config.find_sources(NoLibrary()), str(tmp_path / "cache"))
    assert [(s.id, s.picture, s.captions) for s in found.splits["train"]] == [
        ("text-000000", None, ("A bird .",)),
        ("text-000001", None, ("a fish",)),
    ]
    assert found.hash == own.hash
    assert "2 of its captions are those of validation or test pictures: left out." in found.notes
    assert [s.id for s in found.splits["validation"]] == [s.id for s in own.splits["validation"]]
    assert found.splits["validation"][0].picture is not None
    assert found.splits["validation"][0].picture.shape == (16, 16, 3)
    assert len(found.splits[PICTURES]) == 24
    assets = Capdec.prepare_with({}, config, found)
    assert len(json.loads(assets[OFFSET])) == 12
    file.write_text(held_out[0])
    with pytest.raises(BadInput, match="holds only captions of validation and test pictures"):
        Capdec.load(config, str(tmp_path / "cache"))


def test_the_vocabulary_is_that_of_the_texts_used() -> None:
    config = CapdecConfig.from_fields(SMALL | {"train_pictures": 2})
    assets = Capdec.prepare(config, Data("", "", {"train": texts()}))
    vocabulary = CaptionTokenizer.from_text(assets[TOKENIZER])
    words = vocabulary.decode([*range(5, len(vocabulary))]).split()
    assert sorted(words) == ["a", "dog", "green", "here", "is", "red", "there"]


def test_sources_are_found_by_path_and_recorded_by_hash(
    folders: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    class Shelf:
        def find(self, reference: str, *, expected: str = "") -> str:
            assert reference == "retrieval@champion"
            return "c" * 64

    (tmp_path / "texts.txt").write_text("a dog")
    monkeypatch.chdir(tmp_path)
    fields = CapdecConfig.with_absolute_paths({"text_file": "texts.txt", "init_from": "decoder=words@champion"})
    assert fields["text_file"] == str(tmp_path / "texts.txt")
    config = CapdecConfig.from_fields({"text_file": "texts.txt"})
    assert config.models() == {"embedder": "retrieval@champion"}
    found = config.find_sources(Shelf())
    assert found.source_hashes == f"embedder={'c' * 64}"
    assert found.models() == {"embedder": "retrieval@champion"}
    assert found.find_sources(Shelf()) == found
    with pytest.raises(NotFound, match="no model 'retrieval@champion' here"):
        config.find_sources(NoLibrary())
    (tmp_path / "texts.txt").write_text("a cat")
    with pytest.raises(BadInput, match="has changed since the trial was recorded"):
        found.find_sources(Shelf())
    sources = [("a", ""), ("b", ""), ("a", "x")]
    models = (make(source_hashes=f"embedder={letter}", text_file=t, text_file_hash=t) for letter, t in sources)
    assert len({features.key() for model in models if (features := model.features())}) == 3
    assert make().features() is None


def build(fields: dict[str, Any]) -> Capdec:
    config = CapdecConfig.from_fields(fields).find_sources(NoLibrary())
    return Capdec(config, Capdec.prepare(config, Data("", "", {"train": texts()})))


def test_what_cannot_be_found_is_said_in_one_line(folders: dict[str, str], monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gpt2 = {"embedder": folders["clip"], "decoder": "gpt2"}
    for fields, text in (
        ({"embedder": "nobody/no-such-clip"}, "'nobody/no-such-clip' is not in the Hugging Face cache"),
        ({"embedder": folders["gpt2"]}, "a 'gpt2' does not embed pictures and texts"),
        ({**gpt2}, "language_model='' is missing: decoder='gpt2' needs its name"),
        ({**gpt2, "language_model": "nobody/no-such-gpt"}, "'nobody/no-such-gpt' is not in the Hugging Face cache"),
        ({**gpt2, "language_model": folders["clip"]}, "language_model is a 'clip': decoder='gpt2' needs a GPT-2"),
        ({**gpt2, "language_model": folders["gpt2"], "prefix_length": 20}, "prefix_length=20 and max_tokens=30 are 50"),
        (
            {**gpt2, "language_model": folders["gpt2"], "mapper": "transformer", "mapper_heads": 3, "max_tokens": 9},
            "mapper_heads=3 does not divide the width of the decoder's vectors, 16",
        ),
        ({"embedder": folders["clip"], "text_file": "/gone.txt"}, r"text_file='/gone.txt': there is no such file"),
    ):
        with pytest.raises(BadInput, match=text) as caught:
            build(fields)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"noise": "gausian"}, "noise='gausian' is not possible; did you mean 'gaussian'"),
        (
            {"noise": "none", "noise_std": 0.2},
            r"noise_std=0.2 has no effect with noise='none': set noise to gaussian or",
        ),
        ({"noise": "gaussian", "noise_df": 3.0}, "noise_df=3.0 has no effect with noise='gaussian'"),
        ({"noise": "student_t", "noise_df": 0.0}, r"noise_df=0.0 is out of range: it must lie in \[0.5"),
        ({"noise": "cosine_directed", "noise_threshold": 1.0}, r"noise_threshold=1.0 is out of range.* \[0, 1\)"),
        ({"noise": "cosine_directed", "noise_candidates": 0}, "noise_candidates=0 is out of range"),
        ({"mapper_layers": 4}, "mapper_layers=4 has no effect with mapper='mlp': set mapper to transformer"),
        (
            {"mapper": "transformer", "mapper_heads": 3},
            "mapper_heads=3 does not divide embedding_width=256; change one",
        ),
        ({"mapper": "lstm"}, "mapper='lstm' is not possible"),
        ({"decoder": "gpt3"}, "decoder='gpt3' is not possible; did you mean 'gpt2'"),
        (
            {"language_model": "gpt2"},
            "language_model='gpt2' has no effect with decoder='transformer': set decoder to gpt2",
        ),
        ({"decoder": "gpt2", "tokens": "byte_pair"}, "tokens='byte_pair' has no effect with decoder='gpt2'"),
        ({"embedder": ""}, "embedder='' is missing"),
        ({"text_file_hash": "0"}, "text_file_hash='0' has no effect without text_file"),
        ({"prefix_length": 0}, "prefix_length=0 is out of range"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        CapdecConfig.from_fields(fields)
    assert "\n" not in str(caught.value)


def test_possible_configurations() -> None:
    for fields in (
        {"noise": "student_t", "noise_std": 0.2, "noise_df": 3},
        {"decoder": "gpt2", "language_model": "gpt2", "mapper": "transformer", "mapper_heads": 12},
        {"mapper": "transformer", "mapper_layers": 24, "mapper_heads": 16, "decoder": "gru", "tokens": "byte_pair"},
    ):
        config = CapdecConfig.from_fields(fields)
        assert CapdecConfig.from_fields(config.fields()) == config
