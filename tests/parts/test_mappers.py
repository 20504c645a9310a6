"""Mappers: shapes, what a prefix depends on, and their sizes."""

import pytest
import torch
import torch.nn.functional as F

from trainables.parts.mappers import MAPPERS, MlpMapper, build_mapper
from vltune.errors import BadInput

torch.set_num_threads(1)
SIZES = {"width": 6, "prefix_length": 3, "prefix_width": 8, "mapper_layers": 2, "mapper_heads": 4}
every_mapper = pytest.mark.parametrize("name", MAPPERS)


def rows() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@every_mapper
def test_each_embedding_has_a_prefix_of_its_own(name: str) -> None:
    torch.manual_seed(0)
    mapper = build_mapper(name, **SIZES)
    prefix = mapper(rows())
    assert prefix.shape == (5, 3, 8)
    torch.testing.assert_close(mapper(rows()[1:2]), prefix[1:2])
    assert (prefix[0] - prefix[1]).abs().max() > 1e-3


@every_mapper
def test_every_weight_learns(name: str) -> None:
    mapper = build_mapper(name, **SIZES)
    mapper(rows()).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in mapper.parameters())


def test_the_mlp_is_that_of_clipcap() -> None:
    torch.manual_seed(0)
    mapper = MlpMapper(width=6, prefix_length=3, prefix_width=8)
    (w1, b1), (w2, b2) = ((m.weight, m.bias) for m in mapper.layers if isinstance(m, torch.nn.Linear))
    assert w1.shape == (12, 6)
    torch.testing.assert_close(mapper(rows()), (F.linear(torch.tanh(F.linear(rows(), w1, b1)), w2, b2)).view(5, 3, 8))


@pytest.mark.parametrize(("layers", "heads"), [(4, 2), (1, 8)])
def test_layers_and_heads_are_what_was_asked_for(layers: int, heads: int) -> None:
    mapper = build_mapper("transformer", **(SIZES | {"mapper_layers": layers, "mapper_heads": heads}))
    of_a_layer = 4 * 8 * 8 + 4 * 8 + 2 * (8 * 16) + 16 + 8 + 2 * 2 * 8
    ends = 6 * 24 + 24 + 24
    assert sum(p.numel() for p in mapper.parameters()) == ends + layers * of_a_layer


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(BadInput, match=r"mapper_heads=3 does not divide .* 8; change one") as caught:
        build_mapper("transformer", **(SIZES | {"mapper_heads": 3}))
    assert "\n" not in str(caught.value)
