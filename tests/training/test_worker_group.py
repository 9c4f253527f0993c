"""Law: a worker group gives each job the records of that job alone, whatever happened before.

The mailbox is tested as a plain object. Real workers are compared with a fresh group, or with the
same run undisturbed.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config, InputError, build_config
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.training import mailbox as mailbox_module
from cid_ray.training import workers as workers_module
from cid_ray.training.mailbox import MAX_RESTARTS, SHUTDOWN, Mailbox
from cid_ray.training.worker_group import picklable_error
from cid_ray.training.workers import close_worker_group, train_on_workers
from cid_ray.tune import main as tune
from tests.helpers.tiny_run import TINY

CONNECTION_CLOSED = RuntimeError("Connection closed by peer")

# ---- the mailbox, without Ray ----


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    monkeypatch.setattr(mailbox_module, "WAIT_S", 0.01)
    return Mailbox()


def rung(step: int) -> Record:
    return {"event": "rung", "step": step}


def test_job_after_rung_continues_only_when_released(mailbox: Mailbox) -> None:
    number = mailbox.submit({"name": "a"})
    assert mailbox.next_job() == {"name": "a", "number": number}
    mailbox.push_record(number, rung(6))
    assert mailbox.wait_release(number, 6) is None
    assert mailbox.next_record() == rung(6)
    mailbox.release(6)
    assert mailbox.wait_release(number, 6) is True
    assert mailbox.wait_release(number, 12) is None


def test_cancelled_job_stops_and_its_late_records_are_dropped(mailbox: Mailbox) -> None:
    first = mailbox.submit({"name": "a"})
    mailbox.cancel(first)
    assert mailbox.wait_release(first, 6) is False
    second = mailbox.submit({"name": "b"})
    mailbox.cancel(first)  # a generator that is closed late
    mailbox.push_record(first, rung(6))
    assert mailbox.wait_release(first, 6) is False
    assert mailbox.next_record() is None
    assert mailbox.next_job() == {"name": "b", "number": second}


def test_finished_job_is_not_taken_again_and_shut_down_reaches_workers(mailbox: Mailbox) -> None:
    mailbox.push_record(mailbox.submit({"name": "a"}), {"event": "final"})
    assert mailbox.next_job() is None
    mailbox.shut_down()
    assert mailbox.next_job() == SHUTDOWN


def test_restarted_group_takes_the_same_job_until_the_limit(mailbox: Mailbox) -> None:
    number = mailbox.submit({"name": "a"})
    mailbox.report_error(number, *picklable_error(CONNECTION_CLOSED))
    for _ in range(1 + MAX_RESTARTS):
        assert mailbox.next_job() == {"name": "a", "number": number}
    assert mailbox.next_job() is None
    with pytest.raises(RuntimeError, match=r"lost 4 times.*Connection closed by peer"):
        raise mailbox.next_record()  # type: ignore[misc]


def test_job_that_advances_may_lose_any_number_of_groups(mailbox: Mailbox) -> None:
    number = mailbox.submit({"name": "a"})
    for step in range(1, 9):
        assert mailbox.next_job() == {"name": "a", "number": number}
        mailbox.push_record(number, {"event": "progress", "step": step})
    for _ in range(MAX_RESTARTS):
        assert mailbox.next_job() == {"name": "a", "number": number}
        mailbox.push_record(number, rung(8))  # the same step again, after a restart
    assert mailbox.next_job() is None


@pytest.mark.parametrize(
    "error",
    [
        FloatingPointError("the loss is nan"),
        InputError("no table"),
        OSError(errno.ENOSPC, "No space left", "last.pt"),
    ],
)
def test_permanent_error_ends_the_job_and_arrives_unchanged(
    mailbox: Mailbox, error: Exception
) -> None:
    number = mailbox.submit({"name": "a"})
    mailbox.report_error(number, *picklable_error(error))
    # The other worker fails a moment later, because its peer is gone.
    mailbox.report_error(number, *picklable_error(CONNECTION_CLOSED))
    assert mailbox.next_job() is None
    received = mailbox.next_record()
    assert type(received) is type(error) and str(received) == str(error)
    assert mailbox.next_record() is None


# ---- real workers ----


@pytest.fixture
def config(ray_cluster: str, small_demo: Path) -> Iterator[Config]:
    changes = {"data.table": str(small_demo), "distributed.num_workers": 2, "train.steps": 6}
    yield build_config(TINY, changes)
    close_worker_group()


def change(config: Config, changes: dict[str, Any]) -> Config:
    return build_config(config.model_dump(mode="json"), changes)


def run(
    config: Config,
    folder: Path,
    name: str,
    changes: dict[str, Any] | None = None,
    until: str = "final",
) -> list[Record]:
    """The records of a job in this process's kept group, to the first one of event `until`."""
    records = []
    job = change(config, changes or {})
    for record in train_on_workers(job, folder, name, score_test=False, keep_workers=True):
        if record["event"] != "progress":
            records.append(record)
        if record["event"] == until:
            break
    return records


def worker_pids(*filters: tuple[str, str, str]) -> dict[str, int]:
    """Ray Train's workers that the cluster knows: actor id -> pid."""
    import ray
    from ray.util.state import list_actors

    all_filters = [("class_name", "=", "RayTrainWorker"), *filters]
    address = ray.get_runtime_context().gcs_address
    actors = list_actors(address, filters=all_filters, limit=1000)
    return {actor["actor_id"]: actor["pid"] for actor in actors}


