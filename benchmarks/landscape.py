"""Recorded learning curves made into a landscape: what any point of the space would score, and when.

A Gaussian process (Matern 5/2, a length scale per parameter, fitted to the final scores by marginal likelihood) gives
every rung's EXPECTED score as a weighted mean of the recorded curves. What a search SEES is that curve plus the
leave-one-out error curve of one recorded setting, drawn by the point itself: so errors have their real size and run
through the rungs as they really do, and a point always scores the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from cid_ray.search.space import Parameter, Space

LONG_SEARCH, LONG_SEED = 1000, 77  # random settings whose best expected score is the mark


def encode(parameter: Parameter, value: Any) -> list[float]:
    """A number scaled to [0, 1] (log where the space is; 0.5 where it does not exist), or a choice as 0s and a 1."""
    dist = parameter.distribution
    if isinstance(dist, optuna.distributions.CategoricalDistribution):
        return [float(value == choice) / np.sqrt(2) for choice in dist.choices]
    scale = np.log if dist.log else float
    return [0.5 if value is None else float((scale(value) - scale(dist.low)) / (scale(dist.high) - scale(dist.low)))]


def matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r = np.sqrt(5 * np.maximum(0, ((a[:, None] - b[None]) ** 2).sum(-1)))
    return (1 + r + r**2 / 3) * np.exp(-r)


@dataclass(frozen=True)
class Landscape:
    space: Space
    params: list[dict[str, Any]]
    images: np.ndarray  # i64[R]: images seen at the recorded rungs
    miou: np.ndarray  # f64[N, R]

    @classmethod
    def read(cls, path: Path, space: Space, keep: slice = slice(None)) -> Landscape:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = sorted((r for r in rows if r["seed"] == 0 and "miou" in r), key=lambda r: r["number"])[keep]
        return cls(space, [r["params"] for r in rows], np.array(rows[0]["images"]), np.array([r["miou"] for r in rows]))

    def encoded(self, points: list[Mapping[str, Any]]) -> np.ndarray:
        return np.array([[x for p in self.space.parameters for x in encode(p, point.get(p.key))] for point in points])

    @cached_property
    def owner(self) -> np.ndarray:
        """Which parameter each encoded column belongs to."""
        return np.repeat(range(len(self.space.parameters)), [len(encode(p, None)) for p in self.space.parameters])

    # ---- the fit ----

    def loss(self, theta: np.ndarray) -> float:
        """Minus log marginal likelihood of the final scores, and a weak prior on the inverse length scales."""
        x, y = self.encoded(self.params) * np.exp(theta[:-1])[self.owner], self.miou[:, -1] - self.miou[:, -1].mean()
        factor = cho_factor(matern(x, x) + np.exp(theta[-1]) * np.eye(len(x)), lower=True)
        variance = y @ cho_solve(factor, y) / len(y)
        fit = len(y) * np.log(variance) / 2 + np.log(np.diag(factor[0])).sum()
        return float(fit + ((theta[:-1] + 1.5) ** 2).sum() / 4.5)

    @cached_property
    def theta(self) -> np.ndarray:
        """log inverse length scale of every parameter, log noise share."""
        count = len(self.space.parameters)
        starts = [np.array([*[scale] * count, -4.0]) for scale in (-2.0, -0.5)]
        fits = [minimize(self.loss, s, method="L-BFGS-B", bounds=[(-5, 3)] * count + [(-9, 0)]) for s in starts]
        return min(fits, key=lambda fit: fit.fun).x

    @cached_property
    def inverse(self) -> np.ndarray:
        return np.linalg.inv(matern(self.places, self.places) + np.exp(self.theta[-1]) * np.eye(len(self.params)))

    @cached_property
    def places(self) -> np.ndarray:
        return self.encoded(self.params) * np.exp(self.theta[:-1])[self.owner]

    @cached_property
    def errors(self) -> np.ndarray:
        """f64[N, R]: recorded minus what the others predict for it."""
        centred = self.miou - self.miou.mean(0)
        return self.inverse @ centred / np.diag(self.inverse)[:, None]

    # ---- what is asked ----

    def expected(self, points: list[Mapping[str, Any]]) -> np.ndarray:
        """f64[P, R]"""
        near = matern(self.encoded(points) * np.exp(self.theta[:-1])[self.owner], self.places)
        return self.miou.mean(0) + near @ (self.inverse @ (self.miou - self.miou.mean(0)))

    def seen(self, point: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        """The curve that a search sees, and the expected final score behind it."""
        expected = self.expected([point])[0]
        digest = hashlib.sha256(json.dumps(dict(point), sort_keys=True).encode()).digest()
        return expected + self.errors[int.from_bytes(digest[:8]) % len(self.errors)], float(expected[-1])

    @cached_property
    def best(self) -> float:
        """The best expected final score of a long random search."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=LONG_SEED))
        return float(self.expected([self.space.suggest(study.ask()) for _ in range(LONG_SEARCH)])[:, -1].max())

    def quality(self) -> dict[str, Any]:
        """How well a recorded setting is predicted from the others."""
        final, error = self.miou[:, -1], self.errors[:, -1]
        upper = final >= np.median(final)
        r2 = [1 - (e**2).mean() / f.var() for e, f in ((error, final), (error[upper], final[upper]))]
        scales = np.exp(self.theta[:-1])
        return {
            "settings": len(final),
            "recorded": {"worst": final.min(), "median": float(np.median(final)), "best": final.max()},
            "r2_left_out": round(r2[0], 3),
            "r2_left_out_upper_half": round(r2[1], 3),
            "error_sd": round(float(error.std()), 3),
            "relevance": {p.key: round(float(s), 3) for p, s in zip(self.space.parameters, scales, strict=True)},
        }
