"""The tree of modules as text."""

import re

import torch
from torch import nn

from vltune.module_tree import module_tree


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 8), nn.Linear(4, 8, bias=False)
        self.again.weight = self.first.weight
        self.frozen = nn.Sequential(nn.Linear(8, 2).requires_grad_(requires_grad=False), nn.ReLU())
        self.idle = nn.Linear(3, 3)
        self.a_part_whose_name_is_much_too_long_for_its_column = nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[None, dict[str, torch.Tensor]]:
        return None, {"out": self.frozen(self.first(x) + self.again(x))}


def test_every_module_has_a_line_with_its_shape_and_its_parameters() -> None:
    model = Shared()
    text = module_tree(model, lambda: model(torch.zeros(5, 4)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    found = {line.split()[0]: line for line in lines[2:-2]}
    assert [line.split()[0][:20] for line in lines[2:-2]] == [
        *("first", "again", "frozen", "0", "1", "idle", "a_part_whose_name_is"[:20])
    ]
    assert re.fullmatch(r"first +Linear +5 x 8 +40", found["first"])
    assert re.fullmatch(r"again +Linear +5 x 8", found["again"]), "shared: counted once"
    assert re.fullmatch(r"frozen +Sequential +5 x 2 +18  \*", found["frozen"])
    assert re.fullmatch(r"  0 +Linear +5 x 2 +18  \*", found["0"])
    assert re.fullmatch(r"idle +Linear +12", found["idle"]), "it was not called"
    total = sum(p.numel() for p in model.parameters())
    assert lines[-1] == f"{total} parameters, {total - 18} of them learn; * learns nothing"
    assert all(not module._forward_hooks for module in model.modules())
