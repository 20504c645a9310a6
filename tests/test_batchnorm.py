"""Synchronised batch normalisation against torch's own: one worker here, two workers against one for all of a batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from vltune.batchnorm import synchronise_batch_norm

torch.set_num_threads(1)
CPU = torch.device("cpu")
SHARES = (5, 2)


def network(*, momentum: float | None = 0.1, affine: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum, affine=affine)
    layers = (nn.Conv2d(3, 4, 3), nn.Sequential(norm), nn.Flatten(), nn.Linear(4 * 9, 2), nn.BatchNorm1d(2))
    return nn.Sequential(*layers).double()


def pictures() -> torch.Tensor:
    return torch.randn(sum(SHARES), 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3


def train(net: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two batches; gradients of the sum of all outputs' fourth powers, and everything that is left in the module."""
    inputs = inputs.clone().requires_grad_(requires_grad=True)
    for scale in (1.0, 2.0):
        (net(inputs * scale) - 0.3).pow(4).sum().backward()
    assert inputs.grad is not None
    grads = {f"grad {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {"inputs": inputs.grad, **grads, **net.state_dict()}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, options in {"plain": {}, "cumulative": {"momentum": None, "affine": False}}.items():
        net = network(**options)
        synchronise_batch_norm(net, CPU)
        torch.save(train(net, pictures().split(SHARES)[rank]), folder / f"{name}.{rank}.pt")
    far = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0))
    synchronise_batch_norm(far, CPU)
    far(pictures().float().split(SHARES)[rank] + 3000)
    torch.save(far.state_dict(), folder / f"far.{rank}.pt")
    low = nn.Sequential(nn.BatchNorm2d(1))
    synchronise_batch_norm(low, CPU)
    inputs = torch.full((1, 1, 19, 27), 1.0 + rank, dtype=torch.bfloat16)  # 513 values: bf16 would count 512
    output = low(inputs)
    torch.save({"output": output, **low.state_dict()}, folder / f"bf16.{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(work, args=(folder,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return folder


@pytest.mark.parametrize("name", ["plain", "cumulative"])
def test_two_uneven_workers_equal_one(two: Path, name: str) -> None:
    wanted = train(network(**({} if name == "plain" else {"momentum": None, "affine": False})), pictures())
    found = [torch.load(two / f"{name}.{rank}.pt") for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([f["inputs"] for f in found]), wanted["inputs"])
    for key in wanted.keys() - {"inputs"}:
        if key.startswith("grad"):
            torch.testing.assert_close(found[0][key] + found[1][key], wanted[key])
        else:
            torch.testing.assert_close(found[0][key], wanted[key])
            assert torch.equal(found[0][key], found[1][key])


def test_variance_far_from_zero_does_not_cancel(two: Path) -> None:
    wanted = pictures().var((0, 2, 3))  # E[x^2] - E[x]^2 would have lost all digits in float32
    torch.testing.assert_close(torch.load(two / "far.0.pt")["0.running_var"].double(), wanted, atol=0, rtol=1e-3)


def test_bf16_is_summed_in_float32_and_given_back_as_bf16(two: Path) -> None:
    for rank in (0, 1):
        found = torch.load(two / f"bf16.{rank}.pt")
        assert found["output"].dtype == torch.bfloat16
        assert found["0.running_mean"].item() == pytest.approx(0.15)  # a tenth of the mean of 1 and 2
        assert found["0.running_var"].item() == pytest.approx(0.9 + 0.1 * 0.25 * 1026 / 1025)
        torch.testing.assert_close(
            found["output"].float(), torch.full((1, 1, 19, 27), 2.0 * rank - 1), atol=0.01, rtol=0
        )


def test_names_evaluation_and_frozen_layers_stay() -> None:
    plain, changed = network(), network()
    changed[1].eval()
    synchronise_batch_norm(changed, CPU)
    assert list(changed.state_dict()) == list(plain.state_dict())
    assert not changed[1][0].training
    assert changed[4].training
    assert torch.equal(plain.eval()(pictures()), changed.eval()(pictures()))
