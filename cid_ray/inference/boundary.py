"""The boundary F-score: do the contours of a prediction lie where those of the label lie?

Source: the BF score of Csurka et al. 2013, "What is a good evaluation measure for semantic
segmentation?": per class and image, with a tolerance of 0.75 % of the image's diagonal. DAVIS
(Perazzi et al. 2016) measures F alike, with 0.8 %.

A contour pixel has a neighbour, above, below, left or right, of another class. The image's edge
is no contour. Ignored pixels are removed from label and prediction alike, so where a class meets
them both have the same contour.

    H,W pixels of an image   K classes
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cid_ray.data.table import IGNORED

TOLERANCE = 0.0075  # of the image's diagonal
MIN_TOLERANCE = 1.0  # pixels


def boundary_tolerance(height: int, width: int) -> float:
    """The distance in pixels at which two contours still match.

    Example:
        >>> boundary_tolerance(720, 960)
        9.0
    """
    return max(MIN_TOLERANCE, TOLERANCE * float(np.hypot(height, width)))


def boundary_f(
    truth: np.ndarray, predicted: np.ndarray, num_classes: int, tolerance: float
) -> np.ndarray:
    """The boundary F-score of each class on one image.

    Args:
        truth: u8[H, W] class ids, 255 for ignored pixels.
        predicted: u8[H, W] class ids.
        num_classes: K.
        tolerance: pixels, Euclidean.

    Returns:
        f64[K] of 0 to 1: 2PR / (P + R), where precision P is the fraction of predicted contour
        pixels within the tolerance of the label's contour, and recall R the opposite. NaN for
        classes without a contour in the label.

    Example:
        >>> boundary_f(truth, truth, 2, tolerance=1.0)
        array([1., 1.])
    """
    predicted = np.where(truth == IGNORED, IGNORED, predicted)
    scores = np.full(num_classes, np.nan)
    true_contours = is_contour(truth)
    predicted_contours = is_contour(predicted)
    for number in np.unique(truth[true_contours]).tolist():
        if number >= num_classes:
            continue
        expected = np.argwhere(true_contours & (truth == number))
        found = np.argwhere(predicted_contours & (predicted == number))
        recall = _fraction_near(expected, found, tolerance)
        precision = _fraction_near(found, expected, tolerance)
        both = precision + recall
        scores[number] = 2 * precision * recall / both if both else 0.0
    return scores


def is_contour(classes: np.ndarray) -> np.ndarray:
    """bool[H, W]: which pixels of u8[H, W] have a direct neighbour of another class."""
    found = np.zeros(classes.shape, bool)
    vertical = classes[1:] != classes[:-1]
    horizontal = classes[:, 1:] != classes[:, :-1]
    found[1:] |= vertical
    found[:-1] |= vertical
    found[:, 1:] |= horizontal
    found[:, :-1] |= horizontal
    return found


def _fraction_near(points: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """The fraction of points i64[n, 2] within the tolerance of one of the others i64[m, 2]."""
    if not len(points) or not len(others):
        return 0.0
    bound = float(np.nextafter(tolerance, np.inf))  # distances below the bound are searched
    distance, _ = cKDTree(others).query(points, distance_upper_bound=bound)
    return float((distance <= tolerance).mean())
