"""A model's modules as text: a line each, with what comes out of it and how many parameters it has."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

_NAME, _KIND, _SHAPE, _COUNT = 38, 22, 22, 14
"""Widths of the columns: less than 100 letters in all, with what stands at the end."""


def module_tree(model: nn.Module, run: Callable[[], object]) -> str:
    """All modules of a model, indented below those that they are part of.

    A parameter that several modules share counts once, where it first appears: the total is that of ``parameters()``.

    Args:
        model: the model.
        run: lets it work once. What a module gives in its first call is its shape; one that is not called has none.
    """
    shapes: dict[str, str] = {}

    def keep(name: str, output: Any) -> None:
        if name not in shapes and (tensor := _first_tensor(output)) is not None:
            shapes[name] = " x ".join(map(str, tensor.shape))

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in model.named_modules()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    whole, learning = _counts(model)
    lines = [_line("module", "kind", "output", "parameters", ""), "-" * (_NAME + _KIND + _SHAPE + _COUNT)]
    for name, module in model.named_modules():
        if not name:
            continue
        shown = "  " * name.count(".") + name.rpartition(".")[2]
        count = f"{whole[name]:,}" if whole[name] else ""
        frozen = "  *" if whole[name] and not learning[name] else ""
        lines.append(_line(shown, type(module).__name__, shapes.get(name, ""), count, frozen))
    total, trained = whole[""], learning[""]
    ends = f"{total:,} parameters, {trained:,} of them learn"
    return "\n".join([*lines, lines[1], ends + ("; * learns nothing" if trained < total else ""), ""])


def _counts(model: nn.Module) -> tuple[Counter[str], Counter[str]]:
    """Parameters, and those that learn, of each module with all that is in it."""
    whole: Counter[str] = Counter()
    learning: Counter[str] = Counter()
    for full, parameter in model.named_parameters():
        parts = full.split(".")[:-1]
        for depth in range(len(parts) + 1):
            name = ".".join(parts[:depth])
            whole[name] += parameter.numel()
            learning[name] += parameter.numel() if parameter.requires_grad else 0
    return whole, learning


def _line(name: str, kind: str, shape: str, count: str, end: str) -> str:
    texts = [_cut(name, _NAME), _cut(kind, _KIND), _cut(shape, _SHAPE)]
    return f"{texts[0]:<{_NAME}}{texts[1]:<{_KIND}}{texts[2]:<{_SHAPE}}{count:>{_COUNT}}{end}".rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) < width else f"{text[: width - 2]}… "


def _first_tensor(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    elif is_dataclass(output):
        output = [getattr(output, field.name) for field in fields(output)]
    if isinstance(output, Sequence) and not isinstance(output, str):
        return next((found for part in output if (found := _first_tensor(part)) is not None), None)
    return None
