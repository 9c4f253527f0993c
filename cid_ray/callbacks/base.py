"""What happens in a search, as events: subclass `Callback` and override what you need, as with
`ray.tune.Callback`.

Callbacks run in the search's process, after the record is written and the study is told. They
observe: a callback that raises is removed, its error is shown, and the search continues.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from cid_ray.config import error_summary
from cid_ray.results.records import Record
from cid_ray.search.trial_spec import TrialSpec

if TYPE_CHECKING:
    from cid_ray.search.controller import Search


class Callback:
    """Base class with methods that do nothing.

    Example:
        >>> class PrintFinished(Callback):
        ...     def on_trial_complete(self, trial, state):
        ...         print(trial.name, state)
        >>> search.add_callback(PrintFinished())
    """

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def on_search_start(self, search: Search) -> None:
        """The callback is added: the studies are open, no trial runs yet."""

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        """A trial starts, or resumes from its last checkpoint."""

    def on_trial_result(self, record: Record) -> None:
        """A record of a trial: `progress` (never written to the file), `rung`, `final` or `failed`.

        The final record of a chosen run comes a second time, with its test scores, after the trials
        have finished.
        """

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        """A trial finished: "complete" or "pruned"."""

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        """A trial failed for good."""

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        """A trial's process died; it will resume from its last checkpoint."""

    def on_trial_stale(self, run: str, reason: str) -> None:
        """A trial's heartbeat stopped; it runs again on another machine. It may have run in this
        process.
        """

    def on_refresh(self) -> None:
        """Other machines of a shared search may have started and finished trials; about once a
        minute.
        """

    def on_message(self, text: str, important: bool = False) -> None:
        """A message for the user; `important` ones are shown on a quiet terminal too."""

    def on_search_end(self) -> None:
        """The search has ended or was stopped; nothing follows."""


class CallbackList(Callback):
    """Passes every event to its callbacks, in order; removes one that raises."""

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []

    def add(self, callback: Callback, search: Search) -> None:
        """From now on the callback receives every event; its first is the start of the search."""
        self.callbacks.append(callback)
        self._call(callback, lambda callback: callback.on_search_start(search))

    def clear(self) -> None:
        """Remove all callbacks."""
        self.callbacks.clear()

    def on_search_start(self, search: Search) -> None:
        self._each(lambda callback: callback.on_search_start(search))

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        self._each(lambda callback: callback.on_trial_start(trial, resumed))

    def on_trial_result(self, record: Record) -> None:
        self._each(lambda callback: callback.on_trial_result(record))

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self._each(lambda callback: callback.on_trial_complete(trial, state))

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self._each(lambda callback: callback.on_trial_error(trial, reason))

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self._each(lambda callback: callback.on_trial_retry(trial, reason, attempt))

    def on_trial_stale(self, run: str, reason: str) -> None:
        self._each(lambda callback: callback.on_trial_stale(run, reason))

    def on_refresh(self) -> None:
        self._each(lambda callback: callback.on_refresh())

    def on_message(self, text: str, important: bool = False) -> None:
        self._each(lambda callback: callback.on_message(text, important))

    def on_search_end(self) -> None:
        self._each(lambda callback: callback.on_search_end())

    def _each(self, call: Callable[[Callback], None]) -> None:
        for callback in list(self.callbacks):
            self._call(callback, call)

    def _call(self, callback: Callback, call: Callable[[Callback], None]) -> None:
        if callback not in self.callbacks:
            return  # it raised at the message that another one was removed
        try:
            call(callback)
        except Exception as error:
            self.callbacks.remove(callback)
            text = f"callback {callback.name} is removed: {error_summary(error, with_type=True)}"
            self.on_message(f"warning: {text}", important=True)
            shown = (type(other).on_message is not Callback.on_message for other in self.callbacks)
            if not any(shown):
                warnings.warn(text, stacklevel=2)  # as in a notebook, which has no console
