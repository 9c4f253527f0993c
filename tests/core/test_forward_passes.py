"""Law: each network makes one forward per step, on just the images that the method needs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cid_ray.config import ModelConfig
from cid_ray.core.model import Segmenter
from tests.helpers.core_pieces import (
    CLASSES,
    STEP,
    PointNet,
    RecordingNet,
    loss_terms,
    make_batch,
    make_config,
    make_method,
)


@pytest.mark.parametrize(
    ("method", "student_sees", "teacher_sees"),
    [
        ("supervised", [4], []),
        ("pool_bn", [8], []),
        ("mean_teacher", [8], [4]),
        ("unimatch_v2", [12], [4]),
        ("self_training", [8], [4]),
        ("cid", [8], [4]),
    ],
)
def test_each_network_sees_all_it_needs_in_one_forward(
    method: str, student_sees: list[int], teacher_sees: list[int]
) -> None:
    student, teacher = RecordingNet(PointNet(0)), RecordingNet(PointNet(1))
    loss_terms(make_config(method), student, teacher, make_batch())
    assert [len(images) for images in student.seen] == student_sees
    assert [len(images) for images in teacher.seen] == teacher_sees


def test_supervised_without_unlabeled_images_is_half_the_cross_entropy() -> None:
    batch, net = make_batch(), PointNet(0)
    labeled = {name: value for name, value in batch.items() if name.endswith("_x")}
    terms = loss_terms(make_config("supervised"), net, PointNet(1), labeled)
    logits, mask = net(batch["image_x"])[0], batch["mask_x"].long()
    torch.testing.assert_close(terms.total, F.cross_entropy(logits, mask, ignore_index=255) / 2)
    assert terms.pseudo == terms.relation == terms.style == 0


def test_pool_bn_differs_from_supervised_only_through_batch_norm() -> None:
    net, teacher, batch = PointNet(0), PointNet(1), make_batch()
    configs = [make_config(method) for method in ("supervised", "pool_bn")]
    one, other = (loss_terms(config, net, teacher, batch) for config in configs)
    torch.testing.assert_close(one.total, other.total)
    torch.manual_seed(0)
    model = ModelConfig(encoder="test_efficientnet", decoder="fpn")
    with_batch_norm = Segmenter(model, CLASSES).train()
    one, other = (
        make_method(config, 128)(with_batch_norm, teacher, batch, STEP) for config in configs
    )
    assert not torch.allclose(one.total, other.total)
