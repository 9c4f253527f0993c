"""Laws: the rules of the method, one test or more for each, on networks small enough to see through.

References: the formulas of the method (weak-to-strong consistency, relations, style, EMA, ramps), written out where
they are short, and the laws themselves: what is masked has no influence, what has weight 0 changes no number, what is
identical has no distance, what does not depend on position is unmoved by a permutation.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cid_ray.config import Config, Model, override
from cid_ray.core import augment, losses
from cid_ray.core.method import Features, LossTerms, Method, Weights
from cid_ray.core.model import Segmenter, make_teacher, pad_to_stride, pool_feat
from cid_ray.data.batches import Plan, local_batches
from cid_ray.run.run import Job, Run
from tests.core.pieces import (
    CHANNELS,
    CLASSES,
    KINDS,
    TERMS,
    Disturbed,
    PointNet,
    Watching,
    box_of,
    config,
    draw_of,
    features,
    gradients,
    make_batch,
    method_of,
    some_valid,
)
from tests.support import TINY

STEP = 40
VARIANTS = (  # every relation, every statistic, every target, both kinds of pseudo-label
    {"relation_kind": "self", "relation_grid": 2},
    {"relation_kind": "cross", "style_stat": "gram", "pseudo": "soft"},
    {"relation_kind": "transfer", "style_target": "symmetric"},
    {"relation_kind": "class", "style_target": "labeled", "style_stat": "gram", "pseudo": "soft"},
)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v["relation_kind"])


def terms_of(cfg: Config, student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor], step: int) -> LossTerms:
    method: Method = method_of(cfg)
    return method(student, teacher, batch, step)


def moves_padding(cfg: Config, step: int, valid: Tensor) -> bool:
    """Whether mixing brings padding to where there was none, and the reverse."""
    moved = augment.mix(valid, box_of(cfg, step, len(valid)))
    return bool((moved & ~valid).any() and (valid & ~moved).any())


def mixed_step(cfg: Config, valid: Tensor) -> int:
    return next(step for step in range(1000) if moves_padding(cfg, step, valid))


@lru_cache
def cutmix_step(seed: int) -> int:
    """A step whose strong view of two images is CutMix and nothing else."""
    cfg, valid = override({"train": {"seed": seed}}, ()), make_batch(count=2)["valid_u"]
    limits = torch.tensor([augment.P_JITTER, augment.P_GRAY, augment.P_BLUR])
    plain = (s for s in range(50_000) if (draw_of(cfg, s, 2).chance[:, :3] >= limits).all())
    return next(step for step in plain if moves_padding(cfg, step, valid))


# ---- stop-gradient --------------------------------------------------------------------------------------------------


@each_variant
def test_no_gradient_reaches_the_teacher(variant: dict[str, Any]) -> None:
    student, teacher = PointNet(0), PointNet(1)
    terms = terms_of(config(**variant), student, teacher, make_batch(), STEP)
    terms.total.backward()
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


@pytest.mark.parametrize("kind", ["cross", "self", "class", "transfer", "style", "gram style"])
def test_no_gradient_reaches_the_teachers_features(kind: str) -> None:
    student_x, student_u, teacher_x, teacher_u = (features(seed).requires_grad_() for seed in range(4))
    valid = some_valid(0)
    classes = torch.randint(0, CLASSES, (4, 6, 5), generator=torch.Generator().manual_seed(0))
    own = losses.channel_statistics(student_x, valid), losses.batch_gram(student_u, valid)
    theirs = losses.channel_statistics(teacher_u, valid), losses.batch_gram(teacher_x, valid)
    four = student_x, student_u, teacher_x, teacher_u
    loss = {
        "cross": lambda: losses.cross_relation_loss(*four, valid, valid, 0.1),
        "self": lambda: losses.self_relation_loss(student_u, teacher_u, valid, 2),
        "class": lambda: losses.class_relation_loss(*four, classes, classes, CLASSES, 0.1),
        "transfer": lambda: losses.transfer_relation_loss(student_u, valid, theirs[1]),
        "style": lambda: losses.style_loss(own[0], theirs[0]),
        "gram style": lambda: losses.gram_style_loss(own[1], theirs[1]),
    }[kind]()
    loss.backward()
    assert teacher_x.grad is None and teacher_u.grad is None
    assert student_x.grad is not None or student_u.grad is not None


# ---- masks ----------------------------------------------------------------------------------------------------------


@each_variant
def test_what_the_labeled_image_shows_on_255_changes_neither_losses_nor_gradients(variant: dict[str, Any]) -> None:
    batch, net = make_batch(), PointNet(0)
    other = copy.deepcopy(batch)
    hidden = (batch["mask_x"] == 255)[:, None].expand(-1, 3, -1, -1)
    other["image_x"][hidden] = torch.randint(0, 256, (int(hidden.sum()),), dtype=torch.uint8)
    terms = [terms_of(config(**variant), net, PointNet(1), b, STEP) for b in (batch, other)]
    assert_same_losses_and_gradients(*terms, net)


@each_variant
def test_what_networks_say_on_padding_and_255_changes_neither_losses_nor_gradients(variant: dict[str, Any]) -> None:
    cfg, batch, net, teacher = config(**variant), make_batch(), PointNet(0), PointNet(1)
    step = mixed_step(cfg, batch["valid_u"])
    hidden_x, hidden_w = batch["mask_x"] == 255, ~batch["valid_u"]
    hidden_s = augment.mix(hidden_w, box_of(cfg, step))
    found = [
        terms_of(
            cfg,
            Disturbed(net, torch.cat([hidden_x, hidden_s]), seed),
            Disturbed(teacher, torch.cat([hidden_x, hidden_w]), seed + 10),
            batch,
            step,
        )
        for seed in range(2)
    ]
    assert_same_losses_and_gradients(found[0], found[1], net)
    assert 0 < found[0].mask_ratio < 1


def assert_same_losses_and_gradients(one: LossTerms, other: LossTerms, net: nn.Module) -> None:
    for name in TERMS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), msg=lambda m, n=name: f"{n}: {m}")
        assert getattr(one, name) > 0
    torch.testing.assert_close(gradients(one.total, net), gradients(other.total, net))


def test_a_cell_averages_its_valid_pixels_only_and_is_valid_when_any_of_them_is() -> None:
    feat, valid = features(0, (1, 2, 32, 32)), torch.zeros(1, 32, 32, dtype=torch.bool)
    valid[0, :5, :7] = True
    pooled, cells = pool_feat(feat, valid)
    assert cells.tolist() == [[[[1, 0], [0, 0]]]]
    torch.testing.assert_close(pooled[0, :, 0, 0], feat[0, :, :5, :7].mean((1, 2)))
    assert pooled[0, :, 1].abs().max() == 0


def test_the_pseudo_label_loss_divides_by_valid_pixels_not_by_kept_ones() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    probs = torch.tensor([[0.99, 0.6, 0.99, 0.6]])[:, None, None].squeeze(1)
    probs = torch.stack([probs, 1 - probs], 1)
    valid = torch.tensor([[[True, True, True, False]]])
    loss, ratio = losses.pseudo_label_loss(logits, probs, valid, conf_thresh=0.95, kind="hard", temperature=1.0)
    assert loss.item() == pytest.approx(2 * math.log(2) / 3)
    assert ratio.item() == pytest.approx(2 / 3)


def test_the_supervised_loss_is_the_mean_over_labeled_pixels() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, CLASSES, 8, 8, generator=rng), make_batch(size=(8, 8))["mask_x"][:2].long()
    mask[0, :2] = 255
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0])
    for w in (None, weights):
        expected = F.cross_entropy(logits, mask, weight=w, ignore_index=255)
        torch.testing.assert_close(losses.supervised_loss(logits, mask, w), expected)


def test_masks_of_nothing_but_255_give_zero_and_no_gradient() -> None:
    batch, net = make_batch(), PointNet(0)
    batch["mask_x"].fill_(255)
    terms = terms_of(config("supervised"), net, PointNet(1), batch, STEP)
    assert terms.total == 0
    assert all(g.abs().max() == 0 for g in gradients(terms.total, net).values())


# ---- float32 under mixed precision ----------------------------------------------------------------------------------


@each_variant
def test_relations_and_variances_are_float32_under_bf16_autocast(variant: dict[str, Any]) -> None:
    """The networks here compute in float32 themselves, so every difference would be the losses' own rounding."""
    cfg, batch, net, teacher = config(**variant), make_batch(count=2), PointNet(0), PointNet(1)
    step = cutmix_step(cfg.train.seed)
    plain = terms_of(cfg, net, teacher, batch, step)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms_of(cfg, net, teacher, batch, step)
    for name in TERMS:
        assert getattr(mixed, name).dtype == torch.float32
        torch.testing.assert_close(getattr(mixed, name), getattr(plain, name), msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(gradients(mixed.total, net), gradients(plain.total, net))


def test_the_student_sees_the_same_pixels_under_bf16_autocast() -> None:
    batch, plain, mixed = make_batch(count=8), Watching(PointNet(0)), Watching(PointNet(0))
    terms_of(config(), plain, PointNet(1), batch, STEP)
    with torch.autocast("cpu", torch.bfloat16):
        terms_of(config(), mixed, PointNet(1), batch, STEP)
    assert torch.equal(plain.seen[0], mixed.seen[0])


def test_statistics_of_bf16_features_are_those_of_the_same_numbers_in_float32() -> None:
    feat, valid = features(0).bfloat16(), some_valid(0)
    own, same = losses.channel_statistics(feat, valid), losses.channel_statistics(feat.float(), valid)
    for a, b in ((own.mean, same.mean), (own.std, same.std)):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    assert torch.equal(losses.batch_gram(feat, valid), losses.batch_gram(feat.float(), valid))
    one, two = features(1).bfloat16(), features(2).bfloat16()
    for loss in (losses.self_relation_loss, lambda a, b, v: losses.cross_relation_loss(a, a, b, b, v, v, 0.1)):
        assert torch.equal(loss(one, two, valid), loss(one.float(), two.float(), valid))


# ---- same geometry for teacher and student --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross", "self", "class"])
def test_the_teachers_features_are_mixed_with_the_students_boxes(kind: str) -> None:
    """Where the strong view is CutMix alone and both networks are the same, the distance is 0 only in one geometry."""
    cfg, batch, net = config(relation_kind=kind), make_batch(count=2), PointNet(0)
    step = cutmix_step(cfg.train.seed)
    assert terms_of(cfg, net, copy.deepcopy(net), batch, step).relation.abs() < 1e-6
    assert terms_of(cfg, net, PointNet(1), batch, step).relation > 1e-4


def test_relations_of_mixed_and_unmixed_features_differ() -> None:
    cfg, batch, net = config(), make_batch(count=2), PointNet(0)
    box = box_of(cfg, cutmix_step(cfg.train.seed), 2)
    _, feat = net(batch["image_u"])
    plain, cells = pool_feat(feat, batch["valid_u"])
    mixed, _ = pool_feat(augment.mix(feat, box), augment.mix(batch["valid_u"], box))
    assert losses.self_relation_loss(mixed, plain, cells) > 1e-4


def test_pseudo_labels_are_those_of_the_mixed_image() -> None:
    cfg, batch, net, teacher = config("mean_teacher"), make_batch(count=2), PointNet(0), PointNet(1)
    step = cutmix_step(cfg.train.seed)
    box = box_of(cfg, step, 2)
    image, valid = augment.mix(batch["image_u"], box), augment.mix(batch["valid_u"], box)
    probs = teacher(image)[0].softmax(1)
    per_pixel = F.cross_entropy(net(image)[0], probs.argmax(1), reduction="none")
    kept = (probs.amax(1) >= 0.5) & valid
    terms = terms_of(cfg, net, teacher, batch, step)
    torch.testing.assert_close(terms.pseudo, (per_pixel * kept).sum() / valid.sum())
    torch.testing.assert_close(terms.mask_ratio, kept.sum() / valid.sum())


# ---- relations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross", "class", "self", "self 2x2", "self 3x3"])
def test_a_relation_is_at_no_distance_from_itself(kind: str) -> None:
    x, u, valid_x, valid_u = features(0), features(1), some_valid(0), some_valid(1)
    classes = torch.randint(0, CLASSES, (4, 6, 5), generator=torch.Generator().manual_seed(0))
    loss = {
        "cross": lambda: losses.cross_relation_loss(x, u, x.clone(), u.clone(), valid_x, valid_u, 0.1),
        "class": lambda: losses.class_relation_loss(x, u, x.clone(), u.clone(), classes, classes.flip(1), CLASSES, 0.1),
        "self": lambda: losses.self_relation_loss(u, u.clone(), valid_u),
        "self 2x2": lambda: losses.self_relation_loss(u, u.clone(), valid_u, 2),
        "self 3x3": lambda: losses.self_relation_loss(u, u.clone(), valid_u, 3),
    }[kind]()
    assert loss.abs() < 1e-6


def test_self_relations_do_not_see_where_pixels_are() -> None:
    student, teacher, valid = features(0), features(1), torch.ones(4, 1, 6, 5)
    expected = losses.self_relation_loss(student, teacher, valid)
    assert expected > 0.01
    found = losses.self_relation_loss(permuted(student, 0), permuted(teacher, 1), valid)
    torch.testing.assert_close(found, expected)


def test_cross_relations_do_not_see_where_pixels_are_when_both_images_move_alike() -> None:
    four, valid = [features(seed) for seed in range(4)], torch.ones(4, 1, 6, 5)
    expected = losses.cross_relation_loss(*four, valid, valid, 0.1)
    found = losses.cross_relation_loss(*(permuted(f, 0) for f in four), valid, valid, 0.1)
    torch.testing.assert_close(found, expected)
    apart = losses.cross_relation_loss(*(permuted(f, i % 2) for i, f in enumerate(four)), valid, valid, 0.1)
    assert not torch.allclose(apart, expected)


def permuted(feat: Tensor, seed: int) -> Tensor:
    order = torch.randperm(feat[0, 0].numel(), generator=torch.Generator().manual_seed(seed))
    return feat.flatten(2)[..., order].reshape(feat.shape)


@pytest.mark.parametrize("grid", [2, 3])
def test_a_grid_of_self_relations_is_the_mean_over_its_blocks(grid: int) -> None:
    shape = (2, CHANNELS, 12, 6)
    student, teacher, valid = features(0, shape), features(1, shape), some_valid(0, (2, 1, 12, 6))
    h, w = 12 // grid, 6 // grid
    blocks = [(..., slice(i * h, i * h + h), slice(j * w, j * w + w)) for i in range(grid) for j in range(grid)]
    each = [losses.self_relation_loss(student[b], teacher[b], valid[b]) for b in blocks]
    torch.testing.assert_close(losses.self_relation_loss(student, teacher, valid, grid), torch.stack(each).mean())


def test_a_grid_that_does_not_divide_the_cells_pads_with_invalid_ones() -> None:
    student, teacher, valid = features(0), features(1), some_valid(0)
    pad = [F.pad(f, (0, 1, 0, 0)) for f in (student, teacher, valid)]
    found = losses.self_relation_loss(student, teacher, valid, 3)
    torch.testing.assert_close(found, losses.self_relation_loss(*pad, 3))


def test_relation_grid_reaches_the_loss() -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    whole, dense = (terms_of(config(relation_grid=m), net, teacher, batch, STEP) for m in (1, 2))
    assert whole.relation != dense.relation
    assert whole.sup == dense.sup and whole.style == dense.style


def test_transfer_holds_the_unlabeled_gram_against_the_followed_labeled_one() -> None:
    cfg = config(relation_kind="transfer")
    method, own, theirs = method_of(cfg), pooled(0), pooled(2)
    method.follow(theirs)
    nothing = torch.zeros(4, 96, 96)
    found = method.relation(own, theirs, nothing.long(), nothing[:, None], nothing > 0)
    labeled, unlabeled = losses.batch_gram(theirs.x, theirs.valid_x), losses.batch_gram(own.u, own.valid_u)
    torch.testing.assert_close(found, (unlabeled - labeled).square().sum() / CHANNELS)
    same = Features(own.x, theirs.x, own.valid_x, theirs.valid_x)
    assert method.relation(same, theirs, nothing.long(), nothing[:, None], nothing > 0) < 1e-10


def test_class_relations_use_confident_pseudo_labels_only() -> None:
    """With a threshold that nothing passes, no class is shared and there is nothing to distil."""
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    some, none = (terms_of(config(relation_kind="class", conf_thresh=c), net, teacher, batch, STEP) for c in (0.5, 1.0))
    assert some.relation > 0
    assert none.mask_ratio == 0 and none.relation == 0


def test_class_relations_ignore_classes_that_one_side_lacks() -> None:
    x, u, valid = features(0), features(1), torch.ones(4, 6, 5).long()
    classes_x, classes_u = valid * 0, valid * 0
    classes_x[:2], classes_u[:2] = 1, 1
    classes_x[3], classes_u[3] = 2, 3
    other_x, other_u = x.clone(), u.clone()
    other_x[3], other_u[3] = features(5)[3], features(6)[3]
    teacher = features(2), features(3)
    found = [
        losses.class_relation_loss(a, b, *teacher, classes_x, classes_u, CLASSES, 0.1)
        for a, b in ((x, u), (other_x, other_u))
    ]
    torch.testing.assert_close(found[0], found[1])
    assert found[0] > 0


# ---- style ----------------------------------------------------------------------------------------------------------


def test_style_does_not_see_where_pixels_are_nor_in_which_image() -> None:
    feat, valid = features(0), torch.ones(4, 1, 6, 5)
    moved = permuted(feat, 0).transpose(0, 1).flatten(1)
    moved = moved[:, torch.randperm(moved.shape[1], generator=torch.Generator().manual_seed(1))]
    moved = moved.reshape(CHANNELS, 4, 6, 5).transpose(0, 1)
    own, same = losses.channel_statistics(feat, valid), losses.channel_statistics(moved, valid)
    torch.testing.assert_close((same.mean, same.std), (own.mean, own.std))
    torch.testing.assert_close(losses.batch_gram(moved, valid), losses.batch_gram(feat, valid))


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_style_is_free_of_scale(scale: float) -> None:
    valid = some_valid(0)

    def both(factor: float) -> tuple[Tensor, Tensor]:
        own, target = features(0) * factor, features(1) * factor
        return (
            losses.style_loss(losses.channel_statistics(own, valid), losses.channel_statistics(target, valid)),
            losses.gram_style_loss(losses.batch_gram(own, valid), losses.batch_gram(target, valid)),
        )

    torch.testing.assert_close(both(scale), both(1.0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 0.1, 0.01])
def test_style_is_not_won_by_shrinking_the_features(scale: float) -> None:
    own, target, valid = features(0), features(1), some_valid(0)
    anchor = losses.channel_statistics(target, valid)
    shrunk = losses.style_loss(losses.channel_statistics(target * scale, valid), anchor)
    assert shrunk > 2 * abs(math.log(scale)) ** 2 * 0.45
    smaller = losses.style_loss(losses.channel_statistics(own * 0.01, valid), anchor)
    assert smaller > losses.style_loss(losses.channel_statistics(own, valid), anchor)


def test_style_is_0_where_the_statistics_are_those_of_the_target() -> None:
    feat, valid = features(0), some_valid(0)
    style, gram = losses.channel_statistics(feat, valid), losses.batch_gram(feat, valid)
    assert losses.style_loss(style, style) == 0 and losses.gram_style_loss(gram, gram) == 0


def pooled(seed: int) -> Features:
    return Features(features(seed).requires_grad_(), features(seed + 1).requires_grad_(), some_valid(0), some_valid(1))


@pytest.mark.parametrize("stat", ["mean_std", "gram"])
@pytest.mark.parametrize("target", ["unlabeled", "labeled", "symmetric"])
def test_style_target_says_which_side_is_drawn_to_which(target: str, stat: str) -> None:
    method, own, theirs = method_of(config(style_target=target, style_stat=stat)), pooled(0), pooled(2)
    method.follow(theirs)

    def pull(mover: Tensor, valid: Tensor, anchor: Tensor, valid_anchor: Tensor) -> Tensor:
        if stat == "gram":
            return losses.gram_style_loss(losses.batch_gram(mover, valid), losses.batch_gram(anchor, valid_anchor))
        return losses.style_loss(
            losses.channel_statistics(mover, valid), losses.channel_statistics(anchor, valid_anchor)
        )

    to_pool = pull(own.x, own.valid_x, theirs.u, theirs.valid_u)
    to_labels = pull(own.u, own.valid_u, theirs.x, theirs.valid_x)
    expected = {"unlabeled": to_pool, "labeled": to_labels, "symmetric": (to_pool + to_labels) / 2}[target]
    found = method.style(own)
    torch.testing.assert_close(found, expected)
    grads = torch.autograd.grad(found, (own.x, own.u), allow_unused=True)
    assert [g is not None for g in grads] == [target != "labeled", target != "unlabeled"]


# ---- EMA ------------------------------------------------------------------------------------------------------------


FOLLOWED: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"mean_u", "std_u"}),
    ({"style_target": "labeled"}, {"mean_x", "std_x"}),
    ({"style_target": "symmetric", "style_stat": "gram"}, {"gram_x", "gram_u"}),
    ({"relation_kind": "transfer"}, {"gram_x", "mean_u", "std_u"}),
    ({"relation_kind": "transfer", "style_target": "symmetric"}, {"gram_x", "mean_x", "std_x", "mean_u", "std_u"}),
    ({"relation_kind": "transfer", "style_weight": 0.0}, {"gram_x"}),
    ({"relation_kind": "transfer", "relation_weight": 0.0, "style_weight": 0.0}, set()),
]


