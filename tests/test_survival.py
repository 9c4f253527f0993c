"""What a search lives through on real Ray: dead trials, failures of one kind, full and vanished disks, Ctrl-C twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray import tune
from cid_ray.config import InputError
from cid_ray.results.record import read_rows
from tests.chaos import CLEAN, account, lines
from tests.test_tune import space_file, states

pytestmark = pytest.mark.ray


@contextlib.contextmanager
def driver(command: list[str], address: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A search in a process of its own, on the session's cluster."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "RAY_ADDRESS": address, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def ended(out: Path) -> int:
    return sum(row["event"] == "trial" for row in read_rows(out))


def trial_processes() -> list[int]:
    """Actors of this session's own cluster that run trials: workers of the raylet that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes()
            if (b"TrialActor" in title or b"ResourceTrainable" in title) and parent(
                parent(int(folder.name))
            ) == os.getpid():
                found.append(int(folder.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---- trials that die or fail ----


@pytest.mark.slow
def test_a_killed_trial_goes_on_from_its_checkpoint_in_the_same_search(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path, out = space_file(tmp_path, small_demo, trials=2, ratios=["1/4"], baselines=[]), tmp_path / "run"
    change = ["--set", "train.steps=120", "--set", "search.pruner.name=NopPruner", "--set", "search.pruner.args={}"]
    with driver(["cid_ray.tune", "--config", str(path), "--out", str(out), *change], ray_cluster) as process:
        wait_for(lambda: any(row["event"] == "rung" for row in read_rows(out)), process)
        running = trial_processes()
        assert running
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        shown, _ = process.communicate(timeout=200)
    assert process.returncode == 0, shown
    assert "retry 1 of 2" in shown and "resumed" in shown
    assert states(out)["1/4 cid"] == {"COMPLETE": 2}
    lines_ = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    seen = [(r["run"], r["step"]) for r in lines_ if r["event"] == "rung"]
    assert set(seen) == {(f"1_4-cid-{n:03d}", step) for n in (0, 1) for step in (60, 120)}


def test_failures_of_one_kind_end_the_search_and_say_why(
    ray_cluster: str, small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"loss.style_weight": {"float": [1e38, 2e38]}}
    path = space_file(tmp_path, small_demo, space=space, trials=50, ratios=["1/4"], max_failures=3, baselines=[])
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out), "--set", "loss.style_ramp=0"]) == 1
    assert 3 <= states(out)["1/4 cid"]["FAIL"] <= 4  # one more may have been running
    shown = capsys.readouterr().out
    assert "3 trials failed in the same way (FloatingPointError" in shown
    assert "search.max_failures" in shown and f"--resume {out}" in shown


# ---- disks ----


def test_a_full_disk_stops_with_a_clear_error_and_the_study_intact(ray_cluster: str, small_disk: Path) -> None:
    out, filler = small_disk / "run", small_disk / "filler"
    with driver(["tests.chaos", str(out), "1"], ray_cluster) as process:
        wait_for(lambda: ended(out) >= 4, process)
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        shown, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "cannot be written: No space left on device" in shown and "Traceback" not in shown
    filler.unlink()
    with driver(["tests.chaos", str(out), "1"], ray_cluster) as process:
        process.communicate(timeout=200)
    assert process.returncode == 0
    found = account(out, 1)
    assert found.pop("stretches worked twice") <= 1
    assert found == CLEAN


def test_a_vanished_folder_stops_the_search_and_nothing_is_written_in_its_place(
    ray_cluster: str, tmp_path: Path
) -> None:
    out, away = tmp_path / "run", tmp_path / "away"
    with driver(["tests.chaos", str(out), "1"], ray_cluster) as process:
        wait_for(lambda: ended(out) >= 4, process)
        out.rename(away)
        shown, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "cannot be written: No such file or directory" in shown and "Traceback" not in shown
    assert not (out / "study.journal").exists() and not (out / "rows.jsonl").exists()


# ---- resuming ----


def test_resuming_with_a_changed_space_or_data_set_is_refused(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path, out = space_file(tmp_path, small_demo, trials=1, ratios=["1/4"], baselines=[]), tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out)]) == 0
    kept = (out / "config.yaml").read_text()
    with pytest.raises(
        InputError, match=r"search\.space\.loss\.relation_weight\.float was \[0\.01, 1\.0\], is \[0\.01, 9"
    ):
        tune.main(["--resume", str(out), "--set", "search.space={loss.relation_kind: {choice: [self, cross, transfer, "
                   "class]}, loss.relation_weight: {float: [0.01, 9], log: true}}"])  # fmt: skip
    from cid_ray.data.demo import write_demo

    write_demo(tmp_path / "other", {"test": 4, "val": 4, "train": 40})
    with pytest.raises(InputError, match="the data set was"):
        tune.main(["--resume", str(out), "--set", f"data.table={tmp_path / 'other'}"])
    assert (out / "config.yaml").read_text() == kept
    assert tune.main(["--resume", str(out), "--extend", "2"]) == 0
    assert states(out)["1/4 cid"].total() == 3
    assert yaml.safe_load((out / "config.yaml").read_text())["search"]["trials"] == 3


@pytest.mark.slow
def test_ctrl_c_twice_leaves_at_once_and_can_be_resumed(ray_cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with driver(["tests.chaos", str(out), "1"], ray_cluster, CHAOS_STRETCH_SECONDS="40") as process:
        wait_for(lambda: lines(out, "begun"), process)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: lines(out, "interrupted"), process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)  # long before the trial's next row
    assert process.returncode == 130
    with driver(["tests.chaos", str(out), "1"], ray_cluster) as process:
        process.communicate(timeout=200)
    found = account(out, 1)
    assert found.pop("stretches worked twice") <= 1
    assert found == CLEAN


# ---- while it runs ----


@pytest.mark.slow
def test_optuna_dashboard_reads_the_runs_own_journal_while_it_is_written(ray_cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with driver(["tests.chaos", str(out), "1"], ray_cluster) as process:
        wait_for(lambda: ended(out) >= 2, process)
        board = [str(Path(sys.executable).with_name("optuna-dashboard")), str(out / "study.journal"), "--port", "18083"]
        viewer = subprocess.Popen(board, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found = fetch("http://127.0.0.1:18083/api/studies", viewer)
            names = {study["study_name"]: study["study_id"] for study in found["study_summaries"]}
            assert {"1/8 cid", "1/4 cid", "1/8 supervised"} <= set(names)
            trials = fetch(f"http://127.0.0.1:18083/api/studies/{names['1/8 supervised']}", viewer)["trials"]
            assert trials[0]["state"] == "Complete"
            assert process.poll() is None
            process.communicate(timeout=200)
            after = fetch(f"http://127.0.0.1:18083/api/studies/{names['1/8 cid']}", viewer)["trials"]
        finally:
            viewer.kill()
            viewer.wait()
    assert process.returncode == 0
    assert len([t for t in after if t["state"] in ("Complete", "Pruned")]) == 8
    assert lines(out, "stopped") == 0


def fetch(url: str, viewer: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            assert viewer.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
