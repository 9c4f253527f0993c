"""The CUDA path on one GPU: against the CPU, in bf16, compiled, resumed, on two workers, on NCCL.

Every step starts from the state that the reference left, as in test_equal_workers. Needs a GPU:
`make test-gpu`. Two workers share the GPU over gloo, because NCCL wants a GPU for each. TF32 is on,
as in training, so float32 agrees to about 1e-3 (measured on an H200: losses 1e-4 to 3e-3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.harness.equal_workers import (
    Trace,
    grads,
    largest_differences,
    make_config,
    run_on_workers,
    trace_training,
)
from benchmarks.harness.ports import free_port
from cid_ray.core import sync_batchnorm
from cid_ray.data.loader import local_batches
from cid_ray.training import builders, checkpoint
from cid_ray.training.collectives import gather_objects, mean_values, sum_matrix
from cid_ray.training.launch import train
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer

pytestmark = pytest.mark.gpu

KINDS = ("self", "cross", "transfer", "class")
STEPS = 6
FLOAT32 = {"train.device": "cuda", "train.amp": "off"}
LOSS_TOLERANCE = 1e-2
WEIGHT_TOLERANCE = 1e-3
BF16 = {"train.device": "cuda", "train.amp": "bf16"}


@pytest.fixture(autouse=True)
def _gpu() -> None:
    assert torch.cuda.is_available(), "these tests need a GPU: leave out `-m gpu`"


def differences(reference: Trace, other: Trace) -> dict[str, float]:
    found = largest_differences(reference, other)
    print({part: f"{value:.1e}" for part, value in found.items()})
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_float32_steps_equal_those_of_cpu(tmp_path: Path, kind: str) -> None:
    """Without dropout, whose masks are drawn on the device."""
    config = make_config(kind, STEPS)
    options = {**config.model.decoder_options, "decoder_dropout": 0.0}
    changes = {"model.decoder_options": options}
    on_cpu = trace_training(make_config(kind, STEPS, **changes), tmp_path)
    on_gpu = trace_training(make_config(kind, STEPS, **changes, **FLOAT32), tmp_path, forced=True)
    found = differences(on_cpu, on_gpu)
    assert found["loss"] < LOSS_TOLERANCE and found["weight"] < WEIGHT_TOLERANCE


def test_bf16_losses_are_close_to_float32(tmp_path: Path) -> None:
    exact = trace_training(make_config("self", STEPS, **FLOAT32), tmp_path)
    rounded = trace_training(make_config("self", STEPS, **BF16), tmp_path, forced=True)
    assert 0 < differences(exact, rounded)["loss"] < 3e-2


@pytest.mark.parametrize("precision", [FLOAT32, BF16], ids=["float32", "bf16"])
def test_compiled_steps_equal_eager_ones(tmp_path: Path, precision: dict[str, Any]) -> None:
    eager = trace_training(make_config("self", STEPS, **precision), tmp_path, smooth=False)
    config = make_config("self", STEPS, **precision, **{"train.compile": True})
    compiled = trace_training(config, tmp_path, forced=True, smooth=False)
    limit = LOSS_TOLERANCE if precision is FLOAT32 else 3e-2
    assert differences(eager, compiled)["loss"] < limit


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_on_one_gpu_equal_one_worker(tmp_path: Path, kind: str) -> None:
    config = make_config(kind, STEPS, **FLOAT32)
    single = trace_training(config, tmp_path)
    (two,) = run_on_workers([(config.model_dump_json(), {"forced": True})], tmp_path, 2)
    found = differences(single, two)
    assert found["loss"] < LOSS_TOLERANCE and found["weight"] < WEIGHT_TOLERANCE


def test_micro_batches_give_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    changes = {**FLOAT32, "model.encoder": "test_convnext"}
    whole = trace_training(make_config("self", 2, **changes), tmp_path)
    config = make_config("self", 2, **changes, **{"train.micro_batch_size": 4})
    parts = trace_training(config, tmp_path, forced=True)
    assert differences(whole, parts)["loss"] < LOSS_TOLERANCE


def test_resumed_run_continues_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """Not bit for bit: cuDNN adds in any order. The scores of the last rung agree to a point."""
    config = make_config("self", 40, **FLOAT32, **{"train.rungs": [0.5, 1.0]})
    (*_, whole) = train(config, tmp_path / "whole", cpus=1)
    for record in train(config, tmp_path / "cut", cpus=1):
        if record["event"] == "rung":
            break
    (*_, resumed) = train(config, tmp_path / "cut", cpus=1)
    print(whole["val/miou_teacher"], resumed["val/miou_teacher"])
    assert resumed["val/miou_teacher"] == pytest.approx(whole["val/miou_teacher"], abs=1.0)
    content = checkpoint.load_checkpoint(RunSpec(config, tmp_path / "cut").last_checkpoint)
    assert content["cuda_rng"] is not None and content["extra"]["step"] == 40


def test_checkpoint_of_gpu_continues_on_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train.rungs": [0.5, 1.0], "train.device": "auto"}
    config = make_config("self", 8, **changes)
    for record in train(config, tmp_path, cpus=1):
        if record["event"] == "rung":
            break
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (*_, final) = train(config, tmp_path, cpus=1)
    assert final["event"] == "final" and final["step"] == 8


def test_nccl_with_one_process_equals_no_process_group(tmp_path: Path) -> None:
    """DDP, torch's SyncBatchNorm and our collectives on NCCL."""
    config = make_config("self", STEPS, **FLOAT32)

    def gradients(parallel: bool) -> dict[str, torch.Tensor]:
        trainer = Trainer(RunSpec(config, tmp_path / str(parallel)))
        if parallel:
            student = sync_batchnorm.convert_sync_batchnorm(trainer.student, cuda=True)
            assert any(isinstance(layer, nn.SyncBatchNorm) for layer in student.modules())
            trainer.student = student.cuda()
            trainer.forward = builders.wrap_student(trainer.student, config, 2)
        plan = trainer.plan
        (batch,) = local_batches(trainer.reader, plan, config.data, 0, 1)
        trainer.train_step(batch)
        return grads(trainer.student)

    alone = gradients(parallel=False)
    torch.distributed.init_process_group(
        "nccl", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1
    )
    try:
        together = gradients(parallel=True)
        device = torch.device("cuda")
        assert mean_values({"a": 2.0}, device) == {"a": 2.0}
        assert gather_objects("x") == ["x"]
        assert sum_matrix(np.eye(2, dtype=np.int64), device).tolist() == [[1, 0], [0, 1]]
    finally:
        torch.distributed.destroy_process_group()
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-3, rtol=1e-2, msg=name)


def test_rung_has_the_memory_of_the_gpu(tmp_path: Path) -> None:
    rung = next(r for r in train(make_config("self", STEPS), tmp_path) if r["event"] == "rung")
    memory = rung["memory"]
    assert 0 < memory["gpu_process_bytes"] < memory["gpu_bytes"]
    assert 0 < memory["process_bytes"] < memory["machine_bytes"]
