"""Laws of the choice of images: greedy by two submodular terms, no copies, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.inference import choose_images as module
from cid_ray.inference.choose_images import SMALL_AREA, STRATEGIES, choose_images
from cid_ray.inference.pool_scores import PoolScores, image_uncertainty

CLASSES = 4


def random_scores(count: int, seed: int, channels: int = 6) -> PoolScores:
    rng = np.random.default_rng(seed)
    return PoolScores(
        rng.uniform(0, 1, count).astype(np.float32),
        rng.dirichlet(np.ones(CLASSES), count).astype(np.float32),
        rng.normal(size=(count, channels)).astype(np.float32),
        rng.integers(0, 256, (count, 32), np.uint8),
    )


def total(
    pool: PoolScores, labeled: PoolScores, area: np.ndarray, chosen: list[int]
) -> tuple[float, float]:
    """Both terms by their definition, with loops."""
    mean = pool.features.mean(0)
    features = [row / np.linalg.norm(row) for row in pool.features - mean]
    known = [row / np.linalg.norm(row) for row in labeled.features - mean]
    represent = 0.0
    for unsure, feature in zip(pool.uncertainty, features, strict=True):
        similar = [float(feature @ other) for other in [*known, *(features[j] for j in chosen)]]
        represent += float(unsure) * max(0.0, *similar)
    classes = 0.0
    for k in range(CLASSES):
        more = sum(float(pool.fractions[j, k]) for j in chosen)
        classes += np.log((area[k] + more + SMALL_AREA) / (area[k] + SMALL_AREA))
    return represent, classes


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_each_image_adds_the_most_to_the_sum(seed: int) -> None:
    pool, labeled = random_scores(9, seed), random_scores(3, seed + 1)
    area = np.random.default_rng(seed).uniform(0, 2, CLASSES)
    start = total(pool, labeled, area, [])
    units = [
        max(total(pool, labeled, area, [j])[term] - start[term] for j in range(9))
        for term in (0, 1)
    ]
    chosen: list[int] = []
    for choice in choose_images(pool, labeled, area, 4).choices:
        before = total(pool, labeled, area, chosen)

        def gain(index: int, before: tuple[float, float] = before) -> float:
            after = total(pool, labeled, area, [*chosen, index])
            return sum((b - a) / unit for a, b, unit in zip(before, after, units, strict=True))

        best = max(gain(index) for index in range(9) if index not in chosen)
        assert gain(choice.index) == pytest.approx(best, abs=1e-4)
        assert choice.represent + choice.classes == pytest.approx(best, abs=1e-4)
        chosen.append(choice.index)


def test_a_class_that_labels_lack_comes_first() -> None:
    pool, labeled = random_scores(30, 0), random_scores(5, 1)
    fractions = np.zeros_like(pool.fractions)
    fractions[:, 0] = 1
    fractions[17] = [0.9, 0, 0, 0.1]
    pool = PoolScores(pool.uncertainty, fractions, np.ones_like(pool.features), pool.hashes)
    found = choose_images(pool, labeled, np.array([5.0, 1, 1, 0]), 3)
    assert found.choices[0].index == 17


def test_one_image_of_each_cluster_before_a_second_of_any() -> None:
    """Images of equal uncertainty and classes, in three places of feature space."""
    rng = np.random.default_rng(0)
    centers = np.eye(3)[np.arange(30) % 3]
    features = (centers + rng.normal(0, 0.01, (30, 3))).astype(np.float32)
    same = np.full((30, CLASSES), 1 / CLASSES, np.float32)
    scores = random_scores(30, 0)
    pool = PoolScores(np.ones(30, np.float32), same, features, scores.hashes)
    none = pool.take(np.arange(0))
    chosen = [one.index for one in choose_images(pool, none, np.ones(CLASSES), 3).choices]
    assert sorted(index % 3 for index in chosen) == [0, 1, 2]
    labeled = pool.take(np.array([0, 3]))  # of the first place
    apart = PoolScores(
        labeled.uncertainty, labeled.fractions, labeled.features, labeled.hashes ^ 255
    )
    chosen = [one.index for one in choose_images(pool, apart, np.ones(CLASSES), 2).choices]
    assert sorted(index % 3 for index in chosen) == [1, 2]


@pytest.mark.parametrize("by", STRATEGIES)
def test_images_that_look_like_labels_or_like_each_other_are_left_out(by: module.Strategy) -> None:
    pool, labeled = random_scores(12, 0), random_scores(2, 1)
    pool.hashes[3] = labeled.hashes[1]
    pool.hashes[3, 0] ^= 0b111  # three bits of 256
    pool.hashes[7] = pool.hashes[8] = pool.hashes[2]
    pool.hashes[[5, 6]] = 0  # without structure: compared with none
    found = choose_images(pool, labeled, np.ones(CLASSES), 12, by)
    chosen = {one.index for one in found.choices}
    assert found.near_labels == [3]
    assert len(chosen & {2, 7, 8}) == 1 and len(found.near_chosen) == 2
    assert chosen >= {0, 1, 4, 5, 6, 9, 10, 11} and len(chosen) == 9


def test_uncertainty_takes_the_most_uncertain_and_random_depends_on_the_seed() -> None:
    pool, labeled, area = random_scores(40, 0), random_scores(2, 1), np.ones(CLASSES)
    found = choose_images(pool, labeled, area, 5, "uncertainty")
    assert [one.index for one in found.choices] == np.argsort(-pool.uncertainty)[:5].tolist()
    by_seed = [
        [one.index for one in choose_images(pool, labeled, area, 5, "random", seed).choices]
        for seed in (0, 0, 1)
    ]
    assert by_seed[0] == by_seed[1] != by_seed[2]


def test_a_large_pool_is_represented_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, labeled, area = random_scores(50, 0), random_scores(2, 1), np.ones(CLASSES)
    monkeypatch.setattr(module, "MAX_SIMILARITIES", 50 * 20)
    found = [
        [one.index for one in choose_images(pool, labeled, area, 10, seed=seed).choices]
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2] and len(set(found[0])) == 10


def test_uncertainty_of_an_image() -> None:
    sure = torch.zeros(CLASSES, 10, 10)
    sure[0] = 1
    assert image_uncertainty(sure) == 0
    assert image_uncertainty(torch.full((CLASSES, 10, 10), 0.25)) == pytest.approx(1)
    # One pixel of another class, of which nothing is known but that it is most probable.
    sign = sure.clone()
    sign[:, 0, 0] = torch.tensor([0.24, 0.28, 0.24, 0.24])
    entropy = -(0.28 * np.log(0.28) + 3 * 0.24 * np.log(0.24)) / np.log(4)
    expected = np.sqrt(0.01) * entropy / (np.sqrt(0.99) + np.sqrt(0.01))
    assert image_uncertainty(sign) == pytest.approx(expected, rel=1e-5)
    assert expected > 5 * 0.01 * entropy  # a mean over pixels would be a tenth of it
