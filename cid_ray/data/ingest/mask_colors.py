"""Colours of masks: what they stand for, and the count of those that stand for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cid_ray.data.ingest.blur import inner_pixels
from cid_ray.data.ingest.mask_file import pack_colors, unpack_color

Color = tuple[int, int, int]

NUM_COLORS = 1 << 24
UNMATCHED = 255  # no class has this index, because there are at most 255 classes
GREY = 0x010101  # an id in all three channels
CHANNELS = {GREY: "grey", 0x000001: "red", 0x000100: "green", 0x010000: "blue"}
MANY_COLORS = 64  # of no class: more than a classes file forgets
SEVERAL_COLORS = 16  # too, if they fill no area
MAX_KEPT_COLORS = 1000  # a photograph saved as a mask has a million


@dataclass
class UnmatchedColors:
    """The pixels whose colour is of no class, of one mask or of many, in bounded memory."""

    pixels: int = 0
    total: int = 0  # pixels of all colour masks
    inner: int = 0  # of `pixels`, those inside an area of their colour
    num_colors: int = 0  # distinct ones of the mask with the most
    commonest: Counter[Color] = field(default_factory=Counter)
    first: str | None = None  # the first mask that has such pixels

    def add(self, other: UnmatchedColors, path: str) -> None:
        """Add the counts of a mask. Of very many colours the rare ones are forgotten."""
        self.total += other.total
        if not other.pixels:
            return
        self.first = self.first or path
        self.pixels += other.pixels
        self.inner += other.inner
        self.num_colors = max(self.num_colors, other.num_colors)
        self.commonest.update(other.commonest)
        if len(self.commonest) > 2 * MAX_KEPT_COLORS:
            self.commonest = Counter(dict(self.commonest.most_common(MAX_KEPT_COLORS)))

    @property
    def share(self) -> float:
        """The fraction of all pixels of colour masks."""
        return self.pixels / max(self.total, 1)

    @property
    def looks_blurred(self) -> bool:
        """Whether these are the edges of blurred masks, or photographs: too many colours."""
        fills_nothing = self.inner < 0.1 * self.pixels
        return self.num_colors >= (SEVERAL_COLORS if fills_nothing else MANY_COLORS)

    def describe(self) -> str:
        """The three commonest colours with their shares: "(1, 2, 3) 4.1 %, ..."."""
        return ", ".join(
            f"{color} {format_share(count / max(self.total, 1))}"
            for color, count in self.commonest.most_common(3)
        )


def format_share(share: float) -> str:
    """A fraction in percent, with two significant digits: "0.026 %"."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def count_unmatched(values: np.ndarray, unmatched: np.ndarray) -> UnmatchedColors:
    """The colours of the pixels of u32[H, W] that `unmatched` bool[H, W] marks."""
    num_pixels = int(np.count_nonzero(unmatched))
    if not num_pixels:
        return UnmatchedColors(total=values.size)
    colors, counts = np.unique(values[unmatched], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:MAX_KEPT_COLORS]
    return UnmatchedColors(
        num_pixels,
        values.size,
        int(np.count_nonzero(inner_pixels(values) & unmatched[1:-1, 1:-1])),
        len(colors),
        Counter({unpack_color(int(colors[i])): int(counts[i]) for i in first}),
    )


class ColorTable:
    """Class indices of all 16 million colours: one look-up a pixel, however many classes.

    Args:
        colors: [r, g, b] of the classes.
        void: colours that mean "no label".
    """

    def __init__(self, colors: Sequence[Sequence[int]], void: Sequence[Color] = ()):
        self.indices = np.full(NUM_COLORS, UNMATCHED, np.uint8)
        self.void_index = len(colors)
        if void:
            self.indices[pack_colors(np.array(void))] = self.void_index
        if colors:
            self.indices[pack_colors(np.array(colors))] = np.arange(len(colors))

    def ids(self, values: np.ndarray, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Class ids u8 of packed colours, and where no class has the colour."""
        indices = self.indices[values]
        unmatched = indices == UNMATCHED
        new_ids = np.arange(256, dtype=np.uint8)
        new_ids[[self.void_index, UNMATCHED]] = ignore_index
        return new_ids[indices], unmatched


def common_channels(colors: np.ndarray) -> list[int]:
    """The keys of CHANNELS that may hold ids: all of the packed colours are multiples of them."""
    return [unit for unit in CHANNELS if _is_multiple(colors, unit)]


def channel_ids(values: np.ndarray, unit: int) -> np.ndarray | None:
    """Ids u8 of packed colours that hold them in one channel, or None if they do not."""
    return (values // unit).astype(np.uint8) if _is_multiple(values, unit) else None


def _is_multiple(values: np.ndarray, unit: int) -> bool:
    channel = 0 if unit == GREY else unit.bit_length() - 1
    return bool(((values >> channel & 255) * np.uint32(unit) == values).all())
