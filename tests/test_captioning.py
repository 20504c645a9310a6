"""The captioning family: its batches, its loss, its records, and that it can learn."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import NoLibrary
from torch import Tensor

from trainables.captioning import TOKENIZER, Captioning, CaptioningConfig
from trainables.parts import datasets
from trainables.parts.caption_fields import read_captions
from trainables.parts.datasets import open_folder
from trainables.parts.decoders import DECODERS
from trainables.parts.scenes import write_scenes
from trainables.parts.text import SPECIAL, CaptionTokenizer
from vltune.contract import Data, Draws, Sample
from vltune.errors import BadInput, NotFound

torch.set_num_threads(1)
COLOURS, THINGS = ("red", "green", "blue", "white"), ("dog", "cat")
SMALL: dict[str, Any] = {
    "picture_size": 16,
    "min_word_count": 1,
    "max_tokens": 8,
    "cnn_width": 4,
    "embedding_width": 16,
    "hidden_width": 16,
    "attention_width": 16,
    "feedforward_width": 32,
    "heads": 2,
    "dropout": 0.0,
}
decoders = pytest.mark.parametrize("decoder", DECODERS)


def samples(count: int = 8, *, captions: Sequence[int] = (2, 1, 3)) -> list[Sample]:
    """Random pictures with captions of unequal numbers and lengths."""
    made = []
    for i in range(count):
        picture = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        colour, thing = COLOURS[i % 4], THINGS[i // 4]
        texts = (
            f"A {colour} {thing}.",
            f"a {thing} that is {colour}",
            f"{colour}, the {thing}",
            f"one {colour} {thing}",
        )
        made.append(Sample(f"p{i}", picture, texts[: captions[i % len(captions)]]))
    return made


def make(split: Sequence[Sample] | None = None, **changes: Any) -> Captioning:
    config = CaptioningConfig.from_fields(SMALL | changes)
    torch.manual_seed(0)
    split = samples(captions=(4,)) if split is None else split
    return Captioning(config, Captioning.prepare(config, Data("", "", {"train": split, "validation": split[:1]})))


def slow_nll(model: Captioning, sample: Sample) -> tuple[float, int, int]:
    """Token by token, one caption at a time, from single steps of the decoder."""
    nll, tokens, correct = 0.0, 0, 0
    for caption in sample.captions:
        ids = model.tokenizer.encode([caption], max_tokens=model.config.max_tokens)[0]
        picture = torch.tensor(sample.picture).permute(2, 0, 1)[None] / 255
        state = model.decoder.start(model.decoder.prepare(model.picture_encoder(picture)))
        for given, wanted in pairwise(ids):
            logits, state = model.decoder.step(given.reshape(1, 1), state)
            nll -= logits[0, 0].log_softmax(-1)[wanted].item()
            correct += int(logits[0, 0].argmax() == wanted)
            tokens += 1
    return nll, tokens, correct


@torch.no_grad()
@decoders
def test_records_hold_what_a_slow_computation_finds(decoder: str) -> None:
    model = make(decoder=decoder).eval()
    for sample, record in zip(samples(), model.predict(model.collate(samples(), None)), strict=True):
        nll, tokens, correct = slow_nll(model, sample)
        assert record["id"] == sample.id
        assert record["references"] == [*sample.captions]
        assert (record["tokens"], record["correct"]) == (tokens, correct)
        assert record["nll"] == pytest.approx(nll, rel=1e-4)
        assert json.loads(json.dumps(record)) == record


@torch.no_grad()
@decoders
@pytest.mark.parametrize("decoding", ["greedy", "beam", "sample"])
def test_records_do_not_depend_on_the_batch(decoder: str, decoding: str) -> None:
    model = make(decoder=decoder, decoding=decoding).eval()
    together = model.predict(model.collate(samples(), None))
    for size in (1, 3):
        parts = [samples()[start : start + size] for start in range(0, 8, size)]
        apart = [record for part in parts for record in model.predict(model.collate(part, None))]
        assert [r["nll"] for r in apart] == pytest.approx([r["nll"] for r in together], rel=1e-4)
        assert [r | {"nll": 0} for r in apart] == [r | {"nll": 0} for r in together]


@decoders
@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "kl_divergence"])
def test_loss_is_a_sum_over_tokens_and_splits_over_batches(decoder: str, loss: str) -> None:
    model = make(decoder=decoder, loss=loss).eval()
    draws = Draws(0, 1)
    whole = model(model.collate(samples(), draws))
    assert whole.count == sum(len(model.tokenizer.words(c)) + 1 for s in samples() for c in s.captions)
    parts = [model(model.collate(part, draws)) for part in (samples()[:1], samples()[1:6], samples()[6:])]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count
    if loss != "focal":
        nll = sum(record["nll"] for record in model.predict(model.collate(samples(), None)))
        assert whole.sum.item() == pytest.approx(nll, rel=1e-4)


@decoders
@pytest.mark.parametrize("encoder", ["trained", "frozen"])
def test_every_trainable_parameter_gets_a_gradient(decoder: str, encoder: str) -> None:
    model = make(decoder=decoder, train_encoder=encoder == "trained", augmentation="improved").train()
    model(model.collate(samples(), Draws(0, 1))).sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (encoder == "trained" or not name.startswith("picture_encoder."))
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


@decoders
def test_gradient_checkpointing_changes_no_gradient(decoder: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make(decoder=decoder, gradient_checkpointing=checkpointing, dropout=0.3).train()
        torch.manual_seed(1)
        model(model.collate(samples(), Draws(0, 1))).sum.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@decoders
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("decoding", ["greedy", "beam", "sample"])
def test_low_precision(decoder: str, dtype: torch.dtype, decoding: str) -> None:
    model = make(decoder=decoder, decoding=decoding, augmentation="improved").train()
    batch = model.collate(samples(), Draws(0, 1))
    with torch.autocast("cpu", dtype=dtype):
        loss = model(batch)
    assert loss.sum.dtype == torch.float32
    assert loss.sum.item() == pytest.approx(model(batch).sum.item(), rel=0.02)
    loss.sum.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        records = model.eval().predict(model.collate(samples(), None))
    expected = [slow_nll(model, sample)[0] for sample in samples()]
    assert [r["nll"] for r in records] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("decoder", "rate"), [("lstm", 1e-2), ("gru", 1e-2), ("transformer", 3e-3)])
def test_eight_pictures_are_learnt_by_heart(decoder: str, rate: float) -> None:
    torch.manual_seed(0)  # of dropout: whatever ran before
    pictures = samples(captions=(1,))
    model = make(pictures, decoder=decoder).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    batch = model.collate(pictures, Draws(0, 1))
    for _ in range(400):
        loss = model(batch)
        mean = loss.sum / loss.count
        if mean < 0.01:
            break
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert mean < 0.01
    written = [r["caption"] for r in model.eval().predict(model.collate(pictures, None))]
    assert written == [f"a {COLOURS[i % 4]} {THINGS[i // 4]}" for i in range(8)]


def test_captions_are_drawn_without_replacement_anew_each_epoch_and_whatever_the_batch() -> None:
    model = make(captions_per_picture=2)
    split = samples(captions=(4, 1))
    epochs = [model.collate(split, Draws(0, epoch))["captions"] for epoch in range(1, 9)]
    for captions in epochs:
        for sample, drawn in zip(split, captions, strict=True):
            assert len(set(drawn)) == min(2, len(sample.captions))
            assert set(drawn) <= set(sample.captions)
    assert {caption for captions in epochs for caption in captions[0]} == set(split[0].captions)
    assert model.collate(split[2:3], Draws(0, 1))["captions"] == epochs[0][2:3]
    assert model.collate(split, None)["captions"] == [s.captions for s in split]


def test_augmentation_belongs_to_training_alone() -> None:
    model = make(augmentation="base")
    assert "augmentation" not in model.collate(samples(), None)
    one, other = (model.collate(samples(), Draws(0, epoch))["augmentation"] for epoch in (1, 2))
    assert one.shape == (8, 5)
    assert not torch.equal(one, other)
    assert "augmentation" not in make().collate(samples(), Draws(0, 1))


@torch.no_grad()
def test_a_picture_is_encoded_once_for_all_its_captions() -> None:
    model, seen = make().eval(), []
    model.picture_encoder.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    model(model.collate(samples(), Draws(0, 1)))
    model.predict(model.collate(samples(), None))
    assert seen == [(8, 3, 16, 16)] * 2


@torch.no_grad()
def test_pictures_arrive_at_the_encoder_as_they_are() -> None:
    model, seen = make().eval(), []
    model.picture_encoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(model.collate(samples(3), Draws(0, 1)))
    expected: Tensor = torch.stack([torch.tensor(s.picture).permute(2, 0, 1) / 255 for s in samples(3)])
    torch.testing.assert_close(seen[0], expected)


@torch.no_grad()
def test_pictures_without_captions_get_a_caption_and_nothing_else() -> None:
    model = make().eval()
    bare = [Sample(s.id, s.picture, ()) for s in samples(3)]
    expected = [r["caption"] for r in model.predict(model.collate(samples(3), None))]
    assert model.predict(model.collate(bare, None)) == [
        {"id": f"p{i}", "caption": caption} for i, caption in enumerate(expected)
    ]
    mixed = model.predict(model.collate([samples(3)[0], bare[1], samples(3)[2]], None))
    assert [sorted(record) == ["caption", "id"] for record in mixed] == [False, True, False]
    loss = model(model.collate(bare, Draws(0, 1)))
    assert (loss.sum, loss.count) == (0, 0)


@torch.no_grad()
def test_every_caption_begins_with_the_prompt() -> None:
    for decoding in ("greedy", "beam", "sample"):
        model = make(prompt="One blue", decoding=decoding).eval()
        captions = [r["caption"] for r in model.predict(model.collate(samples(), None))]
        assert all(caption.startswith("one blue") for caption in captions)
        assert max(len(caption.split()) for caption in captions) <= 8
    with pytest.raises(BadInput, match="the word 'depiction' is not in the vocabulary"):
        make(prompt="a depiction of")
    with pytest.raises(BadInput, match="fewer than max_tokens=2"):
        make(prompt="one blue", max_tokens=2)


@torch.no_grad()
def test_sampled_captions_follow_the_seed_alone() -> None:
    def written(seed: int) -> list[str]:
        model = make(decoding="sample", temperature=3.0, seed=seed).eval()
        return [r["caption"] for r in model.predict(model.collate(samples(), None))]

    assert written(1) == written(1)
    assert written(1) != written(2)


def test_long_captions_are_cut() -> None:
    model = make(max_tokens=4)
    sample = Sample("long", samples(1)[0].picture, ("a red dog that is red " * 1000,))
    assert model.collate([sample], None)["tokens"].shape == (1, 1, 5)


def test_the_vocabulary_is_that_of_the_captions_trained_on() -> None:
    data = Data("", "", {"train": samples(captions=(1,)), "validation": [Sample("v", None, ("only here",))]})
    words = {}
    for count in (0, 2):
        config = CaptioningConfig(min_word_count=1, train_pictures=count)
        tokenizer = CaptionTokenizer.from_text(Captioning.prepare(config, data)[TOKENIZER])
        words[count] = {tokenizer.decode([i]) for i in range(len(SPECIAL), len(tokenizer))}
    assert words == {0: {"a", *COLOURS, *THINGS}, 2: {"a", "red", "green", "dog"}}


def test_the_vocabulary_is_fitted_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(str(tmp_path / "data"), pictures=20, picture_size=32)
    data = open_folder(str(tmp_path / "data"), picture_size=16, cache=str(tmp_path / "cache"), max_cache_bytes=1)
    expected = [text for sample in data.splits["train"] for text in sample.captions]
    monkeypatch.setattr(datasets, "read_picture", lambda *_, **__: pytest.fail("a picture was decoded"))
    text = Captioning.prepare(CaptioningConfig(min_word_count=1), data)[TOKENIZER]
    assert text == CaptionTokenizer.fit(expected, min_word_count=1).to_text()


def test_first_weights_are_recorded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("enc.pth").write_bytes(b"weights")
    whole = str(tmp_path / "enc.pth")
    config = CaptioningConfig(picture_encoder="resnet18", weights="enc.pth")
    assert CaptioningConfig.with_absolute_paths({"weights": "enc.pth", "epochs": 3}) == {"weights": whole, "epochs": 3}
    for same in ({"weights": "none"}, {"weights": "imagenet"}, {"epochs": 3}, {}):
        assert CaptioningConfig.with_absolute_paths(same) == same
    found = config.find_sources(NoLibrary())
    assert (found.weights, found.weights_hash) == (whole, hashlib.sha256(b"weights").hexdigest())
    monkeypatch.chdir("/")
    assert found.find_sources(NoLibrary()) == found
    Path(whole).write_bytes(b"other weights")
    with pytest.raises(BadInput, match="has changed since the trial was recorded"):
        found.find_sources(NoLibrary())
    assert CaptioningConfig().find_sources(NoLibrary()) == CaptioningConfig()


def test_a_trained_model_is_built_without_its_first_weights() -> None:
    config = CaptioningConfig(picture_encoder="resnet18", weights="gone.pth", picture_size=32)
    assets = Captioning.prepare(config, Data("", "", {"train": samples()}))
    with pytest.raises(NotFound, match=r"gone\.pth"):
        Captioning(config, assets)
    trained = dataclasses.replace(config, weights_hash="0" * 64).without_sources()
    assert isinstance(trained, CaptioningConfig)
    assert Captioning(trained, assets).picture_encoder.width == 512


@pytest.mark.integration
def test_scores_are_the_declared_metrics() -> None:
    records = [
        {
            "id": "a",
            "caption": "a red dog",
            "references": ["a red dog", "one dog"],
            "nll": 6.0,
            "tokens": 4,
            "correct": 3,
        },
        {"id": "b", "caption": "a cat", "references": ["the green bird flies"], "nll": 2.0, "tokens": 4, "correct": 1},
    ]
    scores = make().score(records)
    assert list(scores.metrics) == [*Captioning.measures(CaptioningConfig())]
    assert scores.metrics["val_loss"] == 1.0
    assert scores.metrics["perplexity"] == pytest.approx(math.e)
    assert scores.metrics["token_accuracy"] == 0.5
    assert scores.records[0]["val_loss"] == 1.5
    assert scores.records[0]["rouge_l"] > 0.99 > scores.records[1]["rouge_l"]
    assert scores.metrics["bleu_1"] == pytest.approx(3 / 5 * math.exp(1 - 7 / 5))


@torch.no_grad()
def test_pictures_are_read_from_files(tmp_path: Any) -> None:
    from PIL import Image

    file = tmp_path / "picture.png"
    Image.fromarray(np.full((40, 20, 3), 200, np.uint8)).save(file)
    model = make().eval()
    (sample,) = model.read([str(file)])
    assert sample.picture is not None
    assert (sample.picture.shape, sample.picture.min(), sample.captions) == ((16, 16, 3), 200, ())
    assert [r["id"] for r in model.predict(model.collate([sample], None))] == [str(file)]
    with pytest.raises(NotFound, match=r"missing\.png"):
        model.read([str(tmp_path / "missing.png")])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"decoder": "lsmt"}, r"decoder='lsmt' is not possible; did you mean 'lstm'"),
        ({"decoding": "top_k"}, r"decoding='top_k' is not possible"),
        ({"picture_encoder": "vgg"}, r"picture_encoder='vgg' is not possible"),
        ({"decoder": "transformer", "heads": 3}, r"heads=3 does not divide embedding_width=256"),
        ({"max_tokens": 1}, r"max_tokens=1 is out of range: it must lie in \[2"),
        ({"dropout": 1.0}, r"dropout=1.0 is out of range: it must lie in \[0, 1\)"),
        ({"temperature": 0.0, "decoding": "sample"}, r"temperature=0.0 is out of range: it must lie in \(0"),
        ({"picture_encoder": "inception_v3", "picture_size": 64}, r"picture_size=64 is too small .* at least 75"),
        ({"picture_size": 4}, r"picture_size=4 is too small for picture_encoder='cnn'"),
        ({"weights": "imagenet"}, r"weights='imagenet' does not exist for 'cnn'"),
        (
            {"augmentation": "base", "augmentation_zoom": 0.3},
            r"augmentation_zoom=0.3 has no effect with augmentation='base': set augmentation to improved, or leave",
        ),
        ({"augmentation_flip": 0.1}, r"augmentation_flip=0.1 has no effect .* set augmentation to base or improved"),
        ({"focal_gamma": 1.0}, r"focal_gamma=1.0 has no effect with loss='cross_entropy': set loss to focal"),
        ({"loss": "focal", "label_smoothing": 0.1}, r"label_smoothing=0.1 has no effect with loss='focal'"),
        ({"beam_width": 5}, r"beam_width=5 has no effect with decoding='greedy': set decoding to beam"),
        ({"decoding": "beam", "top_k": 5}, r"top_k=5 has no effect with decoding='beam'"),
        ({"top_p": 0.9}, r"top_p=0.9 has no effect with decoding='greedy': set decoding to sample"),
        ({"top_p": 0.0, "decoding": "sample"}, r"top_p=0.0 is out of range: it must lie in \(0, 1\]"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0.0 is out of range: it must lie in \(0"),
        ({"scheduled_sampling": 1.1}, r"scheduled_sampling=1.1 is out of range: it must lie in \[0, 1\]"),
        ({"tokens": "letters"}, r"tokens='letters' is not possible; choose one of: byte_pair, words"),
        ({"vocabulary_size": 300}, r"vocabulary_size=300 has no effect with tokens='words': set tokens to byte_pair"),
        ({"tokens": "byte_pair", "vocabulary_size": 260}, r"vocabulary_size=260 is out of range: it must lie in \[261"),
        ({"tokens": "byte_pair", "min_word_count": 3}, r"min_word_count=3 has no effect with tokens='byte_pair'"),
        ({"picture_encoder": "vit_b_16", "picture_size": 100}, r"must be a multiple of its patches' 16 pixels; 224 is"),
        ({"picture_encoder": "resnet18", "cnn_width": 64}, r"cnn_width=64 has no effect"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        CaptioningConfig.from_fields(fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"augmentation": "improved", "augmentation_zoom": 0.3, "augmentation_flip": 0.0},
        {"augmentation": "base", "augmentation_zoom": 0.2},
        {"loss": "focal", "focal_gamma": 0},
        {"decoding": "beam", "beam_width": 10, "length_penalty": 0.0},
        {"decoding": "sample", "top_k": 50, "top_p": 0.9, "temperature": 0.7, "repetition_penalty": 1.2},
        {"tokens": "byte_pair", "vocabulary_size": 300, "scheduled_sampling": 0.25},
        {"picture_encoder": "convnext_tiny", "picture_size": 100},
        {"picture_encoder": "vit_b_16", "picture_size": 96},
        {"decoder": "lstm", "embedding_width": 7},
        {"decoder": "transformer", "embedding_width": 36, "heads": 6, "encoder_layers": 0},
    ],
)
def test_possible_configurations(fields: dict[str, Any]) -> None:
    config = CaptioningConfig.from_fields(fields)
    assert CaptioningConfig.from_fields(config.fields()) == config


def test_smoothed_training_leaves_val_loss_unsmoothed() -> None:
    plain, smooth = (make(label_smoothing=share).eval() for share in (0.0, 0.2))
    batch = plain.collate(samples(), Draws(0, 1))
    assert smooth(batch).sum > 0
    assert not torch.isclose(smooth(batch).sum, plain(batch).sum, rtol=1e-6)
    assert smooth.predict(plain.collate(samples(), None)) == plain.predict(plain.collate(samples(), None))
    memory = smooth.decoder.prepare(smooth._features(batch))
    logits, targets = read_captions(smooth.decoder, memory, batch)
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(smooth(batch).sum, expected)


# --- scheduled sampling


@decoders
def test_without_replaced_words_scheduled_sampling_changes_no_bit(decoder: str) -> None:
    model = make(decoder=decoder, dropout=0.3).train()
    batch = model.collate(samples(), Draws(0, 1))
    assert "replaced" not in batch
    sums = []
    for given in (batch, batch | {"replaced": torch.empty(0, dtype=torch.int64)}):
        torch.manual_seed(1)
        sums.append(model(given).sum.item())
    assert sums[0] == sums[1]


@decoders
def test_scheduled_sampling_changes_what_is_read_never_what_is_asked(decoder: str) -> None:
    plain = make(decoder=decoder).eval()
    model = make(decoder=decoder, scheduled_sampling=1.0, epochs=2).eval()
    one, other = (m.collate(samples(), Draws(0, 2)) for m in (plain, model))
    assert torch.equal(one["tokens"], other["tokens"])
    assert torch.equal(one["places"], other["places"])
    memory = model.decoder.prepare(model._features(other))
    targets = [read_captions(model.decoder, memory, batch)[1] for batch in (one, other)]
    assert torch.equal(*targets)
    assert plain(one).sum.item() != model(other).sum.item()
    assert plain(one).count == model(other).count
    # Captions are judged as ever.
    assert model.predict(model.collate(samples(), None)) == plain.predict(plain.collate(samples(), None))


@decoders
def test_scheduled_sampling_is_the_same_on_one_worker_and_on_two(decoder: str) -> None:
    model, gradients = make(decoder=decoder, scheduled_sampling=0.8, epochs=1).train(), []
    draws = Draws(0, 1)
    for parts in ([samples()], [samples()[:3], samples()[3:]]):
        model.zero_grad()
        for part in parts:
            model(model.collate(part, draws)).sum.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g is not None and g.any() for g in gradients[0])
    torch.testing.assert_close(*gradients)


def test_the_share_of_own_words_rises_linearly_over_the_epochs() -> None:
    model = make(scheduled_sampling=0.6, epochs=3)
    split = [dataclasses.replace(s, id=f"{s.id}-{i}") for i in range(40) for s in samples()]
    words = sum(len(model.tokenizer.words(c)) for s in split for c in s.captions)
    for epoch, share in ((1, 0.2), (2, 0.4), (3, 0.6)):
        count = len(model.collate(split, Draws(0, epoch))["replaced"])
        assert abs(count - share * words) < 4 * math.sqrt(words * share * (1 - share))
    assert "replaced" not in model.collate(split[:2], None)


# --- byte pairs


def pieces(**changes: Any) -> Captioning:
    return make(**{"tokens": "byte_pair", "vocabulary_size": 290, "min_word_count": 2, "max_tokens": 40} | changes)


@torch.no_grad()
def test_byte_pairs_count_tokens_and_give_captions_as_text() -> None:
    model = pieces(decoder="transformer").eval()
    assert len(model.tokenizer) == 290
    for sample, record in zip(samples(), model.predict(model.collate(samples(), None)), strict=True):
        nll, tokens, correct = slow_nll(model, sample)
        assert (record["tokens"], record["correct"]) == (tokens, correct)
        assert record["nll"] == pytest.approx(nll, rel=1e-4)
        assert tokens > sum(len(model.tokenizer.words(c)) + 1 for c in sample.captions)
        assert json.loads(json.dumps(record)) == record


@torch.no_grad()
@pytest.mark.parametrize("decoding", ["greedy", "beam", "sample"])
def test_byte_pair_captions_begin_with_any_prompt(decoding: str) -> None:
    """Of words that the training captions do not have, too."""
    model = pieces(prompt="A depiction of", decoding=decoding).eval()
    captions = [r["caption"] for r in model.predict(model.collate(samples(), None))]
    assert all(caption.startswith("a depiction of") for caption in captions)
    with pytest.raises(BadInput, match=r"has \d+ tokens: it must have fewer than max_tokens=2"):
        pieces(prompt="a depiction", max_tokens=2)


def test_byte_pairs_are_learnt_by_heart_with_their_commas() -> None:
    pictures = [dataclasses.replace(s, captions=(f"{s.captions[0]} Look, it isn't big!",)) for s in samples()]
    model = make(pictures, tokens="byte_pair", vocabulary_size=320, min_word_count=2, max_tokens=40).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = model.collate(pictures, Draws(0, 1))
    for _ in range(200):
        loss = model(batch)
        mean = loss.sum / loss.count
        if mean < 0.03:
            break
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    written = [r["caption"] for r in model.eval().predict(model.collate(pictures, None))]
    assert written == [s.captions[0].lower() for s in pictures]
