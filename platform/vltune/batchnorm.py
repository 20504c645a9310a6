"""Batch normalisation over the batches of all workers, where torch's own does not run."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Makes every batch normalisation of a model see the samples of all workers; names in its state dict stay.

    torch's ``SyncBatchNorm`` on GPUs; it and DDP refuse it on CPUs, which get the same arithmetic here.
    """
    for name, child in model.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_batch_norm(child, device)
        elif device.type == "cuda":
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            child.__class__ = _SyncBatchNorm


class _SyncBatchNorm(_BatchNorm):
    """Mean and variance from sums over all workers, whose shares may differ in size."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if not self.training:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.to(torch.promote_types(input.dtype, torch.float32))  # bf16 cannot even count the samples
        ones = torch.full((1,), values.numel() / values.shape[1], dtype=values.dtype, device=values.device)
        # Twice: sums of squares around a mean that is not yet known cancel in float32.
        total, count = _sum_over_workers(torch.cat([values.sum(axes), ones])).split([values.shape[1], 1])
        mean = total / count
        centred = values - mean.view(shape)
        variance = _sum_over_workers(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach(), count)
        output = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.num_batches_tracked is not None, "running statistics are kept together with their count"
        assert self.running_mean is not None, "running statistics are kept together"
        assert self.running_var is not None, "running statistics are kept together"
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), momentum)


class _Sum(torch.autograd.Function):
    """What every worker gets depends on what each gave: so does the gradient."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:  # noqa: ARG004 (torch's signature)
        total = given.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0].contiguous())


def _sum_over_workers(given: Tensor) -> Tensor:
    summed = _Sum.apply(given)
    assert isinstance(summed, Tensor), "apply is not typed"
    return summed
