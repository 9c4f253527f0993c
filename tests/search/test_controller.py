"""Laws of `Search`: its decisions, retries, a lost storage, opening and closing.

Studies and records are real, trials are simulated.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from cid_ray.config import InputError, load_config
from cid_ray.results.issues import find_issues
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.controller import NO_GROUND_TRUTH, PROCESS_DIED, Decision, Search
from cid_ray.search.space import Space
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.simulated_studies import (
    METRIC,
    RUNG_STEPS,
    failed_record,
    final_record,
    kill_search,
    next_trial,
    open_search,
    progress_record,
    run_trial,
    rung_record,
    search_config,
    state_of,
)

# ---- decisions ----


def test_report_progress_and_rung_continue_and_final_stops(search: Search) -> None:
    trial = next_trial(search)
    assert search.report(progress_record(trial)) is Decision.CONTINUE
    for step in RUNG_STEPS:
        assert search.report(rung_record(trial, step)) is Decision.CONTINUE
    assert search.report(final_record(trial)) is Decision.STOP
    assert state_of(search, trial) == "complete"


def test_report_rung_twice_after_resume_reaches_study_once(search: Search, tmp_path: Path) -> None:
    trial = next_trial(search)
    search.report(rung_record(trial, RUNG_STEPS[0]))
    kill_search(search)
    with open_search(tmp_path, search.config) as resumed:
        again = next_trial(resumed)
        assert resumed.report(rung_record(again, RUNG_STEPS[0])) is Decision.CONTINUE
        (frozen,) = resumed.store.trials(again.key, TrialState.RUNNING)
        assert list(frozen.intermediate_values) == [80]
    assert len(of_event(read_records(tmp_path), "rung")) == 1


def test_report_pruned_trial_stops_and_its_checkpoint_is_deleted(tmp_path: Path) -> None:
    search = open_search(tmp_path, search_config(trials=12))
    while True:
        trial = next_trial(search)
        checkpoint = tmp_path / "checkpoints" / trial.name / "last.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        state = run_trial(search, trial)
        assert checkpoint.exists() == (state == "complete")
        if state == "pruned":
            break
    assert search.report(rung_record(trial, RUNG_STEPS[-1])) is Decision.STOP
    records = read_records(tmp_path)
    assert [r["state"] for r in records if r["run"] == trial.name and r["event"] == "trial"] == [
        state
    ]


def test_report_failure_stops_and_records_reason(search: Search, tmp_path: Path) -> None:
    recorder = EventRecorder()
    search.add_callback(recorder)
    trial = next_trial(search)
    assert search.report(failed_record(trial, "RuntimeError: no")) is Decision.STOP
    (record,) = of_event(read_records(tmp_path), "trial")
    assert (record["state"], record["reason"]) == ("failed", "RuntimeError: no")
    assert recorder.of("on_trial_error") == [(trial, "RuntimeError: no")]


def test_report_final_without_ground_truth_fails_trial(search: Search, tmp_path: Path) -> None:
    trial = next_trial(search)
    assert search.report(final_record(trial) | {METRIC: None}) is Decision.STOP
    (record,) = of_event(read_records(tmp_path), "trial")
    assert (record["state"], record["reason"]) == ("failed", NO_GROUND_TRUTH)


def test_report_of_trial_that_does_not_run_stops_and_writes_nothing(
    search: Search, tmp_path: Path
) -> None:
    trial = next_trial(search)
    search.report(final_record(trial))
    before = read_records(tmp_path)
    assert search.report(rung_record(trial, RUNG_STEPS[0])) is Decision.STOP
    assert read_records(tmp_path) == before


def test_report_after_interrupt_stops_and_trial_can_resume(search: Search, tmp_path: Path) -> None:
    trial = next_trial(search)
    search.interrupt()
    assert search.report(rung_record(trial, RUNG_STEPS[0])) is Decision.STOP
    assert search.next_trial() is None
    search.close()
    assert len(of_event(read_records(tmp_path), "rung")) == 1
    with open_search(tmp_path, search.config) as resumed:
        assert next_trial(resumed).name == trial.name


def test_next_trial_after_deadline_is_none(tmp_path: Path) -> None:
    config = search_config(trials=3)
    search = open_search(tmp_path, config)
    search.rules.deadline = time.monotonic()
    assert search.next_trial() is None
    assert not search.rules.reason


def test_failures_of_one_kind_stop_search(tmp_path: Path) -> None:
    search = open_search(tmp_path, search_config(trials=3, **{"search.max_failed_trials": 2}))
    for step in (3, 40):
        reason = f"FloatingPointError: the loss is nan at step {step}"
        search.report(failed_record(next_trial(search), reason))
    assert search.next_trial() is None
    assert "2 trials failed in the same way" in search.rules.reason


# ---- retries and lost storage ----


def test_report_process_died_queues_trial_again_until_no_retry_is_left(
    tmp_path: Path,
) -> None:
    search = open_search(tmp_path, search_config(trials=3, **{"search.retries": 1}))
    recorder = EventRecorder()
    search.add_callback(recorder)
    trial = next_trial(search)
    search.report_process_died(trial.name)
    assert recorder.of("on_trial_retry") == [(trial, PROCESS_DIED, 1)]
    again = next_trial(search)
    assert again.name == trial.name
    search.report_process_died(trial.name)
    assert state_of(search, trial) == "failed"
    events = [(r["event"], r.get("attempt"), r["reason"]) for r in read_records(tmp_path)]
    assert events == [("retry", 1, PROCESS_DIED), ("trial", None, PROCESS_DIED)]
    assert next_trial(search).name != trial.name


def test_preemptions_are_no_retries_and_have_a_limit_of_their_own(tmp_path: Path) -> None:
    limits = {"search.retries": 0, "search.max_preemption_failures": 2}
    search = open_search(tmp_path, search_config(trials=3, **limits))
    reason = "preempted: node 2f14789e will be taken"
    names = set()
    for _ in range(3):
        trial = next_trial(search)
        names.add(trial.name)
        search.report_process_died(trial.name, reason)
    assert len(names) == 1 and state_of(search, trial) == "failed"
    events = [(r["event"], r.get("attempt"), r["reason"]) for r in read_records(tmp_path)]
    assert events == [("retry", 1, reason), ("retry", 2, reason), ("trial", None, reason)]


def test_preemptions_leave_the_retries_as_they_are(tmp_path: Path) -> None:
    search = open_search(tmp_path, search_config(trials=3, **{"search.retries": 1}))
    reasons = ["preempted: node a", PROCESS_DIED, "preempted: node a", PROCESS_DIED]
    for reason in reasons:
        search.report_process_died(next_trial(search).name, reason)
    *retries, end = read_records(tmp_path)
    assert [(r["attempt"], r["reason"]) for r in retries] == list(enumerate(reasons[:3], 1))
    assert (end["state"], end["reason"]) == ("failed", PROCESS_DIED)
    assert [issue.text for issue in find_issues(retries)] == reasons[:3]


def test_report_unwritable_stops_search_and_names_file(search: Search, tmp_path: Path) -> None:
    trial = next_trial(search)
    record = {
        "event": "storage_error",
        "run": trial.name,
        "errno": errno.ENOSPC,
        "reason": "No space left on device",
        "path": "checkpoints/last.pt",
    }
    assert search.report(record) is Decision.STOP
    assert search.next_trial() is None
    assert f"{tmp_path} cannot be written: No space left on device" in search.rules.reason
    assert "checkpoints/last.pt" in search.rules.reason
    assert read_records(tmp_path) == []
    (frozen,) = search.store.trials(trial.key)
    assert frozen.state == TrialState.RUNNING


def test_report_with_unwritable_records_leaves_study_unchanged(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: Record) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "records.jsonl")

    trial = next_trial(search)
    monkeypatch.setattr(search.events.records, "append", fail)
    assert search.report(final_record(trial)) is Decision.STOP
    assert "the studies are unchanged" in search.rules.reason
    assert search.store.finished() == {}


def test_search_in_moved_folder_stops(search: Search, tmp_path: Path) -> None:
    trial = next_trial(search)
    tmp_path.rename(tmp_path.with_name("moved"))
    assert search.report(final_record(trial)) is Decision.STOP
    assert search.next_trial() is None
    assert "cannot be written" in search.rules.reason
    tmp_path.with_name("moved").rename(tmp_path)


# ---- open and close ----


def test_open_folder_in_use_is_refused(search: Search, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in use by another process"):
        open_search(tmp_path, search.config)
    search.close()
    open_search(tmp_path, search.config).close()


def test_open_changed_search_is_refused_and_config_file_unchanged(
    search: Search, tmp_path: Path
) -> None:
    search.close()
    config_file = tmp_path / "config.yaml"
    before = config_file.read_text()
    changed = search_config(trials=3, **{"train.steps": 120})
    for _ in range(2):  # a refused search leaves no lock behind
        with pytest.raises(InputError, match=r"train\.steps was 90, is 120"):
            open_search(tmp_path, changed)
    assert config_file.read_text() == before
    extended = search_config(trials=5)
    open_search(tmp_path, extended).close()
    assert load_config(config_file) == extended


def test_open_below_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        open_search(tmp_path / "file" / "run", search_config())


def test_open_without_space_checks_it(tmp_path: Path) -> None:
    no_space: dict[str, Any] = {"search.space": {}}
    with pytest.raises(InputError, match=r"search\.space is empty"):
        open_search(tmp_path, search_config(**no_space))
    config = search_config(trials=1, **no_space)
    with open_search(tmp_path, config, Space.parse({})) as search:
        assert next_trial(search).params == {}


def test_close_tells_callbacks_once_and_frees_folder(search: Search, tmp_path: Path) -> None:
    recorder = EventRecorder()
    search.add_callback(recorder)
    search.close()
    search.close()
    assert recorder.names == ["on_search_start", "on_search_end"]
    open_search(tmp_path, search.config).close()


def test_exception_in_search_block_is_reason_of_its_end(tmp_path: Path) -> None:
    search = open_search(tmp_path, search_config())
    with pytest.raises(RuntimeError), search:
        raise RuntimeError("out of luck")
    assert search.rules.reason == "RuntimeError: out of luck"
    search = open_search(tmp_path, search_config())
    with pytest.raises(KeyboardInterrupt), search:
        raise KeyboardInterrupt
    assert search.rules.interrupted and not search.rules.reason
