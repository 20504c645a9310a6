"""Every decoder: one step at a time equals all at once, and small cells equal PyTorch's own."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.parts.decoder import Decoder
from trainables.parts.decoders import DECODERS, build_decoder
from trainables.parts.recurrent import gru, lstm
from trainables.parts.transformer import Attention, SinusoidalPositions
from vltune.errors import BadInput, NotFound

PICTURES, CAPTIONS, TOKENS, POSITIONS, WIDTH, WORDS = 3, 2, 6, 5, 7, 11
KINDS = [
    (name, positions) for name in DECODERS for positions in ("learned", "sinusoidal")[: 1 + (name == "transformer")]
]
kinds = pytest.mark.parametrize(("name", "positions"), KINDS)


def make(name: str, positions: str = "learned", **changes: Any) -> Decoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "width": WIDTH,
        "words": WORDS,
        "max_tokens": TOKENS,
        "embedding_width": 12,
        "hidden_width": 10,
        "attention_width": 9,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "heads": 3,
        "feedforward_width": 16,
        "dropout": 0.0,
        "activation": "gelu",
        "positions": positions,
        "gradient_checkpointing": False,
    }
    return build_decoder(name, **(settings | changes)).double()


def features() -> Tensor:
    return torch.randn(PICTURES, POSITIONS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(4, WORDS, (PICTURES, CAPTIONS, TOKENS), generator=generator)


@kinds
def test_steps_equal_the_pass_over_whole_captions(name: str, positions: str) -> None:
    decoder = make(name, positions)
    memory = decoder.prepare(features())
    expected = decoder(memory, tokens())
    state = decoder.reorder(decoder.start(memory), torch.zeros(PICTURES, CAPTIONS, dtype=torch.int64))
    for t in range(TOKENS):
        logits, state = decoder.step(tokens()[:, :, t], state)
        torch.testing.assert_close(logits, expected[:, :, t])


@kinds
def test_reordered_rows_go_on_from_the_rows_they_came_from(name: str, positions: str) -> None:
    decoder = make(name, positions)
    memory = decoder.prepare(features())
    state = decoder.reorder(decoder.start(memory), torch.zeros(PICTURES, CAPTIONS, dtype=torch.int64))
    for t in range(2):
        _, state = decoder.step(tokens()[:, :, t], state)
    source = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]])
    chosen = tokens()[:, :, :3].gather(1, source[:, :, None].expand(-1, -1, 3)).clone()
    chosen[:, :, 2] = torch.tensor([4, 5, 6])
    logits, _ = decoder.step(chosen[:, :, 2], decoder.reorder(state, source))
    torch.testing.assert_close(logits, decoder(memory, chosen)[:, :, 2])


@kinds
def test_each_picture_and_caption_stands_alone_and_sees_no_later_token(name: str, positions: str) -> None:
    decoder = make(name, positions)
    together = decoder(decoder.prepare(features()), tokens())
    for picture in range(PICTURES):
        memory = decoder.prepare(features()[picture : picture + 1])
        for caption in range(CAPTIONS):
            for length in (1, 3):
                alone = decoder(memory, tokens()[picture, caption, :length][None, None])
                torch.testing.assert_close(alone[0, 0], together[picture, caption, :length])


@kinds
def test_attention_is_a_distribution_over_the_positions_and_matters(name: str, positions: str) -> None:
    decoder = make(name, positions)
    weights = decoder.attention(decoder.prepare(features()), tokens())
    assert weights.shape == (PICTURES, CAPTIONS, TOKENS, POSITIONS)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert weights.std() > 0
    one_position = decoder.attention(decoder.prepare(features()[:, :1]), tokens())
    torch.testing.assert_close(one_position, torch.ones_like(one_position))


@kinds
def test_every_parameter_gets_a_gradient(name: str, positions: str) -> None:
    decoder = make(name, positions, dropout=0.3)
    inputs = features().requires_grad_()
    decoder(decoder.prepare(inputs), tokens()).logsumexp(-1).square().sum().backward()
    assert inputs.grad is not None
    still = [key for key, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@kinds
def test_gradient_checkpointing_changes_no_gradient(name: str, positions: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        decoder = make(name, positions, dropout=0.3, gradient_checkpointing=checkpointing)
        torch.manual_seed(3)
        decoder(decoder.prepare(features()), tokens()).square().sum().backward()
        gradients.append([p.grad for p in decoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_near_the_full_one(name: str, positions: str, dtype: torch.dtype) -> None:
    decoder = make(name, positions).float()
    with torch.autocast("cpu", dtype=dtype):
        memory = decoder.prepare(features().float())
        logits = decoder(memory, tokens())
        state = decoder.reorder(decoder.start(memory), torch.zeros(PICTURES, CAPTIONS, dtype=torch.int64))
        for t in range(TOKENS):
            stepped, state = decoder.step(tokens()[:, :, t], state)
    expected = decoder(decoder.prepare(features().float()), tokens())
    assert (logits - expected).abs().max() < 0.1
    assert (stepped - expected[:, :, -1]).abs().max() < 0.1
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize(("cell", "theirs"), [(lstm, nn.LSTMCell), (gru, nn.GRUCell)])
def test_cells_equal_those_of_pytorch(cell: Any, theirs: type[nn.Module]) -> None:
    torch.manual_seed(4)
    reference: Any = theirs(5, 4)
    x, hidden, carry = torch.randn(3, 5), torch.randn(3, 4), torch.randn(3, 4)
    inputs = nn.functional.linear(x, reference.weight_ih, reference.bias_ih)
    recurrent = nn.functional.linear(hidden, reference.weight_hh, reference.bias_hh)
    if cell is gru:
        torch.testing.assert_close(cell(inputs, recurrent, hidden)[0], reference(x, hidden))
    else:
        # PyTorch has the gates in the order in, forget, candidate, out.
        i, f, g, o = (inputs + recurrent).chunk(4, -1)
        ours = cell(torch.cat((i, f, o, g), -1), torch.zeros(3, 16), carry)
        torch.testing.assert_close(ours, reference(x, (hidden, carry)))


def test_additive_attention_by_hand() -> None:
    decoder: Any = make("gru")
    memory = decoder.prepare(features())
    query = torch.randn(PICTURES, 1, 9, dtype=torch.float64)
    for picture in range(PICTURES):
        scores = [decoder.score.weight[0] @ torch.tanh(query[picture, 0] + key) for key in memory.keys[picture]]
        torch.testing.assert_close(decoder._look(query, memory.keys)[picture, 0], torch.stack(scores).softmax(0))


def test_attention_equals_that_of_pytorch() -> None:
    torch.manual_seed(5)
    ours, theirs = Attention(12, heads=3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key_value.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key_value.bias)))
    theirs.out_proj = ours.out  # pyright: ignore[reportAttributeAccessIssue]
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 6, 12)
    expected, weights = theirs(x, memory, memory)
    torch.testing.assert_close(ours(x, ours.keys_values(memory)), expected)
    torch.testing.assert_close(ours.weights(x, ours.keys_values(memory)[0]), weights)


def test_sinusoidal_positions_of_the_paper() -> None:
    table = SinusoidalPositions(9, 5)(torch.arange(9))
    assert table.shape == (9, 5)
    slow, slower = 4 / 10_000 ** (2 / 5), 4 / 10_000 ** (4 / 5)
    by_hand = [math.sin(4), math.cos(4), math.sin(slow), math.cos(slow), math.sin(slower)]
    torch.testing.assert_close(table[4], torch.tensor(by_hand))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_caption_beyond_the_positions_is_an_error(positions: str) -> None:
    decoder = make("transformer", positions)
    memory = decoder.prepare(features())
    with pytest.raises(BadInput, match="caption of 7 tokens is too long for max_tokens=6"):
        decoder(memory, torch.cat((tokens(), tokens()[:, :, :1]), 2))
    state = decoder.start(memory)
    for _ in range(TOKENS):
        _, state = decoder.step(tokens()[:, :, 0], state)
    with pytest.raises(BadInput, match="caption of 7 tokens"):
        decoder.step(tokens()[:, :, 0], state)


def test_unknown_names() -> None:
    with pytest.raises(NotFound, match="did you mean 'lstm'"):
        make("lsmt")
    with pytest.raises(NotFound, match="unknown positions 'learnt'"):
        make("transformer", "learnt")
