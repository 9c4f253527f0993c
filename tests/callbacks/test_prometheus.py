"""Laws of the gauges: current, equal to the records, and removed alone when they fail.

Studies and Ray's gauges are real, trials simulated. test_prometheus_scrape.py looks at what
Prometheus reads of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray.callbacks import prometheus
from cid_ray.callbacks.console import SearchConsole
from cid_ray.callbacks.prometheus import STUDY_TAGS, PrometheusMetrics
from cid_ray.cli.console import RunConsole
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.controller import Decision, Search
from cid_ray.search.status import SearchStatus
from cid_ray.search.trial_spec import TrialSpec
from tests.helpers.simulated_studies import (
    METRIC,
    RATIOS,
    RUNG_STEPS,
    final_record,
    next_trial,
    open_search,
    rung_record,
    search_config,
    state_of,
)

N_TRIALS = 2 * (3 + 3)  # at each ratio three baselines and three CID trials
SUMS = ("images_seen", "skipped_steps", "unreadable_images")


@pytest.fixture(autouse=True)
def no_export_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of a search exports: what a test sees does not depend on its speed."""
    monkeypatch.setattr(prometheus, "EXPORT_INTERVAL_S", 3600.0)


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with open_search(tmp_path, search_config(trials=3)) as search:
        yield search


@pytest.fixture
def metrics(search: Search) -> PrometheusMetrics:
    return add_metrics(search)


def add_metrics(search: Search) -> PrometheusMetrics:
    metrics = PrometheusMetrics()
    search.add_callback(metrics)
    return metrics


NO_LOSSES = dict.fromkeys(("total", "sup", "pseudo", "relation", "style", "mask_ratio"))


def measured_rung(trial: TrialSpec, step: int, **fields: Any) -> Record:
    """A rung with what the metrics read of it."""
    measured = {
        "images_per_s": 7.0,
        "losses": {**NO_LOSSES, "total": 1.0, "sup": 2.0, "mask_ratio": 0.25},
        "unreadable": 2,
        "skipped_steps": step // 30,
    }
    return rung_record(trial, step, **measured, **fields)


def run_measured_trial(search: Search) -> TrialSpec:
    """The next trial, from its start to its end."""
    trial = next_trial(search)
    for step in RUNG_STEPS:
        if search.report(measured_rung(trial, step)) is Decision.STOP:
            return trial
    search.report(final_record(trial))
    return trial


def values_of(metrics: PrometheusMetrics, gauge: str) -> dict[tuple[str, ...], float]:
    """The values of one gauge, by those of its tags."""
    return {
        tuple(text for _, text in tags): value
        for (name, tags), value in metrics.values.items()
        if name == gauge
    }


def trial_states(metrics: PrometheusMetrics) -> Counter[str]:
    """How many trials are in each state, over all ratios and methods."""
    found = Counter[str]()
    for (_, _, state), count in values_of(metrics, "trials").items():
        found[state] += int(count)
    return +found


def test_trial_gauges_exist_while_trial_runs(search: Search, metrics: PrometheusMetrics) -> None:
    one = next_trial(search)
    other = next_trial(search)
    for trial in (one, other):
        search.report(measured_rung(trial, 30))
    tags = (one.key.ratio, one.key.method, one.name)
    assert values_of(metrics, "trial_running")[tags] == 1
    assert values_of(metrics, "trial_loss")[(*tags, "sup")] == 2
    assert values_of(metrics, "trial_mask_ratio")[tags] == 0.25
    assert values_of(metrics, "trial_images_per_s")[tags] == 7.0
    assert values_of(metrics, "trial_miou")[tags] == measured_rung(one, 30)[METRIC]
    assert trial_states(metrics) == {"running": 2, "waiting": N_TRIALS - 2}
    search.report(final_record(one))
    shown = {text for _, tags in metrics.values for _, text in tags}
    assert one.name not in shown
    assert other.name in shown
    assert trial_states(metrics) == {"running": 1, "complete": 1, "waiting": N_TRIALS - 2}


def test_loss_that_is_nan_leaves_last_value(search: Search, metrics: PrometheusMetrics) -> None:
    trial = next_trial(search)
    search.report(measured_rung(trial, 10))
    losses = {**NO_LOSSES, "sup": 3.0}
    search.report(measured_rung(trial, 30) | {"losses": losses})
    shown = {tags[-1]: value for tags, value in values_of(metrics, "trial_loss").items()}
    assert shown == {"total": 1, "sup": 3}


def test_trial_whose_process_died_waits_and_counts_as_restart(
    search: Search, metrics: PrometheusMetrics
) -> None:
    trial = next_trial(search)
    search.report_process_died(trial.name)
    assert trial_states(metrics) == {"waiting": N_TRIALS}
    retries = {tags: value for tags, value in values_of(metrics, "retries").items() if value}
    assert retries == {(trial.key.ratio, trial.key.method): 1}
    assert next_trial(search).name == trial.name
    assert trial_states(metrics) == {"running": 1, "waiting": N_TRIALS - 1}


