"""Law: no gradient reaches the teacher, through the whole method or through a single loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cid_ray.core import losses
from cid_ray.core.cross_relation import cross_relation_loss
from tests.helpers.core_pieces import (
    CLASSES,
    PointNet,
    each_variant,
    loss_terms,
    make_batch,
    make_config,
    random_feats,
    random_valid,
)


@each_variant
def test_backward_of_total_leaves_teacher_without_gradient(variant: dict[str, Any]) -> None:
    student, teacher = PointNet(0), PointNet(1)
    loss_terms(make_config(**variant), student, teacher, make_batch()).total.backward()
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


@pytest.mark.parametrize("kind", ["cross", "self", "class", "transfer", "style", "gram style"])
def test_backward_of_loss_leaves_teacher_features_without_gradient(kind: str) -> None:
    feats = random_feats()
    for feat in feats:
        feat.requires_grad_()
    student_x, student_u, teacher_x, teacher_u = feats
    valid = random_valid(0)
    rng = torch.Generator().manual_seed(0)
    classes = torch.randint(0, CLASSES, (4, 6, 5), generator=rng)
    student_stats = losses.channel_stats(student_x, valid)
    teacher_stats = losses.channel_stats(teacher_u, valid)
    student_gram = losses.batch_gram(student_u, valid)
    teacher_gram = losses.batch_gram(teacher_x, valid)
    loss = {
        "cross": lambda: cross_relation_loss(*feats, valid, valid, 0.1),
        "self": lambda: losses.self_relation_loss(student_u, teacher_u, valid, 2),
        "class": lambda: losses.class_relation_loss(*feats, classes, classes, CLASSES, 0.1),
        "transfer": lambda: losses.transfer_relation_loss(student_u, valid, teacher_gram),
        "style": lambda: losses.style_loss(student_stats, teacher_stats),
        "gram style": lambda: losses.gram_style_loss(student_gram, teacher_gram),
    }[kind]()
    loss.backward()
    assert teacher_x.grad is None and teacher_u.grad is None
    assert student_x.grad is not None or student_u.grad is not None
