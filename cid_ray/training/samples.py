"""Predictions as pictures: a few val images at every rung, a few test images at the end of a run,
evenly spaced ones and the worst.

An image of more than three bands is shown by its first three as red, green and blue, one of fewer
by its first in grey.

Image and label are written once for all runs of a command. A run's newer prediction replaces the
former one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cid_ray.core import iou
from cid_ray.data.band_image import to_rgb
from cid_ray.data.image_codec import encode_png
from cid_ray.results.record_types import Sample
from cid_ray.storage import paths
from cid_ray.training.scoring import ErrorAnalysis
from cid_ray.training.trainer import Trainer


def save_samples(trainer: Trainer, split: str) -> list[Sample]:
    """Write the teacher's predictions on evenly spaced images of val or test, as indexed PNG files.

    Of test images also its confidence. Only rank 0 writes. Neither weights nor random numbers of
    the run change.

    Returns:
        For each of `train.num_sample_images` images its id, and the paths of the pictures below the
        run folder.
    """
    rows = trainer.eval_rows(split)
    count = min(trainer.config.train.num_sample_images, len(rows))
    evenly = np.linspace(0, len(rows) - 1, count + 2).round().astype(int)[1:-1]
    return _save(trainer, rows[evenly] if count else rows[:0], with_confidence=split == "test")


def save_worst_samples(trainer: Trainer, errors: ErrorAnalysis) -> list[Sample]:
    """The same of the test images with the lowest mIoU, the worst first."""
    rows = np.array(errors.worst(trainer.config.train.num_sample_images), np.int64)
    samples = _save(trainer, rows, with_confidence=True)
    for sample, row in zip(samples, rows.tolist(), strict=False):  # other ranks have no samples
        sample["miou"] = errors.images[row]
    return samples


def _save(trainer: Trainer, rows: np.ndarray, with_confidence: bool) -> list[Sample]:
    if trainer.spec.rank:
        return []
    palette = [*trainer.table.colors, *[[0, 0, 0]] * (256 - trainer.table.num_classes)]
    trainer.teacher.module.eval()
    samples = []
    for row, (image, mask) in zip(rows.tolist(), trainer.eval_images(rows), strict=True):
        sample: Sample = {
            "image_id": trainer.table.ids(np.array([row]))[0],
            "image": f"samples/images/{row}_image.png",
            "label": f"samples/images/{row}_label.png",
            "prediction": f"samples/{trainer.spec.name}/{row}.png",
        }
        classes, confidence = _predict(trainer, image, mask)
        _write(trainer, sample["prediction"], encode_png(classes, palette))
        if with_confidence:
            sample["confidence"] = f"samples/{trainer.spec.name}/{row}_confidence.png"
            _write(trainer, sample["confidence"], encode_png(confidence))
        if not _exists(trainer, sample["image"]):
            pixels = to_rgb(image.permute(1, 2, 0).cpu().numpy())
            _write(trainer, sample["image"], encode_png(pixels))
        if not _exists(trainer, sample["label"]):
            _write(trainer, sample["label"], encode_png(mask.cpu().numpy(), palette))
        samples.append(sample)
    return samples


def _predict(trainer: Trainer, image: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's classes u8[H,W] of an image u8[C,h,w] at the size of its mask.

    And its confidence u8[H,W], 255 for a probability of 1.
    """
    size = (mask.shape[0], mask.shape[1])
    window = trainer.config.train.sliding_window
    with torch.no_grad(), trainer.device.autocast():
        scores = iou.predict_scores(trainer.teacher.module, image[None], size, window)
    confidence, classes = iou.probabilities(*scores)[0].max(0)
    shown = (255 * confidence.nan_to_num(0)).round().to(torch.uint8)
    return classes.to(torch.uint8).cpu().numpy(), shown.cpu().numpy()


def _exists(trainer: Trainer, path: str) -> bool:
    return paths.exists(paths.join(trainer.spec.run_dir, path))


def _write(trainer: Trainer, path: str, content: bytes) -> None:
    with paths.atomic_write(paths.join(trainer.spec.run_dir, path)) as file:
        file.write(content)
