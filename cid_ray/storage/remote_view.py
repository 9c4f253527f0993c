"""Read-only views of runs. A run in an object store is copied to a temporary folder.

One thread asks the store every few seconds what has changed and copies only that: the run's own
files, sample images and the report, but no checkpoints. When a store cannot be read, the copy keeps
its last state. This is logged once when it starts and once when it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from cid_ray.config import InputError
from cid_ray.storage.run_dir import RunDir

POLL_S = 2.0  # each poll lists three folders
PULLED_FOLDERS = ("", "samples", "report")  # "" means the run's own files
JOIN_TIMEOUT_S = 2.0  # how long the end waits for a pull that is under way


class ReadOnlyRunDir(RunDir):
    """A run folder that is pulled and never pushed. A folder on this machine needs no copy."""

    def push(self) -> None:
        """Do nothing: optuna-dashboard writes into the journal that it shows, here the copy."""

    def refresh(self, log: Callable[[str], None]) -> None:
        """Pull what has changed, and log when the store becomes unreachable or reachable."""
        try:
            self.pull(*PULLED_FOLDERS)
        except InputError as error:
            if not self.unreachable_since:
                self.unreachable_since = time.time()
                log(
                    f"warning: {error}; "
                    "the page keeps its last state until the store can be read again"
                )
        else:
            if self.unreachable_since:
                log(f"{self} can be read again")
            self.unreachable_since = 0.0


@contextmanager
def open_read_only(
    names: Sequence[str], log: Callable[[str], None]
) -> Iterator[list[ReadOnlyRunDir]]:
    """Open runs and keep the copies of remote ones up to date until the block ends.

    Raises:
        InputError: a store cannot be read at the start, or something in a run leads out of it.
    """
    closed = threading.Event()

    def poll() -> None:
        while remote and not closed.wait(POLL_S):
            for run_dir in remote:
                run_dir.refresh(log)

    with ExitStack() as stack:
        run_dirs = [stack.enter_context(ReadOnlyRunDir(name)) for name in names]
        remote = [run_dir for run_dir in run_dirs if run_dir.remote]
        for run_dir in run_dirs:
            run_dir.pull(*PULLED_FOLDERS)
        thread = threading.Thread(target=poll, name="remote-view", daemon=True)
        thread.start()
        try:
            yield run_dirs
        finally:
            closed.set()
            thread.join(JOIN_TIMEOUT_S)
