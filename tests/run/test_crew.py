"""A crew runs one job after another: the same processes, the rows of each alone, whatever happened to the former."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray import tune
from cid_ray.config import Config, InputError, override
from cid_ray.results.record import Row, read_rows
from cid_ray.run import board as board_module
from cid_ray.run import workers as workers_module
from cid_ray.run.board import END, RESTARTS, Board
from cid_ray.run.crew import told
from cid_ray.run.workers import close_crew, train_on_workers
from tests.support import TINY

# ---- the board, without Ray ----


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(board_module, "WAIT_SECONDS", 0.01)
    return Board()


def rung(step: int) -> Row:
    return {"event": "rung", "step": step}


def test_a_job_goes_on_after_a_rung_only_when_it_is_allowed(board: Board) -> None:
    number = board.pin({"name": "a"})
    assert board.take() == {"name": "a", "number": number}
    board.show(number, rung(6))
    assert board.may_go(number, 6) is None
    assert board.next_row() == rung(6)
    board.allow(6)
    assert board.may_go(number, 6) is True
    assert board.may_go(number, 12) is None


def test_a_job_that_was_taken_down_stops_and_its_late_rows_are_nobodys(board: Board) -> None:
    first = board.pin({"name": "a"})
    board.take_down(first)
    assert board.may_go(first, 6) is False
    second = board.pin({"name": "b"})
    board.take_down(first)  # a generator that is closed late
    board.show(first, rung(6))
    assert board.may_go(first, 6) is False
    assert board.next_row() is None
    assert board.take() == {"name": "b", "number": second}


def test_a_finished_job_is_not_taken_again_and_an_ended_board_sends_home(board: Board) -> None:
    board.show(board.pin({"name": "a"}), {"event": "final"})
    assert board.take() is None
    board.end()
    assert board.take() == END


def test_a_restarted_group_takes_the_same_job_but_not_for_ever(board: Board) -> None:
    number = board.pin({"name": "a"})
    board.fail(number, *told(RuntimeError("Connection closed by peer")))
    for _ in range(1 + RESTARTS):
        assert board.take() == {"name": "a", "number": number}
    assert board.take() is None
    with pytest.raises(RuntimeError, match=r"lost 4 times.*Connection closed by peer"):
        raise board.next_row()  # type: ignore[misc]


def test_a_job_that_gets_on_may_lose_any_number_of_groups(board: Board) -> None:
    number = board.pin({"name": "a"})
    for step in range(1, 9):
        assert board.take() == {"name": "a", "number": number}
        board.show(number, {"event": "progress", "step": step})
    for _ in range(RESTARTS):
        assert board.take() == {"name": "a", "number": number}
        board.show(number, {"event": "rung", "step": 8})  # once more, after a restart
    assert board.take() is None


@pytest.mark.parametrize(
    "mistake",
    [FloatingPointError("the loss is nan"), InputError("no table"), OSError(errno.ENOSPC, "No space left", "last.pt")],
)
def test_a_mistake_ends_a_job_at_once_and_is_told_as_it_is(board: Board, mistake: Exception) -> None:
    number = board.pin({"name": "a"})
    board.fail(number, *told(mistake))
    board.fail(number, *told(RuntimeError("Connection closed by peer")))  # of the other worker, a moment later
    assert board.take() is None
    said = board.next_row()
    assert type(said) is type(mistake) and str(said) == str(mistake)
    assert board.next_row() is None


# ---- real workers ----


@pytest.fixture
def config(ray_cluster: str, small_demo: Path) -> Iterator[Config]:
    yield override(TINY, {"data.table": str(small_demo), "scale.workers": 2, "train.steps": 6})
    close_crew()


def changed(config: Config, **changes: Any) -> Config:
    """`loss__style_weight=1` is loss.style_weight."""
    return override(config.model_dump(mode="json"), {key.replace("__", "."): v for key, v in changes.items()})


def run(config: Config, root: Path, name: str, until: str = "final", **changes: Any) -> list[Row]:
    """The rows of a job in this process's kept crew, up to and with the first of event `until`."""
    rows = []
    for row in train_on_workers(changed(config, **changes), root, name, test=False, keep=True):
        if row["event"] != "progress":
            rows.append(row)
        if row["event"] == until:
            break
    return rows


def workers(*filters: tuple[str, str, str]) -> dict[str, int]:
    """Ray Train's workers that the cluster knows: id -> pid."""
    import ray
    from ray.util.state import list_actors

    asked = [("class_name", "=", "RayTrainWorker"), *filters]
    found = list_actors(ray.get_runtime_context().gcs_address, filters=asked, limit=1000)
    return {actor["actor_id"]: actor["pid"] for actor in found}


def pids() -> set[int]:
    return {pid for pid in workers(("state", "=", "ALIVE")).values() if pid > 1}  # 0: not known yet


