"""Batch norm over the global batch. torch's SyncBatchNorm serves CUDA and refuses CPU tensors; this serves the CPU.

A network has some fifty such layers, and workers wait for each other in every one. So there is one gathering on the way
there and one on the way back (in gloo half as long as a sum), and between them torch's own fused kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cid_ray.core import world


class _Normalize(torch.autograd.Function):
    """This worker's share f32[b,C,H,W], b > 0, by the statistics of all shares; and these: mean, var f32[C], count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        own = mean.new_full((1,), x.numel() // x.shape[1])  # shares may be unequal
        means, variances, counts = world.gathered(torch.cat([mean, var, own])).split([len(mean), len(mean), 1], 1)
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
        _, own_weight, own_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        through_var, through_mean = world.gathered(torch.cat([own_weight, own_bias])).sum(0).chunk(2)
        scale = torch.rsqrt(var + ctx.eps) * weight
        part = -scale / count
        own = F.batch_norm(x, mean, var, part * through_var, part * through_mean, eps=ctx.eps)
        return own.addcmul_(grad, scale.view(1, -1, 1, 1)), own_weight, own_bias, None


class GlobalBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of all workers, with gradients; `after` is timm's fused activation."""

    after: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        x = self._normalize(x) if self.training else super().forward(x)
        return self.after(x)

    def _normalize(self, x: Tensor) -> Tensor:
        x, mean, var, count = _Normalize.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else 0.1
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return x


def synchronize(net: nn.Module, cuda: bool) -> nn.Module:
    """The same network, every batch norm over all workers; parameter names stay as they are."""
    if cuda:
        return convert_sync_batchnorm(net)  # type: ignore[no-any-return]
    for name, child in list(net.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            fresh = GlobalBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            fresh.load_state_dict(child.state_dict())
            fresh.after = nn.Sequential(*(getattr(child, n) for n in ("drop", "act") if hasattr(child, n)))
            setattr(net, name, fresh)
        else:
            synchronize(child, cuda)
    return net
