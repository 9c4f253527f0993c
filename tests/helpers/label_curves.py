"""Label curves with a known truth."""

from __future__ import annotations

import numpy as np

COUNTS = (6, 12, 24, 48)
Scores = dict[str, dict[int, list[float]]]


def truth(count: float) -> float:
    """Supervised mIoU at a count of labels."""
    return 100 - 30 - 60 * count**-0.5


def simulated(
    factor: float, sigma: float, repeats: int = 3, seed: int = 0, draw_sd: float = 8.0
) -> Scores:
    """Supervised, and a method that makes of n labels what supervised makes of factor * n."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(0, draw_sd, repeats)  # what a draw does to all scores alike

    def around(score: float) -> list[float]:
        return list(score + draws - draws.mean() + rng.normal(0, sigma, repeats))

    return {
        "supervised": {n: around(truth(n)) for n in COUNTS},
        "cid": {n: around(truth(factor * n)) for n in (12, 24)},
    }
