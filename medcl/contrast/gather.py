"""Embeddings and statistics of all processes of a training, with the gradients of one process.

Every rank compares the whole batch, and `fit` averages the gradients of the ranks. The gradient
that `gather` and `summed` pass back is therefore the sum over ranks: a rank's embeddings are used
on all of them. With one process all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn


def world() -> int:
    """Number of processes of this training."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def gather(x: Shaped[Tensor, "B *rest"]) -> Shaped[Tensor, "all *rest"]:
    """Join the samples of all ranks, in the order of the global batch; B is the same on each.

    The sampler deals the global batch out in turn, so sample i of rank r is number i world + r.
    """
    return _Gather.apply(x) if world() > 1 else x


def gather_all(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`gather` each value."""
    return {name: gather(value) for name, value in values.items()}


def summed(x: Tensor) -> Tensor:
    """Sum over ranks, with gradient."""
    return _Sum.apply(x) if world() > 1 else x


def averaged(x: Tensor) -> Tensor:
    """Mean over ranks, with gradient; for what is a mean over as many values on each."""
    return summed(x) / world()


class GatheredNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics are those of all ranks; its weights are a BatchNorm's.

    Works on the CPU too, where SyncBatchNorm refuses. Mean first, then squares about it: the mean
    square less the squared mean loses the digits of a small variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(x)
        axes = (0, *range(2, x.ndim))
        shape = (1, -1, *[1] * (x.ndim - 2))
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = summed(full.new_tensor(full.numel() / full.shape[1]))
        mean = summed(full.sum(axes)) / count
        centred = full - mean.view(shape)
        variance = summed(centred.square().sum(axes)) / count
        if self.running_mean is not None:
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum or 1 / float(self.num_batches_tracked)  # None: mean of all steps
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected samples and features, got {tuple(input.shape)}")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total[distributed.get_rank() :: world()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total
