"""Laws of what a kill leaves: record first, then the study, then the trial's end.

References: the records file, the studies as a new process reads them, and a search that was never
interrupted. Trials are simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import outcome, simulated_config, simulated_records, uninterrupted
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.checks import check_search
from cid_ray.search.controller import Decision, Search
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.simulated_studies import (
    final_record,
    kill_search,
    next_trial,
    open_search,
)


class KilledError(BaseException):
    """The process dies here."""


def test_report_final_writes_record_then_study_then_trial_record_then_callbacks(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def log_calls(owner: Any, name: str, label: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            order.append(label(*arguments))
            return real(*arguments)

        monkeypatch.setattr(owner, name, call)

    trial = next_trial(search)
    recorder = EventRecorder()
    search.add_callback(recorder)
    log_calls(search.events.records, "append", lambda record: f"record {record['event']}")
    log_calls(search.store, "finish", lambda spec, state, values: f"study {state.name}")
    log_calls(recorder, "on_trial_result", lambda record: f"callback {record['event']}")
    log_calls(recorder, "on_trial_complete", lambda spec, state: f"callback {state}")
    search.report(final_record(trial))
    assert order == [
        "record final",
        "callback final",
        "study COMPLETE",
        "record trial",
        "callback complete",
    ]


def test_kill_before_study_is_told_runs_trial_again_with_one_record(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KilledError

    trial = next_trial(search)
    monkeypatch.setattr(search.store, "finish", die)
    with pytest.raises(KilledError):
        search.report(final_record(trial))
    kill_search(search)
    assert [record["event"] for record in read_records(tmp_path)] == ["final"]

    with open_search(tmp_path, search.config) as resumed:
        recorder = EventRecorder()
        resumed.add_callback(recorder)
        again = next_trial(resumed)
        ((started, is_resumed),) = recorder.of("on_trial_start")
        assert (again.name, again.params) == (trial.name, trial.params)
        assert started is again and is_resumed
        resumed.report(final_record(again))
    assert [record["event"] for record in read_records(tmp_path)] == ["final", "trial"]


def test_kill_before_trial_record_is_back_filled_at_open(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = next_trial(search)
    append = search.events.records.append

    def die_at_trial_record(record: Record) -> None:
        if record["event"] == "trial":
            raise KilledError
        append(record)

    monkeypatch.setattr(search.events.records, "append", die_at_trial_record)
    with pytest.raises(KilledError):
        search.report(final_record(trial))
    kill_search(search)
    assert not of_event(read_records(tmp_path), "trial")

    with open_search(tmp_path, search.config) as resumed:
        (record,) = of_event(read_records(tmp_path), "trial")
        expected = {**trial.identity_fields, "state": "complete", "reason": ""}
        assert record.items() >= expected.items()
        assert resumed.finished_before == 1
        assert next_trial(resumed).name != trial.name


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
def test_search_killed_at_any_write_ends_like_uninterrupted_one(
    tmp_path: Path, interval: int
) -> None:
    """The process dies at every n-th write to records and studies, before or after the write."""
    changes: dict[str, Any] = {"search.baselines": ["supervised"]}
    config = simulated_config(trials=5, **changes)
    space = check_search(config)
    reference = uninterrupted(tmp_path / "reference", config)
    folder = tmp_path / "killed"
    kills = 0
    while True:
        search = open_search(folder, config, space)
        die_at_write(search, interval + kills, before=kills % 2 == 0)
        try:
            run_simulated_trials(search)
            break
        except KilledError:
            kills += 1
        finally:
            kill_search(search)
    assert kills > 4
    assert outcome(search.store) == outcome(reference.store)
    assert trial_states(folder) == trial_states(tmp_path / "reference")
    measured = Counter(
        (r["run"], r["event"], r["images_seen"])
        for r in read_records(folder)
        if r["event"] in ("rung", "final")
    )
    assert set(measured.values()) == {1}


def die_at_write(search: Search, count: int, before: bool) -> None:
    """Let the process die at that write, `before` or after it takes effect."""
    left = count

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def write(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and before:
                raise KilledError
            result = real(*arguments)
            if left == 0:
                raise KilledError
            return result

        setattr(owner, name, write)

    wrap(search.events.records, "append")
    wrap(search.store, "finish")
    wrap(search.store.storage, "set_trial_system_attr")  # the pruner's decision and state


def run_simulated_trials(search: Search) -> None:
    while (trial := search.next_trial()) is not None:
        for record in simulated_records(trial.config, trial.name):
            if search.report(record) is Decision.STOP:
                break


def trial_states(folder: Path) -> dict[str, str]:
    records = of_event(read_records(folder), "trial")
    states = {record["run"]: record["state"] for record in records}
    assert len(states) == len(records)
    return states
