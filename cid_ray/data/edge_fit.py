"""Do the edges of a mask follow those of its image? A measure that finds masks of another image.

A shifted, mirrored or foreign mask has the right size and the right ids, so no count shows it. Its
borders, however, are where the image changes no more than elsewhere.

    fit = mean gradient on the mask's borders / mean gradient beside them

"Beside" is on the same borders moved by a few pixels in four directions, so that contrast, texture
and the number of borders cancel. A mask that has nothing to do with its image has a fit near 1. Of
CamVid's own masks half have 1.5 and more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import resize_nearest, shrink

SIDE = 320  # pixels of the longer side at which edges are compared
MOVED_FRACTION = 0.03  # of the longer side
MIRRORED_GAIN = 1.25  # of the mirrored mask's gradient over the own; aligned masks have below 1
MIRRORED = {
    "left to right": (slice(None), slice(None, None, -1)),
    "upside down": (slice(None, None, -1), slice(None)),
    "by half a turn": (slice(None, None, -1), slice(None, None, -1)),
}


@dataclass(frozen=True)
class EdgeFit:
    """How the borders of one mask follow the edges of its image."""

    fit: float  # 1: as any other place in the image; below 1 is possible
    mirrored: str | None = None  # how the mask would fit better, a key of MIRRORED


def edge_fit(image: Image.Image, mask: np.ndarray) -> EdgeFit | None:
    """Compare a mask u8[H, W] with its image in RGB.

    Returns:
        The fit, or None for a mask without borders or an image of one colour.

    Example:
        >>> image, mask = table.read(table.rows("val")[0], mask=True)
        >>> edge_fit(image, mask).fit > 1
        True
    """
    gray = shrink(image.convert("L"), SIDE)
    mask = resize_nearest(mask, gray.size)
    gradient = _gradient(np.asarray(gray, np.float32))
    borders = _borders(mask)
    if not borders.any():
        return None
    step = max(2, round(MOVED_FRACTION * max(mask.shape)))
    moves = ((step, 0), (-step, 0), (0, step), (0, -step))
    beside = np.mean([gradient[np.roll(borders, move, (0, 1))].mean() for move in moves])
    if not beside:
        return None
    own = gradient[borders].mean()
    of_mirrored = {name: gradient[borders[turn]].mean() for name, turn in MIRRORED.items()}
    best = max(of_mirrored, key=lambda name: of_mirrored[name])
    is_better = of_mirrored[best] > MIRRORED_GAIN * own
    return EdgeFit(float(own / beside), best if is_better else None)


def _gradient(gray: np.ndarray) -> np.ndarray:
    """f32[H, W]: how much an image f32[H, W] changes at each pixel."""
    change = np.zeros_like(gray)
    change[:, 1:-1] += np.abs(gray[:, 2:] - gray[:, :-2])
    change[1:-1] += np.abs(gray[2:] - gray[:-2])
    return change


def _borders(mask: np.ndarray) -> np.ndarray:
    """bool[H, W]: the pixels next to a pixel of another class."""
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    found = np.zeros(mask.shape, bool)
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return found
