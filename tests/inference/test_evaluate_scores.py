"""Laws of the scores of `evaluate`. References: numbers by hand, and slow versions of loops."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.core import iou
from cid_ray.core.calibration import Calibration
from cid_ray.inference.bootstrap import paired_bootstrap, weighted_miou
from cid_ray.inference.boundary import boundary_f, boundary_tolerance
from cid_ray.inference.class_map import match_classes
from cid_ray.inference.scores import Scores

seeds = st.integers(0, 2**32 - 1)


# ---- by hand ----


def test_scores_of_two_small_images_are_those_by_hand() -> None:
    scores = Scores(["a", "b", "c"])
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 0]], np.uint8)
    confidence = np.array([[0.9, 0.6, 0.8, 0.1]], np.float32)
    scores.add("first", truth, predicted, confidence)
    scores.add("void", np.full((1, 4), 255, np.uint8), predicted, confidence)
    found = scores.result()
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert found["iou"] == {"a": 50.0, "b": 50.0, "c": None} and found["miou"] == 50.0
    assert found["precision"] == {"a": 100.0, "b": 50.0, "c": None}
    assert found["recall"] == {"a": 50.0, "b": 100.0, "c": None}
    assert found["mean_precision"] == found["mean_recall"] == 75.0
    assert found["pixel_accuracy"] == pytest.approx(200 / 3) and found["absent"] == ["c"]
    first, void = found["images"]
    assert first["miou"] == 50.0 and first["confidence"] == pytest.approx(230 / 3)
    assert [void[key] for key in ("miou", "pixel_accuracy", "confidence")] == [None] * 3
    # Bins (0.533, 0.6], (0.733, 0.8] and (0.867, 0.933]: wrong, right, right.
    assert found["calibration"]["ece"] == pytest.approx(100 * (0.6 + 0.2 + 0.1) / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("shift", "tolerance", "expected"),
    [(0, 1.0, 1.0), (1, 1.0, 1.0), (2, 1.0, 0.0), (2, 1.9, 0.0), (2, 2.0, 1.0), (4, 4.0, 1.0)],
)
def test_boundary_f_of_a_shifted_edge_depends_on_the_tolerance(
    shift: int, tolerance: float, expected: float
) -> None:
    truth = np.zeros((8, 20), np.uint8)
    truth[:, 8:] = 1
    predicted = np.zeros_like(truth)
    predicted[:, 8 + shift :] = 1
    found = boundary_f(truth, predicted, 3, tolerance)
    assert found[:2].tolist() == [expected, expected] and math.isnan(found[2])


def test_boundary_f_of_a_contour_that_is_found_in_part_is_that_by_hand() -> None:
    """Half of a straight edge is moved: P = R = 1/2 but for the pixels near the step."""
    truth = np.zeros((20, 40), np.uint8)
    truth[:, 20:] = 1
    predicted = truth.copy()
    predicted[10:] = 0
    predicted[10:, 30:] = 1
    # The label's contour: 10 of 20 pixels are found, and row 10 is one pixel from row 9. The
    # prediction's of class 1: 10 found, 10 moved ones, and the step of 9 + 1 pixels between them.
    recall = 11 / 20
    near_step = sum(1 for x in range(20, 31) if x <= 21)  # row 9, columns 20 to 30
    precision = (9 + near_step) / (9 + 10 + 10)
    found = boundary_f(truth, predicted, 2, 1.0)
    assert found[1] == pytest.approx(2 * precision * recall / (precision + recall))


def test_class_that_is_not_predicted_has_boundary_f_0_and_one_without_contour_none() -> None:
    truth = np.zeros((6, 6), np.uint8)
    truth[2:4, 2:4] = 1
    assert boundary_f(truth, np.zeros_like(truth), 2, 1.0).tolist() == [0.0, 0.0]
    assert np.isnan(boundary_f(np.zeros_like(truth), truth, 2, 1.0)).all()


def test_prediction_inside_ignored_pixels_does_not_matter() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 5:] = 1
    truth[:3] = 255
    predicted = truth.copy()
    predicted[:3] = np.arange(8) % 2
    assert boundary_f(truth, predicted, 2, 1.0).tolist() == [1.0, 1.0]


def test_tolerance_is_that_of_csurka_and_at_least_a_pixel() -> None:
    assert boundary_tolerance(720, 960) == pytest.approx(9.0)
    assert boundary_tolerance(24, 32) == 1.0


# ---- against slow versions ----


def slow_boundary_f(
    truth: np.ndarray, predicted: np.ndarray, number: int, tolerance: float
) -> float:
    """By its definition, with loops over pixels."""
    height, width = truth.shape
    predicted = np.where(truth == 255, 255, predicted)

    def contour(classes: np.ndarray) -> list[tuple[int, int]]:
        found = []
        for y, x in product(range(height), range(width)):
            near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(v, u) for v, u in near if 0 <= v < height and 0 <= u < width]
            if classes[y, x] == number and any(classes[one] != number for one in inside):
                found.append((y, x))
        return found

    def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        hits = [any(math.dist(one, other) <= tolerance for other in others) for one in points]
        return sum(hits) / len(hits) if hits else 0.0

    expected, found = contour(truth), contour(predicted)
    if not expected:
        return math.nan
    precision, recall = near(found, expected), near(expected, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    tolerance=st.sampled_from([1.0, math.sqrt(2), 1.9, 3.0, math.sqrt(5)]),
)
def test_boundary_f_is_that_of_the_slow_version(
    seed: int, height: int, width: int, tolerance: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    predicted = rng.integers(0, 3, (height, width), dtype=np.uint8)
    expected = [slow_boundary_f(truth, predicted, k, tolerance) for k in range(3)]
    found = boundary_f(truth, predicted, 3, tolerance)
    assert np.allclose(found, expected, equal_nan=True, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(
    confidence=st.lists(
        st.floats(0, 1, width=32) | st.integers(0, 15).map(lambda number: number / 15), min_size=1
    ),
    seed=seeds,
)
def test_calibration_added_in_parts_is_that_of_the_slow_version(
    confidence: list[float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.integers(0, 2, len(confidence)).astype(bool)
    calibration = Calibration()
    cut = int(rng.integers(0, len(confidence) + 1))
    for part in (slice(cut), slice(cut, None)):
        calibration.add(np.array(confidence[part], float), correct[part])
    edges = [number / 15 for number in range(16)]
    error, pixels = 0.0, []
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = [
            (value, right)
            for value, right in zip(confidence, correct, strict=True)
            if low < value <= high or (number == 0 and value == 0)
        ]
        pixels.append(len(inside))
        error += abs(sum(right for _, right in inside) - sum(value for value, _ in inside))
    assert [one["pixels"] for one in calibration.bins()] == pixels
    assert calibration.ece == pytest.approx(100 * error / len(confidence), abs=1e-9)


def random_counts(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrices i64[N, 3, 3] and what the bootstrap needs of them."""
    matrices = rng.integers(0, 50, (images, 3, 3)) * rng.integers(0, 2, (images, 3, 1))
    parts = [np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2), matrices.sum(1)]
    return matrices, np.stack(parts, 1)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, images=st.integers(1, 6))
