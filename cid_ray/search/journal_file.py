"""A journal whose operations of one step reach the disk together.

To suggest a trial takes about eight operations, to report a rung four. Optuna waits for the disk
after each, which on a busy or remote disk is most of what a trial costs the driver. Here each is
written immediately, so a killed process loses none. The wait comes once, at the end of the
step: before the trial is handed out, and before anything in another file depends on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


class JournalFile(JournalFileBackend):
    """Optuna's journal file, which waits for the disk once a step.

    Args:
        path: of the file; it is created if absent.
        lock: held while a line is written.
    """

    def __init__(self, path: str, lock: JournalFileSymlinkLock | None = None):
        lock = lock or JournalFileSymlinkLock(path)
        super().__init__(path, lock_obj=lock)
        self._path = path
        self._write_lock = lock
        self._steps = 0  # that are not over yet
        self._waits = False  # whether something is written that may not be on the disk

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations; wait for the disk unless a step will do it."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._write_lock.acquire()
        try:
            with open(self._path, "ab") as file:
                file.write(lines.encode())
                file.flush()
                if self._steps:
                    self._waits = True
                else:
                    os.fsync(file.fileno())
        finally:
            self._write_lock.release()

    @contextmanager
    def one_step(self) -> Iterator[None]:
        """Operations of the block are on the disk when it ends, also when it raises.

        Raises:
            OSError: they cannot be written.
        """
        self._steps += 1
        try:
            yield
        finally:
            self._steps -= 1
            if self._waits and not self._steps:
                self._waits = False
                with open(self._path, "ab") as file:
                    os.fsync(file.fileno())