def wait_until_free(cpus: float) -> None:
    import ray

    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < cpus:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def assert_same(rows: list[Row], others: list[Row]) -> None:
    assert [r["event"] for r in rows] == [r["event"] for r in others]
    for row, other in zip(rows, others, strict=True):
        assert row["step"] == other["step"]
        assert row["val/miou_teacher"] == pytest.approx(other["val/miou_teacher"], abs=1e-6)
        assert row.get("losses", {}) == pytest.approx(other.get("losses", {}), rel=1e-6, abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_jobs_in_a_row_share_processes_and_give_the_rows_of_each_alone(config: Config, tmp_path: Path) -> None:
    first = run(config, tmp_path, "first")
    crew = pids()
    assert len(crew) == 2
    stopped = run(config, tmp_path, "stopped", until="rung", method="mean_teacher", train__steps=40)
    assert [r["step"] for r in stopped] == [20]
    other = run(config, tmp_path, "other", loss__relation_kind="cross", train__seed=3)
    again = run(config, tmp_path, "again")
    assert pids() == crew
    assert [r["event"] for r in first] == ["rung", "rung", "final"] and first[-1]["workers"] == 2
    assert_same(again, first)
    assert other[0]["losses"]["total"] != pytest.approx(first[0]["losses"]["total"], rel=1e-3)
    close_crew()
    wait_until_free(2)
    assert not pids()


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_runs_its_trials_on_one_crew_and_leaves_nothing_behind(config: Config, tmp_path: Path) -> None:
    searched = changed(
        config, search__ratios=["1/8"], search__trials=3, search__baselines=["supervised"],
        search__space={"loss.relation_weight": {"float": [0.01, 1.0]}},
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(searched.to_yaml())
    before = workers().keys()
    assert tune.main(["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert len(workers().keys() - before) == 2 + 2  # one crew for four trials, one for the winner's test
    finals = [row for row in read_rows(tmp_path / "run") if row["event"] == "final"]
    assert finals and all(row["workers"] == 2 for row in finals)
    wait_until_free(2)
    assert not pids()


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_after_others_gives_the_rows_of_a_fresh_crew(config: Config, tmp_path: Path) -> None:
    run(config, tmp_path, "before", method="supervised")
    after = run(config, tmp_path, "after", loss__relation_kind="class")
    close_crew()
    fresh = run(config, tmp_path, "fresh", loss__relation_kind="class")
    assert_same(after, fresh)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_raises_does_not_spoil_the_next(config: Config, tmp_path: Path) -> None:
    before = run(config, tmp_path, "before")
    with pytest.raises(FloatingPointError, match="the loss or its gradient is not finite"):
        run(config, tmp_path, "infinite", loss__style_weight=1e38)
    with pytest.raises(InputError, match="absent"):
        run(config, tmp_path, "wrong", data__table=str(tmp_path / "absent"))
    assert_same(run(config, tmp_path, "after"), before)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_a_worker_costs_time_and_no_result(config: Config, tmp_path: Path, victim: int) -> None:
    longer = changed(config, train__steps=30, train__rungs=[1 / 3, 2 / 3, 1.0])
    undisturbed = run(longer, tmp_path, "undisturbed")
    seen: dict[int, Row] = {}
    rows = train_on_workers(longer, tmp_path, "disturbed", test=False, keep=True)
    for row in rows:
        if row["event"] == "rung" and not seen:
            os.kill(sorted(pids())[victim], signal.SIGKILL)
        if row["event"] != "progress":
            seen[row["step"]] = row
    assert sorted(seen) == [10, 20, 30] and seen[30]["event"] == "final"
    assert seen[30]["val/miou_teacher"] == pytest.approx(undisturbed[-1]["val/miou_teacher"], abs=1e-6)
    assert seen[20]["losses"] == pytest.approx(undisturbed[1]["losses"], rel=1e-6, abs=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_a_crew_that_is_given_up_is_followed_by_another(config: Config, tmp_path: Path) -> None:
    """Ray Train's controller dies: with it the whole group."""
    import ray
    from ray.util.state import list_actors

    longer = changed(config, train__steps=30, train__rungs=[1 / 3, 2 / 3, 1.0])
    undisturbed = run(longer, tmp_path, "undisturbed")
    first = workers_module._crew
    seen: dict[int, Row] = {}
    for row in train_on_workers(longer, tmp_path, "disturbed", test=False, keep=True):
        if row["event"] == "rung" and not seen:
            asked = [("class_name", "=", "TrainController"), ("state", "=", "ALIVE")]
            (controller,) = list_actors(ray.get_runtime_context().gcs_address, filters=asked)
            os.kill(controller["pid"], signal.SIGKILL)
        if row["event"] != "progress":
            seen[row["step"]] = row
    assert workers_module._crew is not first
    assert sorted(seen) == [10, 20, 30] and seen[30]["event"] == "final"
    assert seen[20]["losses"] == undisturbed[1]["losses"]
