"""The one place where a command prints: what it prints may come from data, so it is cleaned here.

RunConsole does the same for the lines of a run.
"""

from __future__ import annotations

import sys

from cid_ray.config.plain_text import printable


def say(text: str, error: bool = False) -> None:
    """Print a text immediately, with `error` on standard error."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)
