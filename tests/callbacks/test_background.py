"""Laws of a callback in its own thread: order kept, search not delayed, errors raised later."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cid_ray.callbacks import background
from cid_ray.callbacks.background import BackgroundCallback
from cid_ray.callbacks.base import Callback, CallbackList
from cid_ray.results.records import Record
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.ports import wait_until


class Blocked(EventRecorder):
    """Handles no record before it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.release = threading.Event()

    def on_trial_result(self, record: Record) -> None:
        self.reached.set()
        self.release.wait(60)
        super().on_trial_result(record)


def record(event: str, number: int) -> Record:
    return {"event": event, "run": "1_8-cid-000", "number": number}


def numbers(recorder: EventRecorder) -> list[int]:
    return [record["number"] for (record,) in recorder.of("on_trial_result")]


def test_background_callback_keeps_order_in_another_thread() -> None:
    threads: list[threading.Thread] = []
    recorder = EventRecorder()

    def make() -> Callback:
        threads.append(threading.current_thread())
        return recorder

    callback = BackgroundCallback("recorder", make)
    trial: Any = "trial"
    callback.on_trial_start(trial, False)
    for number in range(5):
        callback.on_trial_result(record("rung", number))
    callback.on_trial_retry(trial, "it died", 1)
    callback.on_trial_stale("run", "no heartbeat")
    callback.on_trial_error(trial, "it failed")
    callback.on_trial_complete(trial, "pruned")
    callback.on_refresh()
    callback.on_search_end()
    assert threads == [callback.thread] and callback.thread is not threading.current_thread()
    assert numbers(recorder) == list(range(5))
    others = [name for name in recorder.names if name != "on_trial_result"]
    assert others == [
        "on_trial_start",
        "on_trial_retry",
        "on_trial_stale",
        "on_trial_error",
        "on_trial_complete",
        "on_refresh",
        "on_search_end",
    ]
    assert not callback.is_busy


def test_background_callback_that_is_blocked_does_not_delay_search() -> None:
    blocked = Blocked()
    callback = BackgroundCallback("blocked", lambda: blocked)
    callback.on_trial_result(record("rung", 0))
    assert blocked.reached.wait(60)
    callback.on_trial_result(record("rung", 1))  # returns although the first is not handled
    assert numbers(blocked) == []
    assert callback.is_busy
    blocked.release.set()
    callback.on_search_end()
    assert numbers(blocked) == [0, 1]


def test_background_callback_with_full_queue_leaves_out_progress_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "MAX_QUEUED", 3)
    blocked = Blocked()
    callback = BackgroundCallback("blocked", lambda: blocked)
    callback.on_trial_result(record("rung", 0))
    assert blocked.reached.wait(60)
    for number in range(1, 6):
        callback.on_trial_result(record("progress", number))
    callback.on_trial_result(record("rung", 6))
    blocked.release.set()
    callback.on_search_end()
    assert numbers(blocked) == [0, 1, 2, 3, 6]


def test_background_callback_error_removes_it_at_next_event() -> None:
    class Failing(Callback):
        def on_refresh(self) -> None:
            raise OSError("the server is gone")

    callback = BackgroundCallback("tracker", Failing)
    recorder = EventRecorder()
    callbacks = CallbackList()
    callbacks.callbacks = [callback, recorder]
    callbacks.on_refresh()
    wait_until(lambda: callback.error)
    assert callback in callbacks.callbacks
    callbacks.on_refresh()
    assert callbacks.callbacks == [recorder]
    ((text, important),) = recorder.of("on_message")
    assert important
    assert text == "warning: callback tracker is removed: OSError: the server is gone"
    assert len(recorder.of("on_refresh")) == 2


def test_background_callback_that_cannot_be_made_raises_its_error() -> None:
    def make() -> Callback:
        raise OSError("no such server")

    callback = BackgroundCallback("tracker", make)
    wait_until(lambda: callback.error)
    with pytest.raises(OSError, match="no such server"):
        callback.on_refresh()


def test_background_callback_that_never_answers_is_left_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "CLOSE_TIMEOUT_S", 0.1)
    blocked = Blocked()
    callback = BackgroundCallback("blocked", lambda: blocked)
    callback.on_trial_result(record("rung", 0))
    with pytest.raises(TimeoutError, match="a resume reports what is missing"):
        callback.on_search_end()
    blocked.release.set()
