"""Which images of a pool to label next: the choice, as a function of numbers.

`combined` maximizes a sum of two terms over the chosen images S and those that are labeled, L:

    represent(S) = sum_i u_i max(0, max over j in S+L of cos(x_i, x_j))
    classes(S)   = sum_k log((n_k + m_k(S) + t) / (n_k + t))

u_i is how unsure the network is of image i of the pool, x_i its feature minus the pool's mean: an
image is worth choosing if it looks like many images of which the network is unsure and that no
labeled image looks like. n_k is the area of class k in the labels and m_k(S) the area expected in
S, both in images: a class that labels lack is worth most. Each term is divided by the most that one
image adds to it, so that neither drowns the other. Both are submodular, so choosing the best image
again and again reaches at least 1 - 1/e of the best sum (Nemhauser et al. 1978).

Source: the first term is facility location (Wei, Iyer and Bilmes, ICML 2015), weighted.

    N images of the pool   M labeled images   K classes   C channels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cid_ray.data.ingest.near_index import distance
from cid_ray.data.ingest.perceptual_hash import MAX_DISTANCE

if TYPE_CHECKING:  # a command reads STRATEGIES before it loads torch
    from cid_ray.inference.pool_scores import PoolScores

Strategy = Literal["combined", "uncertainty", "random"]
STRATEGIES = ("combined", "uncertainty", "random")
SMALL_AREA = 0.05  # images: the `t` above
MAX_SIMILARITIES = 50_000_000  # 200 MB; of a larger pool a random part is represented
CHUNK = 1024


@dataclass(frozen=True)
class Choice:
    """One chosen image.

    Attributes:
        index: its index in the pool, 0 to N - 1.
        represent: how much it added to `represent`, 1 for the image that adds most at first.
        classes: the same of `classes`.
    """

    index: int
    represent: float = 0.0
    classes: float = 0.0


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        choices: the images, the most useful first.
        near_labels: indices of pool images that look like a labeled image.
        near_chosen: indices of pool images that look like an image that was chosen before.
    """

    choices: list[Choice]
    near_labels: list[int]
    near_chosen: list[int]


def choose_images(
    pool: PoolScores,
    labeled: PoolScores,
    class_area: np.ndarray,
    count: int,
    by: Strategy = "combined",
    seed: int = 0,
) -> Selection:
    """Choose images of a pool.

    Images whose perceptual hash is that of a labeled or a chosen image are left out.

    Args:
        pool: of N images.
        labeled: of the M labeled images, of which features and hashes count.
        class_area: f[K], the area of each class in the labels, in images.
        count: how many; fewer if the pool has no more.
        by: "combined" as above; "uncertainty", the most uncertain images; or "random".
        seed: of "random", and of the part of a large pool that is represented.

    Example:
        >>> selection = choose_images(pool, labeled, class_area, 50)
        >>> [choice.index for choice in selection.choices][:3]
        [17, 4, 230]
    """
    rng = np.random.default_rng(seed)
    allowed = ~_near(pool.hashes, labeled.hashes)
    near_labels = np.flatnonzero(~allowed).tolist()
    near_chosen: list[int] = []
    choices: list[Choice] = []
    if by == "combined":
        scorer = _Combined(pool, labeled, class_area, rng)
    while len(choices) < count and allowed.any():
        if by == "combined":
            choice = scorer.best(allowed)
            scorer.add(choice.index)
        elif by == "uncertainty":
            choice = Choice(int(np.where(allowed, pool.uncertainty, -1).argmax()))
        else:
            choice = Choice(int(rng.choice(np.flatnonzero(allowed))))
        choices.append(choice)
        allowed[choice.index] = False
        alike = allowed & _near(pool.hashes, pool.hashes[choice.index, None])
        near_chosen += np.flatnonzero(alike).tolist()
        allowed &= ~alike
    return Selection(choices, near_labels, near_chosen)


def _near(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool[N]: which hashes u8[N, 32] look like one of `known`. Images without structure do not."""
    found = np.zeros(len(hashes), bool)
    for one in known:
        if one.any():
            found |= distance(hashes, one) <= MAX_DISTANCE
    return found & hashes.any(1)


class _Combined:
    """The sum of both terms, as images are added."""

    def __init__(
        self,
        pool: PoolScores,
        labeled: PoolScores,
        class_area: np.ndarray,
        rng: np.random.Generator,
    ):
        num_pool = len(pool.uncertainty)
        num_targets = min(num_pool, max(1, MAX_SIMILARITIES // num_pool))
        targets = np.sort(rng.permutation(num_pool)[:num_targets])
        mean = pool.features.mean(0)
        features = _unit(pool.features - mean)
        known = _unit(labeled.features - mean)
        self._similar = np.maximum(features @ features[targets].T, 0)  # f32[N, targets]
        self._best = np.maximum(known @ features[targets].T, 0).max(0, initial=0)
        self._weights = pool.uncertainty[targets].astype(np.float64)
        self._fractions = pool.fractions.astype(np.float64)
        self._area = class_area + SMALL_AREA
        self._units = [max(float(gains.max()), 1e-12) for gains in self._gains()]

    def _gains(self) -> tuple[np.ndarray, np.ndarray]:
        """f64[N] each: what an image would add to the terms."""
        represent = np.zeros(len(self._similar))
        for start in range(0, len(represent), CHUNK):
            part = slice(start, start + CHUNK)
            gain = np.maximum(self._similar[part] - self._best, 0)
            represent[part] = gain @ self._weights
        return represent, np.log1p(self._fractions / self._area).sum(1)

    def best(self, allowed: np.ndarray) -> Choice:
        gains = zip(self._gains(), self._units, strict=True)
        represent, classes = (gain / unit for gain, unit in gains)
        index = int(np.where(allowed, represent + classes, -1).argmax())
        return Choice(index, float(represent[index]), float(classes[index]))

    def add(self, index: int) -> None:
        self._best = np.maximum(self._best, self._similar[index])
        self._area = self._area + self._fractions[index]


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows f32[n, C] of length 1."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