@pytest.mark.parametrize(("options", "names"), FOLLOWED)
def test_statistics_are_followed_only_where_a_term_is_held_against_them(
    options: dict[str, Any], names: set[str]
) -> None:
    found = dict(method_of(config(**options)).named_buffers())
    assert found.keys() - {"updates", "class_weights"} == names


@pytest.mark.parametrize("target", ["unlabeled", "labeled", "symmetric"])
@pytest.mark.parametrize("kind", ["self", "cross", "transfer", "class"])
def test_the_teacher_sees_labeled_images_only_where_they_are_compared(kind: str, target: str) -> None:
    batch, net, seen = make_batch(), PointNet(0), []

    def teacher(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(images))
        return PointNet(1)(images)

    method_of(config(relation_kind=kind, style_target=target))(net, teacher, batch, STEP)
    compared = kind != "self" or target != "unlabeled"
    assert seen == [len(batch["image_u"]) + compared * len(batch["image_x"])]


@pytest.mark.parametrize(
    "options",
    [{"relation_kind": "transfer", "style_target": "symmetric"}, {"style_target": "symmetric", "style_stat": "gram"}],
)
def test_statistics_are_set_by_the_first_batch_then_decay(options: dict[str, Any]) -> None:
    """keep_t = min(1 - 1/(t+1), stats_decay): the mean of all batches first, then an exponential one."""
    method = method_of(config(stats_decay=0.6, **options))
    expected: dict[str, Tensor] = {}
    for t in range(6):
        theirs = pooled(10 * t)
        keep = min(1 - 1 / (t + 1), 0.6)
        for side, feat, valid in (("x", theirs.x, theirs.valid_x), ("u", theirs.u, theirs.valid_u)):
            style = losses.channel_statistics(feat, valid)
            fresh = {"mean": style.mean, "std": style.std, "gram": losses.batch_gram(feat, valid)}
            for name, value in fresh.items():
                key = f"{name}_{side}"
                expected[key] = keep * expected[key] + (1 - keep) * value.detach() if t else value.detach()
        method.follow(theirs)
        found = {k: v for k, v in method.named_buffers() if k in expected}
        assert found.keys() >= set(method.followed)
        torch.testing.assert_close(found, {k: expected[k] for k in found})
        assert not any(v.requires_grad for v in found.values())


