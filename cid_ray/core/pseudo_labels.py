"""Pseudo-labels of one step, and their loss: from which confidence on a class is taken.

    B images   K classes   H,W pixels

`loss.threshold=fixed` takes pixels whose confidence reaches `loss.conf_thresh`.

`class_adaptive` is FreeMatch's self-adaptive threshold (Wang et al. 2023): tau(c) = tau p(c) /
max p, with EMAs of the teacher's mean confidence (tau) and of p. There p(c) is the mean probability
of class c over all images. Pixels of classes are far from balanced, so that a rare class would have
a threshold near 0. Here p(c) is the mean confidence of the pixels that the teacher gives class c.

`loss.align_distribution` is ReMixMatch's distribution alignment (Berthelot et al. 2020): the
teacher's probabilities times (frequency of a class among labels / among predictions), normalised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cid_ray.config import LossConfig
from cid_ray.core import distributed
from cid_ray.core.losses import IGNORE_INDEX, masked_mean
from cid_ray.core.running_mean import RunningMean

MIN_PROB = 1e-8  # keeps the logarithm of a probability finite
MIN_FREQUENCY = 1e-4  # of a class in the ratio of alignment, so that a rare one stays bounded


class PseudoLabels(nn.Module):
    """Turns the teacher's probabilities into those that pseudo-labels come from.

    Args:
        loss: `threshold`, `conf_thresh` and `align_distribution` are read.
        num_classes: K.
        decay: per step, of the EMAs.
    """

    conf_thresh: Tensor

    def __init__(self, loss: LossConfig, num_classes: int, decay: float):
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("conf_thresh", torch.tensor(loss.conf_thresh), persistent=False)
        self.confidence: RunningMean | None = None
        self.frequency: RunningMean | None = None
        if loss.threshold == "class_adaptive":
            shapes: dict[str, tuple[int, ...]] = {"overall": (), "by_class": (num_classes,)}
            self.confidence = RunningMean(decay, shapes)
        if loss.align_distribution:
            shapes = {"labels": (num_classes,), "predictions": (num_classes,)}
            self.frequency = RunningMean(decay, shapes)

    @torch.no_grad()
    def forward(self, probs: Tensor, valid_u: Tensor, mask_x: Tensor) -> tuple[Tensor, Tensor]:
        """The aligned probabilities f32[B,K,H,W] and the least confidence: f32[] or f32[K].

        Args:
            probs: the teacher's of the weak view, f32[B,K,H,W].
            valid_u: bool[B,H,W], False on padding.
            mask_x: i64[B,H,W], labels of the labeled images.
        """
        if self.frequency is not None:
            probs = self._align(self.frequency, probs, valid_u, mask_x)
        if self.confidence is None:
            return probs, self.conf_thresh
        return probs, self._adapt(self.confidence, probs, valid_u)

    def _align(self, ema: RunningMean, probs: Tensor, valid_u: Tensor, mask_x: Tensor) -> Tensor:
        labels = class_counts(mask_x, self.num_classes)
        predictions = (probs * valid_u[:, None]).sum((0, 2, 3))
        counts = {"labels": labels, "predictions": predictions}
        for name, count in counts.items():
            total = distributed.all_reduce_sum(count)
            counts[name] = total / total.sum().clamp(min=1)
        # Crops without a labeled pixel say nothing about the classes.
        has_labels = counts["labels"].sum() > 0
        former = torch.where(ema["labels"].sum() > 0, ema["labels"], counts["predictions"])
        counts["labels"] = torch.where(has_labels, counts["labels"], former)
        ema.update(counts)
        frequency = {name: ema[name].clamp(min=MIN_FREQUENCY) for name in counts}
        ratio = frequency["labels"] / frequency["predictions"]
        return F.normalize(probs * ratio[:, None, None], p=1, dim=1)

    def _adapt(self, ema: RunningMean, probs: Tensor, valid_u: Tensor) -> Tensor:
        conf, classes = probs.max(1)
        overall = masked_mean(conf * valid_u, valid_u)
        overall = distributed.all_reduce_sum(overall) / distributed.world_size()
        classes = classes.masked_fill(~valid_u, IGNORE_INDEX)
        count = distributed.all_reduce_sum(class_counts(classes, self.num_classes))
        total = distributed.all_reduce_sum(class_counts(classes, self.num_classes, conf))
        # A class that this batch lacks keeps its confidence, and one never seen keeps 0. The first
        # value of a class is set, not averaged with that 0.
        known = ema["by_class"]
        mean = total / count.clamp(min=1)
        known.copy_(torch.where(known > 0, known, mean))
        ema.update({"overall": overall, "by_class": torch.where(count > 0, mean, known)})
        confidence = torch.where(known > 0, known, ema["overall"])
        return ema["overall"] * confidence / confidence.max()


def class_counts(classes: Tensor, num_classes: int, weight: Tensor | None = None) -> Tensor:
    """f32[K]: pixels of each class in i64[B,H,W], or the sum of their f32[B,H,W] weights.

    Pixels of no class (255) count nowhere.
    """
    flat = classes.clamp(max=num_classes).flatten()
    weights = torch.ones_like(flat, dtype=torch.float32) if weight is None else weight.flatten()
    # index_add_ on CUDA adds in no fixed order; a sum over one-hot rows does not.
    totals = [(weights * (flat == index)).sum() for index in range(num_classes)]
    return torch.stack(totals)


def pseudo_label_loss(
    logits: Tensor,
    probs: Tensor,
    valid: Tensor,
    *,
    conf_thresh: float | Tensor,
    kind: str,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """L_u = sum_i [conf_i >= tau and valid_i] CE(student_i, teacher_i) / #valid.

    Dividing by the VALID pixels, not by the confident ones, lets few confident pixels weigh little.
    Source: FixMatch (Sohn et al. 2020), masked as in UniMatch.

    Args:
        logits: the student's, f[B,K,H,W].
        probs: the teacher's probabilities, f32[B,K,H,W], in the geometry of the student's view.
        valid: bool[B,H,W], False on padding.
        conf_thresh: tau, in [0, 1]; one for all classes, or f32[K].
        kind: the target; `hard` is the argmax, `soft` the probabilities sharpened by `temperature`.
        temperature: of the soft targets, > 0; 1 leaves the probabilities as they are.

    Returns:
        The loss, and mask_ratio: the fraction of valid pixels at or above the threshold.
    """
    confident, pseudo_label = confident_pixels(probs, conf_thresh)
    confident &= valid
    if kind == "hard":
        per_pixel = F.cross_entropy(logits.float(), pseudo_label, reduction="none")
    else:
        target = torch.softmax(probs.clamp(min=MIN_PROB).log() / temperature, 1)
        per_pixel = -(target * F.log_softmax(logits.float(), 1)).sum(1)
    mask_ratio = masked_mean(confident, valid)
    return masked_mean(per_pixel * confident, valid), mask_ratio.detach()


def confident_pixels(probs: Tensor, conf_thresh: float | Tensor) -> tuple[Tensor, Tensor]:
    """Where probabilities f32[B,K,H,W] reach tau, bool[B,H,W], and the class i64[B,H,W] there."""
    conf, pseudo_label = probs.max(1)
    if isinstance(conf_thresh, Tensor) and conf_thresh.dim() == 1:
        conf_thresh = conf_thresh[pseudo_label]
    return conf >= conf_thresh, pseudo_label
