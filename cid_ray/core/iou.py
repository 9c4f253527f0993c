"""Inference, confusion matrix and mIoU: the same functions for tuning and for the final scores.

An image is predicted whole or by a sliding window, at its own size. Logits, not classes, are
resized to the size of the MASK. Classes without a pixel in the ground truth are left out of mIoU
and listed: counting them as 0 would make scores depend on which classes a split happens to show.

    B images   K classes   H,W pixels of an image   H',W' pixels of its mask
Source: mIoU as in PASCAL VOC; the sliding window's stride is UniMatch's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cid_ray.core.calibration import Calibration
from cid_ray.core.losses import IGNORE_INDEX

CALIBRATION_STEP = 4  # every fourth row and column: neighbours say nearly the same


@torch.no_grad()
def predict(
    net: nn.Module, image: Tensor, size: tuple[int, int], window: int | None = None
) -> Tensor:
    """Classes i64[B,H',W'] of images u8[B,C,H,W].

    Args:
        net: images u8[B,C,H,W] -> (logits f[B,K,H,W], feat).
        image: u8[B,C,H,W], all of one size.
        size: H', W' of the masks.
        window: side of the sliding window in pixels; None predicts the whole image.
    """
    return predict_scores(net, image, size, window)[0].argmax(1)


@torch.no_grad()
def predict_scores(
    net: nn.Module, image: Tensor, size: tuple[int, int], window: int | None = None
) -> tuple[Tensor, bool]:
    """Scores f32[B,K,H',W'], of which the highest is the class, and whether they are probabilities.

    Of a whole image they are logits, of a sliding window mean probabilities. Arguments as of
    `predict`.
    """
    height, width = image.shape[-2:]
    # A window larger than the image would only add padding.
    is_whole = window is None or (window >= height and window >= width)
    if window is None or is_whole:
        scores = net(image)[0].float()
    else:
        scores = _sliding_window_probs(net, image, window)
    if scores.shape[-2:] != size:
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    return scores, not is_whole


def probabilities(scores: Tensor, are_probabilities: bool) -> Tensor:
    """What `predict_scores` returns as probabilities over the classes."""
    return scores if are_probabilities else scores.softmax(1)


def _sliding_window_probs(net: nn.Module, image: Tensor, window: int) -> Tensor:
    """Mean probabilities f32[B,K,H,W] over the overlapping windows of u8[B,3,H,W]."""
    total = None
    hits = None
    for top in window_starts(image.shape[-2], window):
        for left in window_starts(image.shape[-1], window):
            area = (..., slice(top, top + window), slice(left, left + window))
            # Probabilities, not logits: windows may differ in the scale of their logits.
            probs = net(image[area])[0].float().softmax(1)
            if total is None or hits is None:
                total = probs.new_zeros(len(image), probs.shape[1], *image.shape[-2:])
                hits = probs.new_zeros(image.shape[-2:])
            total[area] += probs
            hits[area[1:]] += 1
    assert total is not None and hits is not None
    return total / hits


def window_starts(length: int, window: int) -> list[int]:
    """Where windows of `window` pixels start to cover `length` pixels; the last is shifted inwards.

    The stride is two thirds of a window.
    """
    if window >= length:
        return [0]
    # Two thirds: pixels at the edge of one window, with little context, are inside another.
    stride = max(1, window * 2 // 3)
    return sorted({*range(0, length - window, stride), length - window})


@torch.no_grad()
def confusion_matrices(
    net: nn.Module,
    images: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    window: int | None = None,
    calibration: Calibration | None = None,
) -> Iterator[np.ndarray]:
    """Pixel counts i64[K,K] of each image by (true class, predicted class).

    Ignored pixels (255) are not counted.

    Args:
        net: as in `predict`.
        images: pairs of an image u8[3,H,W] and its mask u8[H',W'], on the device of `net`.
        num_classes: K.
        window: as in `predict`.
        calibration: gets confidences, of every fourth row and column.
    """
    for image, mask in images:
        scores = predict_scores(net, image[None], (mask.shape[-2], mask.shape[-1]), window)
        pred = scores[0].argmax(1)[0]
        if calibration is not None:
            _add_confidences(calibration, *scores, pred, mask)
        labeled = mask != IGNORE_INDEX
        # One number per (truth, prediction), so that one bincount fills the matrix.
        pairs = mask[labeled].long() * num_classes + pred[labeled]
        counts = torch.bincount(pairs, minlength=num_classes**2)
        yield counts.reshape(num_classes, num_classes).cpu().numpy()


def _add_confidences(
    calibration: Calibration, scores: Tensor, are_probs: bool, pred: Tensor, mask: Tensor
) -> None:
    grid = (..., slice(None, None, CALIBRATION_STEP), slice(None, None, CALIBRATION_STEP))
    # A network that has diverged gives NaN: no confidence at all.
    confidence = probabilities(scores[grid], are_probs)[0].amax(0).nan_to_num(0)
    labeled = mask[grid] != IGNORE_INDEX
    correct = (pred == mask)[grid]
    calibration.add(confidence[labeled].cpu().numpy(), correct[labeled].cpu().numpy())


def iou_scores(confusion: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """mIoU and the IoU of each class, in percent, from counts [K,K] by (truth, prediction).

    IoU = TP / (TP + FP + FN). mIoU is the mean over classes that occur in the ground truth.

    Returns:
        `miou` (None without any labeled pixel), `iou` by class name (None where absent), `absent`
        class names, and `pixel_accuracy` in percent.
    """
    iou = _class_iou(confusion)
    true_positives, truth = np.diag(confusion), confusion.sum(1)
    by_class = list(zip(classes, iou, truth > 0, strict=True))
    return {
        "miou": mean_iou(confusion),
        "iou": {name: float(value) if occurs else None for name, value, occurs in by_class},
        "absent": [name for name, _, occurs in by_class if not occurs],
        "pixel_accuracy": float(100 * true_positives.sum() / max(1, truth.sum())),
    }


def mean_iou(confusion: np.ndarray) -> float | None:
    """mIoU in percent of counts [K,K]; None without any labeled pixel."""
    return float(np.nanmean(_class_iou(confusion))) if confusion.any() else None


def _class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class in percent, f64[K]; NaN for a class without ground truth."""
    true_positives = np.diag(confusion).astype(float)
    truth = confusion.sum(1)
    union = truth + confusion.sum(0) - true_positives
    return np.where(truth > 0, 100 * true_positives / np.maximum(union, 1), np.nan)
