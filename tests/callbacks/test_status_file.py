"""Laws of status.json: it shows the running trials of a search and how the search ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cid_ray.callbacks import status_file
from cid_ray.callbacks.status_file import StatusFile
from cid_ray.results.status import read_status
from tests.helpers.simulated_studies import (
    failed_record,
    final_record,
    next_trial,
    open_search,
    rung_record,
    search_config,
)


def test_status_file_running_trial_has_its_identity_and_progress(tmp_path: Path) -> None:
    with open_search(tmp_path, search_config(trials=2)) as search:
        search.add_callback(StatusFile())
        status = read_status(tmp_path)
        assert (status["state"], status["running"], status["gone"]) == ("running", {}, False)
        assert (status["total"], status["finished_before"]) == (search.total, 0)
        assert status["pid"] == os.getpid()
        trial = next_trial(search)
        search.report(rung_record(trial, 10))
        shown = read_status(tmp_path)["running"][trial.name]
        expected = {key: value for key, value in trial.identity_fields.items() if key != "run"}
        assert shown.items() >= {**expected, "steps": 90, "resumed": False}.items()
        assert (shown["step"], shown["images_seen"]) == (10, 80)
        search.report(final_record(trial))
        assert read_status(tmp_path)["running"] == {}


def test_status_file_after_resume_counts_finished_trials(tmp_path: Path) -> None:
    config = search_config(trials=2)
    with open_search(tmp_path, config) as search:
        search.report(final_record(next_trial(search)))
        interrupted = next_trial(search)
    with open_search(tmp_path, config) as search:
        search.add_callback(StatusFile())
        next_trial(search)
        status = read_status(tmp_path)
        assert status["finished_before"] == 1
        assert status["running"][interrupted.name]["resumed"]


@pytest.mark.parametrize(("error", "state"), [(None, "closed"), ("out of luck", "stopped")])
def test_status_file_at_end_says_how_search_ended(
    tmp_path: Path, error: str | None, state: str
) -> None:
    search = open_search(tmp_path, search_config(trials=2))
    search.add_callback(StatusFile())
    next_trial(search)
    if error is None:
        search.close()
    else:
        with pytest.raises(RuntimeError), search:
            raise RuntimeError(error)
    status = read_status(tmp_path)
    assert (status["state"], status["running"]) == (state, {})
    assert status["reason"] == (f"RuntimeError: {error}" if error else "")


def test_status_file_of_search_that_failed_has_reason(tmp_path: Path) -> None:
    with open_search(
        tmp_path, search_config(trials=2, **{"search.max_failed_trials": 1})
    ) as search:
        search.add_callback(StatusFile())
        search.report(failed_record(next_trial(search), "RuntimeError: no"))
    status = read_status(tmp_path)
    assert status["state"] == "stopped"
    assert "1 trials failed in the same way" in status["reason"]


def test_status_file_names_as_many_running_trials_a_second_at_any_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes of all writes of one second; a clock that stands still lets none through."""
    monkeypatch.setattr(status_file, "WRITTEN_AT_ONCE", 3)
    monkeypatch.setattr(status_file, "WRITTEN_PER_S", 10)
    now = 1e9
    monkeypatch.setattr(status_file.time, "time", lambda: now)
    with open_search(tmp_path, search_config(trials=20)) as search:
        search.add_callback(StatusFile())
        for number in range(1, 8):
            next_trial(search)
            shown = read_status(tmp_path)["running"]
            assert len(shown) == min(number, 3)
        now += 0.65  # seven trials are due after 0.7 s
        next_trial(search)
        assert len(read_status(tmp_path)["running"]) == 3
        now += 0.3
        search.report(rung_record(next_trial(search), 10))
        assert len(read_status(tmp_path)["running"]) == 9
    assert read_status(tmp_path)["running"] == {}
