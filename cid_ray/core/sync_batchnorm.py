"""Batch norm over the global batch, on CUDA and on the CPU.

torch's SyncBatchNorm serves CUDA and refuses CPU tensors; `GlobalBatchNorm` serves the CPU. A
network has some fifty such layers and all workers wait for each other in every one of them. So
there is one all_gather in the forward and one in the backward pass, and torch's own fused kernels
between them. With gloo an all_gather takes half as long as an all_reduce.

    b images of this worker (workers may differ)   C channels   H,W cells
Source: Ioffe & Szegedy 2015; the backward formula is that of torch.nn.SyncBatchNorm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cid_ray.core import distributed

DEFAULT_MOMENTUM = 0.1  # torch's own default, for layers that leave it None
ACTIVATION_PARTS = ("drop", "act")  # what timm fuses into its batch norm layers, in their order


class _Normalize(torch.autograd.Function):
    """Normalise f32[b,C,H,W], b > 0, by the mean and variance of all workers' images.

    Returns the normalised images, the global mean f32[C] and variance f32[C], and the count of
    values per channel f32[1].
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        local_mean, local_var = torch.batch_norm_update_stats(x, None, None, 0.0)
        # Workers may hold shards of different sizes, so each one sends its own count.
        local_count = local_mean.new_full((1,), x.numel() // x.shape[1])
        gathered = distributed.all_gather(torch.cat([local_mean, local_var, local_count]))
        means, variances, counts = gathered.split([len(local_mean), len(local_var), 1], 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        # Every worker's output depends on the global mean and variance. Their gradients are the
        # sums over workers, and those sums are the global gradients of bias and weight.
        gathered = distributed.all_gather(torch.cat([grad_weight, grad_bias]))
        global_grad_weight, global_grad_bias = gathered.sum(0).chunk(2)
        scale = torch.rsqrt(var + ctx.eps) * weight
        per_value = -scale / count
        # `F.batch_norm` computes  xhat * (per_value * dweight) + per_value * dbias  in one kernel.
        grad_x = F.batch_norm(
            x, mean, var, per_value * global_grad_weight, per_value * global_grad_bias, eps=ctx.eps
        )
        # DDP averages weight and bias gradients itself, so the local ones are returned.
        return grad_x.addcmul_(grad, scale.view(1, -1, 1, 1)), grad_weight, grad_bias, None


class GlobalBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics are those of all workers, with gradients.

    `after` holds the dropout and activation that timm fuses into its batch norm layers.
    """

    after: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        x = self._normalize(x) if self.training else super().forward(x)
        return self.after(x)

    def _normalize(self, x: Tensor) -> Tensor:
        x, mean, var, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else DEFAULT_MOMENTUM
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, momentum)
            # Running variance is unbiased, as in nn.BatchNorm2d.
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return x


def convert_sync_batchnorm(net: nn.Module, cuda: bool) -> nn.Module:
    """The same network with every batch norm taken over all workers. Parameter names stay.

    Args:
        net: changed in place; use the return value, which replaces `net` on CUDA.
        cuda: True for torch's SyncBatchNorm (through timm), False for `GlobalBatchNorm`.
    """
    if cuda:
        return timm_convert_sync_batchnorm(net)
    for name, child in list(net.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, _to_global(child))
        else:
            convert_sync_batchnorm(child, cuda)
    return net


def _to_global(layer: nn.BatchNorm2d) -> GlobalBatchNorm:
    converted = GlobalBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine)
    converted.load_state_dict(layer.state_dict())
    for own, old in zip(converted.parameters(), layer.parameters(), strict=True):
        own.requires_grad_(old.requires_grad)
    parts = [getattr(layer, name) for name in ACTIVATION_PARTS if hasattr(layer, name)]
    converted.after = nn.Sequential(*parts)
    return converted
