"""Batch norm over the global batch. torch's SyncBatchNorm serves CUDA and refuses CPU tensors; this serves the CPU."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from cid_ray.core import world


class GlobalBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of all workers, with gradients; `after` is timm's fused activation."""

    after: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        x = self._normalize(x) if self.training else super().forward(x)
        return self.after(x)

    def _normalize(self, x: Tensor) -> Tensor:
        own = x.new_full((1,), x.numel() / x.shape[1])
        total = world.all_sum(torch.cat([x.sum((0, 2, 3)), own]))  # workers may hold unequal shares
        count = total[-1].detach()
        mean = total[:-1] / count
        var = world.all_sum((x - mean[:, None, None]).square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else 0.1
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = torch.rsqrt(var + self.eps) * self.weight
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


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