def test_followed_statistics_are_those_of_the_teacher_on_the_unmixed_weak_view() -> None:
    cfg, batch = config(style_target="symmetric"), make_batch()
    net, teacher = PointNet(0), PointNet(1)
    method = method_of(cfg)
    method(net, teacher, batch, mixed_step(cfg, batch["valid_u"]))
    for side, image, valid in (
        ("u", batch["image_u"], batch["valid_u"]),
        ("x", batch["image_x"], batch["mask_x"] != 255),
    ):
        style = losses.channel_statistics(*pool_feat(teacher(image)[1], valid))
        torch.testing.assert_close(getattr(method, f"mean_{side}"), style.mean)
        torch.testing.assert_close(getattr(method, f"std_{side}"), style.std)


def small_student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_the_teacher_follows_weights_and_float_buffers_with_the_published_ramp() -> None:
    """alpha_t = min(1 - 1/(t+1), decay), t counting updates from 0; integer buffers are copied."""
    student, decay = small_student(), 0.7
    teacher = make_teacher(student, decay)
    expected = {k: v.clone() for k, v in student.state_dict().items()}
    for t in range(8):
        with torch.no_grad():
            for value in student.parameters():
                value.add_(torch.randn_like(value))
        student(torch.randn(2, 3, 8, 8))
        teacher.update(student, step=t)
        alpha = min(1 - 1 / (t + 1), decay)
        for name, value in student.state_dict().items():
            moves = value.is_floating_point()
            expected[name] = alpha * expected[name] + (1 - alpha) * value if moves else value.clone()
        torch.testing.assert_close(dict(teacher.module.state_dict()), expected, msg=lambda m, t=t: f"update {t}: {m}")


