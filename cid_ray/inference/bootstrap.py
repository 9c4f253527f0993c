"""The paired bootstrap: is the difference of two networks larger than the choice of images?

Both networks are scored on the same images. Images are drawn with replacement, as many as there
are, and mIoU of both is computed from the summed confusion matrices of the draw. The difference
over many draws gives its 95 % interval (Efron and Tibshirani 1993, percentile interval).

mIoU needs three numbers of each class and image alone, so no matrix is held:

    counts i64[N, 3, K]: true positives, labeled pixels, predicted pixels   N images   K classes
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000
LEVEL = 95  # % of the draws inside the interval
MAX_WEIGHTS = 2_000_000  # that are held: draws x images
FEW_IMAGES = 20  # below it a percentile interval is too narrow


@dataclass(frozen=True)
class Comparison:
    """mIoU of the second network minus that of the first, in percentage points.

    Attributes:
        difference: on all images.
        low: the lower end of the 95 % interval.
        high: the upper end.
        resamples: draws of images.
        seed: of the draws.
        images: N.
    """

    difference: float
    low: float
    high: float
    resamples: int
    seed: int
    images: int

    @property
    def is_within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    def verdict(self, first: str, second: str) -> str:
        """ "B is better than A by 1.3 (95 %: 0.4 to 2.2)", or that it is within noise."""
        few = f"; only {self.images} images: the interval is too narrow"
        end = few if self.images < FEW_IMAGES else ""
        if self.is_within_noise:
            interval = f"{self.low:+.2f} to {self.high:+.2f}"
            return (
                f"within noise: {second} over {first} {self.difference:+.2f} mIoU "
                f"({LEVEL} %: {interval}){end}"
            )
        sign = 1 if self.low > 0 else -1
        word = "better" if sign > 0 else "worse"
        low, high = sorted((sign * self.low, sign * self.high))
        return (
            f"{second} is {word} than {first} by {sign * self.difference:.2f} mIoU "
            f"({LEVEL} %: {low:.2f} to {high:.2f}){end}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {**asdict(self), "level": LEVEL, "within_noise": self.is_within_noise}


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two networks on the same images.

    Args:
        first: counts i64[N, 3, K] of one network.
        second: of the other, with the same images and classes in the same order.
        resamples: draws of N images.
        seed: of the draws.

    Example:
        >>> paired_bootstrap(counts, counts).verdict("A", "B")
        'within noise: B over A +0.00 mIoU (95 %: +0.00 to +0.00)'
    """
    count = len(first)
    rng = np.random.default_rng(seed)
    differences = []
    step = max(1, MAX_WEIGHTS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size)
        differences.append(weighted_miou(second, weights) - weighted_miou(first, weights))
    everything = np.ones((1, count))
    difference = weighted_miou(second, everything) - weighted_miou(first, everything)
    tail = (100 - LEVEL) / 2
    # A draw of images without any label has no score.
    low, high = np.nanpercentile(np.concatenate(differences), [tail, 100 - tail])
    return Comparison(float(difference[0]), float(low), float(high), resamples, seed, count)


def weighted_miou(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """f64[R]: mIoU in percent of R draws, by how often each image is drawn.

    Args:
        counts: i64[N, 3, K].
        weights: [R, N], how often each image is in the draw.
    """
    num_images, _, num_classes = counts.shape
    # Sums of whole numbers below 2**53 are exact in f64, and BLAS multiplies floats alone.
    flat = counts.reshape(num_images, -1).astype(np.float64)
    sums = (weights.astype(np.float64) @ flat).reshape(-1, 3, num_classes)
    true_positives, truth, predicted = sums[:, 0], sums[:, 1], sums[:, 2]
    present = truth > 0
    union = truth + predicted - true_positives
    iou = np.where(present, 100 * true_positives / np.maximum(union, 1), 0)
    occurring = present.sum(1)
    return np.where(occurring > 0, iou.sum(1) / np.maximum(occurring, 1), np.nan)
