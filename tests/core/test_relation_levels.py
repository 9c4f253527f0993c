"""Relations between maps of the encoder, and the memory of labeled features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cid_ray.config import InputError, ModelConfig, build_config
from cid_ray.core.cross_relation import cross_relation_loss
from cid_ray.core.distributed import BatchShard
from cid_ray.core.model import Segmenter
from cid_ray.core.relation import FeatureMemory
from cid_ray.training.builders import memory_bytes, set_encoder_levels
from cid_ray.training.loop import make_batches
from cid_ray.training.preflight import check_data
from cid_ray.training.trainer import RunSpec, Trainer
from tests.helpers.core_pieces import (
    CHANNELS,
    CLASSES,
    KINDS,
    STEP,
    PointNet,
    RecordingNet,
    gradients,
    loss_terms,
    make_batch,
    make_config,
    make_method,
    random_feat,
    random_valid,
)
from tests.helpers.tiny_run import TINY

ENCODER = "test_efficientnet"


class TwoLevels(torch.nn.Module):
    """`PointNet` that returns a second map: its features times a constant matrix."""

    def __init__(self, seed: int, mixing_seed: int = 5):
        super().__init__()
        self.net = PointNet(seed)
        rng = torch.Generator().manual_seed(mixing_seed)
        self.mixing = torch.randn(CHANNELS, CHANNELS, generator=rng)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits, feat = self.net(image)
        return logits, feat, torch.einsum("dc,bchw->bdhw", self.mixing, feat)


# ---- levels ----


@pytest.mark.parametrize("kind", KINDS)
def test_relation_over_levels_is_their_mean(kind: str) -> None:
    batch, net, teacher = make_batch(), TwoLevels(0), TwoLevels(1)
    found = {
        names: loss_terms(
            make_config(relation_kind=kind, relation_levels=list(names), conf_thresh=0.3),
            net,
            teacher,
            batch,
        )
        for names in [("encoder_4",), ("decoder", "encoder_4")]
    }
    plain = make_config(relation_kind=kind, conf_thresh=0.3)
    decoder = loss_terms(plain, net.net, teacher.net, batch)
    alone, both = found[("encoder_4",)], found[("decoder", "encoder_4")]
    torch.testing.assert_close(both.relation, (decoder.relation + alone.relation) / 2)
    assert alone.relation > 0 and alone.relation != decoder.relation
    assert both.style == decoder.style == alone.style


def test_forward_returns_the_named_maps_of_the_encoder() -> None:
    net = Segmenter(ModelConfig(encoder=ENCODER, decoder="fpn"), CLASSES).eval()
    image = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    net.encoder_levels = (2, 4)
    _, _, *maps = net(image)
    widths = net.net.encoder.out_channels
    assert [tuple(each.shape) for each in maps] == [
        (1, widths[2], 16, 24),
        (1, widths[4], 4, 6),
    ]


@pytest.mark.parametrize(
    ("encoder", "decoder", "strides"),
    [("vgg11", "unet", [1, 2, 4, 8, 16, 32]), ("test_efficientnet", "fpn", [2, 4, 8, 16, 32])],
)
def test_last_map_of_every_kind_of_encoder_can_be_compared(
    encoder: str, decoder: str, strides: list[int]
) -> None:
    model = {"encoder": encoder, "decoder": decoder}
    for number, stride in enumerate(strides, 1):
        loss = {"relation_levels": [f"encoder_{number}"]}
        config = build_config({"model": model, "loss": loss}, ())
        net = Segmenter(config.model, CLASSES).eval()
        set_encoder_levels(net, config)
        _, _, level = net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
        assert level.shape[-1] == 64 // stride
    beyond = build_config(
        {"model": model, "loss": {"relation_levels": [f"encoder_{len(strides) + 1}"]}}, ()
    )
    with pytest.raises(InputError, match=f"has encoder_1, .*encoder_{len(strides)}$"):
        set_encoder_levels(net, beyond)


@pytest.mark.parametrize("kind", KINDS)
def test_run_with_relations_of_the_encoder_trains(kind: str, tmp_path: Path) -> None:
    changes = {"loss.relation_kind": kind, "loss.relation_levels": ["encoder_3", "decoder"]}
    trainer = Trainer(RunSpec(build_config(TINY, {"method": "cid", **changes}), tmp_path))
    terms = trainer.train_step(next(iter(make_batches(trainer))))
    assert terms.relation.isfinite() and len(trainer.method.relations) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.relation_levels": ["encoder_9"]}, "has encoder_9; test_efficientnet has encoder_1"),
        (
            {"loss.relation_levels": ["encoder_4"], "model.freeze": "encoder"},
            "model.freeze=encoder keeps as they are",
        ),
    ],
)
def test_level_that_cannot_be_compared_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    config = build_config(TINY, {"method": "cid", "model.encoder": ENCODER, **changes})
    for refused in (lambda: check_data(config), lambda: Trainer(RunSpec(config, tmp_path))):
        with pytest.raises(InputError, match=message):
            refused()


# ---- the memory ----


def test_memory_holds_the_newest_images() -> None:
    memory = FeatureMemory(5, (CHANNELS, 6, 5))
    pushed = [random_feat(seed) for seed in range(3)]  # 4 images each
    for seed, feat in enumerate(pushed):
        valid, classes = random_valid(seed), torch.full((4, 6, 5), seed)
        memory.push(feat, valid, classes, BatchShard(range(4), 4))
        newest = torch.cat(pushed[: seed + 1])[-5:]
        found = sorted(f.sum().item() for f in memory.feat if f.abs().sum() > 0)
        assert found == pytest.approx(sorted(f.sum().item() for f in newest))
    assert sorted(memory.classes[:, 0, 0].tolist()) == [1, 2, 2, 2, 2]


def test_memory_smaller_than_a_batch_keeps_its_last_images() -> None:
    memory, feat = FeatureMemory(3, (CHANNELS, 6, 5)), random_feat(0)
    memory.push(feat, random_valid(0), torch.zeros(4, 6, 5).long(), BatchShard(range(4), 4))
    assert torch.equal(memory.feat, feat[1:])


def test_places_that_are_still_empty_change_no_relation() -> None:
    """The mean is over pairs with images, so a young memory does not weaken the loss."""
    x, u, teacher_u = random_feat(0), random_feat(1), random_feat(2)
    valid_x, valid_u = random_valid(0), random_valid(1)
    empty, none = torch.zeros_like(x), torch.zeros_like(valid_x)
    padded = torch.cat([x, empty])
    expected = cross_relation_loss(x, u, x, teacher_u, valid_x, valid_u, 0.1)
    found = cross_relation_loss(
        padded, u, padded, teacher_u, torch.cat([valid_x, none]), valid_u, 0.1
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "self"])
@pytest.mark.parametrize("target", ["unlabeled", "symmetric"])
def test_with_a_memory_the_teacher_sees_no_labeled_image(kind: str, target: str) -> None:
    options: dict[str, Any] = {"relation_kind": kind, "style_target": target, "labeled_memory": 4}
    options["conf_thresh"] = 0.3  # so that several classes have pseudo-labels
    batch, teacher = make_batch(), RecordingNet(PointNet(1))
    terms = loss_terms(make_config(**options), PointNet(0), teacher, batch)
    assert [len(images) for images in teacher.seen] == [len(batch["image_u"])]
    assert terms.relation > 0 and terms.style > 0


@pytest.mark.parametrize("kind", ["cross", "class"])
def test_remembered_images_of_earlier_batches_count(kind: str) -> None:
    config = make_config(relation_kind=kind, labeled_memory=8, conf_thresh=0.0)
    net, teacher = PointNet(0), PointNet(1)
    fresh, second = make_method(config), make_method(config)
    second(net, teacher, make_batch(seed=3), STEP)
    batch = make_batch()
    assert fresh(net, teacher, batch, STEP).relation != second(net, teacher, batch, STEP).relation


def test_labeled_images_get_no_gradient_of_a_relation_with_the_memory() -> None:
    """Only the unlabeled side moves: the memory has no gradient."""
    feat = random_feat(0).requires_grad_()
    memory = FeatureMemory(4, (CHANNELS, 6, 5))
    memory.push(feat, random_valid(0), torch.zeros(4, 6, 5).long(), BatchShard(range(4), 4))
    assert not memory.feat.requires_grad
    config = make_config(relation_kind="cross", labeled_memory=4)
    net = PointNet(0)
    terms = loss_terms(config, net, PointNet(1), make_batch())
    assert any(value.abs().sum() > 0 for value in gradients(terms.relation, net).values())


@pytest.mark.parametrize("kind", ["cross", "class", "self", "transfer"])
def test_checks_before_a_run_know_the_bytes_of_the_memory(kind: str, tmp_path: Path) -> None:
    changes = {
        "method": "cid",
        "loss.relation_kind": kind,
        "loss.labeled_memory": 40,
        "loss.relation_levels": ["decoder", "encoder_3"],
    }
    config = build_config(TINY, changes)
    net = Segmenter(config.model, CLASSES).eval()
    set_encoder_levels(net, config)
    trainer = Trainer(RunSpec(config, tmp_path))
    memories = [m for m in trainer.method.modules() if isinstance(m, FeatureMemory)]
    buffers = [b for m in memories for name, b in m.named_buffers() if name != "count"]
    assert memory_bytes(net, config) == sum(buffer.nbytes for buffer in buffers)
    assert len(memories) == (2 if kind in ("cross", "class") else 0)
    without = build_config(TINY, {**changes, "loss.labeled_memory": 0})
    more = check_data(config).disk.last - check_data(without).disk.last
    assert more == memory_bytes(net, config)