def test_the_teacher_of_a_run_follows_the_published_ramp(tmp_path: Path) -> None:
    cfg = override(TINY, {"method": "supervised", "data.batch_size": 2, "train.ema_decay": 0.7})
    run = Run(Job(cfg, tmp_path, threads=1))
    plan = Plan.of(cfg.data, run.split, cfg.train.seed, feed_pool=False)
    expected = {k: v.detach().clone() for k, v in run.student.named_parameters()}
    for t, batch in enumerate(local_batches(run.reader, plan, cfg.data, 0, 5)):
        run.train_step(batch)
        alpha = min(1 - 1 / (t + 1), 0.7)
        for name, value in run.student.named_parameters():
            expected[name] = alpha * expected[name] + (1 - alpha) * value.detach()
        found = dict(run.teacher.module.named_parameters())
        torch.testing.assert_close(found, expected, msg=lambda m, t=t: f"step {t}: {m}")


def test_the_teacher_is_in_eval_mode_and_asks_for_no_gradient() -> None:
    teacher = make_teacher(small_student(), 0.9)
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


# ---- weights, ramps, the sum ----------------------------------------------------------------------------------------


def test_a_ramp_is_exp_of_minus_5_times_the_squared_distance_to_its_end() -> None:
    for t in (0.0, 0.1, 0.5, 0.9):
        assert losses.ramp_up(t * 0.2, 0.2) == pytest.approx(math.exp(-5 * (1 - t) ** 2))
    assert losses.ramp_up(0.2, 0.2) == losses.ramp_up(0.9, 0.2) == losses.ramp_up(0.0, 0.0) == 1


