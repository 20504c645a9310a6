"""Batch normalisation over the batches of all workers, where torch's own does not run."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Makes every batch normalisation of a model see the samples of all workers; names in its state dict stay.

    torch's ``SyncBatchNorm`` on GPUs; it refuses CPUs, which get the same arithmetic from ``all_reduce``.
    """
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
            converted = nn.SyncBatchNorm.convert_sync_batchnorm(child)
            if device.type != "cuda":
                converted.__class__ = _SyncBatchNorm
            setattr(model, name, converted)
        else:
            synchronise_batch_norm(child, device)


class _SyncBatchNorm(nn.SyncBatchNorm):
    """Mean and variance from sums over all workers, whose shares may differ in size."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        if not self.training:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        ones = torch.full((1,), input.numel() / input.shape[1], dtype=input.dtype, device=input.device)
        # Twice: sums of squares around a mean that is not yet known cancel in float32.
        total, count = all_reduce(torch.cat([input.sum(axes), ones])).split([input.shape[1], 1])
        mean = total / count
        centred = input - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach(), count)
        output = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.num_batches_tracked is not None, "running statistics are kept together with their count"
        assert self.running_mean is not None, "running statistics are kept together"
        assert self.running_var is not None, "running statistics are kept together"
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), momentum)
