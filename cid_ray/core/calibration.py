"""Is a network as often right as it says? Expected calibration error and the reliability curve.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", with 15 bins. Here a sample is
a labeled pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15
SUMS = ("pixels", "confidence", "correct")


class Calibration:
    """Sums over confidences, bin by bin, so that no pixel is held.

    A bin (low, high] holds the pixels whose confidence, the probability of the predicted class, is
    above `low` and at most `high`.

    Args:
        bins: number of bins of equal width.

    Example:
        >>> calibration = Calibration()
        >>> calibration.add(np.array([0.9, 0.9]), np.array([True, False]))
        >>> round(calibration.ece, 6)
        40.0
    """

    def __init__(self, bins: int = BINS):
        self.edges = np.arange(bins + 1) / bins
        self.pixels = np.zeros(bins, np.int64)
        self.confidence = np.zeros(bins)  # sums
        self.correct = np.zeros(bins, np.int64)

    def add(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add pixels.

        Args:
            confidence: f32[n] of 0 to 1.
            correct: bool[n], whether the predicted class is the true one.
        """
        values = confidence.astype(np.float64)
        index = np.searchsorted(self.edges[1:-1], values, side="left")
        count = len(self.pixels)
        self.pixels += np.bincount(index, minlength=count)
        self.confidence += np.bincount(index, values, count)
        self.correct += np.bincount(index[correct], minlength=count)

    def state_dict(self) -> dict[str, Any]:
        """The sums as JSON values."""
        return {name: getattr(self, name).tolist() for name in SUMS}

    def add_state(self, state: dict[str, Any]) -> None:
        """Add saved sums, or another worker's; an error of numpy if they are not of these bins."""
        for name in SUMS:
            own = getattr(self, name)
            own += np.array(state[name], own.dtype).reshape(own.shape)

    @property
    def ece(self) -> float:
        """Expected calibration error in percent: mean |accuracy - confidence|, by pixels."""
        total = int(self.pixels.sum())
        return float(100 * np.abs(self.correct - self.confidence).sum() / max(1, total))

    def bins(self) -> list[dict[str, Any]]:
        """The reliability curve: for each bin its edges, pixels, mean confidence and accuracy.

        All in percent but the pixels. Confidence and accuracy of an empty bin are None.
        """
        found = []
        for number, pixels in enumerate(self.pixels.tolist()):
            mean, accuracy = None, None
            if pixels:
                mean = float(100 * self.confidence[number] / pixels)
                accuracy = float(100 * self.correct[number] / pixels)
            low, high = (100 * self.edges[number : number + 2]).tolist()
            found.append(
                {
                    "low": low,
                    "high": high,
                    "pixels": pixels,
                    "confidence": mean,
                    "accuracy": accuracy,
                }
            )
        return found
