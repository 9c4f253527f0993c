"""The terms of CID as functions of tensors: cross-entropy, pseudo-labels, relation, style.

Only the abstract of CID is public. Each formula names the published method that it comes from.

    B images   C channels of `feat`   K classes   H,W pixels   N = h*w
    h,w cells of `feat`, average-pooled to about stride 16
    feat f32[B,C,h,w]   valid f32[B,1,h,w] in {0,1}: 0 on padding and on ignored pixels
    Fhat f32[B,C,N]: `feat` with each channel of each image L2-normalised over its valid cells
    _x labeled   _u unlabeled   sg stop-gradient

Statistics are float32 and global over workers (`core.distributed`), so that the number of workers
changes no loss. Teacher arguments carry no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cid_ray.core import distributed

IGNORE_INDEX = 255  # pixels of a mask without a label
EPS = 1e-6
STD_FLOOR = 0.1  # of the style loss, relative to the typical channel


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` over the GLOBAL sum of `mask`: its mean over workers is the global mean.

    `mask` holds weights >= 0 of any shape; `values` must be 0 where it is 0. Returns a scalar.
    """
    count = distributed.all_reduce_sum(mask.sum().float().detach())
    # DDP averages over workers, so each worker's part is scaled by their number.
    return values.float().sum() * distributed.world_size() / count.clamp(min=1)


def mean_over_images(values: Tensor) -> Tensor:
    """Mean of one value per image, or per pair of images, over all workers' shards of any size."""
    return masked_mean(values, torch.ones_like(values))


