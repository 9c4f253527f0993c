"""Laws of `optim.layer_decay`: rates by layer, as timm groups them; at 1 there are two groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from cid_ray.config import Config, InputError, build_config
from cid_ray.core.model import Segmenter
from cid_ray.training.loop import make_batches, train
from cid_ray.training.optimizer import make_optimizer
from cid_ray.training.preflight import check_data
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.tiny_run import TINY

LR, DECAY = 1e-3, 0.75


def layered(encoder: str, decoder: str = "dpt", /, **changes: Any) -> Config:
    fixed = {
        "model.encoder": encoder,
        "model.decoder": decoder,
        "model.decoder_options": {},
        "optim.lr": LR,
        "optim.head_lr_mult": 10.0,
        "optim.layer_decay": DECAY,
    }
    return build_config(TINY, {**fixed, **changes})


def rates(config: Config, net: Segmenter) -> dict[str, float]:
    """Name of every weight -> its learning rate."""
    groups = make_optimizer(config, net).param_groups
    rate_of = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    assert len(rate_of) == sum(len(group["params"]) for group in groups)
    return {name: rate_of[id(weight)] for name, weight in net.named_parameters()}


def test_rates_of_a_vit_fall_from_the_last_block_to_the_patch_embedding() -> None:
    config = layered("test_vit")  # six blocks
    found = rates(config, Segmenter(config.model, 3))
    encoder = "net.encoder.model"
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token"):
        assert found[f"{encoder}.{name}"] == pytest.approx(LR * DECAY**6)
    for block in range(6):
        rate = found[f"{encoder}.blocks.{block}.mlp.fc1.weight"]
        assert rate == pytest.approx(LR * DECAY ** (5 - block))
    outside = {rate for name, rate in found.items() if not name.startswith(encoder)}
    assert outside == {LR * 10.0}


@pytest.mark.parametrize("encoder", ["test_vit3", "vit_small_patch14_reg4_dinov2"])
def test_rates_of_a_vit_are_timms(encoder: str) -> None:
    config = layered(encoder)
    net = Segmenter(config.model, 3)
    groups = param_groups_layer_decay(net.net.encoder.model, layer_decay=DECAY)
    scale_of = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    weights = dict(net.named_parameters())
    for name, rate in rates(config, net).items():
        if ".encoder." in name:
            assert rate == pytest.approx(LR * scale_of[id(weights[name])]), name


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_rates_of_a_cnn_are_timms_but_for_its_classifier(encoder: str) -> None:
    config = layered(encoder, "fpn")
    torch.manual_seed(0)
    found = rates(config, Segmenter(config.model, 3))
    whole = timm.create_model(encoder)
    groups = param_groups_layer_decay(whole, layer_decay=DECAY)
    scale_of = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    by_name = {n.replace(".", "_"): scale_of[id(weight)] for n, weight in whole.named_parameters()}
    prefix = "net.encoder.model."
    ratios = {
        rate / by_name[name.removeprefix(prefix).replace(".", "_")]
        for name, rate in found.items()
        if name.startswith(prefix)
    }
    assert max(ratios) == pytest.approx(min(ratios))
    assert len(set(found.values())) > 3 and max(
        rate for name, rate in found.items() if name.startswith(prefix)
    ) == pytest.approx(LR)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_layer_decay_of_one_gives_encoder_and_head(name: str) -> None:
    config = layered("test_vit", **{"optim.layer_decay": 1.0, "optim.name": name})
    net = Segmenter(config.model, 3)
    encoder, head = make_optimizer(config, net).param_groups
    own = list(net.net.encoder.parameters())
    assert [id(weight) for weight in encoder["params"]] == [id(weight) for weight in own]
    assert (encoder["lr"], head["lr"]) == (LR, LR * 10.0)
    assert len(encoder["params"]) + len(head["params"]) == len(list(net.parameters()))
    assert encoder["weight_decay"] == head["weight_decay"] == config.optim.weight_decay


def test_building_the_groups_draws_no_random_number() -> None:
    config = layered("test_efficientnet", "fpn")
    net = Segmenter(config.model, 3)
    before = torch.get_rng_state()
    make_optimizer(config, net)
    assert torch.equal(torch.get_rng_state(), before)


def test_schedule_scales_every_group_and_resume_keeps_it(small_demo: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data.table": str(small_demo),
        "optim.layer_decay": DECAY,
        "optim.name": "adamw",
        "train.steps": 4,
    }
    spec = RunSpec(build_config(TINY, changes), tmp_path, num_threads=1)
    trainer = Trainer(spec)
    first = [group["lr"] for group in trainer.optimizer.param_groups]
    batches = make_batches(trainer)
    for _ in range(2):
        trainer.train_step(next(batches))
    halfway = [group["lr"] for group in trainer.optimizer.param_groups]
    factor = (1 - 2 / 4) ** trainer.config.optim.poly_power
    assert len(first) > 3 and halfway == pytest.approx([factor * rate for rate in first])
    trainer.save()
    resumed = Trainer(spec)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == halfway
    other = build_config(TINY, {**changes, "optim.layer_decay": 0.5})
    with pytest.raises(InputError, match="belongs to another run: its fingerprint"):
        list(train(RunSpec(other, tmp_path, num_threads=1)))


def test_encoder_whose_layers_timm_does_not_know_is_refused_before_training(
    small_demo: Path,
) -> None:
    config = layered("poolformer_s12", "fpn", **{"data.table": str(small_demo)})
    with pytest.raises(InputError) as caught:
        check_data(config)
    message = str(caught.value)
    assert "optim.layer_decay" in message and "poolformer_s12" in message and "\n" not in message
    check_data(layered("poolformer_s12", "fpn", **{"optim.layer_decay": 1.0}))
