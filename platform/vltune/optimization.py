"""Optimizers, learning-rate schedules and weight penalties, as the training loop uses them."""

import math
from collections.abc import Sequence

import torch

from vltune.checkpoints import Corrupt
from vltune.configuration import TrialConfig
from vltune.errors import BadInput

State = dict[str, torch.Tensor]


def build_optimizer(model: torch.nn.Module, config: TrialConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the trainable parameters, fused; only matrices decay, not biases, norms and scales."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trainable if p.dim() > 1], [p for p in trainable if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def learning_rate_factor(config: TrialConfig, *, step: int, total_steps: int) -> float:
    """What the learning rate is multiplied by at a step counted from 0.

    ``cosine`` falls from 1 to 0 along half a cosine (https://arxiv.org/abs/1608.03983, no restarts), ``inverse_sqrt``
    with 1 / sqrt(step) from its peak (https://arxiv.org/abs/1706.03762); both rise linearly first. ``plateau`` is
    constant here: what it multiplies by is the loop's, because it hangs on the metric.
    """
    if config.schedule in ("constant", "plateau"):
        return 1.0
    warmup = max(1, round(config.warmup_fraction * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "inverse_sqrt":
        return math.sqrt(warmup / (step + 1))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def penalised_weights(model: torch.nn.Module, config: TrialConfig) -> list[torch.Tensor]:
    """The trainable matrices that the L1 and L2 penalties see.

    Raises:
        BadInput: ``penalty_part`` names no part of the model.
    """
    part = model
    if config.penalty_part != "all":
        parts = dict(model.named_children())
        if config.penalty_part not in parts:
            raise BadInput(f"penalty_part={config.penalty_part!r} is no part of the model: all, {', '.join(parts)}.")
        part = parts[config.penalty_part]
    return [p for p in part.parameters() if p.requires_grad and p.dim() > 1]


@torch.no_grad()
def add_penalties(weights: Sequence[torch.Tensor], *, l1: float, l2: float) -> None:
    """Adds the gradient of ``l1 * sum |w| + l2 * sum w^2`` to the gradients."""
    for weight in weights:
        if weight.grad is None:
            continue
        if l1:
            weight.grad.add_(weight.sign(), alpha=l1)
        if l2:
            weight.grad.add_(weight, alpha=2 * l2)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> State:
    """The optimizer's state as flat names, ``INDEX.KIND``, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{kind}": value for index, entry in state.items() for kind, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: State) -> None:
    """Puts a saved state back.

    Raises:
        Corrupt: the state belongs to other parameters.
    """
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, kind = name.partition(".")
        entries.setdefault(int(index), {})[kind] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if entries and max(entries) >= len(parameters):
        raise Corrupt(f"the optimizer's state is of more than the {len(parameters)} parameters here")
    for index, entry in entries.items():
        wrong = [kind for kind, value in entry.items() if value.dim() and value.shape != parameters[index].shape]
        if wrong:
            raise Corrupt(f"the optimizer's state {index}.{wrong[0]} does not fit its parameter")
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