def alive_pids() -> set[int]:
    pids = worker_pids(("state", "=", "ALIVE")).values()
    return {pid for pid in pids if pid > 1}  # 0: not known yet


def wait_until_free(cpus: float) -> None:
    import ray

    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < cpus:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def assert_same(records: list[Record], others: list[Record]) -> None:
    assert [r["event"] for r in records] == [r["event"] for r in others]
    for record, other in zip(records, others, strict=True):
        assert record["step"] == other["step"]
        assert record["val/miou_teacher"] == pytest.approx(other["val/miou_teacher"], abs=1e-6)
        losses = pytest.approx(other.get("losses", {}), rel=1e-6, abs=1e-6)
        assert record.get("losses", {}) == losses


@pytest.mark.ray
@pytest.mark.slow
def test_jobs_in_a_row_share_processes_and_equal_single_jobs(
    config: Config, tmp_path: Path
) -> None:
    first = run(config, tmp_path, "first")
    group = alive_pids()
    assert len(group) == 2
    changes = {"method": "mean_teacher", "train.steps": 40}
    stopped = run(config, tmp_path, "stopped", changes, until="rung")
    assert [r["step"] for r in stopped] == [20]
    other = run(config, tmp_path, "other", {"loss.relation_kind": "cross", "train.seed": 3})
    again = run(config, tmp_path, "again")
    assert alive_pids() == group
    assert [r["event"] for r in first] == ["rung", "rung", "final"] and first[-1]["workers"] == 2
    assert_same(again, first)
    first_loss = first[0]["losses"]["total"]
    assert other[0]["losses"]["total"] != pytest.approx(first_loss, rel=1e-3)
    close_worker_group()
    wait_until_free(2)
    assert not alive_pids()


@pytest.mark.ray
@pytest.mark.slow
def test_search_runs_its_trials_on_one_group_and_frees_it(config: Config, tmp_path: Path) -> None:
    changes = {
        "search.ratios": ["1/8"],
        "search.trials": 3,
        "search.baselines": ["supervised"],
        "search.space": {"loss.relation_weight": {"float": [0.01, 1.0]}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(change(config, changes).to_yaml())
    before = worker_pids().keys()
    assert tune(["--config", str(path), "--out", str(tmp_path / "run")]) == 0
    # One group for four trials, one for the winner's test.
    assert len(worker_pids().keys() - before) == 2 + 2
    finals = of_event(read_records(tmp_path / "run"), "final")
    assert finals and all(record["workers"] == 2 for record in finals)
    wait_until_free(2)
    assert not alive_pids()


@pytest.mark.ray
@pytest.mark.slow
def test_job_after_others_equals_job_of_a_fresh_group(config: Config, tmp_path: Path) -> None:
    run(config, tmp_path, "before", {"method": "supervised"})
    after = run(config, tmp_path, "after", {"loss.relation_kind": "class"})
    close_worker_group()
    fresh = run(config, tmp_path, "fresh", {"loss.relation_kind": "class"})
    assert_same(after, fresh)


@pytest.mark.ray
@pytest.mark.slow
def test_job_after_failed_jobs_is_unchanged(config: Config, tmp_path: Path) -> None:
    before = run(config, tmp_path, "before")
    with pytest.raises(FloatingPointError, match="the loss or its gradient is not finite"):
        run(config, tmp_path, "infinite", {"loss.style_weight": 1e38})
    with pytest.raises(InputError, match="absent"):
        run(config, tmp_path, "wrong", {"data.table": str(tmp_path / "absent")})
    assert_same(run(config, tmp_path, "after"), before)


def longer(config: Config) -> Config:
    return change(config, {"train.steps": 30, "train.rungs": [1 / 3, 2 / 3, 1.0]})


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_a_worker_changes_no_result(config: Config, tmp_path: Path, victim: int) -> None:
    config = longer(config)
    undisturbed = run(config, tmp_path, "undisturbed")
    seen: dict[int, Record] = {}
    records = train_on_workers(config, tmp_path, "disturbed", score_test=False, keep_workers=True)
    for record in records:
        if record["event"] == "rung" and not seen:
            os.kill(sorted(alive_pids())[victim], signal.SIGKILL)
        if record["event"] != "progress":
            seen[record["step"]] = record
    assert sorted(seen) == [10, 20, 30] and seen[30]["event"] == "final"
    miou = undisturbed[-1]["val/miou_teacher"]
    assert seen[30]["val/miou_teacher"] == pytest.approx(miou, abs=1e-6)
    assert seen[20]["losses"] == pytest.approx(undisturbed[1]["losses"], rel=1e-6, abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_kill_9_of_the_controller_is_followed_by_a_new_group(
    config: Config, tmp_path: Path
) -> None:
    """With Ray Train's controller the whole group ends."""
    import ray
    from ray.util.state import list_actors

    config = longer(config)
    undisturbed = run(config, tmp_path, "undisturbed")
    first_group = workers_module._group
    seen: dict[int, Record] = {}
    records = train_on_workers(config, tmp_path, "disturbed", score_test=False, keep_workers=True)
    for record in records:
        if record["event"] == "rung" and not seen:
            filters = [("class_name", "=", "TrainController"), ("state", "=", "ALIVE")]
            address = ray.get_runtime_context().gcs_address
            (controller,) = list_actors(address, filters=filters)
            os.kill(controller["pid"], signal.SIGKILL)
        if record["event"] != "progress":
            seen[record["step"]] = record
    assert workers_module._group is not first_group
    assert sorted(seen) == [10, 20, 30] and seen[30]["event"] == "final"
    assert seen[20]["losses"] == undisturbed[1]["losses"]
