"""Standard output and error that never end a command: closed, a full device, another encoding.

What a run prints is in its log file too, so a lost terminal must not cost a search.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


def tolerate_lost_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams whose writes never raise."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(stream, TolerantStream):
            continue
        if stream is None:  # started with `>&-`
            # The number is taken first: the next file that is opened would get it, and what a
            # child process prints would go there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            stream = open(number, "w", encoding="utf-8")  # noqa: SIM115  # for good
        if hasattr(stream, "reconfigure"):
            # In a locale without UTF-8 a terminal shows "?" for "±".
            stream.reconfigure(errors="replace")
        setattr(sys, name, TolerantStream(stream))


class TolerantStream:
    """A text stream that becomes /dev/null at the first write that fails."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except (OSError, ValueError):
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self._lose()

    def _lose(self) -> None:
        # The descriptor too: Python flushes what is buffered once more when it exits.
        devnull = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(devnull, self.stream.fileno())
        except (OSError, ValueError):
            self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for good
        finally:
            os.close(devnull)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