def supervised_loss(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """L_x: mean cross-entropy of logits f[B,K,H,W] with labels i64[B,H,W] over labeled pixels.

    With `class_weights` f32[K] it is the weighted mean, as F.cross_entropy has it.
    """
    per_pixel = F.cross_entropy(
        logits.float(), mask, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="none"
    )
    labeled = mask != IGNORE_INDEX
    if class_weights is None:
        return masked_mean(per_pixel, labeled)
    # 255 is no index of `class_weights`: any class will do, since `labeled` is 0 there.
    pixel_weights = class_weights[mask.clamp(max=len(class_weights) - 1)] * labeled
    return masked_mean(per_pixel, pixel_weights)


def normalized_channels(feat: Tensor, valid: Tensor) -> Tensor:
    """Fhat f32[B,C,N] of feat f[B,C,h,w]; 0 on invalid cells."""
    return F.normalize((feat.float() * valid).flatten(2), dim=2, eps=EPS)


def relation_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """(1/C) sum_c KL(softmax(R_t[c] / T) || softmax(R_s[c] / T)): f32[...,C,C] -> f32[...].

    R_t and R_s are the relations of teacher and student. Source: the channel term of CIRKDv2.
    """
    log_target = F.log_softmax(teacher / temperature, -1)
    log_pred = F.log_softmax(student / temperature, -1)
    return (log_target.exp() * (log_target - log_pred)).sum(-1).mean(-1)


def self_relation_loss(
    student_u: Tensor, teacher_u: Tensor, valid_u: Tensor, grid: int = 1
) -> Tensor:
    """`self`: (1/C) ||G_s - G_t||^2, mean over images, with G = Fhat Fhat^T row-normalised.

    Source: ICKD (Liu et al. 2021), but each channel is normalised over space before the Gram.

    Args:
        student_u, teacher_u: feat f32[B,C,h,w].
        valid_u: f32[B,1,h,w].
        grid: m > 1 compares the Grams of each block of an m x m grid (ICKD's dense form).
    """

    def grams(feat: Tensor) -> Tensor:
        hat = normalized_channels(split_into_blocks(feat, grid), split_into_blocks(valid_u, grid))
        return F.normalize(hat @ hat.transpose(1, 2), dim=-1, eps=EPS)

    with torch.no_grad():
        target = grams(teacher_u)
    distances = (grams(student_u) - target).square().sum((1, 2))
    return mean_over_images(distances) / student_u.shape[1]


def split_into_blocks(feat: Tensor, grid: int) -> Tensor:
    """[B,C,h,w] -> [B*m*m,C,h',w'] blocks of an m x m grid, padded with invalid cells (zeros)."""
    if grid == 1:
        return feat
    feat = F.pad(feat, (0, -feat.shape[3] % grid, 0, -feat.shape[2] % grid))
    b, c, h, w = feat.shape
    feat = feat.reshape(b, c, grid, h // grid, grid, w // grid)
    return feat.permute(0, 2, 4, 1, 3, 5).reshape(b * grid * grid, c, h // grid, w // grid)


def batch_gram(feat: Tensor, valid: Tensor) -> Tensor:
    """Row-normalised Gram f32[C,C] of the channels over all valid cells of the global batch."""
    flat = (feat.float() * valid).transpose(0, 1).flatten(1)
    moment = distributed.all_reduce_sum(flat @ flat.T)
    # The norms come from the diagonal of the global sum: no second reduction is needed.
    norm = moment.diagonal().clamp(min=EPS).sqrt()
    return F.normalize(moment / norm[:, None] / norm[None, :], dim=-1, eps=EPS)


def transfer_relation_loss(student_u: Tensor, valid_u: Tensor, labeled_gram: Tensor) -> Tensor:
    """`transfer`: (1/C) ||G_u - sg(G_x)||^2 of the student's unlabeled Gram and the labeled one.

    Labeled relations are the knowledge that is distilled. Our specification; the Gram is ICKD's.

    Args:
        student_u: feat f32[B,C,h,w].
        valid_u: f32[B,1,h,w].
        labeled_gram: f32[C,C], the EMA of the teacher's labeled `batch_gram`.
    """
    gram = batch_gram(student_u, valid_u)
    return (gram - labeled_gram.detach()).square().sum() / len(labeled_gram)


def prototypes(feat: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The mean feature of each class over the global batch.

    Args:
        feat: f[B,C,h,w].
        classes: i64[B,h,w], the class of each cell, 255 where there is none.
        num_classes: K.

    Returns:
        P f32[K,C] and bool[K]: which classes occur.
    """
    # One class more than K collects the ignored cells and is dropped.
    one_hot = F.one_hot(classes.clamp(max=num_classes), num_classes + 1)[..., :num_classes]
    one_hot = one_hot.float().flatten(0, 2)
    count = distributed.all_reduce_sum(one_hot.sum(0))
    cells = feat.float().permute(0, 2, 3, 1).flatten(0, 2)
    total = distributed.all_reduce_sum(one_hot.T @ cells)
    return total / count.clamp(min=1)[:, None], count > 0


def class_relation_loss(
    student_x: Tensor,
    student_u: Tensor,
    teacher_x: Tensor,
    teacher_u: Tensor,
    classes_x: Tensor,
    classes_u: Tensor,
    num_classes: int,
    temperature: float,
) -> Tensor:
    """`class`: relation_kl of R = norm(P_x)^T norm(P_u), prototypes P of the classes on both sides.

    Class-aligned cross-image relation: our specification, with CIRKD's KL.

    Args:
        student_x, student_u, teacher_x, teacher_u: feat f32[B,C,h,w] of both networks.
        classes_x, classes_u: i64[B,h,w], labels and confident pseudo-labels per cell, else 255.
        num_classes: K.
        temperature: T > 0.
    """

    def relation(feat_x: Tensor, feat_u: Tensor) -> tuple[Tensor, Tensor]:
        p_x, has_x = prototypes(feat_x, classes_x, num_classes)
        p_u, has_u = prototypes(feat_u, classes_u, num_classes)
        # A class that one side lacks has no prototype there and says nothing about a relation.
        shared = (has_x & has_u).float()[:, None]
        hat_x = F.normalize(p_x * shared, dim=0, eps=EPS)
        hat_u = F.normalize(p_u * shared, dim=0, eps=EPS)
        return hat_x.T @ hat_u, shared.sum()

    with torch.no_grad():
        target, num_shared = relation(teacher_x, teacher_u)
    loss = relation_kl(target, relation(student_x, student_u)[0], temperature)
    # With one class a channel of unit length is a sign: the loss is large and has no gradient.
    return torch.where(num_shared > 1, loss, 0.0)


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation f32[C] of each channel over the global batch's valid cells."""

    mean: Tensor
    std: Tensor


def channel_stats(feat: Tensor, valid: Tensor) -> ChannelStats:
    """ChannelStats of feat f[B,C,h,w] over the cells of valid [B,1,h,w]."""
    feat = feat.float()
    valid = valid.float()
    count = distributed.all_reduce_sum(valid.sum()).clamp(min=1)
    mean = distributed.all_reduce_sum((feat * valid).sum((0, 2, 3))) / count
    # In two passes: E[x^2] - E[x]^2 loses all digits in float32 where the mean is large.
    centred = (feat - mean[:, None, None]) * valid
    variance = distributed.all_reduce_sum(centred.square().sum((0, 2, 3))) / count
    return ChannelStats(mean, (variance + EPS).sqrt())


def style_loss(style: ChannelStats, target: ChannelStats) -> Tensor:
    """L_sty = (1/C) [ ||(mu - mu*)/s||^2 + ||log sigma - log sigma*||^2 ], s = sg(max of sigmas).

    AdaIN's statistics (Huang & Belongie 2017) made free of scale: a plain MSE can be lowered by
    shrinking all features. Each sigma has a floor: sqrt(sigma^2 + f^2), where f is STD_FLOOR times
    the root mean square of s over the channels. Otherwise channels that are nearly constant, as in
    untrained decoders, would outweigh all others.
    """
    mean = target.mean.detach()
    variance = style.std.square()
    target_variance = target.std.detach().square()
    scale = torch.maximum(variance.detach(), target_variance)
    floor = STD_FLOOR**2 * scale.mean()
    mean_distance = (style.mean - mean).square() / (scale + floor)
    # log sigma is half of log sigma^2.
    log_ratio = 0.5 * ((variance + floor).log() - (target_variance + floor).log())
    return (mean_distance + log_ratio.square()).mean()


def gram_style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """(1/C) ||G - sg(G*)||^2 of Gram matrices f32[C,C] from `batch_gram` (Gatys et al. 2016)."""
    return (gram - target.detach()).square().sum() / len(gram)
