"""Adapters against their formula, and a loss's reach against the gradients that come of it."""

import pytest
import torch
from torch import nn

from trainables.parts.lora import add_adapters, is_adapter, unreached
from vltune.errors import BadInput

torch.set_num_threads(1)


class Attention(nn.Module):
    """Linear layers under the names that auto looks for, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.spare = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x).tanh() + self.k_proj(x) * self.v_proj(x)


def adapted(**changes: object) -> Attention:
    torch.manual_seed(0)
    model = Attention()
    add_adapters(model, **{"lora_rank": 2, "lora_alpha": 6.0, "lora_dropout": 0.0, "lora_targets": "auto", **changes})  # pyright: ignore[reportArgumentType]
    return model


def test_an_adapter_adds_its_scaled_product_and_starts_at_zero() -> None:
    torch.manual_seed(0)
    plain, model, x = Attention(), adapted(), torch.randn(3, 6)
    torch.testing.assert_close(model(x), plain(x))
    weights = {name: w for name, w in model.named_parameters() if is_adapter(name)}
    assert {name.split(".")[0] for name in weights} == {"q_proj", "v_proj"}
    for weight in weights.values():
        nn.init.normal_(weight)
    down, up = (weights[f"q_proj.lora_{half}.default.weight"] for half in "AB")
    assert (down.shape, up.shape) == ((2, 6), (6, 2))
    torch.testing.assert_close(model.q_proj(x), plain.q_proj(x) + 6.0 / 2 * x @ down.T @ up.T)


def test_adapters_alone_learn() -> None:
    model = adapted(lora_targets="k_proj, spare")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in names} == {"k_proj", "spare"}
    assert all(map(is_adapter, names))


@pytest.mark.parametrize("targets", ["q_prj", "q_proj,w", "", ","])
def test_unknown_layers_are_named(targets: str) -> None:
    with pytest.raises(BadInput, match=r"lora_targets='.*': the model has no linear layers .* q_proj") as caught:
        adapted(lora_targets=targets)
    assert "\n" not in str(caught.value)


def test_a_loss_reaches_what_gets_a_gradient() -> None:
    model = adapted(lora_targets="q_proj,spare")
    loss = model(torch.randn(3, 6)).sum()
    left = unreached(loss, model)
    loss.backward()
    assert {id(p) for p in left} == {id(p) for p in model.parameters() if p.requires_grad and p.grad is None}
    assert {p.shape for p in left} == {(2, 6), (6, 2)}
