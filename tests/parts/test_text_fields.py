"""The fields of families that read text: what is refused, what is recorded, and what is made of them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from families import NoLibrary
from test_pretrained_text import save

from trainables.parts.picture_fields import PictureConfig
from trainables.parts.text import UNKNOWN
from trainables.parts.text_encoders import TEXT_ENCODERS
from trainables.parts.text_fields import (
    TextConfig,
    build_text_encoder,
    fit_text_tokenizer,
    is_text_model_kept,
    read_text_tokenizer,
    text_tokens,
)
from vltune.errors import BadInput, NotFound

torch.set_num_threads(1)
CAPTIONS = ("A red dog runs.", "two dogs running", "the dog runs")


@dataclass(frozen=True, kw_only=True)
class BothConfig(PictureConfig, TextConfig):
    """A family that sees and reads."""


def config(**fields: Any) -> TextConfig:
    return TextConfig.from_fields(
        {"min_word_count": 1, **fields} if fields.get("text_encoder") != "pretrained" else fields
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_encoder": "gruu"}, "text_encoder='gruu' is not possible; did you mean 'gru'"),
        ({"text_encoder": "transformer", "text_heads": 3}, "text_heads=3 does not divide text_width=512; change one"),
        ({"text_heads": 2}, "text_heads=2 has no effect with text_encoder='gru'"),
        ({"text_encoder": "transformer", "word_width": 8}, "word_width=8 has no effect"),
        ({"text_encoder": "mlp", "text_layers": 2}, "text_layers=2 has no effect"),
        ({"text_model": "x/y"}, "text_model='x/y' has no effect with text_encoder='gru'"),
        ({"text_encoder": "pretrained", "tokens": "byte_pair"}, "tokens='byte_pair' has no effect"),
        ({"text_encoder": "pretrained", "text_dropout": 0.5}, "text_dropout=0.5 has no effect"),
        ({"vocabulary_size": 300}, "vocabulary_size=300 has no effect with tokens='words'"),
        ({"tokens": "byte_pair", "stem_words": True}, "stem_words=True has no effect with tokens='byte_pair'"),
        ({"tokens": "letters"}, "tokens='letters' is not possible"),
        ({"text_layers": 0}, "text_layers=0 is out of range"),
        ({"max_tokens": 1}, "max_tokens=1 is out of range"),
        ({"text_dropout": 1.0}, "text_dropout=1.0 is out of range"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TextConfig.from_fields(fields)


def test_both_halves_of_a_family_are_checked() -> None:
    with pytest.raises(BadInput, match="text_layers"):
        BothConfig(text_layers=0)
    with pytest.raises(BadInput, match="picture_size"):
        BothConfig(picture_size=1)
    with pytest.raises(BadInput, match="epochs"):
        BothConfig(epochs=-1)


@pytest.mark.parametrize("name", sorted(TEXT_ENCODERS.keys() - {"pretrained"}))
def test_every_encoder_is_built_and_reads(name: str) -> None:
    chosen = config(text_encoder=name, text_width=16)
    assets = fit_text_tokenizer(chosen, CAPTIONS)
    tokenizer = read_text_tokenizer(chosen, assets)
    encoder = build_text_encoder(chosen, assets, words=len(tokenizer))
    assert encoder(text_tokens(tokenizer, CAPTIONS, max_tokens=32)).vectors.shape == (3, 16)


def test_tokens_are_words_alone_cut_at_the_end() -> None:
    chosen = config()
    tokenizer = read_text_tokenizer(chosen, fit_text_tokenizer(chosen, CAPTIONS))
    by_word = {word: tokenizer.ids([word])[0][0] for word in ("the", "dog", "runs", "red", "a")}
    found = text_tokens(tokenizer, ["The dog runs!", "a red zebra runs a lot", "...", ""], max_tokens=4)
    assert found[0].tolist() == [by_word["the"], by_word["dog"], by_word["runs"], 0]
    assert found[1].tolist() == [by_word["a"], by_word["red"], UNKNOWN, by_word["runs"]]
    assert found[2].tolist() == found[3].tolist() == [UNKNOWN, 0, 0, 0]  # something to read, whatever was given


def test_the_kinds_of_tokens_reach_the_tokenizer() -> None:
    stems, pieces = config(stem_words=True), config(tokens="byte_pair", min_word_count=2, vocabulary_size=270)
    of_stems = read_text_tokenizer(stems, fit_text_tokenizer(stems, CAPTIONS))
    assert of_stems.ids(["dogs running"]) == of_stems.ids(["dog run"])
    assert len(read_text_tokenizer(pieces, fit_text_tokenizer(pieces, CAPTIONS))) <= 270
    rare = config(min_word_count=2)
    assert read_text_tokenizer(rare, fit_text_tokenizer(rare, CAPTIONS)).ids(["two"]) == [[UNKNOWN]]


# --- pretrained


def pretrained(folder: Path, **fields: Any) -> TextConfig:
    sizes = {"text_encoder": "pretrained", "max_tokens": 20}
    return config(text_model=str(folder), **sizes, **fields).find_sources(NoLibrary())


def build(chosen: TextConfig, assets: Any) -> Any:
    return build_text_encoder(chosen, assets, words=len(read_text_tokenizer(chosen, assets))).eval()


def test_a_trained_encoder_needs_its_files_once(tmp_path: Path) -> None:
    chosen = pretrained(save(tmp_path / "bert"))
    assert len(chosen.text_model_hash) == 64
    assets = fit_text_tokenizer(chosen, ())
    encoder = build(chosen, assets)
    assert not is_text_model_kept(chosen)
    (tmp_path / "bert").rename(tmp_path / "gone")
    again = build(chosen.without_sources(), assets)
    again.load_state_dict(encoder.state_dict())
    tokens = text_tokens(read_text_tokenizer(chosen, assets), ["a red dog"], max_tokens=20)
    torch.testing.assert_close(again(tokens).vectors, encoder(tokens).vectors)
    with pytest.raises(NotFound):
        build(chosen, assets)


def test_a_frozen_encoder_is_read_from_its_files_again(tmp_path: Path) -> None:
    chosen = pretrained(save(tmp_path), train_text_encoder=False)
    assert is_text_model_kept(chosen)
    assert chosen.without_sources() == chosen
    encoder = build(chosen, fit_text_tokenizer(chosen, ()))
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_frozen_encoder_that_another_model_has_trained_is_stored(tmp_path: Path) -> None:
    chosen = pretrained(save(tmp_path), train_text_encoder=False)
    started = dataclasses.replace(chosen, init_from="text_encoder=words@champion")
    assert not is_text_model_kept(started)
    assert started.without_sources().text_model == ""


def test_its_weights_must_be_those_of_the_record(tmp_path: Path) -> None:
    chosen = pretrained(save(tmp_path))
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    with pytest.raises(BadInput, match=r"text_model=.* has changed since the trial was recorded"):
        build(chosen, fit_text_tokenizer(chosen, ()))


def test_without_a_model_it_says_what_to_give() -> None:
    chosen = config(text_encoder="pretrained")
    for ask in (lambda: chosen.find_sources(NoLibrary()), lambda: fit_text_tokenizer(chosen, ())):
        with pytest.raises(
            BadInput, match=r"text_encoder='pretrained' needs text_model: a name .* or the path of a folder"
        ):
            ask()


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bert").mkdir()
    monkeypatch.chdir(tmp_path)
    fields = BothConfig.with_absolute_paths({"text_model": "bert", "weights": "w.pth", "epochs": 1})
    assert fields == {"text_model": str(tmp_path / "bert"), "weights": str(tmp_path / "w.pth"), "epochs": 1}
    assert TextConfig.with_absolute_paths({"text_model": "all-MiniLM-L6-v2"}) == {"text_model": "all-MiniLM-L6-v2"}
