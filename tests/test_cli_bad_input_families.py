"""What a person gets wrong with the fields of each family: refused in one line, before Ray starts."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_captioners import write_captioner

from trainables.captioning import Captioning
from trainables.parts.scenes import write_scenes
from trainables.parts.text import CaptionTokenizer
from trainables.pretrained import Pretrained
from trainables.pretraining_masked_word import MaskedWord
from trainables.pretraining_rotation import Rotation
from trainables.retrieval import Retrieval
from vltune import cluster
from vltune import search as searching
from vltune.checkpoints import seal
from vltune.cli import main
from vltune.contract import Assets, Data, Family
from vltune.ledger import Ledger
from vltune.models import write_model


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, text files, a GPT-2, a CLIP, BLIPs, and a model of five families each, with random weights."""
    root = tmp_path_factory.mktemp("families")
    write_scenes(str(root / "data"), pictures=16, picture_size=32)
    for file in (root / "data" / "annotations").glob("instances_*"):
        file.unlink()
    (root / "empty").mkdir()
    (root / "empty.txt").write_text("\n \n")
    (root / "latin.txt").write_bytes(b"caf\xe9 \xff\n")
    for make in (tiny_models.clip, tiny_models.gpt2):
        (root / make.__name__).mkdir()
        make(root / make.__name__)
    write_captioner("blip", root / "blip")
    fields = json.loads((root / "blip" / "config.json").read_text())
    fields["vision_config"]["intermediate_size"] = 48
    (shutil.copytree(root / "blip", root / "misfit") / "config.json").write_text(json.dumps(fields))
    _write(root / "foreign", Pretrained, captioner_model=str(root / "blip"))
    small: dict[str, Any] = {"picture_size": 32, "cnn_width": 1}
    _write(
        root / "captioning", Captioning, embedding_width=8, hidden_width=8, attention_width=8, max_tokens=12, **small
    )
    known = ("a red circle", "an image of a blue square")
    _write(
        root / "prompted",
        Captioning,
        words=known,
        embedding_width=8,
        hidden_width=8,
        attention_width=8,
        max_tokens=12,
        **small,
    )
    _write(root / "retrieval", Retrieval, text_width=8, projection_width=16, **small)
    _write(root / "rotation", Rotation, **small)
    _write(root / "words", MaskedWord, word_width=8, text_width=8)
    return root


def _write(
    folder: Path, family: type[Family], *, words: Sequence[str] = ("a red circle", "a blue square"), **fields: Any
) -> None:
    config = family.Config.from_fields(fields)
    assets: Assets = {"tokenizer.json": CaptionTokenizer.fit(words, min_word_count=1).to_text()}
    if family is Pretrained:
        assets = Pretrained.prepare(config, Data("", "", {}))
    torch.manual_seed(0)
    folder.mkdir()
    record = {"family": family.name, "config": config.fields(), "assets": list(assets)}
    write_model(folder, family(config, assets), record=record, assets=assets)
    seal(folder)


_CAPDEC = ("capdec_noise", "embedder={w}/retrieval")
_GPT2 = (*_CAPDEC, "decoder=gpt2")
_DIRECTED = ("capdec_directed", "embedder={w}/retrieval", "noise=cosine_directed")
_MAPPED = ("capdec_architecture", "embedder={w}/retrieval", "mapper=transformer")
_DECODING = ("decoding", "captioner={w}/captioning", "max_tokens=10")
_BLIP = ("pretrained_captioners", "captioner_model={w}/blip")
_TEXTS = ("retrieval_finetune", "text_encoder=pretrained", "weights=none")
_TEXTS = (*_TEXTS, "train_text_encoder=true")
_ROTATION = "picture_encoder={w}/rotation"

