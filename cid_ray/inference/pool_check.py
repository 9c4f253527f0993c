"""What is odd about a pool, as functions of numbers: images unlike the labels, copies, outliers.

An image is unlike the labels when its nearest labeled image is farther than the distance that 95 %
of the labeled images keep from their own nearest one (Sun et al., ICML 2022, deep nearest
neighbours). Two distances are measured, because each finds what the other misses (docs/use.md has
the numbers):

- features: the cosine distance of the mean features, minus their mean over labels and pool. Raw
  features of one network all point nearly the same way, and the labels' own mean hides that the
  pool is elsewhere.
- colors: the Euclidean distance of the means and standard deviations of red, green and blue, in
  grey levels. A scale taken from few labels would fit these labels and no other image.

The threshold is one order statistic of n labels, so the part of a like pool that exceeds it is
about Beta-distributed around (n + 1 - rank) / (n + 1). A pool is said to differ beyond that only.

    N images of the pool   M labeled images   K classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cid_ray.data.ingest.near_index import NearIndex

LIKE = 0.95  # of the labeled images are nearer to another one than the threshold
CHANCE = 0.99  # of the thresholds let at most `chance_high` of a like pool exceed them
MIN_LABELED = 5  # with fewer there is no threshold
MAX_Z = 3.5  # robust z-score of an outlier (Iglewicz and Hoaglin 1993)
NOWHERE = 1e-4  # of the pixels: a class that is expected in less is absent
RARER = 4.0  # times fewer pixels than in the labels: a class is rare


@dataclass(frozen=True)
class Reference:
    """The labeled images, to which others are compared.

    Attributes:
        known: f64[M, D], one row for each labeled image.
        center: f64[D], subtracted from other images.
        is_cosine: the distance is the cosine's, else the Euclidean one.
        threshold: the distance above which an image is unlike the labels.
        by_chance: the fraction that is expected above it in a pool like the labels.
        chance_high: the fraction that 99 % of such pools stay below.
    """

    known: np.ndarray
    center: np.ndarray
    is_cosine: bool
    threshold: float
    by_chance: float
    chance_high: float

    @classmethod
    def of_features(cls, labeled: np.ndarray, pool: np.ndarray) -> Reference | None:
        """By the mean features f32[M, C] of the labeled and f32[N, C] of the pool images.

        Returns:
            None with fewer than five labeled images.

        Example:
            >>> reference = Reference.of_features(labeled.features, pool.features)
            >>> (reference.distances(pool.features) > 1).mean()
            0.85
        """
        center = np.concatenate([labeled, pool]).mean(0)
        return cls._make(labeled, center, is_cosine=True)

    @classmethod
    def of_colors(cls, labeled: np.ndarray) -> Reference | None:
        """By `picture_colors` of the labeled images, f64[M, 6]; None with fewer than five."""
        return cls._make(labeled, np.zeros(labeled.shape[1]), is_cosine=False)

    @classmethod
    def _make(cls, labeled: np.ndarray, center: np.ndarray, is_cosine: bool) -> Reference | None:
        count = len(labeled)
        if count < MIN_LABELED:
            return None
        known = _unit(labeled - center) if is_cosine else labeled - center
        between = _distances(known, known, is_cosine)
        np.fill_diagonal(between, np.inf)
        rank = min(count, math.ceil(LIKE * (count + 1)))
        threshold = max(float(np.sort(between.min(1))[rank - 1]), 1e-12)
        above = count + 1 - rank
        chance_high = float(stats.beta.ppf(CHANCE, above, rank))
        return cls(known, center, is_cosine, threshold, above / (count + 1), chance_high)

    def distances(self, images: np.ndarray) -> np.ndarray:
        """f64[n]: to the nearest labeled image, relative to the threshold: above 1 is unlike.

        Args:
            images: f[n, D], features or colors as the labeled ones.
        """
        if not len(images):
            return np.zeros(0)
        rows = images - self.center
        rows = _unit(rows) if self.is_cosine else rows
        return np.asarray(_distances(rows, self.known, self.is_cosine).min(1) / self.threshold)

    def is_beyond_chance(self, count: int, total: int) -> bool:
        """Whether `count` unlike images of `total` are more than chance."""
        return total > 0 and wilson(count, total)[0] > self.chance_high


def _distances(first: np.ndarray, second: np.ndarray, is_cosine: bool) -> np.ndarray:
    """f64[n, m]."""
    if is_cosine:
        return np.asarray(1 - first @ second.T, float)
    return np.stack([np.linalg.norm(second - one, axis=1) for one in first])


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), float)


def picture_colors(pixels: np.ndarray) -> list[float]:
    """The means of red, green and blue of u8[H, W, 3], then their standard deviations."""
    flat = pixels.reshape(-1, 3)
    return [round(float(value), 3) for value in (*flat.mean(0), *flat.std(0))]


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a fraction (Wilson 1927).

    Example:
        >>> low, high = wilson(5, 100)
        >>> round(low, 3), round(high, 3)
        (0.022, 0.112)
    """
    if not total:
        return 0.0, 1.0
    found = stats.binomtest(count, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def robust_z(values: np.ndarray) -> np.ndarray:
    """f64[n]: how far values are from their median, in robust standard deviations.

    These come from the median absolute deviation; where more than half of the values are equal,
    from the mean absolute deviation: one other size among many equal ones is far, a second usual
    size is not.

    Example:
        >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 50.0]))[-1] > MAX_Z
        True
    """
    if not len(values):
        return np.zeros(0)
    away = values - np.median(values)
    scale = 1.4826 * float(np.median(np.abs(away))) or 1.2533 * float(np.abs(away).mean())
    return np.asarray(away / (scale or 1.0), float)


def outliers(colors: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Kind -> f64[N], robust z-scores: brightness, contrast, size and shape within the pool.

    Args:
        colors: f64[N, 6], of `picture_colors`.
        sizes: i64[N, 2], width and height. Size is the area's logarithm, shape that of the ratio.
    """
    width, height = np.log(np.maximum(sizes, 1)).T
    return {
        "brightness": robust_z(colors[:, :3].mean(1)),
        "contrast": robust_z(colors[:, 3:].mean(1)),
        "size": robust_z(width + height),
        "shape": robust_z(width - height),
    }


def near_known(hashes: np.ndarray, known: np.ndarray) -> dict[int, int]:
    """Index of a hash u8[N, 32] -> index of the hash u8[M, 32] of which it is a near-duplicate."""
    index = NearIndex(known)
    found = {}
    for number, one in enumerate(hashes):
        nearest = index.nearest(one.tobytes())
        if nearest is not None:
            found[number] = nearest[0]
    return found


def rare_classes(labels: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which classes the network expects nowhere in the pool, and which in far fewer pixels.

    Both shares are the network's, so its preference for a class counts on both sides. A class that
    it does not expect in its own labels either is neither.

    Args:
        labels: f64[K], the mean expected fraction of pixels in the labeled images.
        pool: f64[K], the same in the pool.

    Returns:
        bool[K], bool[K]: absent (less than 0.01 % of the pixels), and rarer by a factor of four.

    Example:
        >>> absent, rarer = rare_classes(np.array([0.6, 0.4]), np.array([0.95, 0.05]))
        >>> rarer
        array([False,  True])
    """
    known = labels >= NOWHERE
    absent = known & (pool < NOWHERE)
    return absent, known & ~absent & (pool * RARER < labels)


def evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows i64[n], evenly spaced; all of them when they are fewer.

    Example:
        >>> evenly_spaced(np.arange(10), 3)
        array([0, 3, 6])
    """
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.arange(count) * len(rows) // count])
