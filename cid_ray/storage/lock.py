"""One search per run folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, Any

from cid_ray.config import InputError

LOCK_FILE = ".lock"


class RunLock:
    """Holds a run folder while this process works in it.

    The kernel releases the lock when the process ends, also after SIGKILL: no stale lock has to be
    removed by hand.
    """

    def __init__(self, folder: Path):
        self.path = folder.resolve() / LOCK_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file: IO[str] = self.path.open("a")
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder} is in use by another search; stop that search first, "
                "or choose another --out"
            ) from None

    def check(self) -> None:
        """Raise OSError when the folder was moved, removed or replaced, and must not be written."""
        if os.stat(self.path).st_ino != os.fstat(self.file.fileno()).st_ino:
            raise FileNotFoundError(
                f"{self.path.parent} is not the folder in which this search started"
            )

    def close(self) -> None:
        """Release the folder."""
        self.file.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
