"""The matching family: its pairs, its loss, its records, and that it can learn."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from trainables.matching import Matching, MatchingConfig
from trainables.parts.negatives import PairSplit
from trainables.parts.scenes import write_scenes
from trainables.parts.text_encoders import TEXT_ENCODERS
from vltune.contract import Data, Draws, Sample
from vltune.errors import BadInput, NotFound

torch.set_num_threads(1)
COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "white": (230, 230, 230)}
SMALL: dict[str, Any] = {
    "picture_size": 16,
    "cnn_width": 4,
    "cnn_batch_norm": True,
    "embedding_width": 12,
    "min_word_count": 1,
    "max_tokens": 8,
    "word_width": 8,
    "text_width": 12,
    "classifier_widths": "16-2",
}
outputs = pytest.mark.parametrize("widths", ["16-2", "16-1", "2", "1"])


def samples(count: int = 8, *, captions: Sequence[int] = (1, 2, 3)) -> Sequence[Sample]:
    """Pictures of one colour, with captions that say which, of unequal numbers and lengths."""
    made = []
    for i in range(count):
        name, colour = list(COLOURS.items())[i % 4]
        noise = np.random.default_rng(i).integers(-20, 20, (16, 16, 3))
        picture = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
        texts = (f"all {name}", f"A picture that is {name}.", f"{name}, {name} everywhere")
        made.append(Sample(f"p{i}", picture, texts[: captions[i % len(captions)]]))
    return PairSplit(made)


def make(**changes: Any) -> Matching:
    fields = SMALL | changes
    if changes.get("text_encoder") == "transformer":
        fields = {key: value for key, value in fields.items() if key != "word_width"} | {"text_heads": 2}
    config = MatchingConfig.from_fields(fields)
    torch.manual_seed(0)
    return Matching(config, Matching.prepare(config, Data("", "", {"train": samples()})))


def words(text: str) -> list[str]:
    return text.lower().replace(",", "").replace(".", "").split()


@outputs
@torch.no_grad()
def test_records_hold_what_a_slow_computation_finds(widths: str) -> None:
    model = make(classifier_widths=widths).eval()
    for sample, record in zip(samples(), model.predict(model.collate(samples(), None)), strict=True):
        count = len(sample.captions)
        assert record["id"] == sample.id
        assert record["texts"][:count] == [*sample.captions]
        assert record["truths"] == [True] * count + [False] * count
        picture = torch.tensor(sample.picture).permute(2, 0, 1)[None] / 255
        for text, truth, probability, match, nll in zip(
            *(record[key] for key in ("texts", "truths", "probabilities", "matches", "nll")), strict=True
        ):
            vector = model.text_encoder(torch.tensor(model.tokenizer.ids([text]))).vectors[0]
            logits = model.classifier(torch.cat((model.picture_encoder(picture)[0, 0], vector)))
            expected = logits.sigmoid()[0] if len(logits) == 1 else logits.softmax(0)[1]
            assert probability == pytest.approx(expected.item(), rel=1e-4)
            assert match == (probability > 0.5)
            assert nll == pytest.approx(-math.log(probability if truth else 1 - probability), rel=1e-4)
        assert json.loads(json.dumps(record)) == record


@torch.no_grad()
@pytest.mark.parametrize("encoder", sorted(TEXT_ENCODERS.keys() - {"pretrained"}))
def test_records_do_not_depend_on_the_batch(encoder: str) -> None:
    model = make(text_encoder=encoder).eval()
    together = model.predict(model.collate(samples(), None))
    for size in (1, 3):
        parts = [samples()[start : start + size] for start in range(0, 8, size)]
        apart = [record for part in parts for record in model.predict(model.collate(part, None))]
        for one, other in zip(together, apart, strict=True):
            assert (one["id"], one["texts"], one["truths"]) == (other["id"], other["texts"], other["truths"])
            assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-4)


@outputs
def test_loss_is_a_sum_over_pairs_and_splits_over_batches(widths: str) -> None:
    model = make(classifier_widths=widths).eval()
    draws = Draws(0, 1)
    whole = model(model.collate(samples(), draws))
    assert whole.count == 2 * sum(len(sample.captions) for sample in samples())
    parts = [model(model.collate(part, draws)) for part in (samples()[:1], samples()[1:6], samples()[6:])]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count


def test_one_output_and_two_measure_the_same() -> None:
    """A sigmoid of the difference of two logits is their softmax: both losses are nats for each pair."""
    two, one = (make(classifier_widths=widths).eval() for widths in ("2", "1"))
    one.load_state_dict(
        two.state_dict() | {"classifier.0.weight": torch.zeros(1, 24), "classifier.0.bias": torch.ones(1)}
    )
    two.load_state_dict({**two.state_dict(), "classifier.0.weight": torch.zeros(2, 24)})
    two.load_state_dict({**two.state_dict(), "classifier.0.bias": torch.tensor([-0.5, 0.5])})
    first, second = (model.predict(model.collate(samples(), None)) for model in (one, two))
    assert [r["nll"] for r in first] == [pytest.approx(r["nll"]) for r in second]
    assert first[0]["probabilities"][0] == pytest.approx(1 / (1 + math.exp(-1)))


@outputs
@pytest.mark.parametrize("trained", ["both", "text", "picture"])
def test_every_trainable_parameter_gets_a_gradient(widths: str, trained: str) -> None:
    model = make(
        classifier_widths=widths,
        features="grid",
        augmentation="improved",
        train_encoder=trained != "text",
        train_text_encoder=trained != "picture",
    ).train()
    model(model.collate(samples(), Draws(0, 1))).sum.backward()
    frozen = {"text": "picture_encoder.", "picture": "text_encoder.", "both": "none"}[trained]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


@pytest.mark.parametrize("widths", ["16-2", "16-1"])
def test_colours_are_told_from_their_names(widths: str) -> None:
    model = make(classifier_widths=widths, negatives="hard").train()
    optimizer, split = torch.optim.Adam(model.parameters(), lr=1e-2), samples(captions=(3,))
    for epoch in range(80):
        loss = model(model.collate(split, Draws(0, epoch)))
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    asked = ("all red", "all green", "all blue")
    unseen = [Sample(s.id, s.picture, asked) for s in samples(12)[8:]]
    judged = [record["matches"] for record in model.eval().predict(model.collate(unseen, None))]
    assert judged == [[i == j for j in range(3)] for i in range(4)]


def test_negatives_are_drawn_anew_each_epoch_and_whatever_the_batch() -> None:
    model, split = make(), samples()
    epochs = [model.collate(split, Draws(0, epoch))["texts"] for epoch in range(1, 9)]
    assert len({tuple(map(tuple, texts)) for texts in epochs}) == 8
    assert model.collate(split[2:4], Draws(0, 1))["texts"] == epochs[0][2:4]
    for texts in epochs:
        for sample, of_sample in zip(split, texts, strict=True):
            own, foreign = of_sample[: len(sample.captions)], of_sample[len(sample.captions) :]
            assert own == [*sample.captions]
            assert len(foreign) == len(own)
            assert not {tuple(words(text)) for text in foreign} & {tuple(words(text)) for text in own}


def test_evaluation_judges_the_same_pairs_whatever_is_trained_on() -> None:
    base = make().collate(samples(), None)
    for changes in ({"seed": 5}, {"negatives": "hard", "hard_negative_candidates": 7}, {"captions_per_picture": 1}):
        assert make(**changes).collate(samples(), None)["texts"] == base["texts"]
    hard = make(evaluation_negatives="hard").collate(samples(), None)["texts"]
    assert hard != base["texts"]
    # The most similar caption of another picture has the same form, and another colour.
    assert all(len(words(text)) == 2 for text in hard[0])


def test_captions_of_a_training_batch_are_limited() -> None:
    texts = make(captions_per_picture=1).collate(samples(), Draws(0, 1))["texts"]
    assert [len(of_sample) for of_sample in texts] == [2] * 8


def test_the_texts_of_a_person_have_no_truth() -> None:
    model = make().eval()
    (record,) = model.predict(model.collate([Sample("a.jpg", samples()[0].picture, ("all red", "a dog"))], None))
    assert sorted(record) == ["id", "matches", "probabilities", "texts"]
    assert record["texts"] == ["all red", "a dog"]
    yes, no = (f"{p:.2f}" for p in record["probabilities"])
    words_said = ["yes" if match else "no" for match in record["matches"]]
    assert model.said(record) == f"'all red': {words_said[0]} ({yes}); 'a dog': {words_said[1]} ({no})"


def test_sources_are_pictures_and_texts(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG"):
        Image.fromarray(np.full((40, 20, 3), 200, np.uint8)).save(tmp_path / name, format="PNG")
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.PNG")
    model = make()
    read = model.read([a, "a dog runs", b, "two dogs."])
    assert [(s.id, s.captions) for s in read] == [(a, ("a dog runs", "two dogs.")), (b, ("a dog runs", "two dogs."))]
    assert all(s.picture is not None and s.picture.shape == (16, 16, 3) for s in read)
    for sources, missing in (([a], "text"), ([a, "", " "], "text"), (["a dog"], "picture"), ([], "picture")):
        with pytest.raises(BadInput, match=f"a {missing} is missing"):
            model.read(sources)
    with pytest.raises(NotFound, match=r"gone\.png"):
        model.read([str(tmp_path / "gone.png"), "a dog"])


def test_scores_are_the_declared_metrics() -> None:
    records = [
        {"truths": [True, False], "matches": [True, True], "probabilities": [0.9, 0.6], "nll": [0.1, 0.9]},
        {"truths": [True, False], "matches": [False, False], "probabilities": [0.4, 0.2], "nll": [0.9, 0.2]},
    ]
    scores = make().score(records)
    assert scores.metrics.keys() == Matching.metrics.keys()
    assert scores.metrics["val_loss"] == pytest.approx(2.1 / 4)
    assert (scores.metrics["accuracy"], scores.metrics["f1"], scores.metrics["roc_auc"]) == (0.5, 0.5, 0.75)
    assert scores.records == [{"val_loss": 0.5, "accuracy": 0.5}, {"val_loss": pytest.approx(0.55), "accuracy": 0.5}]


@torch.no_grad()
def test_the_threshold_decides() -> None:
    records = {}
    for threshold in (0.3, 0.9):
        model = make(classifier_widths="16-1", threshold=threshold).eval()
        records[threshold] = model.predict(model.collate(samples(), None))
        for record in records[threshold]:
            assert record["matches"] == [p > threshold for p in record["probabilities"]]
    assert [r["probabilities"] for r in records[0.3]] == [r["probabilities"] for r in records[0.9]]


def test_negatives_stay_within_their_split(tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "data"), pictures=24, picture_size=32)
    config = MatchingConfig.from_fields(SMALL | {"data": str(tmp_path / "data"), "train_pictures": 3})
    data = Matching.load(config, str(tmp_path / "cache"))
    model = Matching(config, Matching.prepare(config, data))
    for name, split in data.splits.items():
        chosen = [split[i] for i in range(3 if name == "train" else len(split))]
        own = {text for sample in chosen for text in sample.captions}
        for epoch in range(5):
            texts = model.collate(chosen, Draws(0, epoch) if name == "train" else None)["texts"]
            assert {text for of_sample in texts for text in of_sample} <= own


def test_features_of_a_frozen_encoder_replace_the_pictures() -> None:
    model = make(train_encoder=False, features="grid").eval()
    encoder = model.features()
    assert encoder is not None
    assert make(features="grid").features() is None
    features = encoder.encode(samples()[:])
    without = [Sample(s.id, None, ("all red",), features=row) for s, row in zip(samples(), features, strict=True)]
    shown = [Sample(s.id, s.picture, ("all red",)) for s in samples()]
    first, second = (model.predict(model.collate(split, None)) for split in (without, shown))
    assert [r["probabilities"] for r in first] == [pytest.approx(r["probabilities"], rel=1e-5) for r in second]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("widths", ["16-2", "16-1"])
def test_low_precision(dtype: torch.dtype, widths: str) -> None:
    model = make(classifier_widths=widths).eval()
    batch = model.collate(samples(), Draws(0, 1))
    with torch.autocast("cpu", dtype=dtype):
        loss = model(batch)
        records = model.predict(model.collate(samples(), None))
    assert loss.sum.dtype == torch.float32
    assert loss.sum.item() == pytest.approx(model(batch).sum.item(), rel=0.02)
    expected = model.predict(model.collate(samples(), None))
    assert [r["nll"] for r in records] == [pytest.approx(r["nll"], rel=0.05) for r in expected]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"classifier_widths": "512-3"}, r"classifier_widths='512-3' ends in 3 outputs: it must be 2 .* or 1"),
        ({"classifier_widths": "a"}, r"classifier_widths='a' is no list of widths"),
        ({"threshold": 0.3}, r"threshold=0.3 has no effect with two outputs"),
        ({"classifier_widths": "2-1", "threshold": 1.0}, r"threshold=1.0 is out of range: it must lie in \(0, 1\)"),
        ({"classifier_widths": "2", "classifier_activation": "tanh"}, r"classifier_activation='tanh' has no effect"),
        ({"classifier_widths": "1", "classifier_dropout": 0.1}, r"classifier_dropout=0.1 has no effect"),
        ({"classifier_activation": "gelu"}, r"classifier_activation='gelu' is not possible"),
        ({"negatives": "harder"}, r"negatives='harder' is not possible; did you mean 'hard'"),
        ({"evaluation_negatives": "easy"}, r"evaluation_negatives='easy' is not possible"),
        ({"hard_negative_share": 0.2}, r"hard_negative_share=0.2 has no effect with negatives='random'"),
        ({"negatives": "hard", "hard_negative_candidates": 1}, r"hard_negative_candidates=1 is out of range"),
        ({"text_encoder": "mlp", "text_layers": 2}, r"text_layers=2 has no effect"),
        ({"captions_per_picture": 0}, r"captions_per_picture=0 is out of range"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        MatchingConfig.from_fields(fields)
    assert "\n" not in str(caught.value)


def test_the_loss_of_two_outputs_is_torchs() -> None:
    model = make().eval()
    batch = model.collate(samples(), Draws(0, 1))
    pictures = model.picture_encoder(batch["pictures"].permute(0, 3, 1, 2) / 255)[:, 0]
    texts = model.text_encoder(batch["tokens"]).vectors
    logits = model.classifier(torch.cat((pictures[batch["owners"]], texts), 1))
    expected = F.cross_entropy(logits, batch["targets"], reduction="sum")
    torch.testing.assert_close(model(batch).sum, expected)
