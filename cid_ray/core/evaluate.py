"""Inference -> confusion matrix: ONE function for tuning and for the final number.

An image is predicted whole or by a sliding window whose last windows shift inwards, at its own size; logits are resized
to the MASK's size. Classes without a pixel in the ground truth are left out of mIoU and named, not counted as 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cid_ray.core.losses import IGNORE


@torch.no_grad()
def predict(net: nn.Module, image: Tensor, size: tuple[int, int], window: int | None = None) -> Tensor:
    """Classes i64[B,*size] of images u8[B,3,H,W]."""
    high, wide = image.shape[-2:]
    if window is None or (window >= high and window >= wide):
        logits = net(image)[0].float()
    else:
        logits = _sliding(net, image, window)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits.argmax(1)


def _sliding(net: nn.Module, image: Tensor, window: int) -> Tensor:
    """Mean of overlapping windows' probabilities, stride two thirds of a window (UniMatch)."""
    total, hits = None, None
    for top in starts(image.shape[-2], window):
        for left in starts(image.shape[-1], window):
            place = (..., slice(top, top + window), slice(left, left + window))
            probs = net(image[place])[0].float().softmax(1)
            if total is None or hits is None:
                total = probs.new_zeros(len(image), probs.shape[1], *image.shape[-2:])
                hits = probs.new_zeros(image.shape[-2:])
            total[place] += probs
            hits[place[1:]] += 1
    assert total is not None and hits is not None
    return total / hits


def starts(length: int, window: int) -> list[int]:
    """Where windows begin so that they cover `length`, the last one shifted inwards."""
    if window >= length:
        return [0]
    stride = max(1, window * 2 // 3)
    return sorted({*range(0, length - window, stride), length - window})


@torch.no_grad()
def confusion_of(
    net: nn.Module, images: Iterable[tuple[Tensor, Tensor]], num_classes: int, window: int | None = None
) -> np.ndarray:
    """i64[K,K] (truth, prediction) over pairs of u8[3,H,W] and u8[H',W'] on the net's device; 255 is left out."""
    total = np.zeros((num_classes, num_classes), np.int64)
    for image, mask in images:
        guess = predict(net, image[None], (mask.shape[-2], mask.shape[-1]), window)[0]
        known = mask != IGNORE
        pairs = mask[known].long() * num_classes + guess[known]
        total += torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).cpu().numpy()
    return total


def scores(confusion: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """mIoU and IoU per class in percent from a confusion matrix; absent classes are None, and named."""
    hit = np.diag(confusion).astype(float)
    truth, guess = confusion.sum(1), confusion.sum(0)
    union = truth + guess - hit
    present = truth > 0
    iou = np.where(present, 100 * hit / np.maximum(union, 1), np.nan)
    return {
        "miou": float(np.nanmean(iou)) if present.any() else None,
        "iou": {name: float(v) if ok else None for name, v, ok in zip(classes, iou, present, strict=True)},
        "absent": [name for name, ok in zip(classes, present, strict=True) if not ok],
        "pixel_accuracy": float(100 * hit.sum() / max(1, truth.sum())),
    }
