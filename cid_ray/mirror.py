"""Runs that are only looked at: those in an object store as copies in temporary folders here, which follow the store.

One thread asks every few seconds what has changed and fetches that alone: the run's own files, pictures and the report,
no checkpoints. A store that cannot be read leaves the copy as it was; that is said once, and once more when it is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from cid_ray.config import InputError
from cid_ray.home import Home

POLL_SECONDS = 2.0  # three listings each time
SHOWN = ("", "samples", "report")  # of a run's folder
PATIENCE_SECONDS = 2.0  # for what is being fetched when the end comes


class Mirror(Home):
    """A run's folder, fetched and never sent. A folder on this machine is its own copy."""

    def send(self) -> None:
        """Nothing: optuna-dashboard writes into the journal that it shows."""

    def follow(self, say: Callable[[str], None]) -> None:
        """Fetch what has changed."""
        try:
            self.fetch(*SHOWN)
        except InputError as error:
            if not self.lost:
                self.lost = time.time()
                say(f"warning: {error}; until it can be read again, the page stays as it is")
        else:
            if self.lost:
                say(f"{self} can be read again")
            self.lost = 0.0


@contextmanager
def mirrors(names: Sequence[str], say: Callable[[str], None]) -> Iterator[list[Mirror]]:
    """These runs, kept up to date while the block works.

    Raises:
        InputError: a store cannot be read at the beginning.
    """
    over = threading.Event()

    def follow() -> None:
        while remote and not over.wait(POLL_SECONDS):
            for mirror in remote:
                mirror.follow(say)

    with ExitStack() as stack:
        found = [stack.enter_context(Mirror(name)) for name in names]
        remote = [mirror for mirror in found if mirror.remote]
        for mirror in remote:
            mirror.fetch(*SHOWN)
        thread = threading.Thread(target=follow, name="mirror", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join(PATIENCE_SECONDS)
