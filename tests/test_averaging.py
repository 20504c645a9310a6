"""The moving average of weights, against its definition."""

from pathlib import Path

import pytest
import torch
from families import Line, LineConfig
from torch.optim.optimizer import register_optimizer_step_post_hook

from vltune import checkpoints
from vltune.averaging import WeightAverage
from vltune.checkpoints import Corrupt
from vltune.errors import BadInput
from vltune.runtime import LocalRuntime
from vltune.train import Trial, fit


def test_it_is_the_sum_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    average, expected = WeightAverage([weight], decay=0.5), torch.tensor([1.0, -2.0])
    for step in range(1, 6):
        with torch.no_grad():
            weight.add_(1.0)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    with average.in_place():
        torch.testing.assert_close(weight.detach(), expected)
    torch.testing.assert_close(weight.detach(), torch.tensor([6.0, 3.0]))


def test_what_is_evaluated_and_kept_is_the_average(tmp_path: Path) -> None:
    steps: list[torch.Tensor] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        steps.append(optimizer.param_groups[0]["params"][0].detach().clone())

    handle = register_optimizer_step_post_hook(keep)
    config = LineConfig(epochs=1, batch_size=2, ema_decay=0.9)
    torch.manual_seed(config.seed)
    expected = Line(config, {}).picture_encoder.weight.detach().clone()
    try:
        fit(Trial("t", Line, config, tmp_path), LocalRuntime(cache=str(tmp_path)))
    finally:
        handle.remove()
    for step, weight in enumerate(steps, start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    folder = next((tmp_path / "checkpoints").iterdir())
    stored = checkpoints.read_tensors(folder / checkpoints.MODEL)["picture_encoder.weight"]
    torch.testing.assert_close(stored, expected)
    assert not torch.allclose(stored, steps[-1])


def test_no_other_model_goes_on_from_it() -> None:
    one = WeightAverage([torch.zeros(3)], decay=0.5)
    with pytest.raises(Corrupt, match="do not fit the model at weight 0"):
        WeightAverage([torch.zeros(4)], decay=0.5).restore(one.raw())


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decay_has_its_range(decay: float) -> None:
    with pytest.raises(BadInput, match="ema_decay"):
        LineConfig(ema_decay=decay)
