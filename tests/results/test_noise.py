"""Laws of the noise floor; references: least squares, paired t intervals, simulated chance."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from scipy import stats

from cid_ray.results.noise import Noise, holm, paired_blocks


def random_blocks(
    candidates: int, repeats: int, seed: int = 0, sigma: float = 0.7, effects: bool = True
) -> Noise:
    """Scores of random candidates over random repeats, with residuals of known sigma."""
    rng = np.random.default_rng(seed)
    candidate = rng.normal(0, 2, (candidates, 1)) if effects else np.zeros((candidates, 1))
    repeat = rng.normal(0, 3, (1, repeats))
    scores = 50 + candidate + repeat + rng.normal(0, sigma, (candidates, repeats))
    return Noise({f"c{i}": list(of_candidate) for i, of_candidate in enumerate(scores)})


def score_array(noise: Noise) -> np.ndarray:
    """f64[candidates, repeats]."""
    return np.array(list(noise.scores.values()))


def floor_of(noise: Noise) -> float:
    assert noise.floor is not None
    return noise.floor


@pytest.mark.parametrize(("candidates", "repeats"), [(2, 2), (3, 4), (5, 3)])
def test_residual_variance_equals_two_way_analysis_by_least_squares(
    candidates: int, repeats: int
) -> None:
    noise = random_blocks(candidates, repeats)
    cells = [(i, j) for i in range(candidates) for j in range(repeats)]
    of_candidate = [[float(i == c) for c in range(candidates)] for i, _ in cells]
    of_repeat = [[float(j == r) for r in range(repeats)] for _, j in cells]
    design = np.hstack([of_candidate, of_repeat])
    score = np.array([score_array(noise)[cell] for cell in cells])
    fitted = design @ np.linalg.lstsq(design, score, rcond=None)[0]
    df = len(score) - int(np.linalg.matrix_rank(design))
    assert noise.df == df
    assert noise.variance == pytest.approx(float(((score - fitted) ** 2).sum()) / df)


@pytest.mark.parametrize("repeats", [2, 3, 8])
def test_floor_of_two_candidates_is_half_the_paired_t_interval(repeats: int) -> None:
    noise = random_blocks(2, repeats, seed=repeats)
    test = stats.ttest_rel(noise.scores["c0"], noise.scores["c1"])
    interval = test.confidence_interval(0.95)
    difference = noise.difference("c0", "c1")
    floor = floor_of(noise)
    expected = (interval.low, interval.high)
    assert (difference - floor, difference + floor) == pytest.approx(expected)


def test_single_run_floor_of_four_repeats_is_twice_the_floor() -> None:
    noise = random_blocks(3, 4)
    assert noise.single_run_floor == pytest.approx(2 * floor_of(noise))


def test_repeat_effect_changes_no_difference_and_no_floor() -> None:
    noise = random_blocks(3, 4)
    effect = np.array([0, 7, -9, 30])
    shifted = Noise({name: list(scores + effect) for name, scores in noise.scores.items()})
    assert shifted.floor == pytest.approx(noise.floor)
    assert shifted.difference("c0", "c2") == pytest.approx(noise.difference("c0", "c2"))
    sd, shifted_sd = noise.sd("c0"), shifted.sd("c0")
    assert sd is not None and shifted_sd is not None and shifted_sd > 3 * sd


def test_candidate_effect_does_not_raise_the_floor() -> None:
    noise = random_blocks(3, 4)
    better = Noise({**noise.scores, "c0": [score + 5 for score in noise.scores["c0"]]})
    assert better.floor == pytest.approx(noise.floor)
    assert better.difference("c0", "c1") == pytest.approx(noise.difference("c0", "c1") + 5)


def test_floor_without_effect_is_exceeded_by_one_difference_in_twenty() -> None:
    within = []
    singles_above = []
    for seed in range(2000):
        noise = random_blocks(4, 3, seed, effects=False)
        within.append(abs(noise.difference("c0", "c1")) <= floor_of(noise))
        # two more runs that share seed and draw
        first, second = np.random.default_rng(seed + 10_000).normal(0, 0.7, 2)
        assert noise.single_run_floor is not None
        singles_above.append(abs(first - second) > noise.single_run_floor)
    assert 0.03 < within.count(False) / 2000 < 0.07
    assert 0.03 < np.mean(singles_above) < 0.07


@pytest.mark.parametrize(("candidates", "repeats"), [(1, 5), (4, 1)])
def test_floor_of_one_candidate_or_one_repeat_is_unknown(candidates: int, repeats: int) -> None:
    noise = random_blocks(candidates, repeats)
    assert noise.variance is noise.floor is noise.single_run_floor is None
    assert noise.compare("c0", ["c1"]) == {}
    assert (noise.sd("c0") is None) == (repeats == 1)
    assert noise.mean("c0") == pytest.approx(np.mean(noise.scores["c0"]))


def test_equal_candidates_are_within_noise_of_each_other() -> None:
    same = Noise({"a": [50.0, 52.0], "b": [50.0, 52.0]})
    assert same.floor == 0.0
    assert not same.compare("a", ["b"])["b"].above_noise
    apart = Noise({"a": [51.0, 53.0], "b": [50.0, 52.0]})
    assert apart.compare("a", ["b"])["b"].above_noise


def test_comparison_of_two_candidates_has_the_p_value_of_the_paired_t_test() -> None:
    noise = random_blocks(2, 4, seed=3)
    comparison = noise.compare("c0", ["c1"])["c1"]
    expected = stats.ttest_rel(noise.scores["c0"], noise.scores["c1"])
    assert comparison.p == comparison.adjusted_p == pytest.approx(expected.pvalue)
    assert comparison.difference == pytest.approx(noise.difference("c0", "c1"))
    other_way = noise.compare("c1", ["c0"])["c0"]
    assert (other_way.difference, other_way.p) == (-comparison.difference, comparison.p)


def test_single_comparison_is_above_noise_where_it_exceeds_the_floor() -> None:
    for seed in range(50):
        noise = random_blocks(4, 3, seed)
        comparison = noise.compare("c0", ["c1"])["c1"]
        assert comparison.above_noise == (abs(comparison.difference) > floor_of(noise))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # the example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.03, 0.001, 0.5], [0.06, 0.003, 0.5]),
        ([0.7, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_equals_known_values(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_family_without_effect_has_a_false_gain_one_time_in_twenty() -> None:
    """Fisher's difference alone would have three to four times as many."""
    corrected, uncorrected = [], []
    for seed in range(2000):
        noise = random_blocks(5, 3, seed, effects=False)
        family = noise.compare("c0", ["c1", "c2", "c3", "c4"]).values()
        corrected.append(any(each.above_noise for each in family))
        uncorrected.append(any(each.p < 0.05 for each in family))
    assert 0.02 < np.mean(corrected) < 0.06
    assert np.mean(uncorrected) > 0.1


def test_paired_blocks_keep_only_repeats_that_all_candidates_finished() -> None:
    scores: dict[str, dict[Hashable, float]] = {
        "a": {1: 50.0, 2: 52.0, 3: 90.0},
        "b": {1: 40.0, 2: 43.0},
        "cut off": {1: 10.0},
        "failed": {},
    }
    assert paired_blocks(scores).scores == {"a": [50.0, 52.0], "b": [40.0, 43.0]}


def test_paired_blocks_without_common_repeat_are_empty() -> None:
    nothing: dict[str, dict[Hashable, float]] = {}
    no_scores: dict[str, dict[Hashable, float]] = {"a": {}}
    disjoint: dict[str, dict[Hashable, float]] = {
        "a": {1: 1.0, 2: 2.0},
        "b": {3: 1.0, 4: 2.0},
    }
    for scores in (nothing, no_scores, disjoint):
        noise = paired_blocks(scores)
        assert noise.scores == {} and noise.num_repeats == 0 and noise.floor is None
