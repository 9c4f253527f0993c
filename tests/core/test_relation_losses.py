"""Laws of the relation losses: no distance to itself, permutations, grids, shared classes.

Their values are compared with plain loops in test_losses_against_numpy.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cid_ray.core import losses
from cid_ray.core.cross_relation import cross_relation_loss
from cid_ray.core.features import Features
from cid_ray.core.relation import Relation
from tests.helpers.core_pieces import (
    CHANNELS,
    CLASSES,
    PointNet,
    loss_terms,
    make_batch,
    make_config,
    permute_cells,
    random_feat,
    random_feats,
    random_features,
    random_valid,
)


@pytest.mark.parametrize("kind", ["cross", "class", "self", "self 2x2", "self 3x3"])
def test_relation_loss_of_identical_features_is_zero(kind: str) -> None:
    x, u, valid_x, valid_u = random_feat(0), random_feat(1), random_valid(0), random_valid(1)
    rng = torch.Generator().manual_seed(0)
    classes = torch.randint(0, CLASSES, (4, 6, 5), generator=rng)
    feats = (x, u, x.clone(), u.clone())
    loss = {
        "cross": lambda: cross_relation_loss(*feats, valid_x, valid_u, 0.1),
        "class": lambda: losses.class_relation_loss(*feats, classes, classes.flip(1), CLASSES, 0.1),
        "self": lambda: losses.self_relation_loss(u, u.clone(), valid_u),
        "self 2x2": lambda: losses.self_relation_loss(u, u.clone(), valid_u, 2),
        "self 3x3": lambda: losses.self_relation_loss(u, u.clone(), valid_u, 3),
    }[kind]()
    assert loss.abs() < 1e-6


def test_self_relation_of_permuted_cells_stays_the_same() -> None:
    student, teacher, valid = random_feat(0), random_feat(1), torch.ones(4, 1, 6, 5)
    expected = losses.self_relation_loss(student, teacher, valid)
    assert expected > 0.01
    permuted = (permute_cells(student, 0), permute_cells(teacher, 1))
    torch.testing.assert_close(losses.self_relation_loss(*permuted, valid), expected)


def test_cross_relation_stays_the_same_only_when_both_images_are_permuted_alike() -> None:
    valid = torch.ones(4, 1, 6, 5)

    def loss(order_x: int | None, order_u: int | None) -> Tensor:
        orders = (order_x, order_u, order_x, order_u)
        student_x, student_u, teacher_x, teacher_u = (
            feat if order is None else permute_cells(feat, order)
            for feat, order in zip(random_feats(), orders, strict=True)
        )
        return cross_relation_loss(student_x, student_u, teacher_x, teacher_u, valid, valid, 0.1)

    torch.testing.assert_close(loss(0, 0), loss(None, None))
    assert not torch.allclose(loss(0, 1), loss(None, None))


@pytest.mark.parametrize("grid", [2, 3])
def test_self_relation_on_a_grid_is_the_mean_over_its_blocks(grid: int) -> None:
    shape = (2, CHANNELS, 12, 6)
    student, teacher = random_feat(0, shape), random_feat(1, shape)
    valid = random_valid(0, (2, 1, 12, 6))
    h, w = 12 // grid, 6 // grid
    blocks = [
        (..., slice(i * h, i * h + h), slice(j * w, j * w + w))
        for i in range(grid)
        for j in range(grid)
    ]
    each = [losses.self_relation_loss(student[b], teacher[b], valid[b]) for b in blocks]
    found = losses.self_relation_loss(student, teacher, valid, grid)
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_self_relation_on_a_grid_that_does_not_divide_pads_with_invalid_cells() -> None:
    student, teacher, valid = random_feat(0), random_feat(1), random_valid(0)
    found = losses.self_relation_loss(student, teacher, valid, 3)
    student, teacher, valid = (F.pad(values, (0, 1, 0, 0)) for values in (student, teacher, valid))
    torch.testing.assert_close(found, losses.self_relation_loss(student, teacher, valid, 3))


def test_relation_grid_of_the_config_changes_the_relation_only() -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    whole, dense = (loss_terms(make_config(relation_grid=m), net, teacher, batch) for m in (1, 2))
    assert whole.relation != dense.relation
    assert whole.sup == dense.sup and whole.style == dense.style


def test_transfer_compares_the_unlabeled_gram_with_the_ema_of_the_labeled_one() -> None:
    loss = make_config(relation_kind="transfer").loss
    relation = Relation(loss, CLASSES, (CHANNELS, 6, 5), decay=0.9, stride=32)
    student, teacher = random_features(0), random_features(2)
    unused: Any = None
    found = relation(student, teacher, unused, None)
    labeled = losses.batch_gram(teacher.x, teacher.valid_x)
    unlabeled = losses.batch_gram(student.u, student.valid_u)
    torch.testing.assert_close(found, (unlabeled - labeled).square().sum() / CHANNELS)
    same = Features(student.x, teacher.x, student.valid_x, teacher.valid_x)
    assert relation(same, teacher, unused, None) < 1e-10


def test_class_relation_uses_confident_pseudo_labels_only() -> None:
    """With a threshold that nothing reaches, no class is shared and the loss is 0."""
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    some, none = (
        loss_terms(make_config(relation_kind="class", conf_thresh=c), net, teacher, batch)
        for c in (0.3, 1.0)
    )
    assert some.relation > 0
    assert none.mask_ratio == 0 and none.relation == 0


def test_class_relation_ignores_classes_of_one_side_only() -> None:
    x, u, zeros = random_feat(0), random_feat(1), torch.zeros(4, 6, 5).long()
    classes_x, classes_u = zeros.clone(), zeros.clone()
    classes_x[:2] = 1
    classes_u[:2] = 1
    classes_x[3] = 2  # class 2 is labeled only, class 3 unlabeled only
    classes_u[3] = 3
    other_x, other_u = x.clone(), u.clone()
    other_x[3] = random_feat(5)[3]
    other_u[3] = random_feat(6)[3]
    teacher = random_feat(2), random_feat(3)
    found = [
        losses.class_relation_loss(*student, *teacher, classes_x, classes_u, CLASSES, 0.1)
        for student in ((x, u), (other_x, other_u))
    ]
    torch.testing.assert_close(found[0], found[1])
    assert found[0] > 0


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_gradient_of_the_cross_relation_is_that_of_its_formula(temperature: float) -> None:
    """It is computed with the loss; the reference is autograd through the plain formula."""
    feats = [random_feat(seed).double().requires_grad_() for seed in range(2)]
    teacher = [random_feat(seed).double() for seed in (2, 3)]
    valid = [random_valid(seed).double() for seed in (0, 1)]
    valid[0][1] = 0  # an image without a valid cell

    def hat(feat: Tensor, mask: Tensor) -> Tensor:
        return F.normalize((feat * mask).flatten(2), dim=2, eps=losses.EPS)

    def relation(x: Tensor, u: Tensor) -> Tensor:
        return torch.einsum("acn,bdn->abcd", hat(x, valid[0]), hat(u, valid[1])) / temperature

    log_pred = relation(*feats).log_softmax(-1)
    target = relation(*teacher).log_softmax(-1)
    distances = (target.exp() * (target - log_pred)).sum(-1).mean(-1)
    expected = distances[[0, 2, 3]].mean()
    x, u, teacher_x, teacher_u, valid_x, valid_u = (v.float() for v in (*feats, *teacher, *valid))
    found = cross_relation_loss(x, u, teacher_x, teacher_u, valid_x, valid_u, temperature)
    torch.testing.assert_close(found, expected.float())
    grads = torch.autograd.grad(3 * found, feats)
    for grad, reference in zip(grads, torch.autograd.grad(3 * expected, feats), strict=True):
        torch.testing.assert_close(grad, reference, rtol=1e-3, atol=1e-6)
        assert reference.abs().max() > 1e-4


def test_class_relation_with_one_shared_class_is_zero() -> None:
    """A channel over one class is a sign: nothing to compare."""
    feats = random_feats()
    one, two = (torch.zeros(4, 6, 5).long() for _ in range(2))
    two[0] = 1
    alone = losses.class_relation_loss(*feats, one, one, CLASSES, 0.1)
    assert alone == 0
    assert losses.class_relation_loss(*feats, two, two, CLASSES, 0.1) > 0
