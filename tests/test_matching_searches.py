"""The searches of matching and pretraining: the tables that their rows stand for, and how one starts from another."""

from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import SEARCHES
from trainables import FAMILIES
from trainables.parts.classifier import read_widths
from trainables.parts.scenes import write_scenes
from vltune import checkpoints
from vltune.configuration import TrialConfig
from vltune.errors import BadInput
from vltune.library import PromotedModels
from vltune.runtime import LocalRuntime
from vltune.space import check, resolve
from vltune.train import Trial, fit

torch.set_num_threads(1)
STUDY = {
    # number: optimizer, rate, picture encoder, text encoder, layers, classifier, activation, threshold
    1: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 512, 256, 2), "relu", 0.5),
    2: ("adam", 1e-4, "resnet18", "lstm", 1, (1024, 512, 256, 2), "relu", 0.5),
    12: ("adam", 2e-4, "resnet18", "lstm", 2, (1024, 512, 256, 2), "relu", 0.5),
    13: ("adam", 2e-4, "resnet18", "lstm", 2, (1024, 64, 32, 2), "relu", 0.5),
    17: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 512, 256, 2), "relu", 0.5),
    21: ("adamw", 2e-4, "resnet18", "lstm", 2, (1024, 512, 256, 2), "relu", 0.5),
    24: ("adam", 2e-4, "resnet18", "lstm", 3, (1024, 512, 256, 2), "relu", 0.5),
    25: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 2), "relu", 0.5),
    28: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 2), "relu", 0.5),
    30: ("adam", 2e-4, "resnet18", "mlp", 1, (1024, 512, 256, 2), "relu", 0.5),
    31: ("adam", 2e-4, "resnet18", "mlp", 1, (1024, 512, 256, 2), "relu", 0.5),
    32: ("adam", 1e-3, "resnet18", "mlp", 1, (1024, 512, 256, 2), "relu", 0.5),
    34: ("adam", 1e-4, "resnet18", "mlp", 1, (1024, 512, 256, 2), "relu", 0.5),
    35: ("adam", 2e-4, "autoencoder", "lstm", 1, (1088, 512, 256, 2), "relu", 0.5),
    36: ("adam", 2e-4, "autoencoder", "mlp", 1, (1088, 512, 256, 2), "relu", 0.5),
    37: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 512, 256, 1), "tanh", 0.5),
    38: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 512, 256, 1), "relu", 0.5),
    42: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 512, 256, 1), "tanh", 0.9),
    44: ("adam", 2e-4, "resnet18", "lstm", 1, (1024, 512, 256, 1), "tanh", 0.3),
}
"""The matching study's table of experiments."""
PRETRAINED = {17: "cnn", 21: "cnn", 24: "cnn", 25: "cnn", 28: "cnn lstm", 30: "cnn", 32: "cnn", 34: "cnn"} | {
    35: "ae",
    36: "ae",
}
"""Which parts of an experiment were pretrained."""


def rows(name: str) -> dict[int, dict[str, Any]]:
    search = SEARCHES[name]
    return {
        int(row.split(":")[0].split()[0]): resolve(search, None, row=search.rows[row]).config.fields()
        for row in search.rows
    }


