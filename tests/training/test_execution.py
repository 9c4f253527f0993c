"""Laws of how a step is computed: compiled, in bf16, in another memory layout, it is the same step.

The reference is the plain float32 run. Tolerances: compiled and contiguous kernels add up in
another order, a thousandth. bf16 keeps 8 bits: a hundredth of the total, and a twentieth of a term,
because relation and style are differences of close numbers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cid_ray.config import build_config
from cid_ray.training.loop import make_batches
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.tiny_run import SMALL_DPT, TINY

STEPS = 3
TERMS = ("total", "sup", "pseudo", "relation", "style")
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {},
    "vit": {
        "model.encoder": "test_vit",
        "model.decoder": "dpt",
        "model.decoder_options": SMALL_DPT,
    },
    "frozen-vit": {
        "model.encoder": "test_vit",
        "model.decoder": "dpt",
        "model.decoder_options": SMALL_DPT,
        "model.freeze": "encoder",
        "train.micro_batch_size": 4,
    },
}


def losses(
    table: Path, out: Path, model: str, contiguous: bool = False, **train: Any
) -> list[list[float]]:
    """The terms of each of a few steps."""
    changes = {
        **MODELS[model],
        "data.table": str(table),
        "data.crop_size": 64,
        "loss.pseudo": "soft",
        "loss.conf_thresh": 0.0,  # a threshold would turn rounding into other pixels
        "optim.lr": 1e-3,
        "train.steps": STEPS,
        "train.device": "cpu",
    }
    options = {f"train.{name}": value for name, value in train.items()}
    trainer = Trainer(RunSpec(build_config(TINY, {**changes, **options}), out, num_threads=1))
    if contiguous:
        for net in (trainer.student, trainer.teacher.module):
            net.to(memory_format=torch.contiguous_format)
    steps = [trainer.train_step(batch).to_floats() for batch in make_batches(trainer)]
    return [[step[name] for name in TERMS] for step in steps]


@pytest.fixture(scope="module")
def plain(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: losses(small_demo, tmp_path_factory.mktemp(name), name) for name in MODELS}


def assert_close(found: list[list[float]], expected: list[list[float]], rel: float) -> None:
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert min(other) > 0, "a term is not at work"
        assert one == pytest.approx(other, rel=rel, abs=rel / 100), f"step {step}: {TERMS}"


@pytest.mark.parametrize("model", MODELS)
def test_bf16_losses_are_those_of_float32(
    small_demo: Path, tmp_path: Path, plain: dict[str, Any], model: str
) -> None:
    found = losses(small_demo, tmp_path, model, amp="bf16")
    assert found != plain[model], "bf16 was not used"
    totals = [[step[0] for step in steps] for steps in (found, plain[model])]
    assert totals[0] == pytest.approx(totals[1], rel=1e-2)
    assert_close(found, plain[model], rel=5e-2)


@pytest.mark.parametrize("model", MODELS)
def test_contiguous_losses_are_those_of_channels_last(
    small_demo: Path, tmp_path: Path, plain: dict[str, Any], model: str
) -> None:
    found = losses(small_demo, tmp_path, model, contiguous=True)
    assert_close(found, plain[model], rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on the CPU needs g++")
@pytest.mark.parametrize("model", MODELS)
def test_compiled_losses_are_those_of_the_plain_network(
    small_demo: Path, tmp_path: Path, plain: dict[str, Any], model: str
) -> None:
    torch.compiler.reset()
    found = losses(small_demo, tmp_path, model, compile=True)
    assert_close(found, plain[model], rel=1e-3)
