"""Draws against the distribution that the library's own warpers leave."""

import pytest
import torch

from trainables.parts.drawn_tokens import Drawing

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(0, 1.0, 1.0), (5, 1.0, 0.7), (0, 0.6, 1.3), (7, 0.8, 1.0), (1, 1.0, 1.0)]
)
def test_draws_follow_the_distribution_of_the_librarys_own_warpers(
    top_k: int, top_p: float, temperature: float
) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)) * 2
    expected = TemperatureLogitsWarper(temperature)(torch.zeros(1, 1), scores)
    if top_k:
        expected = TopKLogitsWarper(top_k)(torch.zeros(1, 1), expected)
    expected = TopPLogitsWarper(top_p)(torch.zeros(1, 1), expected).softmax(-1)[0]
    count = 5000
    uniforms = (torch.arange(count) / count)[:, None].expand(-1, 3)
    draw = Drawing(uniforms, start=4, top_k=top_k, top_p=top_p, temperature=temperature)
    drawn = draw(torch.zeros(count, 6, dtype=torch.long), scores.expand(count, -1))
    assert torch.equal(drawn.isfinite().sum(-1), torch.ones(count, dtype=torch.long))
    shares = torch.bincount(drawn.argmax(-1), minlength=40) / count
    torch.testing.assert_close(shares, expected, rtol=0, atol=2 / count)


def test_each_place_of_a_caption_has_its_own_draw() -> None:
    uniforms = torch.tensor([[0.0, 0.999]])
    draw = Drawing(uniforms, start=3, top_k=0, top_p=1.0, temperature=1.0)
    scores = torch.tensor([[2.0, 1.0, 0.0]])
    chosen = [draw(torch.zeros(1, length, dtype=torch.long), scores).argmax().item() for length in (3, 4)]
    assert chosen == [0, 2]
