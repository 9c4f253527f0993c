"""All scores of a network on a set of images, added image by image: none is held in memory.

    K classes   H,W pixels of an image
Source of mIoU: PASCAL VOC, computed by `core/iou.py` as in training. Precision = TP / (TP + FP) and
recall = TP / (TP + FN), of pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cid_ray.core import iou
from cid_ray.core.calibration import Calibration
from cid_ray.data.table import IGNORED
from cid_ray.inference.boundary import boundary_f, boundary_tolerance


class Scores:
    """Sums over images, and a line about each image.

    Args:
        classes: the K class names.

    Attributes:
        confusion: i64[K, K], pixels by (true class, predicted class).
        images: for each image its id, mIoU, pixel accuracy and mean confidence in percent.
        counts: for each image i64[3, K]: true positives, labeled pixels, predicted pixels.

    Example:
        >>> scores = Scores(["road", "car"])
        >>> scores.add("test/1", mask, prediction.classes, prediction.confidence)
        >>> scores.result()["miou"]
        71.25
    """

    def __init__(self, classes: list[str]):
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        count = len(self.classes)
        self.confusion = np.zeros((count, count), np.int64)
        self.images: list[dict[str, Any]] = []
        self.counts: list[np.ndarray] = []
        self.calibration = Calibration()
        self.boundary_sums = np.zeros(count)
        self.boundary_images = np.zeros(count, np.int64)
        self.tolerances: list[float] = []  # the smallest and the largest

    def add(
        self, image_id: str, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
    ) -> None:
        """Add an image.

        Args:
            image_id: its name in the results.
            truth: u8[H, W] class ids, 255 for ignored pixels.
            predicted: u8[H, W] class ids.
            confidence: f32[H, W], the probability of the predicted class.
        """
        count = len(self.classes)
        labeled = truth != IGNORED
        true, found = truth[labeled].astype(np.int64), predicted[labeled]
        pairs = np.bincount(true * count + found, minlength=count**2)
        matrix = pairs.reshape(count, count)
        self.confusion += matrix
        self.counts.append(np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)]))
        sure = confidence[labeled]
        self.calibration.add(sure, true == found)
        values = iou.iou_scores(matrix, self.classes)
        is_empty = not len(sure)
        self.images.append(
            {
                "id": image_id,
                "miou": values["miou"],
                "pixel_accuracy": None if is_empty else values["pixel_accuracy"],
                "confidence": None if is_empty else float(100 * sure.mean(dtype=np.float64)),
            }
        )
        self._add_boundary(truth, predicted)

    def _add_boundary(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        tolerance = boundary_tolerance(*truth.shape)
        self.tolerances = [
            min([tolerance, *self.tolerances]),
            max([tolerance, *self.tolerances]),
        ]
        values = boundary_f(truth, predicted, len(self.classes), tolerance)
        has_contour = ~np.isnan(values)
        self.boundary_sums += np.where(has_contour, values, 0)
        self.boundary_images += has_contour

    def state_dict(self) -> dict[str, Any]:
        """The sums as JSON values."""
        return {
            "confusion": self.confusion.tolist(),
            "images": self.images,
            "counts": [each.tolist() for each in self.counts],
            "boundary_sums": self.boundary_sums.tolist(),
            "boundary_images": self.boundary_images.tolist(),
            "tolerances": self.tolerances,
            "calibration": self.calibration.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved sums.

        Raises:
            ValueError, TypeError or LookupError: they are not of these classes.
        """
        for name in ("confusion", "boundary_images"):
            _fill(getattr(self, name), state[name])
        _fill(self.boundary_sums, state["boundary_sums"])
        self.counts = [np.array(each, np.int64).reshape(3, -1) for each in state["counts"]]
        self.images = list(state["images"])
        self.tolerances = [float(value) for value in state["tolerances"]]
        self.calibration = Calibration()
        self.calibration.add_state(state["calibration"])
        if len(self.counts) != len(self.images):
            raise ValueError(f"{len(self.counts)} counts of {len(self.images)} images")

    def result(self) -> dict[str, Any]:
        """Everything as JSON values, in percent.

        `miou`, `iou`, `absent` and `pixel_accuracy` as of `core.iou.iou_scores`. Then `precision`,
        `recall` and `boundary_f` by class name (None where there is nothing to measure) and their
        means over the classes of the ground truth that have a value.
        """
        matrix = self.confusion
        hits, truth, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
        present = truth > 0
        by_class = {
            "precision": _ratio(hits, np.where(present, predicted, 0)),
            "recall": _ratio(hits, truth),
            "boundary_f": _ratio(self.boundary_sums, self.boundary_images),
        }
        result = iou.iou_scores(matrix, self.classes)
        for name, values in by_class.items():
            result[name] = dict(zip(self.classes, values, strict=True))
            measured = [value for value in values if value is not None]
            result[f"mean_{name}"] = float(np.mean(measured)) if measured else None
        return result | {
            "boundary_tolerance": self.tolerances,
            "truth_pixels": dict(zip(self.classes, truth.tolist(), strict=True)),
            "confusion": matrix.tolist(),
            "calibration": {"ece": self.calibration.ece, "bins": self.calibration.bins()},
            "images": self.images,
        }


def _fill(target: np.ndarray, values: Any) -> None:
    array = np.array(values, target.dtype)
    if array.shape != target.shape:
        raise ValueError(f"sums of shape {array.shape}, must be {target.shape}")
    target[...] = array


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    """Percent of two arrays [K]; None where the whole is 0."""
    return [
        float(100 * one / of) if of else None
        for one, of in zip(part.tolist(), whole.tolist(), strict=True)
    ]
