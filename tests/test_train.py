"""Training from the command line: the contract of the folder, exact resume, warnings, and Ray Train's workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cid_ray import train
from cid_ray.config import InputError, override
from cid_ray.results.record import read_rows
from cid_ray.run import state
from cid_ray.run.loop import train as rows_of
from cid_ray.run.run import Job, Run
from tests.support import TINY, from_ray_dashboard


@pytest.fixture
def config_file(small_demo: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**TINY, "data": {**TINY["data"], "table": str(small_demo)}}))
    return path


def test_a_run_leaves_rows_checkpoints_and_both_kinds_of_scores(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(["--config", str(config_file), "--out", str(out)]) == 0
    rows = read_rows(out)
    assert [r["event"] for r in rows] == ["rung", "rung", "final"]
    final = rows[-1]
    for name in (
        "val/miou",
        "val/miou_teacher",
        "test/miou",
        "test/iou_teacher",
        "best/step",
        "best/test/miou_teacher",
    ):
        assert name in final
    assert final["ratio_name"] == "1/8 (6)"
    assert final["fingerprint"] and final["split_id"] and final["versions"]["torch"]
    content = state.load(out / "checkpoints" / "train" / "last.pt")
    assert {"student", "teacher", "method", "optimizer", "schedule", "rng", "config", "classes"} <= set(content)
    assert content["classes"][0] == "sky" and content["extra"]["step"] == 12
    assert (out / "checkpoints" / "train" / "best.pt").is_file() and (out / "log.txt").read_text()


@pytest.mark.parametrize("method", [pytest.param("supervised", marks=pytest.mark.slow), "cid"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    small_demo: Path, tmp_path: Path, method: str
) -> None:
    """Bit for bit on the CPU in float32, dropout included."""
    options = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    changes: dict[str, Any] = {"data.table": str(small_demo), "method": method, "model.decoder_options": options}
    config = override(TINY, changes)
    whole = Job(config, tmp_path / "whole", threads=1)
    list(rows_of(whole))
    cut = Job(config, tmp_path / "cut", threads=1)
    for row in rows_of(cut):
        if row["event"] == "rung":
            break
    rest = [r for r in rows_of(cut) if r["event"] != "progress"]
    assert [(r["event"], r["step"]) for r in rest] == [("rung", 6), ("rung", 12), ("final", 12)]  # the last one again
    one, other = state.load(whole.last), state.load(cut.last)
    for part in ("student", "teacher", "method"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}.{name}"


def test_kill_9_while_training_loses_no_checkpoint(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cid_ray.train", "--config", str(config_file), "--out", str(out)]
    process = subprocess.Popen([*command, "--set", "train.steps=240"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not read_rows(out) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step = state.load(out / "checkpoints" / "train" / "last.pt")["extra"]["step"]
    assert step in (120, 240)
    assert train.main(["--resume", str(out)]) == 0
    assert [r["step"] for r in read_rows(out) if r["event"] == "rung"] == [120, 240]


def test_a_loss_that_is_no_number_ends_with_one_line_and_can_be_resumed(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    wild = ["--set", "optim.lr=1e30", "--set", "train.rungs=[0.25,1]"]
    assert train.main(["--config", str(config_file), "--out", out, *wild]) == 1
    said = capsys.readouterr().out
    assert "failed: the loss or its gradient is not finite at step" in said
    assert "pool images" in said and f"--resume {out}" in said
    with pytest.raises(InputError, match=r"optim.lr was 1e\+30, is 0.1; choose another --out"):
        train.main(["--resume", out, "--set", "optim.lr=0.1"])
    assert train.main(["--resume", out, "--set", "train.on_nan=skip"]) == 1
    assert "10 steps in a row, up to step 10" in capsys.readouterr().out


def test_a_full_disk_ends_with_one_line_and_the_run_can_be_resumed(
    config_file: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, filler = small_disk / "run", small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - (1 << 17)))
    assert train.main(["--config", str(config_file), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "failed: [Errno 28] No space left on device" in said and f"--resume {out}" in said
    filler.unlink()
    assert train.main(["--resume", str(out)]) == 0


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(small_demo: Path, tmp_path: Path) -> None:
    base = override(TINY, {"data.table": str(small_demo)})
    Run(Job(base, tmp_path)).save()
    with pytest.raises(InputError, match="fingerprint"):
        Run(Job(override(TINY, {"data.table": str(small_demo), "loss.conf_thresh": 0.5}), tmp_path))
    with pytest.raises(InputError, match="data is"):
        Run(Job(override(TINY, {}), tmp_path))


def test_a_broken_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.pt cannot be read"):
        state.load(path)


def test_a_pool_that_teaches_nothing_is_said_once_with_the_remedy(small_demo: Path, tmp_path: Path) -> None:
    changes = {"loss.conf_thresh": 1.0, "train.alarm_steps": 3, "method": "mean_teacher", "data.table": str(small_demo)}
    rows = list(rows_of(Job(override(TINY, changes), tmp_path)))
    warnings = [r["warning"] for r in rows if r.get("warning")]
    assert len(warnings) == 1 and "lower loss.conf_thresh" in warnings[0]
    assert rows[-1]["warnings"] == warnings


def test_an_empty_pool_is_refused_for_methods_that_need_one(small_demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the pool of 1/1"):
        Run(Job(override(TINY, {"data.table": str(small_demo), "data.ratio": "1/1"}), tmp_path))


def test_class_weights_favour_rare_classes(small_demo: Path, tmp_path: Path) -> None:
    run = Run(Job(override(TINY, {"data.table": str(small_demo), "loss.class_weights": "balanced"}), tmp_path))
    weights = run.method.class_weights
    assert weights is not None
    pixels = run.table.class_pixels[run.split.labeled].sum(0)
    seen = pixels > 0
    assert (torch.tensor(pixels[seen]).argsort() == weights[torch.tensor(seen)].argsort(descending=True)).all()


@pytest.mark.ray
def test_two_workers_with_ray_data_reach_the_scores_of_one_process(
    ray_cluster: str, config_file: Path, tmp_path: Path
) -> None:
    """The same loop under Ray Train, the pool through Ray Data: one law, two ways to run it."""
    common = ["--config", str(config_file), "--set", "data.crop_size=64", "--set", "optim.lr=0.001"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main([*common, "--out", str(one)]) == 0
    assert train.main([*common, "--out", str(two), "--set", "scale.workers=2"]) == 0
    alone, together = read_rows(one)[-1], read_rows(two)[-1]
    assert together["workers"] == 2 and together["fingerprint"] == alone["fingerprint"]
    assert together["val/miou_teacher"] == pytest.approx(alone["val/miou_teacher"], abs=0.5)
    assert together["test/miou"] == pytest.approx(alone["test/miou"], abs=0.5)
    first_alone, first_together = read_rows(one)[0]["losses"], read_rows(two)[0]["losses"]
    assert first_together["total"] == pytest.approx(first_alone["total"], rel=0.02)
    in_dashboard = {run["name"]: run["status"] for run in from_ray_dashboard("/api/train/v2/runs/v1")["train_runs"]}
    assert in_dashboard["two-train"] == "FINISHED"  # the run's folder and the run


@pytest.mark.ray
def test_workers_that_can_never_be_placed_are_refused_at_once(
    ray_cluster: str, config_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    common = ["--config", str(config_file), "--out", str(out), "--set", "scale.workers=2"]
    with pytest.raises(InputError, match=r"2 x \(4 CPU\).*1 node\(s\) with 2 CPU"):
        train.main([*common, "--set", "scale.cpus_per_worker=4"])
    assert not out.exists()
