"""Laws of the noise floor: least squares and paired t intervals agree with it, chance exceeds it 1 time in 20."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from scipy import stats

from cid_ray.results.noise import Noise, blocks


def a_block(candidates: int, pairs: int, seed: int = 0, sigma: float = 0.7, effects: bool = True) -> Noise:
    """Scores of random candidates on random pairs, with residuals of known sigma."""
    rng = np.random.default_rng(seed)
    candidate = rng.normal(0, 2, (candidates, 1)) if effects else np.zeros((candidates, 1))
    scores = 50 + candidate + rng.normal(0, 3, (1, pairs)) + rng.normal(0, sigma, (candidates, pairs))
    return Noise({f"c{i}": list(row) for i, row in enumerate(scores)})


def table_of(noise: Noise) -> np.ndarray:
    return np.array(list(noise.scores.values()))


@pytest.mark.parametrize(("candidates", "pairs"), [(2, 2), (3, 4), (5, 3)])
def test_the_residual_variance_is_that_of_a_two_way_analysis_by_least_squares(candidates: int, pairs: int) -> None:
    noise = a_block(candidates, pairs)
    rows = [(i, j) for i in range(candidates) for j in range(pairs)]
    design = np.array(
        [[float(i == c) for c in range(candidates)] + [float(j == p) for p in range(pairs)] for i, j in rows]
    )
    score = np.array([table_of(noise)[i, j] for i, j in rows])
    fitted = design @ np.linalg.lstsq(design, score, rcond=None)[0]
    df = len(score) - int(np.linalg.matrix_rank(design))
    assert noise.df == df
    assert noise.variance == pytest.approx(float(((score - fitted) ** 2).sum()) / df)


@pytest.mark.parametrize("pairs", [2, 3, 8])
def test_with_two_candidates_the_floor_is_half_the_paired_t_interval(pairs: int) -> None:
    noise = a_block(2, pairs, seed=pairs)
    interval = stats.ttest_rel(noise.scores["c0"], noise.scores["c1"]).confidence_interval(0.95)
    difference = noise.difference("c0", "c1")
    assert (difference - noise.floor, difference + noise.floor) == pytest.approx((interval.low, interval.high))


def test_single_runs_need_more_than_means_do() -> None:
    noise = a_block(3, 4)
    assert noise.single_run_floor == pytest.approx(2 * noise.floor)


def test_what_a_pair_does_to_all_candidates_changes_no_difference_and_no_floor() -> None:
    noise = a_block(3, 4)
    moved = Noise(
        {name: [s + shift for s, shift in zip(row, (0, 7, -9, 30), strict=True)] for name, row in noise.scores.items()}
    )
    assert moved.floor == pytest.approx(noise.floor)
    assert moved.difference("c0", "c2") == pytest.approx(noise.difference("c0", "c2"))
    assert moved.sd("c0") > 3 * noise.sd("c0")


def test_a_candidate_that_is_better_throughout_does_not_raise_the_floor() -> None:
    noise = a_block(3, 4)
    better = Noise({**noise.scores, "c0": [s + 5 for s in noise.scores["c0"]]})
    assert better.floor == pytest.approx(noise.floor)
    assert better.difference("c0", "c1") == pytest.approx(noise.difference("c0", "c1") + 5)


def test_without_an_effect_one_difference_in_twenty_exceeds_the_floor() -> None:
    means, singles = [], []
    for seed in range(2000):
        noise = a_block(4, 3, seed, effects=False)
        means.append(noise.within_noise(noise.difference("c0", "c1")))
        fresh = np.random.default_rng(seed + 10_000).normal(0, 0.7, 2)  # two more runs that share seed and draw
        singles.append(abs(fresh[0] - fresh[1]) > noise.single_run_floor)
    assert 0.03 < means.count(False) / 2000 < 0.07
    assert 0.03 < np.mean(singles) < 0.07


@pytest.mark.parametrize(("candidates", "pairs"), [(1, 5), (4, 1)])
def test_one_candidate_or_one_pair_tells_no_floor(candidates: int, pairs: int) -> None:
    noise = a_block(candidates, pairs)
    assert noise.variance is noise.floor is noise.single_run_floor is noise.within_noise(100.0) is None
    assert (noise.sd("c0") is None) == (pairs == 1)
    assert noise.mean("c0") == pytest.approx(np.mean(noise.scores["c0"]))


def test_equal_runs_are_within_noise_of_each_other() -> None:
    same = Noise({"a": [50.0, 52.0], "b": [50.0, 52.0]})
    assert same.floor == 0.0
    assert same.within_noise(same.difference("a", "b"))


def test_only_pairs_that_all_have_finished_count() -> None:
    scores: dict[str, dict[Hashable, float]] = {
        "a": {1: 50.0, 2: 52.0, 3: 90.0},
        "b": {1: 40.0, 2: 43.0},
        "cut off": {1: 10.0},
        "failed": {},
    }
    assert blocks(scores).scores == {"a": [50.0, 52.0], "b": [40.0, 43.0]}


def test_where_nothing_was_repeated_together_there_is_nothing() -> None:
    for scores in ({}, {"a": {}}, {"a": {1: 1.0, 2: 2.0}, "b": {3: 1.0, 4: 2.0}}):
        noise = blocks(scores)
        assert (noise.scores, noise.pairs, noise.floor) == ({}, 0, None)
