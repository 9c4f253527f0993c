"""Which classes a network takes for which: the largest confusions of a matrix."""

from __future__ import annotations

from collections.abc import Sequence

from cid_ray.results.score_types import Confusion

MAX_CONFUSIONS = 15


def largest_confusions(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[Confusion]:
    """The confusions of most pixels, the largest first.

    Args:
        classes: K names.
        matrix: pixels [K][K] by (true class, predicted class).

    Example:
        >>> largest_confusions(["sky", "road"], [[8, 2], [0, 5]])
        [{'truth': 'sky', 'predicted': 'road', 'pixels': 2, 'percent': 20.0}]
    """
    found: list[Confusion] = [
        {
            "truth": name,
            "predicted": classes[number],
            "pixels": pixels,
            "percent": 100 * pixels / sum(row),
        }
        for name, row in zip(classes, matrix, strict=True)
        for number, pixels in enumerate(row)
        if pixels and classes[number] != name
    ]
    return sorted(found, key=lambda one: -one["pixels"])[:MAX_CONFUSIONS]
