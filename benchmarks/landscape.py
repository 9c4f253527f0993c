"""A response surface from recorded learning curves: what any point of the space scores, and when.

A Gaussian process (Matern 5/2, or an exponential kernel for a rough surface; a length scale per
parameter, fitted to the final scores by marginal likelihood) gives the EXPECTED score at every rung
as a weighted mean of the recorded curves. What a search SEES is that curve plus the leave-one-out
error curve of one recorded trial, selected by a hash of the point. So errors have their real size
and their real shape over the rungs, and a point always scores the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from cid_ray.search.space import Parameter, Space

LONG_SEARCH = 1000  # random points whose best expected score is the mark
LONG_SEARCH_SEED = 77
Point = Mapping[str, Any]


def encode(parameter: Parameter, value: Any) -> list[float]:
    """A number scaled to [0, 1] (log where the space is log, 0.5 where inactive), or one-hot."""
    dist = parameter.distribution
    if isinstance(dist, CategoricalDistribution):
        return [float(value == choice) / np.sqrt(2) for choice in dist.choices]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    if value is None:
        return [0.5]
    scale = np.log if dist.log else float
    low = scale(dist.low)
    return [float((scale(value) - low) / (scale(dist.high) - low))]


def matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matern 5/2 kernel f64[N,M] of points f64[N,D] and f64[M,D]."""
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    r = np.sqrt(5 * np.maximum(0, squared))
    return (1 + r + r**2 / 3) * np.exp(-r)


