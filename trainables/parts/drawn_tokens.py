"""Sampling for somebody else's ``generate``: tokens are drawn by numbers that are given."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Drawing:
    """Chooses each token by given draws: behind it, greedy decoding samples, and batches do not matter."""

    def __init__(
        self,
        uniforms: Float[Tensor, "pictures max_tokens"],
        *,
        start: int,
        top_k: int,
        top_p: float,
        temperature: float,
    ) -> None:
        """Settings of the draws.

        Args:
            uniforms: draws from [0, 1), a row for each picture and a column for each place in the caption.
            start: tokens before the caption.
            top_k: how many of the likeliest tokens there are to draw from (https://arxiv.org/abs/1805.04833); 0: all.
            top_p: draws from the fewest likeliest tokens whose probabilities sum to at least this
                (https://arxiv.org/abs/1904.09751); above 0, 1 draws from all.
            temperature: what logits are divided by first, above 0.
        """
        self._uniforms, self._start = uniforms, start
        self._top_k, self._top_p, self._temperature = top_k, top_p, temperature

    def __call__(
        self, input_ids: Int[Tensor, "pictures places"], scores: Float[Tensor, "pictures words"]
    ) -> Float[Tensor, "pictures words"]:
        """Scores that leave the drawn token alone."""
        # As in our own decoders: in double precision, so that rounding, which differs between batches, hardly ever
        # moves a draw across a border.
        wide = scores.to(torch.float32 if scores.device.type == "mps" else torch.float64) / self._temperature
        best, words = wide.topk(min(self._top_k, wide.shape[-1]) if self._top_k else wide.shape[-1])
        borders = best.softmax(-1).cumsum(-1)
        # A token belongs to the nucleus if those before it are not yet enough; without one all do.
        most = borders[:, :-1] < self._top_p if self._top_p < 1 else torch.ones_like(borders[:, :-1])
        last = most.sum(-1, keepdim=True).long()
        draw = self._uniforms[:, input_ids.shape[1] - self._start, None].to(wide) * borders.gather(1, last)
        chosen = torch.searchsorted(borders[:, :-1].contiguous(), draw, right=True).minimum(last)
        return torch.full_like(scores, -torch.inf).scatter(1, words.gather(1, chosen), 0.0)
