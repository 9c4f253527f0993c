"""Laws of a search's metrics: what they say is so now, it is the record's, and their failure is theirs alone.

The studies are real and so are Ray's gauges; tests/test_metrics.py looks at what Prometheus gets of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray.home import Home
from cid_ray.results.record import Row, Rows, read_rows
from cid_ray.run.display import Display
from cid_ray.search.arms import Assignment
from cid_ray.search.journal import Hold
from cid_ray.search.metrics import ARM, Metrics
from cid_ray.search.studies import Studies
from cid_ray.search.watch import Watch
from tests.search.test_studies import config, row, studies

STEPS = (10, 30, 90)


def told(assignment: Assignment, step: int, **more: Any) -> Row:
    """A rung's row, with what of it the metrics read."""
    header = {"event": "rung", "run": assignment.name, "ratio": assignment.arm.ratio, "method": assignment.arm.method}
    losses = {"total": 1.0, "sup": 2.0, "mask_ratio": 0.25}
    cost = {"images_per_s": 7.0, "losses": losses, "unreadable": 2, "skipped_steps": step // 30}
    return {**header, **row(assignment, step), **cost, **more}


@pytest.fixture
def search(tmp_path: Path) -> Iterator[tuple[Studies, Metrics]]:
    book = studies(tmp_path, config(trials=3))
    metrics = Metrics(tmp_path, book, None)
    yield book, metrics
    metrics.close()


def begin(book: Studies, metrics: Metrics) -> Assignment:
    assignment = book.next()
    assert assignment is not None
    metrics.begun(assignment, False)
    return assignment


def play(book: Studies, metrics: Metrics, rows: Rows | None = None) -> Assignment:
    """One trial from its beginning to its end, and in the record."""
    assignment = begin(book, metrics)
    for step in STEPS:
        if rows:
            rows.add(told(assignment, step))
        metrics.row(told(assignment, step))
        if book.rung(assignment.name, row(assignment, step)):
            metrics.ended(assignment.name, "pruned", "")
            return assignment
    metrics.ended(assignment.name, *book.complete(assignment.name, row(assignment, 90)))
    return assignment


def points(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {tuple(v for _, v in tags): value for (n, tags), value in metrics.points.items() if n == name}


def states(metrics: Metrics) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, _, state), count in points(metrics, "trials").items():
        found[state] += int(count)
    return +found


def test_a_trial_is_shown_as_long_as_it_runs(search: tuple[Studies, Metrics]) -> None:
    book, metrics = search
    one, other = begin(book, metrics), begin(book, metrics)
    for assignment in (one, other):
        metrics.row(told(assignment, 30))
    tags = (one.arm.ratio, one.arm.method, one.name)
    assert points(metrics, "trial_running")[tags] == 1
    assert points(metrics, "trial_loss")[(*tags, "sup")] == 2
    assert points(metrics, "trial_miou")[tags] == row(one, 30)["val/miou_teacher"]
    assert states(metrics) == {"running": 2, "waiting": 2 * (3 + 3) - 2}
    metrics.ended(one.name, *book.complete(one.name, row(one, 90)))
    shown = {tag for _, tags in metrics.points for _, tag in tags}
    assert one.name not in shown and other.name in shown
    assert states(metrics) == {"running": 1, "complete": 1, "waiting": 2 * (3 + 3) - 2}


def test_a_loss_that_is_no_number_leaves_the_last_one(search: tuple[Studies, Metrics]) -> None:
    book, metrics = search
    trial = begin(book, metrics)
    metrics.row(told(trial, 10))
    metrics.row(told(trial, 30, losses={"total": None, "sup": 3.0, "mask_ratio": None}))
    losses = {key[-1]: value for key, value in points(metrics, "trial_loss").items()}
    assert losses == {"total": 1, "sup": 3}


def test_a_trial_whose_process_died_waits_and_is_counted_as_a_restart(search: tuple[Studies, Metrics]) -> None:
    book, metrics = search
    trial = begin(book, metrics)
    metrics.retried(trial.name, "it died", book.retry(trial.name))
    assert states(metrics) == {"waiting": 12}
    arm = (trial.arm.ratio, trial.arm.method)
    assert {key: value for key, value in points(metrics, "restarts").items() if value} == {arm: 1}
    assert begin(book, metrics).name == trial.name
    assert states(metrics) == {"running": 1, "waiting": 11}


def test_a_trial_that_another_machine_runs_is_running(tmp_path: Path) -> None:
    cfg = config(trials=3, **{"study.storage": f"sqlite:///{tmp_path}/shared.db", "study.name": "both"})
    mine, theirs = studies(tmp_path / "mine", cfg), studies(tmp_path / "theirs", cfg)
    assert theirs.next()
    metrics = Metrics(tmp_path / "mine", mine, None)
    assert states(metrics) == {"running": 1, "waiting": 11}
    begin(mine, metrics)
    assert states(metrics) == {"running": 2, "waiting": 10}
    metrics.close()
    assert states(metrics) == {"running": 1, "waiting": 11}


def test_after_a_stop_the_metrics_of_the_record_are_the_same(tmp_path: Path) -> None:
    book, rows = studies(tmp_path, config(trials=3)), Rows(tmp_path)
    before = Metrics(tmp_path, book, None)
    for _ in range(10):
        play(book, before, rows)
    cut = begin(book, before)
    rows.add(told(cut, 10))
    before.row(told(cut, 10))
    before.close()
    after = Metrics(tmp_path, studies(tmp_path, config(trials=3)), None)
    kept = ("best_miou", "trials", "trials_planned", "images_seen", "skipped_steps", "unreadable_images", "restarts")
    for name in kept:
        assert points(after, name) == points(before, name) != {}
    assert states(after)["running"] == 0 and states(after).total() == 12
    last = {row["run"]: row for row in read_rows(tmp_path)}
    for name in ("images_seen", "skipped_steps"):
        assert sum(points(after, name).values()) == sum(row[name] for row in last.values()) > 0
    resumed = begin(after.studies, after)
    assert resumed.name == cut.name
    after.row(told(resumed, 10))  # a run that goes on shows its last rung once more
    assert points(after, "images_seen") == points(before, "images_seen")
    after.close()


def test_the_best_is_the_best_of_full_length(search: tuple[Studies, Metrics]) -> None:
    book, metrics = search
    while book.pending or any(book.begun(arm) < book.wanted(arm) for arm in book.studies):
        play(book, metrics)
    best = points(metrics, "best_miou")
    assert best == {(arm.ratio, arm.method): book.ranked(arm)[0].values[0] for arm in book.search_arms()}
    assert points(metrics, "eta_seconds") == {}  # told with the time, by every beat
    metrics.tell_time()
    assert points(metrics, "eta_seconds") == {(): 0}


def test_metrics_that_fail_are_left_out_and_say_nothing_more(tmp_path: Path) -> None:
    book = studies(tmp_path, config(trials=3))
    with Hold(tmp_path) as hold, Display(tmp_path, 12) as screen:
        watch = Watch(Home(tmp_path), hold, book, screen, None)
        metrics = Metrics(tmp_path, book, None)
        watch.listeners.append(metrics)
        trial = book.next()
        assert trial is not None
        watch.begun(trial, False)
        watch.row(told(trial, 10, event="progress", images_per_s="many"))
        assert watch.listeners == []
        metrics.thread.join(60)
        assert not metrics.thread.is_alive()
        watch.row(told(trial, 30, event="progress"))
        watch.ended(trial.name, *book.complete(trial.name, row(trial, 90)))
        watch.tell("close")
    assert "warning: Metrics is left out: ValueError" in (tmp_path / "log.txt").read_text()


def test_every_metric_is_told_by_its_tags(search: tuple[Studies, Metrics]) -> None:
    book, metrics = search
    play(book, metrics)
    assert {len(key) for key in points(metrics, "images_seen")} == {len(ARM)}
    for name, tags in metrics.points:
        assert metrics.gauges[name].info["tag_keys"] == ("run", *(key for key, _ in tags))
