"""Law: a search on real Ray survives faults, or stops with a clear error, an intact study and a way
to resume. Faults: killed trials, failures of one kind, full and vanished disks, Ctrl-C twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.harness.chaos import CLEAN, account, count_log_lines
from cid_ray import tune
from cid_ray.config import InputError
from cid_ray.data.synthetic import write_demo
from cid_ray.results.records import of_event, read_records
from tests.helpers.drivers import driver, n_finished, wait_while_running
from tests.helpers.ports import free_port, reachable, wait_until
from tests.helpers.small_search import space_file, states

pytestmark = pytest.mark.ray
CHAOS = "benchmarks.harness.chaos"


def trial_actors() -> list[int]:
    """Processes that run trials in the cluster that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # Any of these processes may end while its files are read.
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes()
            is_trial = b"TrialActor" in title or b"ResourceTrainable" in title
            pid = int(folder.name)
            # A worker's parent is the raylet, whose parent is the process that started the cluster.
            if is_trial and parent_of(parent_of(pid)) == os.getpid():
                found.append(pid)
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---- trials that die or fail ----


@pytest.mark.slow
def test_killed_trial_resumes_from_its_checkpoint_in_the_same_search(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=2, ratios=["1/4"], baselines=[])
    out = tmp_path / "run"
    changes = ["train.steps=120", "search.pruner.name=NopPruner", "search.pruner.args={}"]
    options = [word for change in changes for word in ("--set", change)]
    command = ["cid_ray.tune", "--config", str(path), "--out", str(out), *options]
    with driver(command, ray_cluster) as process:
        wait_while_running(process, lambda: of_event(read_records(out), "rung"))
        running = trial_actors()
        assert running
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        shown, _ = process.communicate(timeout=250)
    assert process.returncode == 0, shown
    assert "retry 1 of 2" in shown and "resumed" in shown
    assert states(out)["1/4 cid"] == {"COMPLETE": 2}
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    rungs = [(r["run"], r["step"]) for r in of_event(lines, "rung")]
    assert set(rungs) == {(f"1_4-cid-{n:03d}", step) for n in (0, 1) for step in (60, 120)}
    assert [r["attempt"] for r in of_event(lines, "retry")] == [1] * len(running)


