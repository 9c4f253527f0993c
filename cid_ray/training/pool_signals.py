"""What the networks say of a few pool images, without a label, at a rung.

A team with few labels has little val to choose by. So these signals are recorded beside the val
scores, and results/pool_signals.py says how well each would have ranked the trials. All runs of a
ratio and a label draw see the same images, whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cid_ray.core import iou
from cid_ray.data.band_image import Picture
from cid_ray.data.table_errors import UnreadableImage
from cid_ray.results.record_types import PoolSignals
from cid_ray.training.collectives import gather_objects

if TYPE_CHECKING:
    from cid_ray.training.trainer import Trainer

MAX_IMAGES = 8
MAX_PIXELS = 2**21  # an image of Cityscapes
CONFIDENT = 0.95


@torch.no_grad()
def pool_signals(trainer: Trainer) -> PoolSignals | None:
    """Confidence, agreement and classes on evenly spaced pool images, over all workers.

    Neither weights nor random numbers of the run change.

    Returns:
        Percent, the mean over the images; None without a pool image that can be read.
    """
    pool = trainer.split.pool
    evenly = np.linspace(0, len(pool) - 1, min(MAX_IMAGES, len(pool))).round().astype(int)
    found: list[np.ndarray] = []
    trainer.teacher.module.eval()
    trainer.student.eval()
    for row in pool[evenly][trainer.spec.rank :: trainer.spec.world_size].tolist():
        try:
            image, _ = trainer.reader(row, mask=False)
        except UnreadableImage:  # it is counted where training meets it
            continue
        pixels = torch.from_numpy(np.array(_at_most(image))).permute(2, 0, 1)
        pixels = pixels.to(trainer.device.torch)
        found.append(_describe(trainer, pixels))
    trainer.student.train()
    images = [image for worker in gather_objects(found) for image in worker]
    if not images:
        return None
    confidence, confident, agreement, *shares = (100 * np.mean(images, 0)).tolist()
    labeled = trainer.table.class_pixels[trainer.split.labeled].sum(0)
    prior = 100 * labeled / max(1, labeled.sum())
    return {
        "images": len(images),
        "confidence": confidence,
        "confident": confident,
        "agreement": agreement,
        "prior_distance": float(np.abs(np.array(shares) - prior).sum() / 2),
        "class_shares": dict(zip(trainer.table.classes, shares, strict=True)),
        "label_shares": dict(zip(trainer.table.classes, prior.tolist(), strict=True)),
    }


def _at_most(image: Picture) -> Picture:
    """An image of more than MAX_PIXELS reduced to that: pool photos may be larger than val's."""
    factor = math.sqrt(MAX_PIXELS / (image.width * image.height))
    if factor >= 1:
        return image
    size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _describe(trainer: Trainer, image: Tensor) -> np.ndarray:
    """Confidence, confident and agreeing pixels, classes: f64[3 + K] of an image u8[C,H,W]."""
    size, window = (image.shape[-2], image.shape[-1]), trainer.config.train.sliding_window
    with trainer.device.autocast():
        scores = iou.predict_scores(trainer.teacher.module, image[None], size, window)
        student = iou.predict(trainer.student, image[None], size, window)
    confidence, classes = iou.probabilities(*scores).max(1)
    confidence = confidence.nan_to_num(0)  # of a network that has diverged
    parts = [confidence.double(), confidence > CONFIDENT, classes == student]
    shares = torch.bincount(classes.flatten(), minlength=trainer.table.num_classes)
    means = torch.stack([part.double().mean() for part in parts])
    return torch.cat([means, shares / classes.numel()]).cpu().numpy()