def test_pseudo_labels_have_no_weight_in_the_burn_in_and_ramp_up_after_it() -> None:
    assert losses.pseudo_ramp(0.0, 0.3, 0.2) == losses.pseudo_ramp(0.299, 0.3, 0.2) == 0
    assert losses.pseudo_ramp(0.4, 0.3, 0.2) == pytest.approx(math.exp(-5 * 0.25))
    assert losses.pseudo_ramp(0.3, 0.3, 0.2) == pytest.approx(math.exp(-5))
    assert losses.pseudo_ramp(0.5, 0.3, 0.2) == losses.pseudo_ramp(0.3, 0.3, 0.0) == 1


def test_a_burn_in_gives_the_numbers_of_pool_bn_until_it_ends() -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    late, never = config("mean_teacher", pseudo_burn_in=0.5), config("pool_bn")
    assert_identical(terms_of(late, net, teacher, batch, 49), terms_of(never, net, teacher, batch, 49), net)
    assert terms_of(late, net, teacher, batch, 50).pseudo > 0


@pytest.mark.parametrize(("method", "expected"), [("supervised", 0), ("pool_bn", 0), ("mean_teacher", 1), ("cid", 3)])
def test_a_method_is_a_set_of_weights(method: str, expected: int) -> None:
    weights = Weights.at(method, config().loss, 0.5)
    assert sum(w > 0 for w in (weights.pseudo, weights.relation, weights.style)) == expected
    assert weights.pseudo > 0 or method in ("supervised", "pool_bn")


