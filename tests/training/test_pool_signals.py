"""Signals of a rung: those of a plain computation, without a trace, the same on any workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from benchmarks.harness.ports import free_port
from cid_ray.config import build_config
from cid_ray.core.calibration import Calibration
from cid_ray.results.records import RecordWriter, read_records
from cid_ray.training.loop import train
from cid_ray.training.pool_signals import CONFIDENT, MAX_IMAGES, MAX_PIXELS, _at_most, pool_signals
from cid_ray.training.trainer import RunSpec, Trainer
from tests.helpers.tiny_run import TINY


def make_trainer(root: Path, rank: int = 0, world_size: int = 1) -> Trainer:
    """A trainer whose student and teacher differ."""
    config = build_config(TINY)
    trainer = Trainer(RunSpec(config, root, num_threads=1, rank=rank, world_size=world_size))
    generator = torch.Generator().manual_seed(0)
    for parameter in trainer.student.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * parameter.detach().std(correction=0) * noise
    return trainer


def outputs(net: torch.nn.Module, image: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(
            net.eval()(image[None])[0], size=image.shape[-2:], mode="bilinear", align_corners=False
        )
    return logits.softmax(1)[0].numpy()


def test_signals_equal_a_plain_computation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    found = pool_signals(trainer)
    assert found is not None and found["images"] == MAX_IMAGES
    pool = trainer.split.pool
    rows = pool[np.linspace(0, len(pool) - 1, MAX_IMAGES).round().astype(int)]
    confidence, agreement, shares = [], [], np.zeros(trainer.table.num_classes)
    for row in rows.tolist():
        image = torch.from_numpy(np.array(trainer.table.read(row, mask=False)[0])).permute(2, 0, 1)
        teacher, student = outputs(trainer.teacher.module, image), outputs(trainer.student, image)
        confidence.append(teacher.max(0))
        agreement.append((teacher.argmax(0) == student.argmax(0)).mean())
        shares += np.bincount(teacher.argmax(0).ravel(), minlength=len(shares))
    sure = np.stack(confidence)
    assert found["confidence"] == pytest.approx(100 * sure.mean(), abs=1e-3)
    assert found["confident"] == pytest.approx(100 * (sure > CONFIDENT).mean(), abs=1e-2)
    assert found["agreement"] == pytest.approx(100 * np.mean(agreement), abs=1e-2)
    assert found["agreement"] < 100
    shares *= 100 / sure.size
    assert list(found["class_shares"].values()) == pytest.approx(shares.tolist(), abs=1e-2)
    masks = [trainer.table.mask(row) for row in trainer.split.labeled.tolist()]
    labeled = np.concatenate([mask[mask != 255] for mask in masks])
    prior = 100 * np.bincount(labeled, minlength=len(shares)) / len(labeled)
    assert list(found["label_shares"].values()) == pytest.approx(prior.tolist())
    distance = np.abs(shares - prior).sum() / 2
    assert found["prior_distance"] == pytest.approx(distance, abs=1e-2)


def test_signals_leave_no_trace(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    state = torch.get_rng_state()
    pool_signals(trainer)
    assert all(torch.equal(before[name], v) for name, v in trainer.student.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert trainer.student.training


def _work(rank: int, port: int, root: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    trainer = make_trainer(root, rank, 2)
    found: dict[str, Any] = {"pool": pool_signals(trainer), "val": trainer.evaluate("val")}
    torch.save(found, root / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_report_what_one_does(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "one")
    alone, val = pool_signals(trainer), trainer.evaluate("val")
    assert alone is not None
    mp.spawn(_work, (free_port(), tmp_path), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        pool = found["pool"]
        assert pool["images"] == alone["images"]
        for key in ("confidence", "confident", "agreement", "prior_distance"):
            assert pool[key] == pytest.approx(alone[key], abs=1e-2)
        ece = [found["val"][network]["ece"] for network in ("teacher", "student")]
        assert ece == pytest.approx([val["teacher"]["ece"], val["student"]["ece"]], abs=1e-3)


def test_rungs_record_signals_also_of_methods_without_a_pool(tmp_path: Path) -> None:
    config = build_config(TINY, {"method": "supervised"})
    records = list(train(RunSpec(config, tmp_path, num_threads=1)))
    rungs = [record for record in records if record["event"] == "rung"]
    assert rungs and all(record["pool_signals"]["images"] == MAX_IMAGES for record in rungs)
    assert all(0 < record["val/ece_teacher"] < 100 for record in rungs)


def test_calibration_of_two_halves_is_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0, 1, 999), rng.uniform(0, 1, 999) < 0.5
    whole, total = Calibration(), Calibration()
    whole.add(confidence, correct)
    for part in (slice(0, 400), slice(400, None)):
        half = Calibration()
        half.add(confidence[part], correct[part])
        total.add_state(half.state_dict())
    assert total.ece == pytest.approx(whole.ece)
    for one, other in zip(total.bins(), whole.bins(), strict=True):
        assert one == pytest.approx(other)


def test_diverged_network_has_no_confidence_and_its_rung_is_a_record(tmp_path: Path) -> None:
    """A learning rate of 1e20: outputs are NaN before a gradient is."""
    changes = {
        "method": "supervised",
        "train.steps": 2,
        "optim.lr": 1e20,
        "train.rungs": [0.5, 1.0],
    }
    spec = RunSpec(build_config(TINY, changes), tmp_path, num_threads=1)
    rung = next(record for record in train(spec) if record["event"] == "rung")
    assert rung["pool_signals"]["confidence"] == 0 and 0 <= rung["val/ece_teacher"] <= 100
    RecordWriter(tmp_path).append(rung)  # JSON has no NaN
    assert [record["step"] for record in read_records(tmp_path)] == [1]


def test_val_without_a_labeled_pixel_has_no_calibration_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.split = dataclasses.replace(trainer.split, val=trainer.split.val[:0])
    scores = trainer.evaluate("val")
    assert scores["teacher"]["ece"] is None and scores["teacher"]["miou"] is None


def test_large_pool_image_is_reduced() -> None:
    large = _at_most(Image.new("RGB", (4000, 3000)))
    assert large.width * large.height <= MAX_PIXELS < 1.01 * large.width * large.height
    assert large.width / large.height == pytest.approx(4 / 3, rel=1e-3)
    small = Image.new("RGB", (1000, 800))
    assert _at_most(small) is small