CASES: dict[str, tuple[tuple[str, ...], int, str]] = {
    # references to promoted models
    "embedder missing": (("capdec_noise",), 3, "embedder='retrieval@champion': there is no promoted model"),
    "embedder version": (("capdec_noise", "embedder=models:/x/3"), 3, "embedder='models:/x/3': there is no"),
    "embedder empty": (("capdec_noise", "embedder="), 2, "embedder='' is missing"),
    "embedder no model": (("capdec_noise", "embedder={w}/empty"), 2, "embedder='{w}/empty': {w}/empty holds no model"),
    "embedder of a captioner": (("capdec_noise", "embedder={w}/captioning"), 2, "capdec stands on one of retrieval"),
    "embedder of texts": (("capdec_noise", "embedder={w}/gpt2"), 2, "does not embed pictures and texts"),
    "captioner missing": (("decoding",), 3, "captioner='quickstart@champion': there is no promoted model"),
    "captioner empty": (("decoding", "captioner="), 2, "captioner='' is missing"),
    "captioner no model": (("decoding", "captioner={w}/empty"), 2, "captioner='{w}/empty': {w}/empty holds no model"),
    "captioner of pairs": (("decoding", "captioner={w}/retrieval"), 2, "decoding stands on one of capdec"),
    "rows start from": (("matching_pretrained",), 3, "init_from=picture_encoder='pretraining_rotation@champion'"),
    # first weights
    "init_from typo": (
        ("quickstart", "init_from=picture_encodr={w}/rotation"),
        2,
        "has no part 'picture_encodr'; did you mean 'picture_encoder'",
    ),
    "init_from second typo": (
        ("retrieval", "init_from=picture_encoder={w}/rotation,txt_encoder={w}/words"),
        2,
        "has no part 'txt_encoder'; did you mean 'text_encoder'",
    ),
    "init_from no part": (("quickstart", "init_from=text_encoder={w}/rotation"), 2, "has no part 'text_encoder'"),
    "init_from no sign": (("quickstart", "init_from=picture_encoder"), 2, "init_from='picture_encoder': "),
    "init_from no model": (("quickstart", "init_from=picture_encoder="), 2, "is no NAME=VALUE"),
    "init_from missing": (("quickstart", "init_from=picture_encoder=x@champion"), 3, "init_from=picture_encoder='x@ch"),
    "init_from other shapes": (("quickstart", "init_from=picture_encoder={w}/rotation"), 2, "there and of shape"),
    "init_from brings its words": (
        ("quickstart", "init_from=decoder={w}/captioning", "min_word_count=1"),
        2,
        "min_word_count=1 has no effect: decoder of init_from brings what was made with min_word_count=2",
    ),
    "words of a pretrained encoder": (
        (*_TEXTS, "text_model={w}/clip", "min_word_count=1"),
        2,
        "min_word_count=1 has no effect with text_encoder='pretrained'",
    ),
    "width of nothing": (
        ("pretraining_rotation", "weights=none", "picture_encoder=resnet18", "embedding_width=8"),
        2,
        "embedding_width=8 has no effect with picture_encoder='resnet18'",
    ),
    "init_from twice": (("quickstart", f"init_from={_ROTATION},{_ROTATION}"), 2, "is given twice"),
    # models of others
    "language model missing": ((*_GPT2,), 2, "language_model='' is missing"),
    "language model nowhere": ((*_GPT2, "language_model=./no"), 3, "language_model='./no' is neither a folder"),
    "language model a CLIP": ((*_GPT2, "language_model={w}/clip"), 2, "is a 'clip': decoder='gpt2' needs a GPT-2"),
    "language model short": ((*_GPT2, "language_model={w}/gpt2"), 2, "prefix_length=10 and max_tokens=30 are 40"),
    "language model's heads": (
        (*_MAPPED, "decoder=gpt2", "language_model={w}/gpt2", "prefix_length=2", "mapper_heads=32"),
        2,
        "mapper_heads=32 does not divide the width of the decoder's vectors, 16",
    ),
    "text model nowhere": ((*_TEXTS, "text_model=./no"), 3, "text_model='./no' is neither a folder"),
    "text model a GPT-2": ((*_TEXTS, "text_model={w}/gpt2"), 2, "a 'gpt2' is no text encoder such as BERT"),
    "text model no model": ((*_TEXTS, "text_model={w}/empty"), 2, "text_model='{w}/empty': {w}/empty holds no"),
    "captioner model empty": (("pretrained_captioners", "captioner_model="), 2, "captioner_model='' is missing"),
    "captioner model nowhere": (("pretrained_captioners", "captioner_model=./no"), 3, "captioner_model='./no' is"),
    "captioner model a GPT-2": (("pretrained_captioners", "captioner_model={w}/gpt2"), 2, "type 'gpt2', which writes"),
    "captioner's prompt long": ((*_BLIP, "prompt=a" + " dog" * 80), 2, "with max_tokens=30 needs"),
    "captioner's captions long": ((*_BLIP, "max_tokens=99"), 2, "max_tokens=99 needs 100 places, and the model has 64"),
    "captioner's adapters": ((*_BLIP, "finetune=lora", "lora_targets=q_prj"), 2, "has no linear layers 'q_prj'"),
    "captioner's weights": (
        ("pretrained_captioners", "captioner_model={w}/misfit"),
        2,
        "{w}/misfit holds weights of another architecture than its config.json says: 6 of other shapes, such as",
    ),
    "decoding a captioner's prompt": (
        ("decoding", "captioner={w}/foreign", "max_tokens=9", "prompt=a" + " dog" * 80),
        2,
        "with max_tokens=9 needs",
    ),
    "lora rank": (("pretrained_captioners", "finetune=lora", "lora_rank=0"), 2, "lora_rank=0 is out of range"),
    # captions
    "prompt long": (("quickstart", "max_tokens=4", "prompt=a b - c d"), 2, "has 4 words: it must have fewer than"),
    "capdec prompt long": ((*_CAPDEC, "max_tokens=2", "prompt=a red dog"), 2, "has 3 words"),
    "decoding prompt long": ((*_DECODING, "prompt=a" + " red" * 9), 2, "has 10 tokens"),
    "decoding prompt unknown": ((*_DECODING, "prompt=a xylophone"), 2, "the word 'xylophone' is not in the voc"),
    "prompt unknown": (("quickstart", "prompt=a xylophone"), 2, "the word 'xylophone' is not in the voc"),
    "rare words": (("quickstart", "min_word_count=999"), 2, "min_word_count=999 leaves no word"),
    "rare words of pairs": (("matching", "min_word_count=999"), 2, "min_word_count=999 leaves no word"),
    "no row's prompt known": (
        ("decoding_prompts", "captioner={w}/captioning", "max_tokens=10"),
        2,
        "the word 'picture'",
    ),
    "decoding longer": (
        ("decoding", "captioner={w}/captioning", "max_tokens=30"),
        2,
        "max_tokens=30 is more than the 12",
    ),
    "decoding epochs": ((*_DECODING, "epochs=2"), 2, "epochs=2 has no effect"),
    "temperature 0": ((*_DECODING, "decoding=sample", "temperature=0"), 2, "temperature=0.0 is out of range"),
    "text file missing": ((*_CAPDEC, "text_file=no.txt"), 3, "no.txt': there is no such file"),
    "text file empty": ((*_CAPDEC, "text_file={w}/empty.txt"), 2, "holds no caption"),
    "text file not UTF-8": ((*_CAPDEC, "text_file={w}/latin.txt"), 2, "latin.txt:1: is not UTF-8"),
    # noise
    "noise_df": ((*_CAPDEC, "noise=student_t", "noise_df=0"), 2, "noise_df=0.0 is out of range"),
    "noise of another": ((*_CAPDEC, "noise=gaussian", "noise_radius=1"), 2, "'noise_radius' is never asked for"),
    "noise threshold": ((*_DIRECTED, "noise_threshold=1"), 2, "noise_threshold=1.0 is out of range"),
    "mapper heads": ((*_MAPPED, "mapper_heads=3"), 2, "mapper_heads=3 does not divide embedding_width=256"),
    # pictures, texts and pairs
    "micro batch": (("retrieval", "micro_batch_size=4"), 2, "would change the contrastive loss"),
    "retrieval temperature": (("retrieval", "temperature=0"), 2, "temperature=0.0 is out of range"),
    "text heads": (("retrieval", "text_encoder=transformer", "text_heads=3"), 2, "text_heads=3 does not divide"),
    **{
        f"widths {widths!r}": (("matching", f"classifier_widths={widths}"), 2, f"classifier_widths={widths!r} ")
        for widths in ("512-x", "0", "512-256-3", "", "512--2", "1.5")
    },
    "threshold 0": (("matching", "threshold=0"), 2, "threshold=0.0 is out of range"),
    "threshold 1": (("matching", "threshold=1"), 2, "threshold=1.0 is out of range"),
    **{
        f"degrees {degrees!r}": (("pretraining_rotation", f"rotation_degrees={degrees}"), 2, "write two or more diff")
        for degrees in ("nonsense", "10", "", "10,10", "-60,400", "nan,0")
    },
    "mask share": (("pretraining_masked_word", "mask_share=1"), 2, "mask_share=1.0 is out of range"),
    "decoder width": (("pretraining_reconstruction", "picture_decoder_width=0"), 2, "out of range"),
    "crop": (("correspondence", "crop=random"), 2, "crop='random' is not possible"),
    "components": (("correspondence", "pca_components=-1"), 2, "pca_components=-1 is out of range"),
    "more components than numbers": (
        ("correspondence", "weights=none", "pca_components=9999"),
        2,
        "pca_components=9999 reduces nothing",
    ),
    "no masks": (("correspondence_transfer", "weights=none"), 2, "has no instance masks"),
    # what populations fill in
    "start_from": (("quickstart", "start_from=x"), 2, "populations and `vltune rerun` alone"),
    "until_epoch": (("captioning_pbt", "until_epoch=2"), 2, "populations and `vltune rerun` alone"),
    # objectives
    "objectives latency": (("retrieval", "--objectives", "mean_recall,latency_ms"), 2, "measure_latency=true"),
    "objectives grid": (("quickstart", "--objectives", "cider,parameters", "--sampler", "grid"), 2, "a grid needs"),
    "population's trials": (("captioning_pbt", "--trials", "3"), 2, "--trials cannot be said of a population"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_to_do(
    case: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the search was about to start")

    monkeypatch.setattr(searching, "run", never)
    monkeypatch.setattr(cluster, "start", never)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("VLTUNE_LEDGER", raising=False)
    (name, *given), code, words = CASES[case]
    pins = [pin.replace("{w}", str(world)) for pin in given if "=" in pin]
    options = [option for option in given if "=" not in option]
    argv = ["search", name, "--storage", "runs", "--data", str(world / "data"), *options]
    found = main([*argv, "--set", *pins] if pins else argv)
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert words.replace("{w}", str(world)) in line
    assert found == code
    assert not (tmp_path / "runs" / "ledger.db").exists() or not Ledger.of(tmp_path / "runs").searches()


def test_what_fails_in_some_rows_alone_stops_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base row's prompt is unknown to this captioner, another row's is not."""

    class Begun(Exception):
        pass

    def begin(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr(searching, "run", begin)
    monkeypatch.chdir(tmp_path)
    pins = [f"captioner={world / 'prompted'}", "max_tokens=10"]
    with pytest.raises(Begun):
        main(["search", "decoding_prompts", "--storage", "runs", "--data", str(world / "data"), "--set", *pins])