@pytest.mark.parametrize("step", [0, 7, 90])
def test_the_total_is_half_of_labels_and_pseudo_labels_plus_ramped_relation_and_style(step: int) -> None:
    cfg = config(
        pseudo_weight=0.7, pseudo_burn_in=0.02, pseudo_ramp=0.2, relation_weight=1.3, relation_ramp=0.15,
        style_weight=0.4, style_ramp=0.3,
    )  # fmt: skip
    t = step / 100

    def rise(progress: float, share: float) -> float:
        return math.exp(-5 * (1 - min(1, progress / share)) ** 2)

    lam_u = 0.7 * rise(t - 0.02, 0.2) if t >= 0.02 else 0
    terms = terms_of(cfg, PointNet(0), PointNet(1), make_batch(), step)
    expected = (terms.sup + lam_u * terms.pseudo) / 2
    expected = expected + 1.3 * rise(t, 0.15) * terms.relation + 0.4 * rise(t, 0.3) * terms.style
    torch.testing.assert_close(terms.total, expected)
    assert terms.relation > 0 and terms.style > 0 and (terms.pseudo > 0) == (step > 1)


# ---- a weight of 0 --------------------------------------------------------------------------------------------------


def assert_identical(one: LossTerms, other: LossTerms, net: nn.Module, other_net: nn.Module | None = None) -> None:
    for name in TERMS:
        assert torch.equal(getattr(one, name).detach(), getattr(other, name).detach()), name
    theirs = gradients(other.total, other_net or net)
    for name, value in gradients(one.total, net).items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    ("zeroed", "method", "without"),
    [
        ({"relation_weight": 0, "style_weight": 0}, "cid", "mean_teacher"),
        ({"pseudo_weight": 0}, "mean_teacher", "pool_bn"),
        ({"pseudo_weight": 0, "relation_weight": 0, "style_weight": 0}, "cid", "pool_bn"),
    ],
)
def test_weights_of_0_give_bit_by_bit_the_method_without_the_terms(
    zeroed: dict[str, Any], method: str, without: str
) -> None:
    """On a whole network with batch norm and dropout, from the same state of torch's generator."""
    options = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32, "decoder_dropout": 0.2}
    torch.manual_seed(0)
    student = Segmenter(Model(encoder="test_efficientnet", decoder="fpn", decoder_options=options), CLASSES)
    twin, teacher, batch = copy.deepcopy(student), make_teacher(student, 0.9), make_batch()
    found = []
    for cfg, net in ((config(method, **zeroed), student), (config(without), twin)):
        torch.manual_seed(1)
        found.append(method_of(cfg, 32)(net.train(), teacher, batch, STEP))
    assert_identical(*found, student, twin)
    assert (found[0].pseudo > 0) == (without == "mean_teacher")
    buffers = dict(twin.named_buffers())
    assert all(torch.equal(v, buffers[k]) for k, v in student.named_buffers())


