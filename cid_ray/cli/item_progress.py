"""Progress over items of one kind: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time

from cid_ray.cli.console import RunConsole

LOG_INTERVAL_S = 30.0


class ItemProgress:
    """Counts items that are done.

    Args:
        console: has the bar, and takes the lines.
        done: items that an earlier process has done.
        total: all items.
        unit: what an item is, in the plural.
    """

    def __init__(self, console: RunConsole, done: int, total: int, unit: str = "images"):
        self._console = console
        self._first = self._done = done
        self._total = total
        self._unit = unit
        self._started = self._logged = time.monotonic()
        console.advance(done)

    def add(self, count: int = 1) -> None:
        """So many more items are done."""
        self._done += count
        self._console.advance(self._done, self.speed())
        now = time.monotonic()
        if now - self._logged > LOG_INTERVAL_S:
            self._logged = now
            left_s = (self._total - self._done) / self._rate()
            counted = f"{self._done}/{self._total} {self._unit}"
            self._console.log(f"{counted}  {self.speed()}  ETA {left_s:.0f} s")

    def _rate(self) -> float:
        return (self._done - self._first) / max(1e-9, time.monotonic() - self._started)

    def speed(self) -> str:
        """Items of this process per second, in words."""
        return f"{self._rate():.1f} {self._unit}/s"
