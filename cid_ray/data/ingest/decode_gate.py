"""Bounds the memory of an import: how many pixels are decoded at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PIXELS_IN_FLIGHT = 64_000_000  # about 16 bytes each at the peak of a decoder: 1 GB


class DecodeGate:
    """Lets threads decode together while their images are small, and large images alone.

    An image larger than the limit waits until no other is being decoded.

    Example:
        >>> gate = DecodeGate(MAX_PIXELS_IN_FLIGHT)
        >>> with gate.hold(4000 * 3000):
        ...     pixels = read_pixels(path)
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image of so many pixels, and hold it in the block."""
        share = min(pixels, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._held + share <= self.limit)
            self._held += share
        try:
            yield
        finally:
            with self._changed:
                self._held -= share
                self._changed.notify_all()