@pytest.mark.parametrize("term", ["pseudo", "relation", "style"])
def test_a_weight_of_0_changes_no_other_term(term: str) -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    whole = terms_of(config(), net, teacher, batch, STEP)
    without = terms_of(config(**{f"{term}_weight": 0}), net, teacher, batch, STEP)
    assert getattr(without, term) == 0 and getattr(whole, term) > 0
    for name in {"sup", "pseudo", "relation", "style"} - {term}:
        assert torch.equal(getattr(without, name), getattr(whole, name)), name


# ---- which forwards are made ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "student_sees", "teacher_sees"),
    [("supervised", [4], []), ("pool_bn", [8], []), ("mean_teacher", [8], [4]), ("cid", [8], [4])],
)
def test_each_network_sees_all_it_needs_in_one_forward(
    method: str, student_sees: list[int], teacher_sees: list[int]
) -> None:
    student, teacher = Watching(PointNet(0)), Watching(PointNet(1))
    terms_of(config(method), student, teacher, make_batch(), STEP)
    assert [len(images) for images in student.seen] == student_sees
    assert [len(images) for images in teacher.seen] == teacher_sees


def test_supervised_needs_no_unlabeled_images_and_is_half_the_cross_entropy() -> None:
    batch, net = make_batch(), PointNet(0)
    labeled = {name: value for name, value in batch.items() if name.endswith("_x")}
    terms = terms_of(config("supervised"), net, PointNet(1), labeled, STEP)
    expected = F.cross_entropy(net(batch["image_x"])[0], batch["mask_x"].long(), ignore_index=255)
    torch.testing.assert_close(terms.total, expected / 2)
    assert terms.pseudo == terms.relation == terms.style == 0


