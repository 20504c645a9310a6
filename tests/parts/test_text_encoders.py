"""The text encoders: padding changes nothing, order does, and every weight learns."""

from typing import Any

import pytest
import torch

from trainables.parts.text import PADDING
from trainables.parts.text_encoder import TextEncoder, freeze_text
from trainables.parts.text_encoders import TEXT_ENCODERS

torch.set_num_threads(1)
SIZES: dict[str, Any] = {
    "words": 20,
    "word_width": 6,
    "text_width": 8,
    "text_layers": 2,
    "text_heads": 2,
    "text_feedforward_width": 12,
    "text_dropout": 0.5,
    "max_tokens": 9,
}
OWN = sorted(TEXT_ENCODERS.keys() - {"pretrained"})
every_encoder = pytest.mark.parametrize("name", OWN)


def build(name: str, **changes: Any) -> TextEncoder:
    torch.manual_seed(0)
    return TEXT_ENCODERS[name](**SIZES | changes)


def tokens(rows: list[list[int]], *, length: int) -> torch.Tensor:
    return torch.tensor([[*row, *[PADDING] * (length - len(row))] for row in rows])


@every_encoder
def test_padding_and_neighbours_change_nothing(name: str) -> None:
    encoder = build(name).eval()
    short, long = [5, 6, 7], [9, 8, 7, 6, 5, 10, 11]
    together = encoder(tokens([short, long], length=9))
    assert together.states.shape == (2, 9, encoder.width)
    assert together.vectors.shape == (2, encoder.width)
    for i, row in enumerate((short, long)):
        alone = encoder(tokens([row], length=len(row)))
        torch.testing.assert_close(alone.vectors[0], together.vectors[i])
        torch.testing.assert_close(alone.states[0], together.states[i, : len(row)])


@every_encoder
def test_the_order_of_words_matters(name: str) -> None:
    encoder = build(name).eval()
    first, second = encoder(torch.tensor([[5, 6, 7], [7, 6, 5]])).vectors
    assert not torch.allclose(first, second, atol=1e-3)


@every_encoder
def test_every_weight_gets_a_gradient_and_padding_none(name: str) -> None:
    encoder = build(name)
    encoder(tokens([[5, 6, 7], [9, 8, 7, 6, 5, 10, 11]], length=9)).vectors.square().sum().backward()
    for parameter, weight in encoder.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.abs().sum() > 0, parameter
    assert encoder.embedding.weight.grad is not None
    assert not encoder.embedding.weight.grad[PADDING].any()
    assert not encoder.embedding.weight[PADDING].any()


@every_encoder
def test_dropout_acts_in_training_only_and_never_where_frozen(name: str) -> None:
    encoder, read = build(name), torch.tensor([[5, 6, 7]])
    assert not torch.equal(encoder(read).vectors, encoder(read).vectors)
    frozen = freeze_text(encoder).train()
    assert torch.equal(frozen(read).vectors, frozen(read).vectors)
    assert not any(p.requires_grad for p in frozen.parameters())


@every_encoder
def test_weights_do_not_depend_on_dropout(name: str) -> None:
    dry, wet = build(name, text_dropout=0.0).state_dict(), build(name).state_dict()
    assert dry.keys() == wet.keys()
    assert all(torch.equal(dry[key], wet[key]) for key in dry)


def test_a_recurrent_vector_is_the_state_of_the_last_word() -> None:
    encoder = build("lstm").eval()
    found = encoder(tokens([[5, 6, 7], [5, 6, 7, 8, 9]], length=6))
    assert torch.equal(found.vectors[0], found.states[0, 2])
    assert torch.equal(found.vectors[1], found.states[1, 4])


def test_a_transformer_vector_is_the_mean_of_its_states() -> None:
    encoder = build("transformer").eval()
    found = encoder(tokens([[5, 6, 7], [5, 6, 7, 8, 9]], length=6))
    torch.testing.assert_close(found.vectors[0], found.states[0, :3].mean(0))
    torch.testing.assert_close(found.vectors[1], found.states[1, :5].mean(0))


def test_the_studys_mlp_has_1024_inputs() -> None:
    encoder = build("mlp", word_width=32, text_width=512, max_tokens=32, text_dropout=0.0)
    found = encoder(tokens([[5, 6, 7]], length=4))
    row = torch.zeros(32, 32)
    row[:3] = encoder.embedding.weight[[5, 6, 7]]
    dense = dict(encoder.named_parameters())
    wanted = (dense["dense.0.weight"] @ row.flatten() + dense["dense.0.bias"]).relu()
    assert dense["dense.0.weight"].shape == (512, 1024)
    torch.testing.assert_close(found.vectors[0], wanted)
    torch.testing.assert_close(found.states, wanted.expand(1, 4, 512))


def test_shapes_are_checked() -> None:
    with pytest.raises(Exception, match="tokens"):
        build("gru")(torch.tensor([5, 6]))
