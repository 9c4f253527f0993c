"""One writing process per folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Any

from cid_ray.config import InputError
from cid_ray.storage.boundary import no_follow

LOCK_FILE = ".lock"
HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class RunLock:
    """Holds a folder while this process writes into it.

    The kernel releases the lock when the process ends, also after SIGKILL: no stale lock has to be
    removed by hand.

    Args:
        folder: created if absent.

    Raises:
        InputError: another process holds it, it cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path):
        self.path = folder.resolve() / LOCK_FILE
        self._open_and_lock(folder)
        while not self._is_current():  # `remove` of another process came between open and lock
            self.file.close()
            self._open_and_lock(folder)

    def _open_and_lock(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file: IO[str] = open(  # noqa: SIM115  # closed by `close`
                self.path, "a", encoding="utf-8", opener=no_follow
            )
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.file.close()
            if error.errno in HELD_ELSEWHERE:
                raise InputError(
                    f"{folder} is in use by another process; stop that one first, "
                    "or choose another --out"
                ) from None
            raise InputError(
                f"{folder} cannot be locked ({error.strerror}): its file system has no locks, so "
                "two processes could write into it together; choose --out on a local disk or "
                "s3://bucket/path, or mount the file system with locks"
            ) from None

    def _is_current(self) -> bool:
        """Whether the locked file is still the one in the folder."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self.path).st_ino == os.fstat(self.file.fileno()).st_ino
        return False

    def check(self) -> None:
        """Raise OSError when the folder was moved, removed or replaced, and must not be written."""
        if os.stat(self.path).st_ino != os.fstat(self.file.fileno()).st_ino:
            raise FileNotFoundError(
                f"{self.path.parent} is not the folder in which this run started"
            )

    def close(self) -> None:
        """Release the folder."""
        self.file.close()

    def remove(self) -> None:
        """Release the folder and leave no lock file in it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
