"""Pretraining by masked words: what is hidden, its records, and that it can learn."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from trainables.parts.scenes import write_scenes
from trainables.parts.text import MASK
from trainables.pretraining_masked_word import NOT_KNOWN, MaskedWord, MaskedWordConfig
from vltune.contract import Data, Draws, Sample
from vltune.errors import BadInput

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "min_word_count": 1,
    "max_tokens": 12,
    "word_width": 12,
    "text_width": 16,
    "text_encoder": "lstm",
}
SOUNDS = {"dog": "barks", "cat": "purrs", "bird": "sings", "lion": "roars"}
encoders = pytest.mark.parametrize("encoder", ["lstm", "gru", "transformer", "mlp"])


def samples() -> list[Sample]:
    """Captions of unequal numbers and lengths, in which the animal follows from its sound."""
    made = []
    for i, (animal, sound) in enumerate(SOUNDS.items()):
        texts = (f"The {animal} {sound}.", f"a {animal} that {sound}, and {sound}", f"{sound} does the {animal}")
        made.append(Sample(f"p{i}", None, texts[: 1 + i % 3]))
    return made


def make(**changes: Any) -> MaskedWord:
    fields = SMALL | changes
    if fields["text_encoder"] == "transformer":
        fields.pop("word_width")
    config = MaskedWordConfig.from_fields(fields)
    torch.manual_seed(0)
    return MaskedWord(config, MaskedWord.prepare(config, Data("", "", {"train": samples()})))


@encoders
@torch.no_grad()
def test_records_hold_what_a_slow_computation_finds(encoder: str) -> None:
    model = make(text_encoder=encoder).eval()
    for sample, record in zip(samples(), model.predict(model.collate(samples(), None)), strict=True):
        batch = model.collate([sample], None)
        nll, correct = 0.0, 0
        for number, text in enumerate(sample.captions):
            tokens = torch.tensor(model.tokenizer.ids([text]))
            (place,) = [int(place) for row, place in batch["places"] if row == number]
            hidden = tokens.clone()
            hidden[0, place] = MASK
            encoded = model.text_encoder(hidden)
            logits = model.classifier(torch.cat((encoded.states[0, place], encoded.vectors[0])))
            nll += F.cross_entropy(logits, tokens[0, place]).item()
            correct += int(logits.argmax() == tokens[0, place])
            words = model.tokenizer.words(text)
            guess = model.tokenizer.decode([int(logits.argmax())])
            filled = " ".join([*words[:place], f"[{guess}]", *words[place + 1 :]])
            assert record["caption"].split("; ")[number] == filled
        assert record["nll"] == pytest.approx(nll, rel=1e-4)
        assert (record["id"], record["tokens"], record["correct"]) == (sample.id, len(sample.captions), correct)
        assert json.loads(json.dumps(record)) == record


@encoders
@torch.no_grad()
def test_records_do_not_depend_on_the_batch(encoder: str) -> None:
    model = make(text_encoder=encoder).eval()
    together = model.predict(model.collate(samples(), None))
    apart = [model.predict(model.collate([sample], None))[0] for sample in samples()]
    assert [r["nll"] for r in apart] == pytest.approx([r["nll"] for r in together], rel=1e-4)
    assert [r["caption"] for r in apart] == [r["caption"] for r in together]


def hidden(model: MaskedWord, split: Sequence[Sample], draws: Draws | None) -> list[tuple[int, ...]]:
    return [tuple(pair) for pair in model.collate(split, draws)["places"].tolist()]


def test_masks_are_drawn_anew_each_epoch_and_the_same_in_every_evaluation() -> None:
    model = make(mask_share=0.5)
    epochs = [hidden(model, samples(), Draws(0, epoch)) for epoch in range(1, 9)]
    assert len(set(map(tuple, epochs))) > 4
    rows = len(samples()[0].captions)
    alone = hidden(model, samples()[1:2], Draws(0, 1))
    assert alone == [(row - rows, place) for row, place in epochs[0] if rows <= row < rows + 2]
    one_word = hidden(make(), samples(), None)
    assert [row for row, _ in one_word] == list(range(sum(len(s.captions) for s in samples())))
    for changes in ({"seed": 3}, {"mask_share": 0.5}, {"captions_per_picture": 1}):
        assert hidden(make(**changes), samples(), None) == one_word


@encoders
def test_loss_is_a_sum_over_hidden_words_and_splits_over_batches(encoder: str) -> None:
    model, draws = make(text_encoder=encoder, mask_share=0.0 if encoder == "mlp" else 0.4).eval(), Draws(0, 1)
    whole = model(model.collate(samples(), draws))
    parts = [model(model.collate(part, draws)) for part in (samples()[:1], samples()[1:])]
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count >= sum(len(s.captions) for s in samples())


@encoders
def test_every_trainable_parameter_gets_a_gradient(encoder: str) -> None:
    model = make(text_encoder=encoder).train()
    model(model.collate(samples(), Draws(0, 1))).sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
def test_the_missing_animal_follows_from_its_sound(encoder: str) -> None:
    """For an LSTM too, whose state at the hidden place has not heard the sound yet."""
    model = make(text_encoder=encoder).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(120):
        loss = model(model.collate(samples(), Draws(0, epoch)))
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    asked = [f"The <mask> {sound}" for sound in SOUNDS.values()]
    records = model.eval().predict(model.collate(model.read(asked), None))
    assert [model.said(record) for record in records] == [f"the [{animal}] {SOUNDS[animal]}" for animal in SOUNDS]


def test_a_persons_masks_have_no_target() -> None:
    model = make().eval()
    (sample,) = model.read(["a <mask> that <mask>"])
    batch = model.collate([sample], None)
    assert batch["places"].tolist() == [[0, 1], [0, 3]]
    assert batch["targets"].tolist() == [NOT_KNOWN] * 2
    (record,) = model.predict(batch)
    assert (record["id"], record["nll"], record["tokens"]) == ("a <mask> that <mask>", 0, 0)
    with pytest.raises(BadInput, match=r"'a dog' misses no word: write <mask> where one is to be guessed"):
        model.read(["a dog"])


def test_captions_of_unknown_words_are_left_as_they_are() -> None:
    model = make().eval()
    unknown = Sample("u", None, ("zzz yyy",))
    (record,) = model.predict(model.collate([unknown], None))
    assert record["tokens"] == 0
    loss = model(model.collate([unknown], Draws(0, 1)))
    loss.sum.backward()
    assert (loss.sum, loss.count) == (0, 0)
    scores = model.score([record, {"nll": 2.0, "tokens": 2, "correct": 1}])
    assert scores.metrics["val_loss"] == 1.0
    assert scores.records[0] == {}


def test_scores_are_the_declared_metrics() -> None:
    records = [{"nll": 3.0, "tokens": 2, "correct": 1}, {"nll": 1.0, "tokens": 2, "correct": 2}]
    scores = make().score(records)
    assert scores.metrics.keys() == MaskedWord.metrics.keys()
    assert (scores.metrics["val_loss"], scores.metrics["token_accuracy"]) == (1.0, 0.75)
    assert [r["val_loss"] for r in scores.records] == [1.5, 0.5]


def test_captions_are_read_without_a_field_for_pictures(tmp_path: Path) -> None:
    write_scenes(str(tmp_path / "data"), pictures=24, picture_size=32)
    config = MaskedWordConfig.from_fields(SMALL | {"data": str(tmp_path / "data")})
    data = MaskedWord.load(config, str(tmp_path / "cache"))
    model = MaskedWord(config, MaskedWord.prepare(config, data)).eval()
    split = data.splits["validation"]
    records = model.predict(model.collate(split[:], None))
    assert [r["tokens"] for r in records] == [len(s.captions) for s in split[:]]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"text_encoder": "mlp", "mask_share": 0.1}, r"mask_share=0.1 does not go with text_encoder='mlp'"),
        ({"text_encoder": "pretrained"}, r"text_encoder='pretrained' is not possible"),
        ({"mask_share": 1.0}, r"mask_share=1.0 is out of range: it must lie in \[0, 1\)"),
        ({"train_text_encoder": False}, r"train_text_encoder=False leaves nothing to pretrain"),
    ],
)
def test_impossible_configurations_say_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        MaskedWordConfig.from_fields(fields)
