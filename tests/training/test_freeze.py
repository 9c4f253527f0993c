"""Laws of `model.freeze=encoder`: the encoder is bit-equal after training, the rest learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cid_ray.config import Config, build_config
from cid_ray.core.dropout import GlobalDropout
from cid_ray.core.model import Segmenter
from cid_ray.core.sync_batchnorm import convert_sync_batchnorm
from cid_ray.data.table import Table
from cid_ray.training import checkpoint, footprint
from cid_ray.training.loop import make_batches, train
from cid_ray.training.preflight import check_data
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.tiny_run import TINY, TINY_VIT

CNN: dict[str, Any] = {}


def frozen_config(table: Path, **changes: Any) -> Config:
    fixed = {"data.table": str(table), "model.freeze": "encoder", "train.steps": 4}
    return build_config(TINY, {**fixed, **changes})


def encoder_of(net: nn.Module) -> dict[str, Tensor]:
    encoder: Any = net.get_submodule("net.encoder")
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def head_of(net: nn.Module) -> dict[str, Tensor]:
    state = net.state_dict()
    return {name: value.clone() for name, value in state.items() if ".encoder." not in name}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("model", [CNN, TINY_VIT], ids=["cnn", "vit"])
@pytest.mark.parametrize(
    "train_as",
    [
        {},
        {"train.micro_batch_size": 4, "data.crop_size": 64},
        {"train.on_nan": "skip", "method": "supervised"},
    ],
    ids=["plain", "micro-batches", "supervised"],
)
def test_frozen_encoder_is_bit_equal_after_steps_and_the_head_is_not(
    small_demo: Path, tmp_path: Path, model: dict[str, Any], train_as: dict[str, Any]
) -> None:
    config = frozen_config(small_demo, **model, **train_as)
    trainer = Trainer(RunSpec(config, tmp_path, num_threads=1))
    networks = (trainer.student, trainer.teacher.module)
    encoders = [encoder_of(net) for net in networks]
    heads = [head_of(net) for net in networks]
    for batch in make_batches(trainer):
        trainer.train_step(batch)
    for net, encoder, head in zip(networks, encoders, heads, strict=True):
        assert_equal(encoder_of(net), encoder)
        moved = [name for name, value in head_of(net).items() if not torch.equal(value, head[name])]
        assert len(moved) > len(head) / 2
    # Evaluation puts the student back into training.
    trainer.evaluate("val")
    assert trainer.student.training and not trainer.student.get_submodule("net.encoder").training
    assert trainer.student.get_submodule("net.decoder").training


def test_optimizer_and_checkpoint_hold_no_moments_of_a_frozen_encoder(
    small_demo: Path, tmp_path: Path
) -> None:
    config = frozen_config(small_demo, **{"optim.name": "adamw"})
    trainer = Trainer(RunSpec(config, tmp_path, num_threads=1))
    (group,) = trainer.optimizer.param_groups
    encoder = {id(weight) for weight in trainer.student.get_submodule("net.encoder").parameters()}
    assert group["params"] and not encoder & {id(weight) for weight in group["params"]}
    trained = trainer.student.parameters()
    assert {id(weight) for weight in trained} - encoder == {id(w) for w in group["params"]}
    table = Table(small_demo)
    frozen = footprint.disk_bytes(config, trainer.student, table)
    whole_config = build_config(config.model_dump(), {"model.freeze": "none"})
    whole = Segmenter(whole_config.model, table.num_classes)
    assert frozen.best == footprint.disk_bytes(whole_config, whole, table).best
    assert frozen.last < footprint.disk_bytes(whole_config, whole, table).last


def test_resumed_run_with_a_frozen_encoder_repeats_the_uninterrupted_one(
    small_demo: Path, tmp_path: Path
) -> None:
    config = frozen_config(small_demo, **{"optim.name": "adamw"})
    whole, cut = (RunSpec(config, tmp_path / name, num_threads=1) for name in ("a", "b"))
    list(train(whole))
    for record in train(cut):
        if record["event"] == "rung":
            break
    list(train(cut))
    states = [checkpoint.load_checkpoint(spec.last_checkpoint) for spec in (whole, cut)]
    for part in ("student", "teacher"):
        assert_equal(states[1][part], states[0][part])


def test_frozen_encoder_stays_frozen_when_its_batch_norm_is_converted(small_demo: Path) -> None:
    """Several workers have batch norm layers of their own type, with new weights."""
    net = Segmenter(frozen_config(small_demo).model, 3)
    convert_sync_batchnorm(net, cuda=False)
    encoder = net.train().net.encoder
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert not any(module.training for module in encoder.modules())
    assert all(weight.requires_grad for weight in net.net.decoder.parameters())
    assert not any(isinstance(module, GlobalDropout) for module in encoder.modules())


def test_frozen_random_encoder_is_a_warning_and_trained_weights_are_none(
    small_demo: Path, tmp_path: Path
) -> None:
    config = frozen_config(small_demo)
    (line,) = [text for text in check_data(config).messages if "freeze" in text]
    assert "model.weights=none" in line and "model.weights=pretrained" in line
    layered = frozen_config(small_demo, **{"optim.layer_decay": 0.5})
    lines = [text for text in check_data(layered).messages if "freeze" in text]
    assert len(lines) == 2 and "optim.layer_decay has no effect" in lines[1]
    net = Segmenter(config.model, 3)
    path = tmp_path / "own.safetensors"
    save_file(net.net.encoder.model.state_dict(), path)
    config = frozen_config(small_demo, **{"model.weights": str(path)})
    assert not [text for text in check_data(config).messages if "freeze" in text]
