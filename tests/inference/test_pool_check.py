"""Laws of what `pool` computes. References: made-up points of known distribution, scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cid_ray.data.ingest.perceptual_hash import describe_looks
from cid_ray.inference.pool_check import (
    MAX_Z,
    MIN_LABELED,
    Reference,
    evenly_spaced,
    near_known,
    outliers,
    picture_colors,
    rare_classes,
    robust_z,
    wilson,
)
from tests.helpers.image_tables import random_image
from tests.helpers.photos import photo, recoded

CHANNELS = 16


def references(labeled: np.ndarray, pool: np.ndarray) -> list[Reference]:
    found = [Reference.of_features(labeled, pool), Reference.of_colors(labeled)]
    assert None not in found
    return [one for one in found if one is not None]


@pytest.mark.parametrize("count", [6, 12, 40, 200])
def test_pool_like_the_labels_exceeds_the_threshold_by_chance_only(count: int) -> None:
    rng = np.random.default_rng(count)
    tolerance = 0.05 if count < 19 else 0.02  # the mean of 100 draws
    shares: list[list[float]] = [[], []]
    alarms = 0
    for _ in range(100):
        images = rng.normal(100, 20, (count + 150, CHANNELS))
        labeled, pool = images[:count], images[count:]
        for number, one in enumerate(references(labeled, pool)):
            unlike = one.distances(pool) > 1
            shares[number].append(float(unlike.mean()))
            alarms += one.is_beyond_chance(int(unlike.sum()), len(pool))
    expected = references(labeled, pool)[0].by_chance
    assert expected == pytest.approx(0.05, abs=tolerance + 0.05)
    for measured in shares:
        assert np.mean(measured) == pytest.approx(expected, abs=tolerance)
    assert alarms <= 4  # of 200


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_images_of_another_domain_are_found(part: float) -> None:
    rng = np.random.default_rng(0)
    labeled = rng.normal(100, 5, (24, CHANNELS))
    num_other = int(100 * part)
    other = rng.normal(100, 5, (num_other, CHANNELS))
    other[:, :4] += 80
    pool = np.concatenate([other, rng.normal(100, 5, (100 - num_other, CHANNELS))])
    for one in references(labeled, pool):
        unlike = one.distances(pool) > 1
        assert unlike[:num_other].mean() > 0.9
        assert unlike[num_other:].mean() < 0.2
        assert one.is_beyond_chance(int(unlike[:num_other].sum()), num_other)


def test_order_of_labels_does_not_matter_and_few_labels_give_no_threshold() -> None:
    rng = np.random.default_rng(1)
    labeled, pool = rng.normal(size=(20, CHANNELS)), rng.normal(size=(9, CHANNELS))
    shuffled = rng.permutation(labeled)
    for one, other in zip(references(labeled, pool), references(shuffled, pool), strict=True):
        assert one.distances(pool) == pytest.approx(other.distances(pool))
        assert len(one.distances(pool[:0])) == 0
    few = labeled[: MIN_LABELED - 1]
    assert Reference.of_features(few, pool) is None and Reference.of_colors(few) is None


def test_equal_labels_are_no_division_by_zero() -> None:
    labeled = np.full((8, 6), 50.0)
    found = Reference.of_colors(labeled)
    assert found is not None
    assert found.distances(labeled[:2]).tolist() == [0, 0] and found.distances(labeled + 1)[0] > 1


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 50), (50, 50), (1, 1)])
def test_wilson_is_that_of_scipy(count: int, total: int) -> None:
    expected = stats.binomtest(count, total).proportion_ci(method="wilson")
    assert wilson(count, total) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson(0, 0) == (0, 1)


def test_robust_z_is_that_of_normal_numbers_and_ignores_outliers() -> None:
    values = np.random.default_rng(0).normal(7, 3, 20_000)
    assert robust_z(values) == pytest.approx((values - 7) / 3, abs=0.1)
    spoiled = np.concatenate([values, np.full(2000, 1e6)])
    assert np.abs(robust_z(spoiled)[: len(values)]).max() < 6
    assert robust_z(10 * values + 3) == pytest.approx(robust_z(values))
    assert robust_z(np.full(5, 2.0)).tolist() == [0] * 5 and len(robust_z(np.zeros(0))) == 0


def test_one_odd_size_is_an_outlier_and_a_second_usual_size_is_not() -> None:
    colors = np.random.default_rng(0).normal(100, 5, (40, 6))
    for num_other, expected in ((1, [39]), (16, [])):
        sizes = np.array([[640, 480]] * (40 - num_other) + [[1280, 960]] * num_other)
        found = outliers(colors, sizes)
        assert np.flatnonzero(np.abs(found["size"]) > MAX_Z).tolist() == expected
        assert not found["shape"].any()


def test_dark_and_flat_images_are_outliers_of_their_kind() -> None:
    colors = np.stack([picture_colors(random_image(seed) // 2 + 60) for seed in range(30)])
    dark = picture_colors(random_image(99) // 2)
    flat = picture_colors(np.full((24, 32, 3), 123, np.uint8))
    found = outliers(np.concatenate([colors, [dark, flat]]), np.full((32, 2), 32))
    assert found["brightness"][30] < -MAX_Z and found["contrast"][31] < -MAX_Z


def test_copies_are_found_and_other_images_are_not() -> None:
    images = [photo(seed) for seed in range(6)]
    hashes = [describe_looks(np.asarray(image)).hash for image in images]
    copy = describe_looks(np.asarray(recoded(images[2], quality=60, scale=0.8))).hash
    known = np.frombuffer(b"".join(hashes[:5]), np.uint8).reshape(-1, 32)
    asked = np.frombuffer(hashes[5] + copy, np.uint8).reshape(-1, 32)
    assert near_known(asked, known) == {1: 2}
    assert near_known(asked, known[:0]) == {}


def test_rare_classes_are_relative_to_what_the_network_sees_in_its_labels() -> None:
    labels = np.array([0.6, 0.2, 0.1, 0.09, 0.00001])
    pool = np.array([0.7, 0.00001, 0.02, 0.2, 0.00001])
    absent, rarer = rare_classes(labels, pool)
    assert absent.tolist() == [False, True, False, False, False]
    assert rarer.tolist() == [False, False, True, False, False]


def test_sample_is_evenly_spaced_within_the_rows() -> None:
    rows = np.arange(100, 200)
    assert evenly_spaced(rows, 100) is rows
    found = evenly_spaced(rows, 7)
    assert len(found) == 7 and set(np.diff(found)) <= {14, 15} and found[0] == 100