def test_trial_of_another_machine_counts_as_running(tmp_path: Path) -> None:
    study = {"study.storage": f"sqlite:///{tmp_path}/shared.db", "study.name": "both"}
    config = search_config(trials=3, **study)
    with open_search(tmp_path / "other", config) as other:
        next_trial(other)
        with open_search(tmp_path / "mine", config) as mine:
            metrics = add_metrics(mine)
            assert trial_states(metrics) == {"running": 1, "waiting": N_TRIALS - 1}
            next_trial(mine)
            assert trial_states(metrics) == {"running": 2, "waiting": N_TRIALS - 2}
        assert trial_states(metrics) == {"running": 1, "waiting": N_TRIALS - 1}


def test_metrics_after_restart_equal_those_before(tmp_path: Path) -> None:
    config = search_config(trials=3)
    with open_search(tmp_path, config) as search:
        before = add_metrics(search)
        for _ in range(10):
            run_measured_trial(search)
        interrupted = next_trial(search)
        search.report(measured_rung(interrupted, 10))
    with open_search(tmp_path, config) as search:
        after = add_metrics(search)
        for gauge in (*SUMS, "best_miou", "trials", "trials_planned", "retries"):
            assert values_of(after, gauge) == values_of(before, gauge) != {}
        assert trial_states(after)["running"] == 0
        assert trial_states(after).total() == N_TRIALS
        rungs = of_event(read_records(tmp_path), "rung")
        last = {record["run"]: record for record in rungs}
        for gauge in ("images_seen", "skipped_steps"):
            total = sum(record[gauge] for record in last.values())
            assert sum(values_of(after, gauge).values()) == total > 0
        resumed = next_trial(search)
        assert resumed.name == interrupted.name
        search.report(measured_rung(resumed, 10))  # a resumed run yields its last rung again
        assert values_of(after, "images_seen") == values_of(before, "images_seen")


def test_best_miou_is_of_trials_of_full_length(search: Search, metrics: PrometheusMetrics) -> None:
    for _ in range(N_TRIALS):
        run_measured_trial(search)
    store = search.store
    expected = {(k.ratio, k.method): store.ranked(k)[0].values[0] for k in store.search_keys()}
    assert values_of(metrics, "best_miou") == expected
    assert len(expected) == 4 * len(RATIOS)


def test_eta_is_exported_with_the_time_and_zero_at_the_end(
    search: Search, metrics: PrometheusMetrics
) -> None:
    for _ in range(N_TRIALS):
        run_measured_trial(search)
    assert values_of(metrics, "eta_seconds") == {}
    search.close()
    assert values_of(metrics, "eta_seconds") == {(): 0}


def test_metrics_that_raise_are_removed_and_export_nothing_more(tmp_path: Path) -> None:
    with (
        open_search(tmp_path, search_config(trials=3)) as search,
        RunConsole(tmp_path, N_TRIALS) as console,
    ):
        status = SearchStatus(search.store, {ratio: ratio for ratio in RATIOS})
        for callback in (status, SearchConsole(console, status)):
            search.add_callback(callback)
        metrics = add_metrics(search)
        trial = next_trial(search)
        losses = {"total": 1.0, "mask_ratio": 0.5, "sup": "many"}
        search.report(measured_rung(trial, 10) | {"event": "progress", "losses": losses})
        assert metrics not in search.callbacks.callbacks
        metrics.thread.join(60)
        assert not metrics.thread.is_alive()
        search.report(measured_rung(trial, 30) | {"event": "progress"})
        search.report(final_record(trial))
        assert state_of(search, trial) == "complete"
    warning = "warning: callback PrometheusMetrics is removed: ValueError"
    assert warning in (tmp_path / "log.txt").read_text()


def test_every_gauge_is_set_with_its_tags(search: Search, metrics: PrometheusMetrics) -> None:
    run_measured_trial(search)
    assert {len(tags) for tags in values_of(metrics, "images_seen")} == {len(STUDY_TAGS)}
    for gauge, tags in metrics.values:
        assert metrics.gauges[gauge].info["tag_keys"] == ("search", *(name for name, _ in tags))


def test_only_some_of_many_running_trials_have_gauges(
    search: Search, metrics: PrometheusMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of gauges is bounded; counts and sums are over all trials."""
    monkeypatch.setattr(prometheus, "MAX_TRIALS", 2)
    trials = [next_trial(search) for _ in range(4)]
    for trial in trials:
        search.report(measured_rung(trial, 30))
    shown = {tags[2] for tags in values_of(metrics, "trial_running")}
    assert shown == {trial.name for trial in trials[:2]}
    assert trial_states(metrics)["running"] == 4
    assert sum(values_of(metrics, "images_seen").values()) == 4 * 30 * 8
    search.report(final_record(trials[0]))
    late = next_trial(search)
    shown = {tags[2] for tags in values_of(metrics, "trial_running")}
    assert shown == {trials[1].name, late.name}
    for trial in (*trials[1:], late):
        search.report(final_record(trial))
    assert not [tags for _, tags in metrics.values if ("trial") in dict(tags)]
