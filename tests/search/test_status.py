"""Laws of a search's status, against its studies: counts, best values, repeats and ETA.

The trials are simulated (benchmarks/harness/chaos.py), the studies real.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import curve, simulated_config, simulated_record, simulated_records
from cid_ray.config import build_config
from cid_ray.search import status
from cid_ray.search.controller import Decision, Search
from cid_ray.search.status import SearchStatus, StudyStatus
from cid_ray.storage.run_dir import RunDir
from tests.helpers.shared_search_machine import open_shared_search
from tests.helpers.simulated_studies import finish_trial, next_trial


def test_status_counted_by_events_equals_status_read_from_studies(tmp_path: Path) -> None:
    config = simulated_config(trials=6)
    names = {ratio: f"{ratio} (10)" for ratio in config.search.ratios}
    with Search.open(config, RunDir(tmp_path)) as search:
        status = SearchStatus(search.store, names)
        search.add_callback(status)
        while (trial := search.next_trial()) is not None:
            for record in simulated_records(trial.config, trial.name):
                decision = search.report(record)
                if decision is Decision.STOP:
                    break
                running = {t.name: t for study in status.studies() for t in study.running}
                shown = running[trial.name]
                assert shown.step == record["step"]
                assert shown.value == curve(trial.config, record["step"])
        counted = [without_eta(study) for study in status.studies()]
    with Search.open(config, RunDir(tmp_path)) as search:
        read = SearchStatus(search.store, names)
        assert counted == [without_eta(study) for study in read.studies()]
        check_against_studies(search, read.studies(), names)


def without_eta(study: StudyStatus) -> StudyStatus:
    """The ETA is known only to the process that ran the trials."""
    return replace(study, eta=None)


def check_against_studies(
    search: Search, statuses: list[StudyStatus], names: dict[str, str]
) -> None:
    keys = {(names[key.ratio], key.method): key for key in search.store.search_keys()}
    for study in statuses:
        key = keys[study.ratio, study.method]
        assert study.best == search.store.best_value(key)
        assert sum(study.finished.values()) == study.n_trials == search.store.n_trials(key)
        assert study.repeats == (2, 2)
        if study.method == "cid":
            assert study.finished["pruned"] > 0


def test_eta_after_first_trial_is_pace_times_trials_left(tmp_path: Path) -> None:
    changes = {"search.baselines": [], "search.ratios": ["1/8"]}
    config = build_config(simulated_config(trials=4).model_dump(mode="json"), changes)
    clock = iter([100.0, 110.0])
    with Search.open(config, RunDir(tmp_path)) as search:
        status = SearchStatus(search.store, {"1/8": "1/8 (10)"}, clock=lambda: next(clock))
        search.add_callback(status)
        trial = search.next_trial()
        assert trial is not None
        record = simulated_record(trial.config, trial.name, config.train.steps)
        search.report({"event": "final", **record})
        assert status.studies()[0].eta == pytest.approx(3 * 10.0)


@pytest.mark.process
def test_status_of_shared_search_counts_trials_of_all_machines(
    database: str, tmp_path: Path
) -> None:
    mine, other = (
        open_shared_search(tmp_path / name, database, "table", timeout_s=60)
        for name in ("mine", "other")
    )
    with mine, other:
        status = SearchStatus(mine.store, {"1/8": "1/8 (10)"})
        for value in (50.0, 60.0):
            finish_trial(other.queue, next_trial(other), value)
        status.on_refresh()
        found = {
            study.method: (study.finished, study.best, study.over_supervised)
            for study in status.studies()
        }
    assert found == {
        "supervised": ({"complete": 1}, 50.0, None),
        "cid": ({"complete": 1}, 60.0, 10.0),
    }


def test_status_lists_some_of_many_running_trials_and_counts_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "LISTED_RUNNING", 2)
    changes: dict[str, Any] = {"search.baselines": [], "search.ratios": ["1/8"]}
    config = simulated_config(trials=9, **changes)
    with Search.open(config, RunDir(tmp_path)) as search:
        shown = SearchStatus(search.store, {"1/8": "1/8 (10)"})
        search.add_callback(shown)
        trials = [next_trial(search) for _ in range(5)]
        (study,) = shown.studies()
        assert [trial.name for trial in study.running] == [trial.name for trial in trials[-2:]]
        assert study.n_running == 5
        search.report_process_died(trials[-1].name)
        (study,) = shown.studies()
        assert [trial.name for trial in study.running] == [trial.name for trial in trials[2:4]]
        assert study.n_running == 4