def test_failures_of_one_kind_stop_the_search_with_their_reason(
    ray_cluster: str, small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = space_file(
        tmp_path,
        small_demo,
        space={"loss.style_weight": {"float": [1e38, 2e38]}},
        trials=50,
        ratios=["1/4"],
        max_failed_trials=3,
        baselines=[],
    )
    out = tmp_path / "run"
    command = ["--config", str(path), "--out", str(out), "--set", "loss.style_ramp=0"]
    assert tune.main(command) == 1
    assert 3 <= states(out)["1/4 cid"]["FAIL"] <= 4  # one more may have been running
    shown = capsys.readouterr().out
    assert "3 trials failed in the same way (FloatingPointError" in shown
    assert "search.max_failed_trials" in shown and f"--resume {out}" in shown


def search_that_ray_kills_for_memory(config: Path, out: Path) -> str:
    """What a search prints whose every trial is killed: Ray's limit is 1 % of the memory."""
    low = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    command = ["cid_ray.tune", "--config", str(config), "--out", str(out)]
    with driver(command, "local", **low) as process:
        shown, _ = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in shown
    return shown


@pytest.mark.slow
def test_trial_killed_for_memory_is_one_line_that_says_what_to_lower(
    small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(
        tmp_path, small_demo, trials=1, ratios=["1/4"], baselines=[], max_failed_trials=1
    )
    shown = search_that_ray_kills_for_memory(path, tmp_path / "run")
    lines = [line for line in shown.splitlines() if "ran low on memory" in line]
    assert len(lines) == 4  # two retries, the failure, the end of the search
    figures = r"the process had \S+GB; \S+ of the node's \S+ were used"
    assert re.search(rf"-000: Ray killed .*; {figures}: lower search\.max", lines[0])
    assert "Considered workers" not in shown


@pytest.mark.slow
def test_after_a_kill_for_memory_fewer_trials_run_at_a_time(
    small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(
        tmp_path, small_demo, trials=2, ratios=["1/4"], baselines=[], max_concurrent_trials=2
    )
    shown = search_that_ray_kills_for_memory(path, tmp_path / "run")
    lines = [line for line in shown.splitlines() if line.startswith("1_4-cid-")]
    first, second, *_ = (n for n, line in enumerate(lines) if "ran low on memory" in line)
    assert "; at most 1 at a time from now on; it resumes" in lines[first]
    assert not any("from now on" in line for line in lines[second:])
    starts = [": resumed" in line for line in lines[second + 1 :]]
    assert starts == [True, False] * 4, shown  # none before the other's end


# ---- disks ----


def test_full_disk_stops_the_search_with_a_clear_error_and_an_intact_study(
    ray_cluster: str, small_disk: Path
) -> None:
    out = small_disk / "run"
    filler = small_disk / "filler"
    with driver([CHAOS, str(out), "1"], ray_cluster) as process:
        wait_while_running(process, lambda: n_finished(out) >= 4)
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        shown, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "cannot be written: No space left on device" in shown and "Traceback" not in shown
    filler.unlink()
    with driver([CHAOS, str(out), "1"], ray_cluster) as process:
        process.communicate(timeout=250)
    assert process.returncode == 0
    cost = account(out, 1)
    assert cost.pop("segments done twice") <= 1
    assert cost == CLEAN


def test_vanished_run_folder_stops_the_search_and_is_not_created_again(
    ray_cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with driver([CHAOS, str(out), "1"], ray_cluster) as process:
        wait_while_running(process, lambda: n_finished(out) >= 4)
        out.rename(tmp_path / "away")
        shown, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "cannot be written: No such file or directory" in shown and "Traceback" not in shown
    assert not (out / "study.journal").exists() and not (out / "records.jsonl").exists()


# ---- resuming ----


def test_resume_with_changed_space_or_data_set_is_refused(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=1, ratios=["1/4"], baselines=[])
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out)]) == 0
    kept = (out / "config.yaml").read_text()
    other_space = (
        "search.space={loss.relation_kind: {choice: [self, cross, transfer, class]}, "
        "loss.relation_weight: {float: [0.01, 9], log: true}}"
    )
    message = r"search\.space\.loss\.relation_weight\.float was \[0\.01, 1\.0\], is \[0\.01, 9"
    with pytest.raises(InputError, match=message):
        tune.main(["--resume", str(out), "--set", other_space])
    write_demo(tmp_path / "other", {"test": 4, "val": 4, "train": 40})
    with pytest.raises(InputError, match="the data set was"):
        tune.main(["--resume", str(out), "--set", f"data.table={tmp_path / 'other'}"])
    assert (out / "config.yaml").read_text() == kept
    assert tune.main(["--resume", str(out), "--extend", "2"]) == 0
    assert states(out)["1/4 cid"].total() == 3
    assert yaml.safe_load((out / "config.yaml").read_text())["search"]["trials"] == 3


@pytest.mark.slow
def test_ctrl_c_in_an_hour_long_segment_ends_the_search_which_can_be_resumed(
    ray_cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [CHAOS, str(out), "1"]
    with driver(command, ray_cluster, CHAOS_SEGMENT_S="3600") as process:
        wait_while_running(process, lambda: count_log_lines(out, ": started"))
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and "Traceback" not in shown
    assert not of_event(read_records(out), "rung")
    with driver(command, ray_cluster) as process:
        process.communicate(timeout=250)
    cost = account(out, 1)
    assert cost.pop("segments done twice") <= 1
    assert cost == CLEAN


# ---- while it runs ----


@pytest.mark.slow
def test_optuna_dashboard_reads_the_journal_of_a_running_search(
    ray_cluster: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/studies"
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    with driver([CHAOS, str(out), "1"], ray_cluster) as process:
        wait_while_running(process, lambda: n_finished(out) >= 2)
        viewer = subprocess.Popen(
            [program, str(out / "study.journal"), "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: reachable(port))
            summaries = fetch(url)["study_summaries"]
            ids = {study["study_name"]: study["study_id"] for study in summaries}
            assert {"1/8 cid", "1/4 cid", "1/8 supervised"} <= set(ids)
            trials = fetch(f"{url}/{ids['1/8 supervised']}")["trials"]
            assert trials[0]["state"] == "Complete"
            assert process.poll() is None
            process.communicate(timeout=250)
            after = fetch(f"{url}/{ids['1/8 cid']}")["trials"]
        finally:
            viewer.kill()
            viewer.wait()
    assert process.returncode == 0
    assert len([t for t in after if t["state"] in ("Complete", "Pruned")]) == 8
    assert count_log_lines(out, "stopped") == 0


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)
