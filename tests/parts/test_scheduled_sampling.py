"""Scheduled sampling against a loop over single steps of the decoder."""

import math

import pytest
import torch
from torch import Tensor

from trainables.parts.decoder import Decoder
from trainables.parts.decoders import DECODERS, build_decoder
from trainables.parts.scheduled_sampling import draw_replaced, with_own_words
from trainables.parts.text import END, NEVER_GENERATED, PADDING, START
from vltune.contract import Draws

WORDS = 12
decoders = pytest.mark.parametrize("name", DECODERS)


def make(name: str, *, dropout: float = 0.0) -> Decoder:
    torch.manual_seed(0)
    return build_decoder(
        name,
        width=6,
        words=WORDS,
        max_tokens=8,
        embedding_width=8,
        hidden_width=8,
        attention_width=8,
        encoder_layers=1,
        decoder_layers=2,
        heads=2,
        feedforward_width=16,
        dropout=dropout,
        activation="relu",
        positions="learned",
        gradient_checkpointing=False,
    )


def tokens(samples: int = 4, captions: int = 3) -> Tensor:
    """Captions of 1 to 5 words, and here and there none at all."""
    generator = torch.Generator().manual_seed(1)
    made = torch.full((samples, captions, 7), PADDING)
    for i in range(samples):
        for j in range(captions - i % 2):
            words = 1 + (2 * i + j) % 5
            made[i, j, 0], made[i, j, words + 1] = START, END
            made[i, j, 1 : words + 1] = torch.randint(5, WORDS, (words,), generator=generator)
    return made


def features(samples: int = 4) -> Tensor:
    return torch.randn(samples, 5, 6, generator=torch.Generator().manual_seed(2))


@decoders
def test_own_words_are_the_likeliest_after_the_words_of_the_caption(name: str) -> None:
    decoder = make(name).eval()
    memory, given = decoder.prepare(features()), tokens()
    replaced = draw_replaced(given, "abcd", Draws(0, 1), probability=0.6)
    found = with_own_words(decoder, memory, given[:, :, :-1], replaced)
    expected = given[:, :, :-1].clone()
    for place in replaced.tolist():
        i, j, t = place // 18, place // 6 % 3, place % 6
        state = decoder.start(decoder.prepare(features()[i : i + 1]))
        logits = torch.zeros(0)
        for word in given[i, j, :t]:
            logits, state = decoder.step(word.reshape(1, 1), state)
        allowed = [w for w in range(WORDS) if w not in (*NEVER_GENERATED, END)]
        expected[i, j, t] = max(allowed, key=lambda w: logits[0, 0, w].item())
    assert torch.equal(found, expected)
    changed = (found != given[:, :, :-1]).flatten().nonzero().squeeze(1)
    assert len(changed) > 3
    assert {*changed.tolist()} <= {*replaced.tolist()}


def test_words_alone_are_replaced_and_all_of_them_at_probability_one() -> None:
    given = tokens()
    every = {*draw_replaced(given, "abcd", Draws(0, 1), probability=1.0).tolist()}
    read = given[:, :, :-1].flatten()
    assert every == {i for i, word in enumerate(read.tolist()) if word not in (PADDING, START, END)}
    assert len(draw_replaced(given, "abcd", Draws(0, 1), probability=0.0)) == 0
    assert len(draw_replaced(given[:0], "", Draws(0, 1), probability=1.0)) == 0


def test_the_share_of_replaced_words_is_the_probability() -> None:
    given = tokens().repeat(100, 1, 1)
    words = (given[:, :, 1:-1] >= len((*NEVER_GENERATED, END))).sum().item()
    for probability in (0.1, 0.5):
        count = len(draw_replaced(given, [f"s{i}" for i in range(400)], Draws(0, 1), probability=probability))
        # Four standard deviations.
        assert abs(count - probability * words) < 4 * math.sqrt(words * probability * (1 - probability))


def test_draws_belong_to_the_sample_and_the_epoch() -> None:
    given = tokens()

    def of(which: list[int], epoch: int, width: int = 7) -> list[list[tuple[int, ...]]]:
        places = draw_replaced(
            given[which, :, :width], ["abcd"[i] for i in which], Draws(0, epoch), probability=0.5
        ).tolist()
        rows = [
            [divmod(p % (3 * (width - 1)), width - 1) for p in places if p // (3 * (width - 1)) == i]
            for i in range(len(which))
        ]
        return [*rows]

    together = of([0, 1, 2, 3], 1)
    assert [of([i], 1)[0] for i in range(4)] == together
    assert of([3, 1], 1) == [together[3], together[1]]
    # Padding that other captions of a batch bring does not count.
    shortest = [i for i in range(4) if not given[i, :, 6].any()]
    assert shortest
    assert of(shortest, 1, width=6) == [together[i] for i in shortest]
    assert of([0, 1, 2, 3], 2) != together


@decoders
def test_the_first_pass_leaves_no_trace(name: str) -> None:
    """No gradient, no dropout, no draw of the global generator; and weights that it rounded still learn."""
    decoder = make(name, dropout=0.5).train()
    given, replaced = tokens(), draw_replaced(tokens(), "abcd", Draws(0, 1), probability=1.0)
    memory = make(name, dropout=0.5).eval().prepare(features())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = with_own_words(decoder, memory, given[:, :, :-1], replaced)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in decoder.modules())
    assert not found.requires_grad
    assert torch.equal(found, with_own_words(decoder.eval(), memory, given[:, :, :-1], replaced))
    assert not any(module.training for module in decoder.modules())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory = decoder.prepare(features())
        inputs = with_own_words(decoder, memory, given[:, :, :-1], replaced)
        decoder(memory, inputs).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
