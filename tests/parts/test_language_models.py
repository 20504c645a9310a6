"""GPT-2 as a decoder: against transformers' own forward pass and generation, and its vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch.nn.functional import log_softmax

from trainables.parts.generation import beam, greedy, sample
from trainables.parts.language_models import LanguageModelDecoder, own_vocabulary
from trainables.parts.text import END, NEVER_GENERATED, PADDING, SPECIAL, START, CaptionTokenizer
from vltune.errors import BadInput

torch.set_num_threads(1)
SHIFT = len(SPECIAL)
PREFIX, LONGEST = 4, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.gpt2(tmp_path_factory.mktemp("gpt2"))


def make(described: Path, **changes: Any) -> LanguageModelDecoder:
    settings = {"prefix_length": PREFIX, "max_tokens": LONGEST, "dropout": 0.0, "gradient_checkpointing": False}
    settings |= {"folder": described, "train": True} | changes
    return LanguageModelDecoder((described / "config.json").read_text(), **settings)


def prefixes(count: int = 3) -> torch.Tensor:
    return torch.randn(count, PREFIX, 16, generator=torch.Generator().manual_seed(3))


def reference(folder: Path, prefix: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of transformers' own GPT-2 behind one prefix, at the mark and each of its own tokens."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    words = model.transformer.wte(torch.tensor([[0, *ids]]))
    return log_softmax(model(inputs_embeds=torch.cat((prefix[None], words), 1)).logits[0, PREFIX:], -1)


@torch.no_grad()
def test_it_says_what_transformers_says(folder: Path) -> None:
    decoder, captions = make(folder).eval(), [[17, 40, 99], [200, 33, 7]]
    tokens = torch.tensor([[[START, *(i + SHIFT for i in ids)] for ids in captions]]).repeat(3, 1, 1)
    found = decoder(decoder.prepare(prefixes()), tokens).log_softmax(-1)
    for picture in range(3):
        for caption in range(2):
            expected = reference(folder, prefixes()[picture], captions[caption])
            own = found[picture, caption]
            # The mark ends a caption: our end takes its place.
            torch.testing.assert_close(own[:, END], expected[:, 0])
            torch.testing.assert_close(own[:, SHIFT + 1 :], expected[:, 1:])
            assert own[:, [*NEVER_GENERATED, SHIFT]].max() < -1000


@torch.no_grad()
def test_steps_are_the_whole_pass(folder: Path) -> None:
    decoder = make(folder).eval()
    tokens = torch.tensor([[[START, 22, 45, 104], [START, 205, 38, 12]]]).repeat(3, 1, 1)
    whole = decoder(prefixes(), tokens)
    logits, state = decoder.step(tokens[:, :1, 0], decoder.start(decoder.prepare(prefixes())))
    torch.testing.assert_close(logits[:, 0], whole[:, 0, 0])
    state = decoder.reorder(state, torch.zeros(3, 2, dtype=torch.int64))
    for place in range(1, 4):
        logits, state = decoder.step(tokens[:, :, place], state)
        torch.testing.assert_close(logits, whole[:, :, place])
    swapped = decoder.reorder(state, torch.tensor([[1, 0]] * 3))
    ahead, crossed = (decoder.step(torch.full((3, 2), 50), s)[0] for s in (state, swapped))
    torch.testing.assert_close(crossed, ahead.flip(1))


@torch.no_grad()
def test_greedy_and_beam_captions_are_those_of_transformers(folder: Path) -> None:
    from transformers import GPT2LMHeadModel

    decoder, model = make(folder).eval(), GPT2LMHeadModel.from_pretrained(folder).eval()
    mark = model.transformer.wte(torch.zeros(3, 1, dtype=torch.int64))
    given = torch.cat((prefixes(), mark), 1)
    limits: dict[str, Any] = {"prompt": (), "max_tokens": LONGEST, "pictures": 3, "device": torch.device("cpu")}
    for width, written in ((1, greedy(decoder, prefixes(), **limits)), (3, _beam(decoder, limits))):
        settings = {"num_beams": width, "do_sample": False, "max_new_tokens": LONGEST, "pad_token_id": 299}
        whole = model.generate(inputs_embeds=given, attention_mask=torch.ones(given.shape[:2]), **settings)
        for row, theirs in zip(written.tolist(), whole.tolist(), strict=True):
            expected = [END if i == 0 else i + SHIFT for i in theirs if i != 299]
            assert [i for i in row if i != PADDING] == expected


def _beam(decoder: LanguageModelDecoder, limits: dict[str, Any]) -> torch.Tensor:
    return beam(decoder, prefixes(), beam_width=3, length_penalty=1.0, **limits)


@torch.no_grad()
def test_sampled_captions_do_not_depend_on_the_batch(folder: Path) -> None:
    decoder = make(folder).eval()
    uniforms = torch.rand(3, LONGEST, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"prompt": (30,), "top_k": 0, "temperature": 1.0, "max_tokens": LONGEST}
    whole = sample(decoder, prefixes(), uniforms=uniforms, **settings)
    for row in range(3):
        alone = sample(decoder, prefixes()[row : row + 1], uniforms=uniforms[row : row + 1], **settings)[0]
        assert whole[row, : len(alone)].tolist() == alone.tolist()
        assert alone[0] == 30


def test_attention_sums_to_one_over_the_prefix(folder: Path) -> None:
    from transformers import GPT2LMHeadModel

    decoder = make(folder).eval()
    tokens = torch.tensor([[[START, 22, 45]]]).repeat(3, 1, 1)
    found = decoder.attention(prefixes(), tokens)
    assert found.shape == (3, 1, 3, PREFIX)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 1, 3))
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    words = model.transformer.wte(torch.tensor([[0, 17, 40]]))
    given = torch.cat((prefixes()[1:2], words), 1)
    weights = model(inputs_embeds=given, output_attentions=True).attentions[-1][0].mean(0)[PREFIX:, :PREFIX]
    torch.testing.assert_close(found[1, 0], weights / weights.sum(-1, keepdim=True))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_it_learns_or_stays_as_it_is(folder: Path, *, train: bool, checkpointing: bool) -> None:
    decoder = make(folder, train=train, dropout=0.5, gradient_checkpointing=checkpointing).train()
    memory = prefixes().requires_grad_()
    torch.manual_seed(0)
    one, other = (decoder(memory, torch.tensor([[[START, 22, 45]]]).repeat(3, 1, 1)) for _ in range(2))
    assert torch.equal(one, other) != train  # dropout belongs to what learns
    one.log_softmax(-1)[..., 50].sum().backward()
    assert memory.grad is not None
    assert bool(memory.grad.any())
    learnt = [bool(p.grad is not None and p.grad.any()) for p in decoder.parameters()]
    assert all(learnt) if train else not any(learnt)


def test_it_is_built_without_its_files(folder: Path) -> None:
    known, bare = make(folder).eval(), make(folder, folder=None).eval()
    tokens = torch.tensor([[[START, 22, 45]]]).repeat(3, 1, 1)
    assert not torch.equal(bare(prefixes(), tokens), known(prefixes(), tokens))
    bare.load_state_dict(known.state_dict())
    torch.testing.assert_close(bare(prefixes(), tokens), known(prefixes(), tokens))


def test_its_vocabulary_stands_behind_ours(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(folder), CaptionTokenizer.from_text(own_vocabulary(folder))
    for text in ("a red dog that runs", "A Zebra's ☃!", "<|endoftext|> <pad>"):
        ids = ours.ids([text])[0]
        if "<" not in text:
            assert ids == [i + SHIFT for i in theirs(text)["input_ids"]]
        assert min(ids) > SHIFT  # what is written in a caption is no special token
        assert ours.decode(ids) == text
    encoded = ours.encode(["a red dog"], max_tokens=LONGEST)[0].tolist()
    assert (encoded[0], encoded[-1]) == (START, END)


def test_what_does_not_fit_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"model_type": "bert"}))
    for call, text in (
        (lambda: make(folder, prefix_length=23), r"prefix_length=23 and max_tokens=10 are 33 .* reads 32; lower one"),
        (lambda: own_vocabulary(tmp_path), "tokenizer.json is no byte-level tokenizer"),
        (lambda: make(tmp_path), "is a 'bert': decoder='gpt2' needs a GPT-2"),
        (lambda: make(folder, folder=tiny_models.clip(tmp_path / "clip")), "weights of another architecture|cannot be"),
    ):
        with pytest.raises(BadInput, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
