"""The contract of `python -m cid_ray.train`: its run folder, exact resume, errors, workers.

A resumed run is compared with an uninterrupted one, two workers with one process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cid_ray.config import InputError, build_config
from cid_ray.results.records import of_event, read_records
from cid_ray.train import main as train_command
from cid_ray.training import checkpoint
from cid_ray.training.launch import train
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.ports import wait_until
from tests.helpers.tiny_run import TINY, from_ray_dashboard

# On a busy machine two threads that wait for each other take minutes.
TRAIN_ON_ONE_CPU = """
import os, runpy
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
runpy.run_module("cid_ray.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def config_file(small_demo: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**TINY, "data": {**TINY["data"], "table": str(small_demo)}}))
    return path


def test_run_folder_holds_records_checkpoints_and_both_kinds_of_scores(
    config_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert train_command(["--config", str(config_file), "--out", str(out)]) == 0
    records = read_records(out)
    assert [record["event"] for record in records] == ["rung", "rung", "final"]
    final = records[-1]
    expected = {
        "val/miou",
        "val/miou_teacher",
        "test/miou",
        "test/iou_teacher",
        "best/step",
        "best/test/miou_teacher",
    }
    assert expected <= final.keys()
    assert final["ratio_name"] == "1/8 (6)"
    assert (final["trial_number"], final["repeats_of"], final["repeat_index"]) == (0, "", 0)
    assert final["test_split"] == "test" and final["test_is_val"] is False
    assert final["fingerprint"] and final["split_id"] and final["versions"]["torch"]
    checkpoints = out / "checkpoints" / "train"
    content = checkpoint.load_checkpoint(checkpoints / "last.pt")
    parts = {"student", "teacher", "method", "optimizer", "schedule", "rng", "config", "data"}
    assert parts <= set(content)
    assert json.loads(content["data"])["classes"][0] == "sky" and content["extra"]["step"] == 12
    assert (checkpoints / "best.pt").is_file() and (out / "log.txt").read_text()


# ---- resume ----


@pytest.mark.parametrize("method", [pytest.param("supervised", marks=pytest.mark.slow), "cid"])
def test_resumed_run_ends_with_weights_of_uninterrupted_run(
    small_demo: Path, tmp_path: Path, method: str
) -> None:
    """Bit for bit on the CPU in float32, dropout included."""
    changes: dict[str, Any] = {
        "data.table": str(small_demo),
        "method": method,
        "model.decoder_options": {
            "decoder_pyramid_channels": 32,
            "decoder_segmentation_channels": 32,
        },
    }
    config = build_config(TINY, changes)
    list(train(config, tmp_path / "whole", cpus=1))
    for record in train(config, tmp_path / "cut", cpus=1):
        if record["event"] == "rung":
            break
    rest = [r for r in train(config, tmp_path / "cut", cpus=1) if r["event"] != "progress"]
    # the last rung before the interruption comes again
    events = [(record["event"], record["step"]) for record in rest]
    assert events == [("rung", 6), ("rung", 12), ("final", 12)]
    one = checkpoint.load_checkpoint(RunSpec(config, tmp_path / "whole").last_checkpoint)
    other = checkpoint.load_checkpoint(RunSpec(config, tmp_path / "cut").last_checkpoint)
    for part in ("student", "teacher", "method"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}.{name}"


@pytest.mark.process
@pytest.mark.timeout(600)
def test_kill_9_while_training_loses_no_checkpoint(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", TRAIN_ON_ONE_CPU, "--config", str(config_file)]
    command += ["--out", str(out), "--set", "train.steps=240"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or read_records(out), timeout_s=270)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        process.wait()
    content = checkpoint.load_checkpoint(out / "checkpoints" / "train" / "last.pt")
    assert content["extra"]["step"] in (120, 240)
    assert train_command(["--resume", str(out)]) == 0
    assert [record["step"] for record in of_event(read_records(out), "rung")] == [120, 240]


def test_resume_says_what_records_or_checkpoints_lack(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train_command(["--config", str(config_file), "--out", str(out)]) == 0
    records = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join(records[1:]))
    assert train_command(["--resume", str(out)]) == 0
    assert "lacks the rungs at steps [6]" in capsys.readouterr().out
    kept = (out / "records.jsonl").read_bytes()
    for file in (out / "checkpoints" / "train").glob("last*.pt"):
        file.unlink()
    with pytest.raises(InputError, match="records go to step 12, but there is no checkpoint"):
        train_command(["--resume", str(out)])
    assert (out / "records.jsonl").read_bytes() == kept


@pytest.mark.process
@pytest.mark.timeout(600)
def test_second_train_in_a_folder_is_refused_and_changes_nothing(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", TRAIN_ON_ONE_CPU, "--config", str(config_file)]
    command += ["--out", str(out), "--set", "train.steps=100000"]
    command += ["--set", "train.checkpoint_steps=2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    checkpoint = out / "checkpoints" / "train" / "last.pt"
    try:
        # The first checkpoint: from here on the first command removes no leftovers itself.
        wait_until(lambda: process.poll() is not None or checkpoint.exists(), timeout_s=270)
        config = (out / "config.yaml").read_bytes()
        partial = checkpoint.with_name("last.pt.1-a.partial")
        partial.touch()
        with pytest.raises(InputError, match="in use by another process"):
            train_command(["--resume", str(out)])
        with pytest.raises(InputError, match="already holds a run"):
            train_command(["--config", str(config_file), "--out", str(out)])
        assert (out / "config.yaml").read_bytes() == config and partial.exists()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_checkpoint_of_another_run_is_refused_with_the_difference(
    small_demo: Path, tmp_path: Path
) -> None:
    changes = {"data.table": str(small_demo)}
    Trainer(RunSpec(build_config(TINY, changes), tmp_path)).save()
    other_loss = build_config(TINY, {**changes, "loss.conf_thresh": 0.5})
    with pytest.raises(InputError, match="fingerprint"):
        Trainer(RunSpec(other_loss, tmp_path))
    with pytest.raises(InputError, match="data is"):
        Trainer(RunSpec(build_config(TINY), tmp_path))


# ---- errors and warnings ----


def test_nan_loss_ends_with_one_line_and_can_be_resumed(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    changes = ["--set", "optim.lr=1e30", "--set", "train.rungs=[0.25,1]"]
    assert train_command(["--config", str(config_file), "--out", out, *changes]) == 1
    printed = capsys.readouterr().out
    assert "failed: the loss or its gradient is not finite at step" in printed
    assert "pool images" in printed and f"--resume {out}" in printed
    rule = r"optim.lr was 1e\+30, is 0.1; choose another --out"
    with pytest.raises(InputError, match=rule):
        train_command(["--resume", out, "--set", "optim.lr=0.1"])
    assert train_command(["--resume", out, "--set", "train.on_nan=skip"]) == 1
    assert "10 steps in a row, up to step 10" in capsys.readouterr().out


def test_full_disk_ends_with_one_line_and_can_be_resumed(
    config_file: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "run"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - (1 << 17)))
    assert train_command(["--config", str(config_file), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "failed: [Errno 28] No space left on device" in printed
    assert f"--resume {out}" in printed
    filler.unlink()
    assert train_command(["--resume", str(out)]) == 0


def test_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"last\.pt cannot be read"):
        checkpoint.load_checkpoint(path)


def test_no_pseudo_labels_gives_one_warning_with_the_remedy(
    small_demo: Path, tmp_path: Path
) -> None:
    changes = {
        "loss.conf_thresh": 1.0,
        "train.warn_no_pseudo_steps": 3,
        "method": "mean_teacher",
        "data.table": str(small_demo),
    }
    records = list(train(build_config(TINY, changes), tmp_path))
    warnings = [record["warning"] for record in records if record.get("warning")]
    assert len(warnings) == 1 and "lower loss.conf_thresh" in warnings[0]
    assert records[-1]["warnings"] == warnings


def test_empty_pool_is_refused_for_methods_that_use_it(small_demo: Path, tmp_path: Path) -> None:
    config = build_config(TINY, {"data.table": str(small_demo), "data.ratio": "1/1"})
    with pytest.raises(InputError, match="the pool of 1/1"):
        Trainer(RunSpec(config, tmp_path))


def test_balanced_class_weights_favour_rare_classes(small_demo: Path, tmp_path: Path) -> None:
    changes = {"data.table": str(small_demo), "loss.class_weights": "balanced"}
    trainer = Trainer(RunSpec(build_config(TINY, changes), tmp_path))
    weights = trainer.method.class_weights
    assert isinstance(weights, torch.Tensor)
    pixels = trainer.table.class_pixels[trainer.split.labeled].sum(0)
    present = pixels > 0
    rarest_last = torch.tensor(pixels[present]).argsort()
    assert (rarest_last == weights[torch.tensor(present)].argsort(descending=True)).all()


# ---- workers ----


@pytest.mark.ray
def test_two_workers_with_ray_data_reach_the_scores_of_one_process(
    ray_cluster: str, config_file: Path, tmp_path: Path
) -> None:
    """The same loop under Ray Train, with the pool from Ray Data."""
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["--config", str(config_file)]
    common += ["--set", "data.crop_size=64", "--set", "optim.lr=0.001"]
    workers = ["--set", "distributed.num_workers=2"]
    assert train_command([*common, "--out", str(one)]) == 0
    assert train_command([*common, "--out", str(two), *workers]) == 0
    single, both = read_records(one), read_records(two)
    assert both[-1]["workers"] == 2
    assert both[-1]["fingerprint"] == single[-1]["fingerprint"]
    for score in ("val/miou_teacher", "test/miou"):
        assert both[-1][score] == pytest.approx(single[-1][score], abs=0.5)
    single_loss = single[0]["losses"]["total"]
    assert both[0]["losses"]["total"] == pytest.approx(single_loss, rel=0.02)
    runs = from_ray_dashboard("/api/train/v2/runs/v1")["train_runs"]
    statuses = {run["name"]: run["status"] for run in runs}
    assert statuses["two-train"] == "FINISHED"  # named after the run folder and the run


@pytest.mark.ray
def test_workers_that_can_never_be_placed_are_refused_before_the_run_folder_exists(
    ray_cluster: str, config_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    common = ["--config", str(config_file), "--out", str(out)]
    workers = ["--set", "distributed.num_workers=2", "--set", "distributed.cpus_per_worker=4"]
    with pytest.raises(InputError, match=r"2 x \(4 CPU\).*1 node\(s\) with 2 CPU"):
        train_command([*common, *workers])
    assert not out.exists()