def exponential(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel f64[N,M] of rough surfaces."""
    return np.exp(-np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)))


KERNELS = {"matern": matern, "exponential": exponential}


@dataclass(frozen=True)
class Landscape:
    space: Space
    params: list[dict[str, Any]]
    images: np.ndarray  # i64[R]: images seen at the recorded rungs
    miou: np.ndarray  # f64[N, R]
    kernel: str = "matern"

    @classmethod
    def read(cls, path: Path, space: Space, ratio: str, keep: slice = slice(None)) -> Landscape:
        """Of one label ratio; `keep`: a part of its recorded points."""
        curves = _curves(path, ratio)
        return cls.of([curves[number] for number in sorted(curves)[keep]], space)

    @classmethod
    def of(
        cls, curves: Sequence[Mapping[str, Any]], space: Space, kernel: str = "matern"
    ) -> Landscape:
        return cls(
            space,
            [c["params"] for c in curves],
            np.array(curves[0]["images"]),
            np.array([c["miou"] for c in curves]),
            kernel,
        )

    def encoded(self, points: Sequence[Point]) -> np.ndarray:
        """f64[N, D]"""
        parameters = self.space.parameters
        return np.array([[x for p in parameters for x in encode(p, q.get(p.key))] for q in points])

    @cached_property
    def owner(self) -> np.ndarray:
        """i64[D]: which parameter each encoded column belongs to."""
        widths = [len(encode(p, None)) for p in self.space.parameters]
        return np.repeat(range(len(widths)), widths)

    # ---- the fit ----

    def loss(self, theta: np.ndarray) -> float:
        """Negative log marginal likelihood, and a weak prior on the inverse length scales."""
        x = self.encoded(self.params) * np.exp(theta[:-1])[self.owner]
        y = self.miou[:, -1] - self.miou[:, -1].mean()
        kernel = KERNELS[self.kernel](x, x) + np.exp(theta[-1]) * np.eye(len(x))
        factor = cho_factor(kernel, lower=True)
        variance = y @ cho_solve(factor, y) / len(y)
        fit = len(y) * np.log(variance) / 2 + np.log(np.diag(factor[0])).sum()
        return float(fit + ((theta[:-1] + 1.5) ** 2).sum() / 4.5)

    @cached_property
    def theta(self) -> np.ndarray:
        """Log inverse length scale of every parameter, then log noise fraction."""
        count = len(self.space.parameters)
        bounds = [(-5, 3)] * count + [(-9, 0)]
        starts = [np.array([*[scale] * count, -4.0]) for scale in (-2.0, -0.5)]
        fits = [minimize(self.loss, s, method="L-BFGS-B", bounds=bounds) for s in starts]
        best: np.ndarray = min(fits, key=lambda fit: float(fit.fun)).x
        return best

    @cached_property
    def positions(self) -> np.ndarray:
        """f64[N, D]: the recorded points, scaled by their length scales."""
        return self._scaled(self.params)

    def _scaled(self, points: Sequence[Point]) -> np.ndarray:
        return self.encoded(points) * np.exp(self.theta[:-1])[self.owner]

    @cached_property
    def inverse(self) -> np.ndarray:
        noise = np.exp(self.theta[-1]) * np.eye(len(self.params))
        kernel = KERNELS[self.kernel](self.positions, self.positions)
        inverse: np.ndarray = np.linalg.inv(kernel + noise)
        return inverse

    @cached_property
    def errors(self) -> np.ndarray:
        """f64[N, R]: recorded score minus what the other trials predict for it."""
        centred = self.miou - self.miou.mean(0)
        errors: np.ndarray = self.inverse @ centred / np.diag(self.inverse)[:, None]
        return errors

    # ---- queries ----

    def expected(self, points: Sequence[Point]) -> np.ndarray:
        """f64[P, R]: the expected curve of each point."""
        near = KERNELS[self.kernel](self._scaled(points), self.positions)
        mean = self.miou.mean(0)
        curves: np.ndarray = mean + near @ (self.inverse @ (self.miou - mean))
        return curves

    def seen(self, point: Point) -> tuple[np.ndarray, float]:
        """The curve that a search sees, and the expected final score behind it."""
        expected = self.expected([point])[0]
        digest = hashlib.sha256(json.dumps(dict(point), sort_keys=True).encode()).digest()
        error = self.errors[int.from_bytes(digest[:8]) % len(self.errors)]
        return expected + error, float(expected[-1])

    @cached_property
    def best_point(self) -> Point:
        """The point of a long random search with the best expected final score."""
        sampler = optuna.samplers.RandomSampler(seed=LONG_SEARCH_SEED)
        study = optuna.create_study(sampler=sampler)
        points = [self.space.suggest(study.ask()) for _ in range(LONG_SEARCH)]
        return points[int(self.expected(points)[:, -1].argmax())]

    @cached_property
    def best(self) -> float:
        """The best expected final score of a long random search."""
        return float(self.expected([self.best_point])[0, -1])

    def quality(self) -> dict[str, Any]:
        """How well a recorded trial is predicted from the others."""
        final = self.miou[:, -1]
        error = self.errors[:, -1]
        upper = final >= np.median(final)
        scales = np.exp(self.theta[:-1])
        return {
            "points": len(final),
            "recorded": {
                "worst": final.min(),
                "median": float(np.median(final)),
                "best": final.max(),
            },
            "r2_left_out": _r2(error, final),
            "r2_left_out_upper_half": _r2(error[upper], final[upper]),
            "error_sd": round(float(error.std()), 3),
            "relevance": {
                p.key: round(float(s), 3)
                for p, s in zip(self.space.parameters, scales, strict=True)
            },
        }


def _curves(path: Path, ratio: str) -> dict[int, dict[str, Any]]:
    """Number of the point -> its curve with training seed 0; without those that failed."""
    lines = map(json.loads, path.read_text().splitlines())
    return {c["number"]: c for c in lines if c["ratio"] == ratio and c["seed"] == 0 and "miou" in c}


def read_family(
    path: Path, space: Space, ratios: Sequence[str], kernel: str = "matern"
) -> dict[str, Landscape]:
    """A landscape for each ratio, of the points that all of them have.

    Points in the same order: what a search sees of a point has the error of the same recorded
    point at all ratios.
    """
    curves = {ratio: _curves(path, ratio) for ratio in ratios}
    common = sorted(set.intersection(*(set(found) for found in curves.values())))
    return {
        ratio: Landscape.of([found[number] for number in common], space, kernel)
        for ratio, found in curves.items()
    }


def _r2(error: np.ndarray, value: np.ndarray) -> float:
    return round(float(1 - (error**2).mean() / value.var()), 3)
