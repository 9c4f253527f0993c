"""Label Studio's brush run lengths, written by the format's description, not by its decoder."""

from __future__ import annotations

import numpy as np

LENGTH_BITS = (3, 4, 8, 16)


def encode_brush(mask: np.ndarray, literal: bool = False) -> list[int]:
    """The bytes that Label Studio writes for a mask bool[H, W]: alpha 255 where it is set.

    Args:
        mask: where the brush has painted.
        literal: write every value on its own, up to 16 in a row, instead of runs.
    """
    values = np.zeros((*mask.shape, 4), np.uint8)
    values[mask] = (0, 120, 40, 255)
    flat = values.ravel().tolist()
    parts = [f"{len(flat):032b}{7:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    start = 0
    while start < len(flat):
        end = start + 1
        limit = 16 if literal else 1 << 16
        while end < len(flat) and end - start < limit and (literal or flat[end] == flat[start]):
            end += 1
        size = next(i for i, count in enumerate(LENGTH_BITS) if end - start <= 1 << count)
        parts.append(f"{0 if literal else 1}{size:02b}{end - start - 1:0{LENGTH_BITS[size]}b}")
        parts += [f"{value:08b}" for value in flat[start : end if literal else start + 1]]
        start = end
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
