"""A callback that keeps every event it hears of."""

from __future__ import annotations

from typing import Any

from cid_ray.callbacks.base import Callback
from cid_ray.results.records import Record
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import TrialSpec


class EventRecorder(Callback):
    """Keeps every event that it hears of: its method's name and its arguments."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Any, ...]]] = []

    @property
    def names(self) -> list[str]:
        """The names of the events in their order."""
        return [name for name, _ in self.events]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every event of one kind."""
        return [arguments for event, arguments in self.events if event == name]

    def on_search_start(self, search: Search) -> None:
        self.events.append(("on_search_start", (search,)))

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        self.events.append(("on_trial_start", (trial, resumed)))

    def on_trial_result(self, record: Record) -> None:
        self.events.append(("on_trial_result", (record,)))

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self.events.append(("on_trial_complete", (trial, state)))

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self.events.append(("on_trial_error", (trial, reason)))

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self.events.append(("on_trial_retry", (trial, reason, attempt)))

    def on_trial_stale(self, run: str, reason: str) -> None:
        self.events.append(("on_trial_stale", (run, reason)))

    def on_refresh(self) -> None:
        self.events.append(("on_refresh", ()))

    def on_message(self, text: str, important: bool = False) -> None:
        self.events.append(("on_message", (text, important)))

    def on_search_end(self) -> None:
        self.events.append(("on_search_end", ()))
