"""The terms of CID as functions of tensors: cross-entropy, masked pseudo-labels, relation, style.

Only CID's abstract is public; each formula names the published method it comes from (README says the same).

    B batch   C channels   K classes   h,w cells of `feat`, average-pooled to about stride 16   N = h*w
    feat f32[B,C,h,w]   valid f32[B,1,h,w] in {0,1}: 0 on padding and on ignored pixels
Statistics are float32 and global over workers (`core.world`); teacher arguments must carry no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cid_ray.core import world

IGNORE = 255
EPS = 1e-6


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` over the global count of `mask`; averaged over workers it is the global mean."""
    count = world.all_sum(mask.sum().float().detach())
    return values.float().sum() * world.size() / count.clamp(min=1)


def supervised_loss(logits: Tensor, mask: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of f[B,K,H,W] with i64[B,H,W], pixels of 255 left out; mean over labeled pixels."""
    per_pixel = F.cross_entropy(logits.float(), mask, weight=class_weights, ignore_index=IGNORE, reduction="none")
    labeled = mask != IGNORE
    weight = labeled if class_weights is None else class_weights[mask.clamp(max=len(class_weights) - 1)] * labeled
    return masked_mean(per_pixel, weight)


def pseudo_label_loss(
    logits: Tensor, probs: Tensor, valid: Tensor, *, conf_thresh: float, kind: str, temperature: float
) -> tuple[Tensor, Tensor]:
    """Student logits f[B,K,H,W] against the teacher's probabilities, where these are confident (FixMatch, UniMatch).

    Divided by the VALID pixels, not by the kept ones. `soft`: targets are the probabilities sharpened by the
    temperature. Returns the loss and mask_ratio, the share of valid pixels above the threshold.
    """
    confidence, pseudo_label = probs.max(1)
    keep = (confidence >= conf_thresh) & valid
    if kind == "hard":
        per_pixel = F.cross_entropy(logits.float(), pseudo_label, reduction="none")
    else:
        target = torch.softmax(probs.clamp(min=1e-8).log() / temperature, 1)
        per_pixel = -(target * F.log_softmax(logits.float(), 1)).sum(1)
    ratio = masked_mean(keep, valid)
    return masked_mean(per_pixel * keep, valid), ratio.detach()


# ---- relation distillation ------------------------------------------------------------------------------------------


def normalized_channels(feat: Tensor, valid: Tensor) -> Tensor:
    """Fhat f32[B,C,N]: each channel of each image L2-normalised over its valid cells, 0 elsewhere."""
    return F.normalize((feat.float() * valid).flatten(2), dim=2, eps=EPS)


def mean_over_images(values: Tensor) -> Tensor:
    """Mean of a value per image, or per pair of images, of all workers, whatever their shares."""
    return masked_mean(values, torch.ones_like(values))


def row_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL of softmax(rows / T), averaged over rows: relations f32[...,C,C] -> f32[...] (CIRKD)."""
    target = F.log_softmax(teacher / temperature, -1)
    guess = F.log_softmax(student / temperature, -1)
    return (target.exp() * (target - guess)).sum(-1).mean(-1)


def cross_relation_loss(
    student_x: Tensor, student_u: Tensor, teacher_x: Tensor, teacher_u: Tensor,
    valid_x: Tensor, valid_u: Tensor, temperature: float, share_u: world.Share | None = None,
) -> Tensor:  # fmt: skip
    """R_xu = Fhat_x Fhat_u^T for every labeled-unlabeled pair of the global batch: the literal reading of CID's
    abstract; CIRKDv2's channel term restricted to those pairs. Several workers need `share_u`."""

    def relations(x: Tensor, u: Tensor) -> Tensor:
        x, u = normalized_channels(x, valid_x), world.all_rows(normalized_channels(u, valid_u), share_u)
        return torch.einsum("acn,bdn->abcd", x, u)

    with torch.no_grad():
        target = relations(teacher_x, teacher_u)
    return mean_over_images(row_kl(target, relations(student_x, student_u), temperature))


def self_relation_loss(student_u: Tensor, teacher_u: Tensor, valid_u: Tensor, grid: int = 1) -> Tensor:
    """(1/C) ||G_s - G_t||^2 of row-normalised Gram matrices, mean over images; on an m x m grid dense (ICKD)."""

    def grams(feat: Tensor) -> Tensor:
        flat = normalized_channels(_cells(feat, grid), _cells(valid_u, grid))
        return F.normalize(flat @ flat.transpose(1, 2), dim=-1, eps=EPS)

    with torch.no_grad():
        target = grams(teacher_u)
    return mean_over_images((grams(student_u) - target).square().sum((1, 2))) / student_u.shape[1]


def _cells(feat: Tensor, grid: int) -> Tensor:
    """[B,C,h,w] -> [B*m*m,C,h',w'], padded with zeros (invalid cells) to a multiple of m."""
    if grid == 1:
        return feat
    feat = F.pad(feat, (0, -feat.shape[3] % grid, 0, -feat.shape[2] % grid))
    b, c, h, w = feat.shape
    feat = feat.reshape(b, c, grid, h // grid, grid, w // grid)
    return feat.permute(0, 2, 4, 1, 3, 5).reshape(b * grid * grid, c, h // grid, w // grid)


def batch_gram(feat: Tensor, valid: Tensor) -> Tensor:
    """Row-normalised C x C relation of the channels over all valid cells of the global batch."""
    flat = (feat.float() * valid).transpose(0, 1).flatten(1)
    moment = world.all_sum(flat @ flat.T)
    norm = moment.diagonal().clamp(min=EPS).sqrt()
    return F.normalize(moment / norm[:, None] / norm[None, :], dim=-1, eps=EPS)


def transfer_relation_loss(student_u: Tensor, valid_u: Tensor, labeled_gram: Tensor) -> Tensor:
    """The student's unlabeled Gram against the EMA of the teacher's labeled one: labeled relations as the knowledge."""
    return (batch_gram(student_u, valid_u) - labeled_gram.detach()).square().sum() / len(labeled_gram)


def prototypes(feat: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """P f32[K,C], the mean feature of each class over the global batch, and bool[K]: which classes occur.

    `classes` i64[B,h,w] holds a class per cell, 255 where there is none.
    """
    one_hot = F.one_hot(classes.clamp(max=num_classes), num_classes + 1)[..., :num_classes].float().flatten(0, 2)
    count = world.all_sum(one_hot.sum(0))
    total = world.all_sum(one_hot.T @ feat.float().permute(0, 2, 3, 1).flatten(0, 2))
    return total / count.clamp(min=1)[:, None], count > 0


def class_relation_loss(
    student_x: Tensor, student_u: Tensor, teacher_x: Tensor, teacher_u: Tensor,
    classes_x: Tensor, classes_u: Tensor, num_classes: int, temperature: float,
) -> Tensor:  # fmt: skip
    """Relation of class prototypes, norm(P_x)^T norm(P_u) over the classes that both sides show: class-aligned."""

    def relation(x: Tensor, u: Tensor) -> Tensor:
        p_x, has_x = prototypes(x, classes_x, num_classes)
        p_u, has_u = prototypes(u, classes_u, num_classes)
        shared = (has_x & has_u).float()[:, None]
        return F.normalize(p_x * shared, dim=0, eps=EPS).T @ F.normalize(p_u * shared, dim=0, eps=EPS)

    with torch.no_grad():
        target = relation(teacher_x, teacher_u)
    return row_kl(target, relation(student_x, student_u), temperature)


# ---- style distillation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """Channel statistics over all valid cells of the global batch: f32[C] each, and f32[C,C]."""

    mean: Tensor
    std: Tensor


def channel_statistics(feat: Tensor, valid: Tensor) -> Style:
    feat, valid = feat.float(), valid.float()
    count = world.all_sum(valid.sum()).clamp(min=1)
    mean = world.all_sum((feat * valid).sum((0, 2, 3))) / count
    centred = (feat - mean[:, None, None]) * valid
    return Style(mean, (world.all_sum(centred.square().sum((0, 2, 3))) / count + EPS).sqrt())


def style_loss(style: Style, target: Style) -> Tensor:
    """(1/C) [ ||(mu - mu*)/s||^2 + ||log sigma - log sigma*||^2 ], s = sg(sigma*): AdaIN's statistics made scale-free,
    since a raw MSE can be won by shrinking the features."""
    mean, std = target.mean.detach(), target.std.detach()
    return (((style.mean - mean) / std).square() + (style.std.log() - std.log()).square()).mean()


def gram_style_loss(gram: Tensor, target: Tensor) -> Tensor:
    return (gram - target.detach()).square().sum() / len(gram)


# ---- weights over time ----------------------------------------------------------------------------------------------


def ramp_up(progress: float, share: float) -> float:
    """exp(-5 (1-t)^2) over the first `share` of training, then 1 (Tarvainen & Valpola; Laine & Aila)."""
    if progress >= share:
        return 1.0
    return math.exp(-5.0 * (1 - progress / share) ** 2)


def pseudo_ramp(progress: float, burn_in: float, share: float) -> float:
    """0 during the burn-in, then up to 1 over `share`, both as shares of training."""
    return 0.0 if progress < burn_in else ramp_up(progress - burn_in, share)
