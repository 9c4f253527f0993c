"""The law of a worker ladder: the time of a step on n workers, and what more workers will bring.

    t(n) = a / n + b + c (n - 1) / n + d log2 n          none of them negative

With a fixed global batch (strong scaling) a is the work that is shared and b what every worker does
in full. With a fixed share of it (weak scaling) the work does not shrink: a stays a, and b is part
of it. c is a ring's all-reduce, whose bytes per worker grow as (n - 1) / n (P. Patarasuk and
X. Yuan, J. Parallel Distrib. Comput. 69, 2009), so it is bytes / bandwidth times a factor. d is the
latency of a tree, and of waiting for the slowest.

With strong scaling c is no parameter of its own: (n - 1) / n is 1 - 1 / n, so c says the same as a
smaller a and a larger b. A few counts cannot tell b from d, and these say different things of
the next count. So a forecast fits the law with each of them alone and with all, and its interval
encloses them.

Neither torch nor ray is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cid_ray.results.laws import Forecast

Scaling = Literal["strong", "weak"]
Times = Mapping[int, Sequence[float]]  # workers -> seconds of each timed step
Floats = NDArray[np.float64]

ALL_TERMS = (True, True, True, True)
# a with b, with c, with d, and with all: which terms a fit may use.
MODELS = ((True, True, False, False), (True, False, True, False), (True, False, False, True))
EVERY_MODEL = (*MODELS, ALL_TERMS)
PARAMETERS = 2  # of a model with one overhead
MIN_STEPS = 2
MIN_MISFIT = 0.02  # relative: the mean steps of two runs alike differ by so much


@dataclass(frozen=True)
class WorkerLaw:
    """Seconds of a step on n workers."""

    shared: float  # a: seconds of one worker that n workers share
    fixed: float  # b: seconds that every worker needs
    ring: float  # c: seconds of exchange at many workers
    latency: float  # d: seconds with each doubling
    scaling: Scaling = "strong"

    def seconds(self, n: int) -> float:
        """Seconds of a step on n workers.

        Example:
            >>> WorkerLaw(shared=1.0, fixed=0.1, ring=0.0, latency=0.0).seconds(4)
            0.35
        """
        terms = (self.shared, self.fixed, self.ring, self.latency)
        return float(_basis([n], self.scaling)[0] @ np.array(terms))

    def speedups(self, counts: NDArray[np.int64]) -> Floats:
        """How much more work these numbers of workers do in the same time than one does."""
        terms = np.array((self.shared, self.fixed, self.ring, self.latency))
        seconds = _basis(counts, self.scaling) @ terms
        work = counts if self.scaling == "weak" else 1
        found: Floats = work * self.seconds(1) / seconds
        return found


def fit_worker_law(times: Times, scaling: Scaling = "strong") -> WorkerLaw:
    """The law of a worker ladder, by non-negative least squares of relative errors.

    Args:
        times: workers -> seconds of each timed step; two numbers of workers or more.
        scaling: whether the global batch is fixed (strong) or each worker's share (weak).

    Raises:
        ValueError: less than two numbers of workers, or a time that is not positive.

    Example:
        >>> law = fit_worker_law({1: [1.1, 1.1], 2: [0.6, 0.6], 4: [0.35, 0.35]})
        >>> round(law.shared, 3), round(law.fixed, 3)
        (1.0, 0.1)
    """
    _check(times)
    counts = sorted(times)
    means = np.array([np.mean(times[n]) for n in counts])
    shared, fixed, ring, latency = _fit(counts, means, ALL_TERMS, scaling).tolist()
    return WorkerLaw(shared, fixed, ring, latency, scaling)


def forecast_step(
    times: Times,
    n: int,
    scaling: Scaling = "strong",
    level: float = 0.95,
    samples: int = 300,
    seed: int = 0,
) -> Forecast:
    """Seconds of a step on n workers, from other numbers of workers.

    The interval comes from a bootstrap over the timed steps, widened by what the law misses at the
    measured counts.

    Args:
        times: as for `fit_worker_law`.
        n: workers.
        scaling: as for `fit_worker_law`.
        level: how often the interval should enclose the truth.

    Raises:
        ValueError: as for `fit_worker_law`.

    Example:
        >>> forecast = forecast_step({1: [1.0, 1.02], 2: [0.55, 0.56], 4: [0.33, 0.33]}, 8)
        >>> forecast.low < 0.23 < forecast.high
        True
    """
    _check(times)
    counts = sorted(times)
    means = np.array([np.mean(times[k]) for k in counts])
    at_n = _basis([n], scaling)[0]
    fits = [_fit(counts, means, terms, scaling) for terms in EVERY_MODEL]
    expected = float(np.mean([at_n @ fit for fit in fits]))
    lows, highs = [], []
    for drawn, factor in _bootstrap(times, scaling, samples, seed):
        found = drawn @ at_n * factor
        lows.append(found.min())
        highs.append(found.max())
    tail = (1 - level) / 2
    return Forecast(expected, float(np.quantile(lows, tail)), float(np.quantile(highs, 1 - tail)))


def recommended_workers(law: WorkerLaw, most: int, min_efficiency: float) -> int:
    """The largest number of workers, up to `most`, of which each one adds enough.

    Args:
        law: of the ladder.
        most: workers that are considered.
        min_efficiency: what a worker must add, as a fraction of what the first one does.

    Example:
        >>> law = WorkerLaw(shared=0.9, fixed=0.1, ring=0.0, latency=0.0)
        >>> recommended_workers(law, most=64, min_efficiency=0.5)
        4
    """
    speedups = law.speedups(np.arange(1, most + 1))
    too_little = np.diff(speedups) < min_efficiency
    return int(too_little.argmax()) + 1 if too_little.any() else most


def recommended_interval(
    times: Times,
    most: int,
    min_efficiency: float,
    scaling: Scaling = "strong",
    level: float = 0.95,
    samples: int = 300,
    seed: int = 0,
) -> tuple[int, int]:
    """The fewest and the most workers that other steps and other laws would recommend.

    As of a forecast, the interval encloses the law with each of its terms, over a bootstrap.

    Args:
        times: as for `fit_worker_law`.
        most: as for `recommended_workers`.
        min_efficiency: as for `recommended_workers`.
        scaling: as for `fit_worker_law`.
        level: how often the interval should enclose the truth.

    Raises:
        ValueError: as for `fit_worker_law`.

    Example:
        >>> times = {1: [1.0, 1.02], 2: [0.55, 0.56], 4: [0.33, 0.33]}
        >>> low, high = recommended_interval(times, most=16, min_efficiency=0.5)
        >>> low <= recommended_workers(fit_worker_law(times), 16, 0.5) <= high
        True
    """
    _check(times)
    lows, highs = [], []
    for drawn, _ in _bootstrap(times, scaling, samples, seed):
        found = [
            recommended_workers(WorkerLaw(a, b, c, d, scaling), most, min_efficiency)
            for a, b, c, d in drawn.tolist()
        ]
        lows.append(min(found))
        highs.append(max(found))
    tail = (1 - level) / 2
    return math.floor(np.quantile(lows, tail)), math.ceil(np.quantile(highs, 1 - tail))


def _bootstrap(
    times: Times, scaling: Scaling, samples: int, seed: int
) -> Iterator[tuple[Floats, float]]:
    """[models, 4]: the fits to resampled steps, with a factor that a new count misses the law by.

    The means of the steps are moved by what the best law misses at the measured counts.
    """
    counts = sorted(times)
    means = np.array([np.mean(times[k]) for k in counts])
    fits = [_fit(counts, means, terms, scaling) for terms in EVERY_MODEL]
    misfit = min(_misfit(counts, means, fit, scaling) for fit in fits)
    random = np.random.default_rng(seed)
    for _ in range(samples):
        resampled = [random.choice(np.asarray(times[k]), len(times[k])).mean() for k in counts]
        drawn = np.array(resampled) * np.exp(misfit * random.standard_normal(len(counts)))
        found = [_fit(counts, drawn, terms, scaling) for terms in EVERY_MODEL]
        yield np.stack(found), math.exp(misfit * random.standard_normal())


def _check(times: Times) -> None:
    if len(times) < 2:
        raise ValueError(f"the law needs 2 numbers of workers or more, got {sorted(times)}")
    for n, seconds in times.items():
        if n < 1 or len(seconds) < MIN_STEPS or min(seconds) <= 0:
            raise ValueError(
                f"{n} workers: needs {MIN_STEPS} steps or more with positive times, got "
                f"{list(seconds)[:4]}"
            )


def _basis(counts: Sequence[int] | NDArray[np.int64], scaling: Scaling) -> Floats:
    """[len(counts), 4]: the four terms at each count."""
    n = np.asarray(counts, dtype=float)
    shared, fixed = 1 / n, np.ones_like(n)
    if scaling == "weak":
        shared, fixed = np.ones_like(n), np.zeros_like(n)
    return np.stack([shared, fixed, (n - 1) / n, np.log2(n)], 1)


def _fit(counts: Sequence[int], means: Floats, terms: tuple[bool, ...], scaling: Scaling) -> Floats:
    """[4]: the law's parameters, 0 where a term is not used."""
    from scipy.optimize import nnls  # imported late: it takes half a second

    used = np.array(terms)
    found = np.zeros(len(used))
    basis = _basis(counts, scaling)[:, used] / means[:, None]
    found[used], _ = nnls(basis, np.ones(len(means)))
    return found


def _misfit(counts: Sequence[int], means: Floats, fit: Floats, scaling: Scaling) -> float:
    """Standard deviation of the relative errors of a fit, MIN_MISFIT at least."""
    free = len(counts) - PARAMETERS
    if free < 1:
        return MIN_MISFIT
    errors = _basis(counts, scaling) @ fit / means - 1
    return max(MIN_MISFIT, math.sqrt(float((errors**2).sum()) / free))
