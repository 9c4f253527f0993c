"""Law: a forecast of a worker ladder encloses the truth as often as it says. Reference: known
parameters, and a recommendation counted by hand.
"""

from __future__ import annotations

import numpy as np
import pytest

from cid_ray.results.worker_law import (
    Scaling,
    WorkerLaw,
    fit_worker_law,
    forecast_step,
    recommended_interval,
    recommended_workers,
)

TRUTHS = [
    WorkerLaw(1.0, 0.1, 0.0, 0.0),
    WorkerLaw(1.0, 0.0, 0.2, 0.0),
    WorkerLaw(1.0, 0.05, 0.0, 0.05),
    WorkerLaw(1.0, 0.0, 0.2, 0.05, "weak"),
]


def ladder(
    truth: WorkerLaw, counts: tuple[int, ...], seed: int, noise: float = 0.05
) -> dict[int, list[float]]:
    """Thirty steps at each count, and one run of each that is a percent faster or slower."""
    random = np.random.default_rng(seed)
    found = {}
    for n in counts:
        relative = noise * random.standard_normal(30) + noise / 5 * random.standard_normal()
        found[n] = (truth.seconds(n) * np.exp(relative)).tolist()
    return found


@pytest.mark.parametrize("truth", TRUTHS)
def test_known_parameters_are_found_without_noise(truth: WorkerLaw) -> None:
    law = fit_worker_law(ladder(truth, (1, 2, 4, 8, 16), 0, noise=0.0), truth.scaling)
    own = (law.shared, law.fixed, law.ring, law.latency)
    expected = (truth.shared, truth.fixed, truth.ring, truth.latency)
    if not (truth.ring and truth.scaling == "strong"):  # then c is not a parameter of its own
        np.testing.assert_allclose(own, expected, atol=1e-8)
    assert law.seconds(64) == pytest.approx(truth.seconds(64))


@pytest.mark.parametrize(
    ("counts", "n", "scaling"),
    [((1, 2, 4), 8, "strong"), ((1, 2), 4, "strong"), ((1, 2), 4, "weak")],
)
def test_interval_covers_the_truth_at_its_rate_over_500_ladders(
    counts: tuple[int, ...], n: int, scaling: Scaling
) -> None:
    random = np.random.default_rng(0)
    inside = 0
    for seed in range(500):
        fixed, ring, latency = random.exponential(0.1, 3) * random.integers(0, 2, 3)
        truth = WorkerLaw(1.0, 0.0 if scaling == "weak" else fixed, ring, latency, scaling)
        forecast = forecast_step(ladder(truth, counts, seed), n, scaling, 0.9, samples=40)
        inside += forecast.low <= truth.seconds(n) <= forecast.high
    assert inside / 500 >= 0.9 - 3 * (0.9 * 0.1 / 500) ** 0.5


def test_overheads_that_two_counts_cannot_tell_apart_are_all_in_the_interval() -> None:
    """On 1 and 2 workers these three take the same time, on 16 latency takes twice as long."""
    fixed = WorkerLaw(0.8, 0.2, 0.0, 0.0)
    latency = WorkerLaw(1.0, 0.0, 0.0, 0.1)
    ring = WorkerLaw(1.0, 0.0, 0.2, 0.0)
    for n in (1, 2):
        assert fixed.seconds(n) == pytest.approx(latency.seconds(n)) == ring.seconds(n)
    forecast = forecast_step(ladder(fixed, (1, 2), 0), 16)
    for truth in (fixed, latency, ring):
        assert forecast.low < truth.seconds(16) < forecast.high


def test_parameters_are_never_negative() -> None:
    """Four workers that are faster than four times one: caches do that, the law cannot."""
    law = fit_worker_law({1: [1.0, 1.0], 2: [0.4, 0.4], 4: [0.15, 0.15]})
    assert min(law.shared, law.fixed, law.ring, law.latency) >= 0


def test_recommendation_is_the_last_worker_that_adds_enough() -> None:
    law = WorkerLaw(0.9, 0.1, 0.0, 0.0)  # Amdahl: speedup n / (0.9 + 0.1 n)
    speedups = [0.0] + [n / (0.9 + 0.1 * n) for n in range(1, 65)]
    added = np.diff(speedups)
    by_hand = next(n for n in range(1, 64) if added[n] < 0.3)
    assert recommended_workers(law, 64, 0.3) == by_hand == 8
    assert recommended_workers(law, 4, 0.3) == 4
    assert recommended_workers(WorkerLaw(1.0, 0.0, 0.0, 0.0), 32, 1.0 - 1e-9) == 32


@pytest.mark.parametrize(("counts", "scaling"), [((1, 2, 4), "strong"), ((1, 2), "weak")])
def test_interval_covers_the_best_number_at_its_rate_over_200_ladders(
    counts: tuple[int, ...], scaling: Scaling
) -> None:
    random = np.random.default_rng(0)
    inside = widths = 0
    for seed in range(200):
        fixed, ring, latency = random.exponential(0.1, 3) * random.integers(0, 2, 3)
        truth = WorkerLaw(1.0, 0.0 if scaling == "weak" else fixed, ring, latency, scaling)
        times = ladder(truth, counts, seed)
        low, high = recommended_interval(times, 16, 0.5, scaling, 0.9, samples=40)
        inside += low <= recommended_workers(truth, 16, 0.5) <= high
        widths += high - low
        assert low <= recommended_workers(fit_worker_law(times, scaling), 16, 0.5) <= high
    assert inside / 200 >= 0.9 - 3 * (0.9 * 0.1 / 200) ** 0.5
    assert widths / 200 < 14, "it encloses everything"


def test_weak_scaling_counts_the_work_of_all_workers() -> None:
    perfect = WorkerLaw(1.0, 0.0, 0.0, 0.0, "weak")
    assert perfect.seconds(8) == perfect.seconds(1)
    assert perfect.speedups(np.array([1, 8])).tolist() == [1, 8]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({1: [1.0, 1.0]}, "2 numbers of workers"),
        ({1: [1.0, 1.0], 2: [0.5]}, "2 workers: needs 2 steps"),
        ({1: [1.0, 1.0], 2: [0.5, 0.0]}, "positive times"),
        ({0: [1.0, 1.0], 2: [0.5, 0.5]}, "0 workers"),
    ],
)
def test_times_without_a_law_are_refused(times: dict[int, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_worker_law(times)
