"""Label Studio's brush masks: run lengths of RGBA bytes, of which alpha is the mask.

A bit stream: 32 bits for the number of values, 5 for the bits of a value less one, four times 4 for
the sizes of a length less one. Then runs: 1 bit (equal values, or values one by one), 2 bits (which
size), a length less one, and one value or as many as the length says.
Format: rle-pack of https://github.com/thi-ng/umbrella, which Label Studio uses.
"""

from __future__ import annotations

import numpy as np

NUM_BITS, WORD_BITS, SIZE_BITS, CHOICE_BITS = 32, 5, 4, 2
WORD = 8  # bits of a value
CHANNELS = 4  # of the picture that is encoded, RGBA
ALPHA = 3


class _Bits:
    """Reads numbers from a bit stream; ValueError after its end."""

    def __init__(self, encoded: bytes):
        self._encoded = encoded
        self._position = 0

    def read(self, count: int) -> int:
        start, end = self._position, self._position + count
        if end > 8 * len(self._encoded):
            raise ValueError("brush run lengths end too early")
        self._position = end
        first, last = start // 8, (end + 7) // 8
        value = int.from_bytes(self._encoded[first:last], "big") >> (8 * last - end)
        return value & ((1 << count) - 1)

    def read_bytes(self, count: int) -> np.ndarray:
        """u8[count]: so many values of 8 bits."""
        value = self.read(8 * count)
        return np.frombuffer(value.to_bytes(count, "big"), np.uint8)


def decode_brush(encoded: bytes, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W]: where the brush has painted.

    Args:
        encoded: the run lengths.
        size: (height, width) of the image.

    Raises:
        ValueError: they are damaged, or of an image of another size.
    """
    bits = _Bits(encoded)
    num_values = bits.read(NUM_BITS)
    if num_values != CHANNELS * size[0] * size[1]:
        raise ValueError(
            f"brush run lengths of {num_values // CHANNELS:,} pixels, the image has "
            f"{size[1]} x {size[0]}"
        )
    if bits.read(WORD_BITS) + 1 != WORD:
        raise ValueError("brush run lengths that are not of bytes")
    length_bits = [bits.read(SIZE_BITS) + 1 for _ in range(1 << CHOICE_BITS)]
    values = np.empty(num_values, np.uint8)
    start = 0
    while start < num_values:
        is_run = bits.read(1)
        end = start + bits.read(length_bits[bits.read(CHOICE_BITS)]) + 1
        if end > num_values:
            raise ValueError("brush run lengths of more values than they say")
        values[start:end] = bits.read(WORD) if is_run else bits.read_bytes(end - start)
        start = end
    return values.reshape(*size, CHANNELS)[:, :, ALPHA] > 0
