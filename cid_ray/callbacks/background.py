"""A callback in a thread of its own: a slow server delays neither the search nor, for long, its
end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from cid_ray.callbacks.base import Callback
from cid_ray.results.records import Record
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import TrialSpec

MAX_QUEUED = 1000  # events; further progress records are left out
CLOSE_TIMEOUT_S = 60.0  # for the rest of the queue at the end

Event = Callable[[Callback], None]


class BackgroundCallback(Callback):
    """Passes events on in their order. What the callback raises is raised here at the next event.

    Args:
        name: what messages call it.
        make: creates the callback, in the thread.
    """

    def __init__(self, name: str, make: Callable[[], Callback]):
        self._name = name
        self.error: Exception | None = None
        self._events: queue.Queue[Event | None] = queue.Queue()
        self.thread = threading.Thread(
            target=self._run, args=(make,), daemon=True, name=f"callback-{name}"
        )
        self.thread.start()

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_busy(self) -> bool:
        """Whether events are queued or being handled."""
        return self.error is None and self._events.unfinished_tasks > 0

    def _run(self, make: Callable[[], Callback]) -> None:
        try:
            callback = make()
            while (event := self._events.get()) is not None:
                event(callback)
                self._events.task_done()
            self._events.task_done()
        except Exception as error:
            self.error = error

    def _put(self, event: Event) -> None:
        if self.error:
            raise self.error
        self._events.put(event)

    def on_search_start(self, search: Search) -> None:
        self._put(lambda callback: callback.on_search_start(search))

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        self._put(lambda callback: callback.on_trial_start(trial, resumed))

    def on_trial_result(self, record: Record) -> None:
        if record["event"] != "progress" or self._events.qsize() < MAX_QUEUED:
            self._put(lambda callback: callback.on_trial_result(record))

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self._put(lambda callback: callback.on_trial_complete(trial, state))

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self._put(lambda callback: callback.on_trial_error(trial, reason))

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self._put(lambda callback: callback.on_trial_retry(trial, reason, attempt))

    def on_trial_stale(self, run: str, reason: str) -> None:
        self._put(lambda callback: callback.on_trial_stale(run, reason))

    def on_refresh(self) -> None:
        self._put(lambda callback: callback.on_refresh())

    def on_search_end(self) -> None:
        """Wait for the rest of the queue.

        Raises:
            TimeoutError: it did not finish within CLOSE_TIMEOUT_S; a resume reports what is
                missing.
        """
        self._put(lambda callback: callback.on_search_end())
        self._events.put(None)
        self.thread.join(CLOSE_TIMEOUT_S)
        if self.error:
            raise self.error
        if self.thread.is_alive():
            raise TimeoutError(
                f"it did not answer for {CLOSE_TIMEOUT_S:g} s; a resume reports what is missing"
            )
