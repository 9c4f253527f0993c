"""The relation `cross`: inter-channel correlations of every labeled-unlabeled image pair.

    A labeled images   B unlabeled images   C channels   N cells
    hat f32[.,C,N]: features with each channel of each image L2-normalised over its valid cells
Source: the literal reading of CID's abstract; CIRKDv2's channel term, restricted to such pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cid_ray.core import distributed
from cid_ray.core.losses import masked_mean, normalized_channels


def cross_relation_loss(
    student_x: Tensor,
    student_u: Tensor,
    teacher_x: Tensor,
    teacher_u: Tensor,
    valid_x: Tensor,
    valid_u: Tensor,
    temperature: float,
    shard_u: distributed.BatchShard | None = None,
) -> Tensor:
    """relation_kl of R_xu = Fhat_x Fhat_u^T, mean over all labeled-unlabeled image pairs.

    Args:
        student_x, student_u, teacher_x, teacher_u: feat f32[.,C,h,w] of both networks.
        valid_x, valid_u: f32[.,1,h,w].
        temperature: T > 0.
        shard_u: this worker's part of the unlabeled batch, to pair its labeled images with the
            unlabeled ones of all workers; None pairs them with its own, which is right where all
            workers hold the same labeled images.

    Images without a valid cell, such as places of a memory that are still empty, count nowhere.
    """

    def gathered(value: Tensor) -> Tensor:
        return value if shard_u is None else distributed.gather_shards(value, shard_u)

    hat_x = normalized_channels(student_x, valid_x)
    hat_u = gathered(normalized_channels(student_u, valid_u))
    with torch.no_grad():
        target_x = normalized_channels(teacher_x, valid_x)
        target_u = gathered(normalized_channels(teacher_u, valid_u))
        has_x = valid_x.flatten(1).amax(1)
        has_u = gathered(valid_u.flatten(1).amax(1))
        pairs = has_x[:, None] * has_u
    total: Tensor = _PairDistances.apply(hat_x, hat_u, target_x, target_u, pairs, temperature)
    return masked_mean(total, pairs)


class _PairDistances(torch.autograd.Function):
    """Sum of the distances of all pairs, f32[], each times its weight f32[A,B].

    The gradient is computed with the loss, one labeled image after the other. So nothing of the
    size of all pairs, A*B*C*C, is ever in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hat_x: Tensor,
        hat_u: Tensor,
        target_x: Tensor,
        target_u: Tensor,
        weights: Tensor,
        temperature: float,
    ) -> Tensor:
        grad_x, grad_u = torch.zeros_like(hat_x), torch.zeros_like(hat_u)
        total = hat_x.new_zeros(())
        channels = hat_x.shape[1]
        for i, weight in enumerate(weights):
            relation = torch.einsum("cn,bdn->bcd", hat_x[i], hat_u)
            target = torch.einsum("cn,bdn->bcd", target_x[i], target_u)
            log_pred = F.log_softmax(relation / temperature, -1)
            log_target = F.log_softmax(target / temperature, -1)
            prob_target = log_target.exp()
            distances = (prob_target * (log_target - log_pred)).sum((1, 2)) / channels
            total += (weight * distances).sum()
            # d KL(softmax(t) || softmax(s)) / ds = softmax(s) - softmax(t)
            grad = log_pred.exp_().sub_(prob_target)
            grad *= (weight / (channels * temperature))[:, None, None]
            if ctx.needs_input_grad[0]:  # a memory has no gradient
                grad_x[i] = torch.einsum("bcd,bdn->cn", grad, hat_u)
            grad_u += torch.einsum("bcd,cn->bdn", grad, hat_x[i])
        ctx.save_for_backward(grad_x, grad_u)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_u = ctx.saved_tensors
        return grad * grad_x, grad * grad_u, None, None, None, None
