"""Predictions as pictures: a few val images at every rung, a few test images at the end of a run.

An image of more than three bands is shown by its first three as red, green and blue, one of fewer
by its first in grey.

Image and label are written once for all runs of a command. A run's newer prediction replaces the
former one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cid_ray.core import iou
from cid_ray.data.band_image import to_rgb
from cid_ray.data.image_codec import encode_png
from cid_ray.storage import paths
from cid_ray.training.trainer import Trainer


def save_samples(trainer: Trainer, split: str) -> list[dict[str, Any]]:
    """Write the teacher's predictions on evenly spaced images of val or test, as indexed PNG files.

    Only rank 0 writes. Neither weights nor random numbers of the run change.

    Returns:
        For each of `train.num_sample_images` images its id, and the paths of image, label and
        prediction below the run folder.
    """
    rows = trainer.eval_rows(split)
    count = min(trainer.config.train.num_sample_images, len(rows))
    if not count or trainer.spec.rank:
        return []
    rows = rows[np.linspace(0, len(rows) - 1, count + 2).round().astype(int)[1:-1]]
    palette = [*trainer.table.colors, *[[0, 0, 0]] * (256 - trainer.table.num_classes)]
    trainer.teacher.module.eval()
    samples = []
    for row, (image, mask) in zip(rows.tolist(), trainer.eval_images(rows), strict=True):
        files = {
            "image": f"samples/images/{row}_image.png",
            "label": f"samples/images/{row}_label.png",
            "prediction": f"samples/{trainer.spec.name}/{row}.png",
        }
        pred = _predict(trainer, image, mask)
        _write(trainer, files["prediction"], encode_png(pred.cpu().numpy(), palette))
        if not _exists(trainer, files["image"]):
            pixels = to_rgb(image.permute(1, 2, 0).cpu().numpy())
            _write(trainer, files["image"], encode_png(pixels))
        if not _exists(trainer, files["label"]):
            _write(trainer, files["label"], encode_png(mask.cpu().numpy(), palette))
        samples.append({"image_id": trainer.table.ids(np.array([row]))[0], **files})
    return samples


def _predict(trainer: Trainer, image: Tensor, mask: Tensor) -> Tensor:
    """The teacher's classes u8[H,W] of an image u8[C,h,w], at the size of its mask."""
    size = (mask.shape[0], mask.shape[1])
    window = trainer.config.train.sliding_window
    with torch.no_grad(), trainer.device.autocast():
        pred = iou.predict(trainer.teacher.module, image[None], size, window)
    return pred[0].to(torch.uint8)


def _exists(trainer: Trainer, path: str) -> bool:
    return paths.exists(paths.join(trainer.spec.run_dir, path))


def _write(trainer: Trainer, path: str, content: bytes) -> None:
    with paths.atomic_write(paths.join(trainer.spec.run_dir, path)) as file:
        file.write(content)
