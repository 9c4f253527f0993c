"""Laws of the live snapshot: it is true at every moment of a search.

References are the records of the kept CamVid search, which took 41 minutes, cut off at many places,
and a real search in this process (tests/helpers/local_search.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config, load_config
from cid_ray.results.device_time import device_seconds
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.results.snapshot import SearchSnapshot, snapshot
from cid_ray.results.status import read_status
from cid_ray.results.summary import result_table, summarize
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.local_search import search_until, tiny_search
from tests.helpers.records import common_fields, finished, rung

RECORDS = read_records(KEPT_RUN)
CONFIG = load_config(KEPT_RUN / "config.yaml")
NOON = 1_000_000.0


def status_at_noon(**changes: Any) -> dict[str, Any]:
    """The status of a search of 10 trials that started at NOON, written at NOON."""
    return {
        "state": "running",
        "reason": "",
        "total": 10,
        "finished_before": 0,
        "started": NOON,
        "timestamp": NOON,
        "host": "",
        "pid": 0,
        "running": {},
        "gone": False,
        **changes,
    }


def finished_at(*seconds: float) -> list[Record]:
    """Trials that finished so many seconds after NOON."""
    return [finished("cid", 8, i, timestamp=NOON + s) for i, s in enumerate(seconds)]


# ---- at every moment of the kept run ----


@pytest.mark.parametrize("count", range(0, len(RECORDS) + 1, 4))
def test_snapshot_of_any_beginning_agrees_with_its_records(count: int) -> None:
    records = RECORDS[:count]
    now = snapshot(records, CONFIG, {}, NOON)
    assert now.finished == len(of_event(records, "trial"))
    newest = {r["run"]: r for r in records if r["event"] in ("rung", "final")}
    by_kind = sum(sum(ratio.seconds.values()) for ratio in now.ratios)
    assert now.seconds == pytest.approx(by_kind)
    for ratio in now.ratios:
        for best in ratio.best_runs:
            score = best.score
            record = newest[score.run]
            assert score.value == record["val/miou_teacher"]
            assert score.method == record["method"]
            key = (ratio.ratio, score.method)
            rivals = [r for r in newest.values() if (r["ratio"], r["method"]) == key]
            assert score.step == max(r["step"] for r in rivals)
            same_length = [r["val/miou_teacher"] for r in rivals if r["step"] == score.step]
            assert score.value == max(same_length)


def test_device_time_over_growing_records_never_falls() -> None:
    spent = [snapshot(RECORDS[:n], CONFIG, {}, NOON).seconds for n in range(len(RECORDS) + 1)]
    assert spent == sorted(spent) and spent[0] == 0 < spent[-1]


def test_device_time_counts_all_workers_of_a_running_trial() -> None:
    assert device_seconds([], {"a": {"seconds": 10.0, "workers": 3}, "b": {}}) == {"a": 30, "b": 0}


def test_snapshot_at_the_end_agrees_with_the_report_on_val() -> None:
    now = snapshot(RECORDS, CONFIG, {}, NOON)
    assert now.state == "finished" and now.finished == 18
    assert not now.running and not now.issues
    shown = {
        (ratio.name, best.score.run): best.score.value
        for ratio in now.ratios
        for best in ratio.best_runs
    }
    lines = result_table(summarize(RECORDS))
    assert shown == {(line["ratio"], line["run"]): line["val"] for line in lines}
    assert [dict(ratio.states) for ratio in now.ratios] == [{"complete": 1, "pruned": 5}] * 2


def test_best_runs_are_compared_when_completed_only() -> None:
    for count in range(len(RECORDS) + 1):
        for ratio in snapshot(RECORDS[:count], CONFIG, {}, NOON).ratios:
            best_runs = {best.score.method: best for best in ratio.best_runs}
            for method, best in best_runs.items():
                supervised = best_runs["supervised"].score
                is_full = best.score.full_length and supervised.full_length
                assert (best.over_supervised is not None) == (method != "supervised" and is_full)
                if best.over_supervised is not None:
                    difference = best.score.value - supervised.value
                    assert best.over_supervised == pytest.approx(difference)


# ---- remaining time and state ----


def test_eta_is_pace_since_start_times_trials_left() -> None:
    position = {**common_fields("cid", 8, 4), "steps": 10, "params": {}}
    running = {position["run"]: position}

    def eta(age: float, *seconds: float, **changes: Any) -> float | None:
        status = status_at_noon(timestamp=NOON + age, running=running, **changes)
        return snapshot(finished_at(*seconds), CONFIG, status, NOON + age).eta

    assert eta(50.0) is None  # no trial has finished
    assert eta(80.0, 20.0, 40.0, 60.0, 80.0) == pytest.approx(6 * 20)
    assert eta(95.0, 20.0, 40.0, 60.0, 80.0) == pytest.approx(6 * 20 - 15)  # it counts down
    assert eta(900.0, 20.0, 40.0, 60.0, 80.0) == 0
    # trials of an earlier start do not count
    earlier = (-500.0, -400.0)
    assert eta(60.0, *earlier, 30.0, 60.0, finished_before=2) == pytest.approx(6 * 30)
    assert eta(10.0, *earlier, finished_before=2) is None


@pytest.mark.parametrize(
    ("changes", "count", "age", "state"),
    [
        ({}, 4, 10, "running"),
        ({}, 10, 10, "finalizing"),
        ({}, 4, 1000, "no_heartbeat"),
        ({"gone": True}, 4, 10, "killed"),
        ({"state": "closed"}, 10, 1000, "finished"),
        ({"state": "closed"}, 4, 1000, "stopped"),  # by Ctrl-C or the time budget
        ({"state": "stopped", "reason": "disk full"}, 4, 1000, "stopped"),
        ({"state": "closed", "gone": True}, 10, 1000, "finished"),  # its process ended as it should
    ],
)
def test_state_of_search_follows_status_and_heartbeat(
    changes: dict[str, Any], count: int, age: float, state: str
) -> None:
    records = finished_at(*range(1, count + 1))
    now = snapshot(records, CONFIG, status_at_noon(**changes), NOON + age)
    assert now.state == state and now.reason == changes.get("reason", "")


def test_state_without_status_is_unknown() -> None:
    assert snapshot([], CONFIG, {}, NOON).state == "unknown"
    assert snapshot(RECORDS[:20], CONFIG, {}, NOON).state == "unknown"


# ---- issues ----


def test_issues_are_shown_once_each_with_trial_and_reason() -> None:
    unreadable = "pool image a.png cannot be read (empty); the next one replaces it"
    died = "its process died"
    supervised = common_fields("supervised", 8)
    cid = common_fields("cid", 8, 1)
    fields = {"unreadable": 1, "unreadable_ids": ["a.png"], "warning": unreadable}
    records: list[Record] = [
        {"event": "warning", **supervised, "message": unreadable, "timestamp": NOON},
        rung("supervised", 8, 0, 5, 30.0, **fields),
        rung("cid", 8, 9, 5, 30.0, **fields),
        {"event": "retry", **cid, "attempt": 1, "reason": died, "timestamp": NOON},
        {"event": "retry", **cid, "attempt": 2, "reason": died, "timestamp": NOON},
        finished("cid", 8, 2, state="failed", reason="FloatingPointError: step 3"),
        {
            "event": "stale",
            **common_fields("cid", 8, 3),
            "reason": "no heartbeat",
            "timestamp": NOON,
        },
    ]
    now = snapshot(records, CONFIG, status_at_noon(), NOON)
    assert [(issue.kind, issue.run) for issue in now.issues] == [
        ("warning", "1_8-supervised-000"),
        ("unreadable", "1_8-supervised-000"),
        ("unreadable", "1_8-cid-009"),
        ("retry", "1_8-cid-001"),
        ("retry", "1_8-cid-001"),
        ("failed", "1_8-cid-002"),
        ("stale", "1_8-cid-003"),
    ]
    assert now.issues[-2].text == "FloatingPointError: step 3"
    eighth = next(ratio for ratio in now.ratios if ratio.ratio == "1/8")
    assert eighth.states["failed"] == 1  # though it has no rung


def test_states_count_no_failed_repeat() -> None:
    """A run's name says nothing: what it repeats is a field of its record."""
    failed = finished("cid", 8, 2, state="failed", reason="OOM")
    repeat = {**failed, "run": "1_8-cid-003", "repeats_of": "1_8-cid-001", "repeat_index": 1}
    now = snapshot([failed, repeat], CONFIG, status_at_noon(), NOON)
    eighth = next(ratio for ratio in now.ratios if ratio.ratio == "1/8")
    assert eighth.states == {"failed": 1}


