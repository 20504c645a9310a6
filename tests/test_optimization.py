"""Optimizers, schedules and penalties, against hand-made numbers and their definitions."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from vltune.checkpoints import Corrupt
from vltune.configuration import TrialConfig
from vltune.errors import BadInput
from vltune.optimization import (
    add_penalties,
    build_optimizer,
    learning_rate_factor,
    load_optimizer,
    optimizer_tensors,
    penalised_weights,
)

torch.set_num_threads(1)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def factors(total: int, **fields: Any) -> list[float]:
    config = TrialConfig.from_fields(fields)
    return [learning_rate_factor(config, step=step, total_steps=total) for step in range(total)]


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    network(torch.ones(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_flat_schedules(schedule: str) -> None:
    assert factors(5, schedule=schedule, warmup_fraction=0.5) == [1.0] * 5


def test_cosine_rises_then_falls_to_almost_nothing() -> None:
    found = factors(6, schedule="cosine", warmup_fraction=1 / 3)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert factors(1, schedule="cosine") == [1.0]


def test_inverse_sqrt_peaks_where_the_warm_up_ends() -> None:
    found = factors(16, schedule="inverse_sqrt", warmup_fraction=0.25)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4:] == pytest.approx([math.sqrt(4 / n) for n in range(5, 17)])
    assert found[15] == pytest.approx(0.5)


def test_no_warm_up_starts_at_the_top() -> None:
    for schedule in ("cosine", "inverse_sqrt"):
        found = factors(50, schedule=schedule, warmup_fraction=0.0)
        assert found[0] == 1.0
        assert found == sorted(found, reverse=True)


def test_first_adamw_step_is_the_rate_and_matrices_alone_decay() -> None:
    network = model()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = build_optimizer(network, TrialConfig(optimizer="adamw", learning_rate=0.01, weight_decay=0.5))
    for p in network.parameters():
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    for name, p in network.named_parameters():
        decayed = before[name] * (1 - 0.01 * 0.5) if p.dim() > 1 else before[name]
        torch.testing.assert_close(p.detach(), decayed - 0.01)


def test_adam_adds_the_decay_to_the_gradient() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, -2.0)
    optimizer = build_optimizer(network, TrialConfig(optimizer="adam", learning_rate=0.01, weight_decay=1.0))
    network.weight.grad = torch.ones(1, 1)  # with the decay, 1 - 2 = -1: the weight rises
    optimizer.step()
    assert network.weight.item() == pytest.approx(-1.99)


def test_frozen_weights_are_not_the_optimizers() -> None:
    network = model()
    network[0].requires_grad_(requires_grad=False)
    optimizer = build_optimizer(network, TrialConfig())
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for p in network.parameters() if p.requires_grad}
    assert penalised_weights(network, TrialConfig()) == [network[2].weight]


def test_penalties_equal_autograd() -> None:
    network = model()
    weights = penalised_weights(network, TrialConfig(penalty_part="all"))
    assert [w.shape for w in weights] == [(4, 3), (2, 4)]
    (sum(0.3 * w.abs().sum() + 0.7 * w.square().sum() for w in weights)).backward()  # pyright: ignore
    wanted = [w.grad.clone() for w in weights if w.grad is not None]
    for w in weights:
        w.grad = torch.zeros_like(w)
    add_penalties(weights, l1=0.3, l2=0.7)
    torch.testing.assert_close([w.grad for w in weights], wanted)


def test_penalty_of_a_part_that_is_not_there() -> None:
    assert penalised_weights(model(), TrialConfig(penalty_part="2"))[0].shape == (2, 4)
    with pytest.raises(BadInput, match="penalty_part='nose' is no part of the model: all, 0, 1, 2"):
        penalised_weights(model(), TrialConfig(penalty_part="nose"))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_optimizer_that_was_stored_goes_on_as_if_nothing_was(kind: str) -> None:
    first, second = model(), model()
    config = TrialConfig(optimizer=kind, weight_decay=0.1)
    optimizer = build_optimizer(first, config)
    for _ in range(3):
        step(first, optimizer)
    stored = {name: value.clone() for name, value in optimizer_tensors(optimizer).items()}
    assert {name.partition(".")[2] for name in stored} == {"step", "exp_avg", "exp_avg_sq"}
    second.load_state_dict(first.state_dict())
    restored = build_optimizer(second, config)
    load_optimizer(restored, stored)
    for network, its in ((first, optimizer), (second, restored)):
        for _ in range(2):
            step(network, its)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_other_parameters_is_refused() -> None:
    network = model()
    optimizer = build_optimizer(network, TrialConfig())
    step(network, optimizer)
    stored = optimizer_tensors(optimizer)
    with pytest.raises(Corrupt, match="does not fit its parameter"):
        load_optimizer(optimizer, stored | {"1.exp_avg": torch.zeros(9, 9)})
    with pytest.raises(Corrupt, match="more than the 6 parameters"):
        load_optimizer(optimizer, stored | {"77.exp_avg": torch.zeros(2)})
