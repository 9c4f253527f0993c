"""CPU time of the parts of a program: each part without those that it calls.

`CpuParts.wrap` replaces a method by one that counts. Time is that of the calling thread, so that
other threads and other processes do not count.
"""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from typing import Any


class CpuParts:
    """Seconds and calls by part.

    Attributes:
        seconds: part -> CPU seconds of the thread that calls it.
        calls: part -> number of calls.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inner: list[float] = []  # of each call that is not over: seconds of what it called

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count the calls of a method of a class or an object."""
        real = getattr(owner, name)

        @functools.wraps(real)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            before = time.thread_time()
            try:
                return real(*args, **kwargs)
            finally:
                spent = time.thread_time() - before
                self.seconds[part] += spent - self._inner.pop()
                self.calls[part] += 1
                if self._inner:
                    self._inner[-1] += spent

        setattr(owner, name, counted)