@pytest.mark.parametrize("name", ["matching", "matching_pretrained"])
def test_rows_are_the_studys_experiments(name: str) -> None:
    found = rows(name)
    for number, fields in found.items():
        optimizer, rate, picture_encoder, text_encoder, layers, widths, activation, threshold = STUDY[number]
        # The study counts the input: 512 of the text, and 512 or 576 of the picture.
        of_picture = {"resnet18": 512, "autoencoder": 64 * (fields["picture_size"] // 32) ** 2}[picture_encoder]
        assert (of_picture + fields["text_width"], *read_widths(fields["classifier_widths"])) == widths, number
        assert (fields["optimizer"], fields["learning_rate"]) == (optimizer, rate)
        assert (fields["picture_encoder"], fields["text_encoder"]) == (picture_encoder, text_encoder)
        assert (fields["text_layers"], fields["classifier_activation"], fields["threshold"]) == (
            layers,
            activation,
            threshold,
        )
        assert fields["features"] == ("pooled" if picture_encoder == "resnet18" else "grid")
        assert fields["word_width"] == (256 if text_encoder == "lstm" else 32)
        assert (fields["epochs"], fields["batch_size"], fields["stem_words"]) == (50, 64, True)
        parts = {"cnn": "rotation", "ae": "reconstruction", "lstm": "masked_word"}
        pretrained = PRETRAINED.get(number, "").split() if name == "matching_pretrained" else []
        assert [part for part in parts if f"pretraining_{parts[part]}@champion" in fields["init_from"]] == pretrained


def test_every_experiment_is_a_row_of_one_of_the_two() -> None:
    assert rows("matching").keys() | rows("matching_pretrained").keys() == STUDY.keys()
    assert rows("matching_pretrained").keys() >= PRETRAINED.keys()


def test_pins_of_one_branch_leave_the_others_alone() -> None:
    check(SEARCHES["matching"], pins={"epochs": 1, "batch_size": 8, "threshold": 0.4})
    for config in check(SEARCHES["pretraining_rotation"], pins={"picture_encoder": "cnn"}):
        assert (config.fields()["picture_encoder"], config.fields()["cnn_batch_norm"]) == ("cnn", True)


def test_pretrained_parts_are_built_as_the_searches_that_train_them_build_them() -> None:
    """Or their weights would not fit, and nobody would know before the chain's last step."""
    config = resolve(
        SEARCHES["matching_pretrained"],
        None,
        row=SEARCHES["matching_pretrained"].rows["28: pretrained CNN + pretrained LSTM, no hidden layer"],
    ).config.fields()
    rotation, masked_word, reconstruction = (
        resolve(SEARCHES[name], None, row=SEARCHES[name].rows[SEARCHES[name].base_row]).config.fields()
        for name in ("pretraining_rotation", "pretraining_masked_word", "pretraining_reconstruction")
    )
    assert config["picture_encoder"] == rotation["picture_encoder"]
    for key in ("text_encoder", "word_width", "text_width", "text_layers"):
        assert config[key] == masked_word[key], key
    assert reconstruction["picture_encoder"] == "autoencoder"
    assert rotation["picture_size"] == reconstruction["picture_size"] == config["picture_size"]


SMALL: dict[str, dict[str, Any]] = {
    "pretraining_rotation": {"picture_size": 32, "cnn_width": 4, "embedding_width": 12},
    "pretraining_reconstruction": {"picture_size": 32, "picture_decoder_width": 2},
    "pretraining_masked_word": {"word_width": 8, "text_width": 12, "min_word_count": 1},
    "matching": {"word_width": 8, "text_width": 12, "text_encoder": "lstm", "picture_size": 32},
}


def trained(folder: Path, family: str, **changes: Any) -> tuple[Path, TrialConfig]:
    """A committed model of a family, trained for an epoch on a few scenes."""
    write_scenes(str(folder / "scenes"), pictures=24, picture_size=32)
    Config = FAMILIES[family].Config  # noqa: N806
    fields = {"data": str(folder / "scenes"), "epochs": 1, "batch_size": 8, **SMALL[family], **changes}
    config = Config.from_fields(fields).find_sources(PromotedModels(folder))
    place = folder / f"trial-{len(list(folder.iterdir()))}"
    fit(Trial("t", FAMILIES[family], config, place), LocalRuntime(cache=str(folder / "cache")))
    (kept,) = [p for p in (place / "checkpoints").iterdir() if p.name.startswith("epoch-")]
    return kept, config


def test_matching_starts_from_what_pretraining_made(tmp_path: Path) -> None:
    rotation, _ = trained(tmp_path, "pretraining_rotation")
    words, _ = trained(tmp_path, "pretraining_masked_word")
    reconstruction, _ = trained(tmp_path, "pretraining_reconstruction")
    for pictures, fields in (
        (rotation, {"cnn_width": 4, "embedding_width": 12}),
        (reconstruction, {"picture_encoder": "autoencoder", "features": "grid"}),
    ):
        init_from = f"picture_encoder={pictures},text_encoder={words}"
        # Not trained: its weights are those that it starts from. Its own vocabulary would be another one.
        start, _ = trained(tmp_path, "matching", epochs=0, init_from=init_from, min_word_count=4, **fields)
        found = checkpoints.read_tensors(start / checkpoints.MODEL)
        for part, source in (("picture_encoder", pictures), ("text_encoder", words)):
            theirs = checkpoints.read_tensors(source / checkpoints.MODEL)
            names = [name for name in theirs if name.startswith(f"{part}.")]
            assert names
            assert sorted(names) == sorted(name for name in found if name.startswith(f"{part}."))
            assert all(torch.equal(found[name], theirs[name]) for name in names)
        assert (start / "tokenizer.json").read_bytes() == (words / "tokenizer.json").read_bytes()


def test_parts_of_other_shapes_are_one_clear_line(tmp_path: Path) -> None:
    rotation, _ = trained(tmp_path, "pretraining_rotation")
    for fields in ({"cnn_width": 8}, {"picture_encoder": "autoencoder"}):
        with pytest.raises(BadInput, match=r"init_from=picture_encoder=.*give both models the same fields") as caught:
            trained(tmp_path, "matching", init_from=f"picture_encoder={rotation}", embedding_width=12, **fields)
        assert "\n" not in str(caught.value)