def test_pool_bn_differs_from_supervised_by_the_pool_in_batch_norm_alone() -> None:
    net, teacher, batch = PointNet(0), PointNet(1), make_batch()
    one, other = (terms_of(config(m), net, teacher, batch, STEP) for m in ("supervised", "pool_bn"))
    torch.testing.assert_close(one.total, other.total)
    torch.manual_seed(0)
    normed = Segmenter(Model(encoder="test_efficientnet", decoder="fpn"), CLASSES).train()
    one, other = (method_of(config(m), 128)(normed, teacher, batch, STEP) for m in ("supervised", "pool_bn"))
    assert not torch.allclose(one.total, other.total)


# ---- pseudo-labels --------------------------------------------------------------------------------------------------


def random_pseudo() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits, other = (3 * torch.randn(2, CLASSES, 6, 5, generator=rng) for _ in range(2))
    return logits, other.softmax(1), torch.rand(2, 6, 5, generator=rng) < 0.8


def pseudo_loss(kind: str, temperature: float, conf_thresh: float = 0.0) -> Tensor:
    return losses.pseudo_label_loss(
        *random_pseudo(), conf_thresh=conf_thresh, kind=kind, temperature=temperature
    )[0]  # fmt: skip


def test_soft_targets_at_temperature_1_are_the_teachers_probabilities() -> None:
    logits, probs, valid = random_pseudo()
    per_pixel = -(probs * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(pseudo_loss("soft", 1.0), per_pixel[valid].mean())


def test_soft_targets_sharpen_to_hard_ones_as_the_temperature_falls() -> None:
    torch.testing.assert_close(pseudo_loss("soft", 0.0005), pseudo_loss("hard", 0.0005), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(pseudo_loss("soft", 0.5), pseudo_loss("hard", 0.5), rtol=1e-2)


def test_mask_ratio_is_the_share_of_valid_pixels_at_or_above_the_threshold() -> None:
    logits, probs, valid = random_pseudo()
    for thresh in (0.0, 0.5, 0.9, 1.0):
        _, ratio = losses.pseudo_label_loss(logits, probs, valid, conf_thresh=thresh, kind="hard", temperature=1.0)
        expected = sum(c >= thresh for c in probs.amax(1)[valid].tolist()) / int(valid.sum())
        assert ratio.item() == pytest.approx(expected)


def test_a_batch_of_padding_alone_gives_0_and_not_nan() -> None:
    batch = make_batch()
    batch["valid_u"].zero_()
    batch["mask_x"].fill_(255)
    for kind in KINDS:
        terms = terms_of(config(relation_kind=kind), PointNet(0), PointNet(1), batch, STEP)
        assert all(math.isfinite(value) for value in terms.floats().values())
        assert terms.pseudo == 0 and terms.mask_ratio == 0 and terms.sup == 0


def test_the_points_of_these_tests_keep_to_themselves() -> None:
    """What the tests above rest on: PointNet's pixels do not see each other, and its canvas is the model's."""
    image = make_batch()["image_u"]
    other = image.clone()
    other[..., 10, 20] = 255 - other[..., 10, 20]
    for before, after in zip(PointNet(0)(image), PointNet(0)(other), strict=True):
        differs = (before != after).any(1)
        assert differs.sum() == differs[:, 10, 20].sum() == len(image)
    assert pad_to_stride(torch.zeros(1, 3, 65, 81)).shape[-2:] == (96, 96)