def test_miou_of_a_draw_is_that_of_the_summed_matrices(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    matrices, counts = random_counts(rng, images)
    weights = rng.multinomial(images, np.full(images, 1 / images), 5)
    expected = [
        iou.iou_scores(np.einsum("n,nij->ij", draw, matrices), ["a", "b", "c"])["miou"]
        for draw in weights
    ]
    found = weighted_miou(counts, weights)
    as_floats = [math.nan if value is None else value for value in expected]
    assert np.allclose(found, as_floats, equal_nan=True, rtol=0, atol=1e-9)


# ---- laws of the bootstrap ----


def noisy_counts(rng: np.random.Generator, accuracy: float, images: int = 60) -> np.ndarray:
    """Two classes with 100 pixels each; the share of right ones varies from image to image."""
    right = rng.binomial(100, np.clip(rng.normal(accuracy, 0.1, (images, 2)), 0, 1))
    truth = np.full((images, 2), 100)
    return np.stack([right, truth, right + 100 - right[:, ::-1]], 1)


def test_bootstrap_tells_better_worse_and_noise_apart() -> None:
    rng = np.random.default_rng(0)
    low, high, alike = (noisy_counts(rng, accuracy) for accuracy in (0.7, 0.8, 0.7))
    better = paired_bootstrap(low, high)
    assert better.low > 0 and "B is better than A by" in better.verdict("A", "B")
    worse = paired_bootstrap(high, low)
    assert np.allclose([worse.low, worse.high], [-better.high, -better.low])  # the same draws
    ends = f"{better.low:.2f} to {better.high:.2f}"
    assert f"B is worse than A by {better.difference:.2f} mIoU (95 %: {ends})" == (
        worse.verdict("A", "B")
    )
    assert paired_bootstrap(low, alike).is_within_noise
    assert paired_bootstrap(low, high) == better
    assert "only 5 images" in paired_bootstrap(low[:5], high[:5]).verdict("A", "B")


def test_interval_has_the_width_of_a_normal_one() -> None:
    """Of the mean difference, whose standard error is known: mIoU is nearly linear here."""
    rng = np.random.default_rng(1)
    first, second = noisy_counts(rng, 0.75, 400), noisy_counts(rng, 0.75, 400)
    found = paired_bootstrap(first, second)
    ones = np.eye(400)
    single = weighted_miou(second, ones) - weighted_miou(first, ones)
    width = 2 * 1.96 * single.std() / math.sqrt(400)
    assert (found.high - found.low) == pytest.approx(width, rel=0.15)


# ---- class names ----


@settings(deadline=None)
@given(order=st.permutations(list("abcde")))
def test_ids_of_equal_names_are_a_permutation(order: list[str]) -> None:
    found = match_classes(order, list("abcde"))
    assert ["abcde"[number] for number in found.ids[:5]] == order
    assert (found.ids[5:] == 255).all() and not found.ignored
    assert bool(found.message) == (order != list("abcde"))


def test_names_with_an_equals_sign_are_found() -> None:
    found = match_classes(["a=b", "c"], ["b=c", "c"], ["a=b=b=c"])
    assert found.ids[:2].tolist() == [0, 1]
