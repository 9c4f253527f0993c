"""Laws of callbacks: base methods do nothing, and one that raises is removed from its list."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray.callbacks.background import BackgroundCallback
from cid_ray.callbacks.base import Callback, CallbackList
from cid_ray.search.controller import Search
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.simulated_studies import (
    final_record,
    next_trial,
    open_search,
    rung_record,
    search_config,
    state_of,
)

EVENTS = [name for name in vars(Callback) if name.startswith("on_")]


class Raising(EventRecorder):
    """Raises at one event."""

    def __init__(self, event: str):
        super().__init__()
        self.event = event

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and name == super().__getattribute__("event"):
            return super().__getattribute__("fail")
        return super().__getattribute__(name)

    def fail(self, *arguments: Any, **options: Any) -> None:
        raise ValueError(f"no luck with {self.event}\nsecond line")


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with open_search(tmp_path, search_config(trials=2)) as search:
        yield search


def call(callback: Callback, event: str) -> Any:
    """Call an event's method; the arguments are the names of its parameters."""
    method: Callable[..., Any] = getattr(callback, event)
    return method(*inspect.signature(getattr(Callback, event)).parameters.keys() - {"self"})


@pytest.mark.parametrize("event", EVENTS)
def test_callback_base_method_does_nothing(event: str) -> None:
    callback = Callback()
    assert call(callback, event) is None
    assert vars(callback) == {}
    assert callback.name == "Callback"


@pytest.mark.parametrize("event", EVENTS)
def test_callback_list_passes_event_to_all_with_its_arguments(event: str) -> None:
    callbacks = CallbackList()
    recorders = [EventRecorder(), EventRecorder()]
    callbacks.callbacks = [*recorders]
    call(callbacks, event)
    for recorder in recorders:
        ((name, arguments),) = recorder.events
        assert name == event
        assert set(arguments) == set(inspect.signature(getattr(Callback, event)).parameters) - {
            "self"
        }


def test_every_forwarding_callback_forwards_every_event() -> None:
    """A new event of the base class must not get lost in one of these."""
    assert set(EVENTS) <= set(vars(CallbackList))
    # Lines for people are not for trackers.
    assert set(EVENTS) - {"on_message"} <= set(vars(BackgroundCallback))


@pytest.mark.parametrize("event", [name for name in EVENTS if name != "on_message"])
def test_callback_list_raising_callback_is_removed_and_others_continue(event: str) -> None:
    callbacks = CallbackList()
    first, raising, last = EventRecorder(), Raising(event), EventRecorder()
    callbacks.callbacks = [first, raising, last]
    call(callbacks, event)
    call(callbacks, event)
    assert callbacks.callbacks == [first, last]
    expected = f"warning: callback Raising is removed: ValueError: no luck with {event}"
    for recorder in (first, last):
        assert recorder.of("on_message") == [(expected, True)]
        assert len(recorder.of(event)) == 2


def test_callback_list_raising_at_message_is_removed() -> None:
    callbacks = CallbackList()
    recorder = EventRecorder()
    callbacks.callbacks = [Raising("on_message"), Raising("on_message"), recorder]
    callbacks.on_message("hello")
    assert callbacks.callbacks == [recorder]
    texts = [text for text, _ in recorder.of("on_message")]
    assert texts.count("hello") == 1
    assert sum("is removed" in text for text in texts) == 2


def test_callback_list_without_console_warns_of_removed_callback() -> None:
    class Silent(Callback):
        def on_refresh(self) -> None:
            raise RuntimeError("no")

    callbacks = CallbackList()
    callbacks.callbacks = [Silent()]
    with pytest.warns(UserWarning, match="callback Silent is removed: RuntimeError: no"):
        callbacks.on_refresh()
    callbacks.callbacks = [EventRecorder(), Silent()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callbacks.on_refresh()


def test_callback_list_does_not_catch_kills() -> None:
    class Interrupted(Callback):
        def on_refresh(self) -> None:
            raise KeyboardInterrupt

    callbacks = CallbackList()
    callbacks.callbacks = [Interrupted()]
    with pytest.raises(KeyboardInterrupt):
        callbacks.on_refresh()


# ---- in a search ----


def test_add_callback_that_raises_at_start_is_removed(search: Search) -> None:
    recorder = EventRecorder()
    search.add_callback(recorder)
    search.add_callback(Raising("on_search_start"))
    assert search.callbacks.callbacks == [recorder]
    ((text, important),) = recorder.of("on_message")
    assert important and "no luck with on_search_start" in text


def test_search_events_of_trial_come_in_order(search: Search) -> None:
    recorder = EventRecorder()
    search.add_callback(recorder)
    trial = next_trial(search)
    search.report(rung_record(trial, 10))
    search.report_process_died(trial.name)
    again = next_trial(search)
    search.report(final_record(again))
    search.close()
    assert recorder.names == [
        "on_search_start",
        "on_trial_start",
        "on_trial_result",
        "on_trial_retry",
        "on_trial_start",
        "on_trial_result",
        "on_trial_complete",
        "on_search_end",
    ]
    assert recorder.of("on_search_start") == [(search,)]
    assert recorder.of("on_trial_start") == [(trial, False), (again, True)]


@pytest.mark.parametrize("event", ["on_trial_start", "on_trial_result", "on_trial_complete"])
def test_search_with_raising_callback_finishes_trial(search: Search, event: str) -> None:
    recorder = EventRecorder()
    for callback in (Raising(event), recorder):
        search.add_callback(callback)
    trial = next_trial(search)
    search.report(final_record(trial))
    assert state_of(search, trial) == "complete"
    assert search.callbacks.callbacks == [recorder]
    assert recorder.of("on_trial_complete") == [(trial, "complete")]
