"""Laws of a search's records: each says which trial it is about; progress is not written."""

from __future__ import annotations

from pathlib import Path

from cid_ray.results.records import read_records
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import TrialSpec
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.simulated_studies import (
    failed_record,
    next_trial,
    open_search,
    progress_record,
    run_trials,
    score_on_test,
    search_config,
)

IDENTITY_FIELDS = ("run", "ratio", "method", "trial_number", "repeats_of", "repeat_index")


def test_every_record_of_search_says_which_trial_it_is_about(tmp_path: Path) -> None:
    config = search_config(trials=12, **{"search.repeats": {"n": 2, "top": 2}})
    recorder = EventRecorder()
    trials: dict[str, TrialSpec] = {}
    with open_search(tmp_path, config) as search:
        search.add_callback(recorder)
        dying = next_trial(search)
        search.report(progress_record(dying, warning="the pool has unreadable images"))
        search.report_process_died(dying.name)
        broken = next_trial(search)
        search.report(failed_record(broken, "RuntimeError: no"))
        trials = {trial.name: trial for trial in [broken, *run_trials(search)]}
        search.finalize(score_on_test)
    records = read_records(tmp_path)
    assert {r["event"] for r in records} >= {
        "warning",
        "retry",
        "failed",
        "rung",
        "final",
        "trial",
        "search",
    }
    assert len({trial.repeat_index for trial in trials.values()}) == 3
    for record in [*records, *(record for (record,) in recorder.of("on_trial_result"))]:
        assert all(name in record for name in IDENTITY_FIELDS), record
        if record["event"] not in ("search", "noise"):
            assert record.items() >= trials[record["run"]].identity_fields.items()


def test_progress_record_reaches_callbacks_but_only_its_warning_is_written(
    search: Search, tmp_path: Path
) -> None:
    recorder = EventRecorder()
    search.add_callback(recorder)
    trial = next_trial(search)
    search.report(progress_record(trial))
    assert read_records(tmp_path) == []
    search.report(progress_record(trial, warning="no pseudo-label passes the threshold"))
    (record,) = read_records(tmp_path)
    assert record["event"] == "warning"
    assert record["message"] == "no pseudo-label passes the threshold"
    assert len(recorder.of("on_trial_result")) == 2
