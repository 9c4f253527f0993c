"""COCO's run lengths: as a list of counts or as its compressed text.

Counts run down the columns and begin with background. They are decoded here and not by pycocotools,
whose C code trusts that a text ends and that counts fill the image.
"""

from __future__ import annotations

import re

import numpy as np

# Six bits per character, '0' is zero. The sixth bit says that another follows. No number of
# pixels needs more than seven characters.
COMPRESSED = re.compile(rb"(?:[P-o]{0,6}[0-O])*")


def parse_counts(text: bytes) -> np.ndarray:
    """i64[N]: the counts of a compressed text.

    Raises:
        ValueError: it is no such text.

    Example:
        >>> parse_counts(b"52203")
        array([5, 2, 2, 2, 5])
    """
    if not COMPRESSED.fullmatch(text):
        raise ValueError("not COCO's compressed run lengths")
    if not text:
        return np.zeros(0, np.int64)
    characters = np.frombuffer(text, np.uint8).astype(np.int64) - ord("0")
    is_last = (characters & 0x20) == 0
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    position = np.arange(len(characters)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((characters & 0x1F) << (5 * position), starts)
    is_negative = (characters[ends] & 0x10) != 0
    values -= np.where(is_negative, np.int64(1) << (5 * (position[ends] + 1)), 0)
    # From the fourth on, a number is the difference to the one two before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def check_counts(counts: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ValueError for counts that do not fill an image of (height, width)."""
    if (counts < 0).any():
        raise ValueError("a run length is negative")
    if counts.sum() != size[0] * size[1]:
        raise ValueError(
            f"run lengths of {counts.sum()} pixels, the image has {size[1]} x {size[0]}"
        )


def decode_counts(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W] of counts that `check_counts` has passed."""
    is_object = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_object, counts).reshape(size[1], size[0]).T
