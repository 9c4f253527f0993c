"""The groups of images, by a regular expression on their names (`--group`).

A pattern such as `(a+)+$` can take longer than anybody waits, and Python cannot stop it. So names
are matched in a child process, which is killed after a time limit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from cid_ray.config import InputError

TIME_LIMIT_S = 20.0  # a usual pattern matches half a million names a second
MAX_SHOWN_CHARS = 200
MATCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = [re.search(pattern, name) for name in names]
json.dump([match[1] if match and match.re.groups else None for match in found], sys.stdout)
"""


def find_groups(pattern: str | None, names: Sequence[str]) -> list[str | None]:
    """What the first group of a pattern matches in each name; None where there is no match.

    Args:
        pattern: a regular expression; None matches nothing.
        names: relative names of images.

    Raises:
        InputError: the pattern does not compile, or matching takes longer than TIME_LIMIT_S.
    """
    if not pattern or not names:
        return [None] * len(names)
    shown = pattern[:MAX_SHOWN_CHARS]
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError, ValueError) as error:
        raise InputError(f"--group {shown!r} is not a regular expression ({error})") from None
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", MATCH],
            input=json.dumps([pattern, list(names)]),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIME_LIMIT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"--group {shown!r} did not match {len(names)} names within {TIME_LIMIT_S:g} s; "
            "repeat nothing that is repeated already, as in (a+)+"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().rpartition("\n")[2] or f"exit code {error.returncode}"
        raise InputError(f"--group {shown!r} cannot be matched ({reason})") from None
    groups: list[str | None] = json.loads(done.stdout)
    return groups