# ---- a real search ----


def snapshot_of(run: Path, config: Config, age: float = 1.0) -> SearchSnapshot:
    """The snapshot of a run folder so many seconds after its last heartbeat."""
    status = read_status(run)
    return snapshot(read_records(run), config, status, status["timestamp"] + age)


def test_snapshot_of_running_search_has_its_trial_and_newest_images(
    halfway: Path, small_demo: Path
) -> None:
    now = snapshot_of(halfway, tiny_search(small_demo))
    assert now.state == "running" and now.finished == 3 and now.total == 8
    assert now.eta is not None
    (trial,) = now.running
    assert trial.step == 3 and trial.steps == 6
    assert trial.losses["total"] and trial.images_per_s
    assert trial.value is not None and "loss.relation_weight" in trial.params
    with_images = [ratio for ratio in now.ratios if ratio.sample_images]
    assert with_images
    first = with_images[0].sample_images[0]
    assert {prediction.method for prediction in first.predictions} == {"supervised", "cid"}
    for sample in with_images[0].sample_images:
        assert sample.image_id.startswith("val/")
        for path in sample.paths:
            assert (halfway / path).is_file()


def test_status_whose_process_is_gone_means_killed(
    halfway: Path, small_demo: Path, tmp_path: Path
) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    status = json.loads((halfway / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps({**status, "pid": child}))
    assert read_status(tmp_path)["gone"] and not read_status(halfway)["gone"]
    records = read_records(halfway)
    config = tiny_search(small_demo)
    now = snapshot(records, config, read_status(tmp_path), status["timestamp"])
    assert now.state == "killed" and not now.running
    assert sum(ratio.seconds["unfinished"] for ratio in now.ratios) > 0


def test_status_of_finished_search_says_so(small_demo: Path, tmp_path: Path) -> None:
    config = tiny_search(small_demo)
    search_until(tmp_path, config)
    now = snapshot_of(tmp_path, config, age=1e6)
    assert now.state == "finished" and now.finished == now.total == 8 and now.eta is None
    assert all(ratio.states.total() == 3 for ratio in now.ratios)
