"""Low-rank adapters in somebody else's model, and which of its weights a loss reaches at all."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vltune.errors import BadInput, nearest

AUTO = "auto"
QUERY_AND_VALUE = ("q_proj", "v_proj", "query", "value", "q", "v", "c_attn", "qkv")
"""What the projections that attention compares and sums are called in the models of transformers. The last two are one
matrix with the key's."""

_MARK = ".lora_"


def add_adapters(
    model: nn.Module, *, lora_rank: int, lora_alpha: float, lora_dropout: float, lora_targets: str
) -> None:
    """Puts low-rank adapters beside linear layers (https://arxiv.org/abs/2106.09685); nothing else learns from then on.

    A layer's output grows by ``lora_alpha / lora_rank`` times that of its adapter, which is zero at first.

    Args:
        model: is changed.
        lora_rank: at least 1.
        lora_alpha: above 0.
        lora_dropout: share of an adapter's inputs that are zeroed in training, in [0, 1).
        lora_targets: last parts of the layers' names, ``q_proj,v_proj``; ``auto``: attention's queries and values, as
            in the paper, wherever the model has them.

    Raises:
        BadInput: the model has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import

    there = _linear_layers(model)
    wanted = QUERY_AND_VALUE if lora_targets == AUTO else tuple(filter(None, map(str.strip, lora_targets.split(","))))
    targets = [name for name in wanted if name in there]
    if not targets or (lora_targets != AUTO and len(targets) < len(wanted)):
        unknown = next((name for name in wanted if name not in there), "")
        raise BadInput(
            f"lora_targets={lora_targets!r}: the model has no linear layers {unknown!r}{nearest(unknown, there)}"
        )
    settings: dict[str, Any] = {"r": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
    config = LoraConfig(**settings, target_modules=targets)
    with warnings.catch_warnings():  # GPT-2 keeps its matrices the other way round; peft sees to it, and says so
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model)
    for name, weight in model.named_parameters():
        if is_adapter(name):  # whatever the model's precision: small steps would be lost in a coarser one
            weight.data = weight.data.float()


def is_adapter(name: str) -> bool:
    """Whether a weight of that name belongs to an adapter."""
    return _MARK in name


def unreached(loss: Tensor, model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters on which a loss does not depend: a model may carry layers that a caption never needs."""
    seen: set[Any] = set()
    reached: set[int] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            reached.add(id(step.variable))
        waiting += [following for following, _ in step.next_functions]
    return [p for p in model.parameters() if p.requires_grad and id(p) not in reached]


def _linear_layers(model: nn.Module) -> Sequence[str]:
    from transformers.pytorch_utils import Conv1D  # slow to import

    kinds = (nn.Linear, Conv1D)
    return sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, kinds)})
