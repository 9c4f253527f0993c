"""Laws of the live view: true at every moment of a real search, and of the rows of one that took 41 minutes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config, load
from cid_ray.results.live import look
from cid_ray.results.pulse import read_pulse
from cid_ray.results.record import Row, of_event, read_rows
from cid_ray.results.summary import summarize, table
from tests.searching import search_until, tiny_search

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "camvid-cpu"
ROWS, CONFIG = read_rows(KEPT), load(KEPT / "config.yaml")
NOON = 1_000_000.0


def pulse(**changes: Any) -> dict[str, Any]:
    """As a search of 10 trials writes it that began at NOON."""
    return {"state": "running", "reason": "", "total": 10, "ended_before": 0, "began": NOON, "at": NOON, "host": "",
            "pid": 0, "running": {}, "gone": False, **changes}  # fmt: skip


def ends(*at: float) -> list[Row]:
    return [{"event": "trial", "run": f"1_8-cid-{i:03}", "state": "complete", "at": NOON + t} for i, t in enumerate(at)]


# ---- at every moment of the kept run ----


@pytest.mark.parametrize("count", range(0, len(ROWS) + 1, 4))
def test_every_beginning_of_a_record_can_be_seen(count: int) -> None:
    now = look(ROWS[:count], CONFIG, {}, NOON)
    assert now.done == len(of_event(ROWS[:count], "trial"))
    runs = {row["run"]: row for row in ROWS[:count] if row["event"] in ("rung", "final")}
    assert now.seconds == pytest.approx(sum(sum(ratio.seconds.values()) for ratio in now.ratios))
    for ratio in now.ratios:
        for best in ratio.best:
            row = runs[best.run]
            assert best.value == row["val/miou_teacher"] and best.method == row["method"]
            rivals = [r for r in runs.values() if (r["ratio"], r["method"]) == (ratio.ratio, best.method)]
            assert best.step == max(r["step"] for r in rivals)
            assert best.value == max(r["val/miou_teacher"] for r in rivals if r["step"] == best.step)


def test_device_time_only_grows() -> None:
    spent = [look(ROWS[:count], CONFIG, {}, NOON).seconds for count in range(len(ROWS) + 1)]
    assert spent == sorted(spent) and spent[0] == 0 < spent[-1]


def test_at_its_end_it_says_what_the_report_says_of_val() -> None:
    now = look(ROWS, CONFIG, {}, NOON)
    assert now.state == "finished" and now.done == 18 and not now.running and not now.faults
    shown = {(ratio.name, best.run): best.value for ratio in now.ratios for best in ratio.best}
    assert shown == {(line["ratio"], line["run"]): line["val"] for line in table(summarize(ROWS))}
    assert [dict(ratio.states) for ratio in now.ratios] == [{"complete": 1, "pruned": 5}] * 2


def test_methods_are_compared_at_full_length_only() -> None:
    for count in range(len(ROWS) + 1):
        for ratio in look(ROWS[:count], CONFIG, {}, NOON).ratios:
            bests = {best.method: best for best in ratio.best}
            for method, best in bests.items():
                compared = method != "supervised" and best.full and bests["supervised"].full
                assert (best.over is not None) == compared
                if best.over is not None:
                    assert best.over == pytest.approx(best.value - bests["supervised"].value)


# ---- how long, and whether at all ----


def test_an_eta_is_the_pace_so_far_times_what_is_left() -> None:
    live = {"1_8-cid-004": {"ratio": "1/8", "method": "cid", "confirms": "", "steps": 10, "params": {}}}

    def eta(now: float, *at: float, **changes: Any) -> float | None:
        told = pulse(at=NOON + now, running=live, **changes)
        return look(ends(*at), CONFIG, told, NOON + now).eta

    assert eta(50.0) is None  # nothing has ended
    assert eta(80.0, 20.0, 40.0, 60.0, 80.0) == pytest.approx(6 * 20)
    assert eta(95.0, 20.0, 40.0, 60.0, 80.0) == pytest.approx(6 * 20 - 15)  # it runs down
    assert eta(900.0, 20.0, 40.0, 60.0, 80.0) == 0
    assert eta(60.0, -500.0, -400.0, 30.0, 60.0, ended_before=2) == pytest.approx(6 * 30)  # of this start alone
    assert eta(10.0, -500.0, -400.0, ended_before=2) is None


@pytest.mark.parametrize(
    ("changes", "done", "later", "state"),
    [
        ({}, 4, 10, "running"),
        ({}, 10, 10, "closing"),
        ({}, 4, 1000, "silent"),
        ({"gone": True}, 4, 10, "killed"),
        ({"state": "closed"}, 10, 1000, "finished"),
        ({"state": "closed"}, 4, 1000, "stopped"),  # Ctrl-C, or the budget
        ({"state": "stopped", "reason": "disk full"}, 4, 1000, "stopped"),
        ({"state": "closed", "gone": True}, 10, 1000, "finished"),  # its process has ended, as it should
    ],
)
def test_the_state_of_a_search(changes: dict[str, Any], done: int, later: float, state: str) -> None:
    now = look(ends(*range(1, done + 1)), CONFIG, pulse(**changes), NOON + later)
    assert now.state == state and now.reason == changes.get("reason", "")


def test_without_a_pulse_nothing_is_claimed() -> None:
    assert look([], CONFIG, {}, NOON).state == look(ROWS[:20], CONFIG, {}, NOON).state == "unknown"


# ---- faults ----


def test_every_fault_stands_once_with_its_trial_and_reason() -> None:
    bad = "pool image a.png cannot be read (empty); the next one takes its place"
    rung = {**ROWS[0], "unreadable": 1, "unreadable_ids": ["a.png"]}
    rows: list[Row] = [
        {"event": "warning", "run": "1_8-supervised-000", "name": bad},
        {**rung, "warning": bad},
        {**rung, "run": "1_8-cid-009", "warning": bad},
        {"event": "retried", "run": "1_8-cid-001", "name": "retry 1", "reason": "its process died"},
        {"event": "retried", "run": "1_8-cid-001", "name": "retry 2", "reason": "its process died"},
        {"event": "trial", "run": "1_8-cid-002", "state": "failed", "reason": "FloatingPointError: step 3"},
    ]
    now = look(rows, CONFIG, pulse(), NOON)
    assert [(f.kind, f.run) for f in now.faults] == [
        ("warning", "1_8-supervised-000"), ("unreadable", "1_8-supervised-000"), ("unreadable", "1_8-cid-009"),
        ("retried", "1_8-cid-001"), ("retried", "1_8-cid-001"), ("failed", "1_8-cid-002"),
    ]  # fmt: skip
    assert now.faults[-1].text == "FloatingPointError: step 3"
    eighth = next(ratio for ratio in now.ratios if ratio.ratio == "1/8")
    assert eighth.states["failed"] == 1  # though it has no rung


# ---- a search at work ----


def seen(out: Path, config: Config, later: float = 1.0) -> Any:
    told = read_pulse(out)
    return look(read_rows(out), config, told, told["at"] + later)


def test_a_search_at_work_shows_what_runs_and_its_newest_pictures(halfway: Path, small_demo: Path) -> None:
    now = seen(halfway, tiny_search(small_demo))
    assert now.state == "running" and (now.done, now.total) == (3, 8) and now.eta is not None
    (trial,) = now.running
    assert trial.step == 3 and trial.steps == 6 and trial.losses["total"] and trial.images_per_s
    assert trial.value is not None and "loss.relation_weight" in trial.params
    pictured = [ratio for ratio in now.ratios if ratio.pictures]
    assert pictured and {m for m, *_ in pictured[0].pictures[0]["predictions"]} == {"supervised", "cid"}
    for picture in pictured[0].pictures:
        assert picture["image_id"].startswith("val/")
        for path in (picture["image"], picture["label"], *(path for *_, path in picture["predictions"])):
            assert (halfway / path).is_file()


def test_a_pulse_whose_process_is_gone_is_a_killed_search(halfway: Path, small_demo: Path, tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    told = json.loads((halfway / "pulse.json").read_text())
    (tmp_path / "pulse.json").write_text(json.dumps({**told, "pid": child}))
    assert read_pulse(tmp_path)["gone"] and not read_pulse(halfway)["gone"]
    now = look(read_rows(halfway), tiny_search(small_demo), read_pulse(tmp_path), told["at"])
    assert now.state == "killed" and not now.running
    assert sum(ratio.seconds["unfinished"] for ratio in now.ratios) > 0


def test_a_finished_search_leaves_a_pulse_that_says_so(small_demo: Path, tmp_path: Path) -> None:
    config = tiny_search(small_demo)
    search_until(tmp_path, config)
    now = seen(tmp_path, config, later=1e6)
    assert now.state == "finished" and now.done == now.total == 8 and now.eta is None
    assert all(ratio.states.total() == 3 for ratio in now.ratios)
