"""Scores of teacher and student on val or test: every image once, over all workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from cid_ray.core import iou
from cid_ray.core.calibration import Calibration
from cid_ray.training.collectives import gather_objects, sum_calibration, sum_matrix

if TYPE_CHECKING:
    from cid_ray.training.trainer import Trainer

# network ("teacher", "student") -> what core.iou.iou_scores gives, and `ece`
Scores = dict[str, dict[str, Any]]


@dataclass
class ErrorAnalysis:
    """What the teacher got wrong.

    Attributes:
        confusion: pixels i64[K,K] by (true class, predicted class).
        images: row of the table -> mIoU of the image, None without a labeled pixel.
    """

    confusion: np.ndarray
    images: dict[int, float | None] = field(default_factory=dict)

    def worst(self, count: int) -> list[int]:
        """The rows with the lowest mIoU, the worst first."""
        scored = [(miou, row) for row, miou in self.images.items() if miou is not None]
        return [row for _, row in sorted(scored)[:count]]


def evaluate(trainer: Trainer, split: str) -> tuple[Scores, ErrorAnalysis]:
    """Scores of both networks on a split, and what the teacher got wrong there."""
    teacher, errors = _score(trainer, trainer.teacher.module, split)
    student, _ = _score(trainer, trainer.student, split)
    trainer.student.train()
    return {"teacher": teacher, "student": student}, errors


def _score(trainer: Trainer, net: nn.Module, split: str) -> tuple[dict[str, Any], ErrorAnalysis]:
    spec, table = trainer.spec, trainer.table
    rows = trainer.eval_rows(split)[spec.rank :: spec.world_size]
    images, window = trainer.eval_images(rows), trainer.config.train.sliding_window
    calibration = Calibration()
    own = ErrorAnalysis(np.zeros((table.num_classes, table.num_classes), np.int64))
    net.eval()
    with trainer.device.autocast():
        matrices = iou.confusion_matrices(net, images, table.num_classes, window, calibration)
        for row, matrix in zip(rows.tolist(), matrices, strict=True):
            own.confusion += matrix
            own.images[row] = iou.mean_iou(matrix)
    errors = ErrorAnalysis(sum_matrix(own.confusion, trainer.device.torch))
    for part in gather_objects(own.images):
        errors.images |= part
    total = sum_calibration(calibration)
    ece = total.ece if total.pixels.any() else None
    return {**iou.iou_scores(errors.confusion, table.classes), "ece": ece}, errors
