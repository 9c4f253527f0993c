"""Whether masks were blurred: resized with interpolation, or once stored as JPEG.

A blurred edge between ids 2 and 9 runs through ids that lie between them, one or a few pixels each:
2 2 4 7 9 9. In a clean mask the ids on both sides of an edge touch: 2 2 9 9. So the evidence is the
share of *ramps*, pixels whose two neighbours in a row or column lie on either side of their value,
among all edges. `looks_blurred` states the rule. Figures: benchmarks/results/masks/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MIN_RAMPS = 30  # pixels; fewer prove nothing
MIN_SOLID = 0.2  # share of pixels inside areas; masks of noise or points have no edges to blur
MAX_RAMP_SHARE = 0.1  # of all edges
MAX_STRAY_RAMP_SHARE = 0.05  # where most values are on edges only
MIN_STRAY_VALUES = 8
MAX_BLURRED_SHARE = 0.05  # of a set's masks; fewer are a warning
THIN = 0.02  # a value with a smaller share of inner pixels is on edges only


@dataclass
class EdgeCounts:
    """Counts of one mask or of many. Adding is exact, so a set of any size takes 6 kB."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # per value
    inner: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # 3 x 3 equal
    ramps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    edges: int = 0  # unequal neighbours in rows and columns

    def add(self, other: EdgeCounts) -> None:
        """Add the counts of another mask."""
        self.pixels += other.pixels
        self.inner += other.inner
        self.ramps += other.ramps
        self.edges += other.edges

    def looks_blurred(self) -> bool:
        """Whether ramps are more than the borders and thin classes of clean masks explain.

        One thin value that lies between its neighbours is explained: a drawn border of one pixel.
        """
        present = self.pixels > 0
        thin = present & (self.inner < THIN * self.pixels)
        num_ramps = int(self.ramps.sum())
        if num_ramps < MIN_RAMPS or self.inner.sum() < MIN_SOLID * self.pixels.sum():
            return False
        unexplained = num_ramps - int((self.ramps * thin).max())
        if unexplained > MAX_RAMP_SHARE * self.edges:
            return True
        mostly_stray = thin.sum() >= MIN_STRAY_VALUES and thin.sum() > present.sum() / 2
        return bool(mostly_stray and num_ramps > MAX_STRAY_RAMP_SHARE * self.edges)


@dataclass
class BlurCheck:
    """The masks of ids of one set, judged together and one by one."""

    edges: EdgeCounts = field(default_factory=EdgeCounts)
    num_masks: int = 0
    num_blurred: int = 0
    first_mask: str = ""
    first_blurred: str = ""  # the first mask that looks blurred by itself

    def add(self, path: str, counts: EdgeCounts) -> None:
        """Add a mask."""
        self.edges.add(counts)
        self.num_masks += 1
        self.first_mask = self.first_mask or path
        if counts.looks_blurred():
            self.num_blurred += 1
            self.first_blurred = self.first_blurred or path

    def error(self) -> str | None:
        """Why the set cannot be used, or None."""
        too_many = self.num_blurred > MAX_BLURRED_SHARE * self.num_masks
        if not too_many and not self.edges.looks_blurred():
            return None
        return (
            "the masks are blurred (resized with interpolation, or once stored as JPEG), e.g. "
            f"{self.first_blurred or self.first_mask}: their edges run through ids that lie "
            "between those of both sides. Export the masks again as PNG and resize with nearest "
            "neighbour. If thin classes do lie between others, import with `--blurred keep`"
        )

    def warning(self) -> str | None:
        """What is said when the set is used, or None."""
        if not self.num_blurred:
            return None
        return (
            f"{self.num_blurred} masks look blurred (resized with interpolation, or once stored "
            f"as JPEG), first {self.first_blurred}: ids along their edges may be wrong"
        )


def count_edges(values: np.ndarray) -> EdgeCounts:
    """The counts of one mask u8[H, W]."""
    across = values[:, 1:] != values[:, :-1]
    down = values[1:] != values[:-1]
    counts = EdgeCounts(_count(values), _count(values[1:-1, 1:-1][_inner(across, down)]))
    counts.edges = int(np.count_nonzero(across) + np.count_nonzero(down))
    width = values.shape[1]
    flat = np.ascontiguousarray(values).ravel()
    for step, in_row in ((1, True), (width, False)):
        changes = flat[step:] != flat[:-step]
        before = np.flatnonzero(changes[step:] & changes[:-step])
        if in_row:
            before = before[before % width < width - 2]  # three pixels of one row
        middle = flat[before + step]
        is_ramp = (flat[before] < middle) == (middle < flat[before + 2 * step])
        counts.ramps += _count(middle[is_ramp])
    return counts


def inner_pixels(values: np.ndarray) -> np.ndarray:
    """bool[H - 2, W - 2]: the pixels whose 8 neighbours have their value."""
    return _inner(values[:, 1:] != values[:, :-1], values[1:] != values[:-1])


def _inner(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The same, of where a pixel differs from the next in its row and in its column."""
    row = across[:, 1:] | across[:, :-1]
    column = down[1:] | down[:-1]
    return ~(row[:-2] | row[1:-1] | row[2:] | column[:, 1:-1])


def _count(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=256)
