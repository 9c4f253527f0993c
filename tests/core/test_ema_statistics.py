"""Laws of the teacher's statistics: which are tracked, from which images, and how they decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cid_ray.core import losses
from cid_ray.core.features import pool_features
from cid_ray.core.relation import Relation
from cid_ray.core.style import Style
from tests.helpers.core_pieces import (
    CHANNELS,
    CLASSES,
    STEP,
    PointNet,
    make_batch,
    make_config,
    make_method,
    random_features,
    step_that_moves_padding,
)

TRACKED: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"mean_u", "std_u"}),
    ({"style_target": "labeled"}, {"mean_x", "std_x"}),
    ({"style_target": "symmetric", "style_stat": "gram"}, {"gram_x", "gram_u"}),
    ({"relation_kind": "transfer"}, {"gram_x", "mean_u", "std_u"}),
    (
        {"relation_kind": "transfer", "style_target": "symmetric"},
        {"gram_x", "mean_x", "std_x", "mean_u", "std_u"},
    ),
    ({"relation_kind": "transfer", "style_weight": 0.0}, {"gram_x"}),
    ({"relation_kind": "transfer", "relation_weight": 0.0, "style_weight": 0.0}, set()),
]


@pytest.mark.parametrize(("options", "names"), TRACKED)
def test_statistics_are_tracked_only_where_a_loss_compares_with_them(
    options: dict[str, Any], names: set[str]
) -> None:
    found = dict(make_method(make_config(**options)).named_buffers())
    kept = {name.split(".")[-1] for name in found if not name.startswith("pseudo_labels.")}
    assert kept - {"updates", "class_weights"} == names


@pytest.mark.parametrize("target", ["unlabeled", "labeled", "symmetric"])
@pytest.mark.parametrize("kind", ["self", "cross", "transfer", "class"])
def test_teacher_sees_labeled_images_only_where_a_loss_compares_them(
    kind: str, target: str
) -> None:
    batch, seen = make_batch(), []

    def teacher(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(images))
        logits, feat = PointNet(1)(images)
        return logits, feat

    method = make_method(make_config(relation_kind=kind, style_target=target))
    method(PointNet(0), teacher, batch, STEP)
    compared = kind != "self" or target != "unlabeled"
    assert seen == [len(batch["image_u"]) + compared * len(batch["image_x"])]


@pytest.mark.parametrize(
    "options",
    [
        {"relation_kind": "transfer", "style_target": "symmetric"},
        {"style_target": "symmetric", "style_stat": "gram"},
    ],
)
def test_tracked_statistics_are_set_by_the_first_batch_then_decay(options: dict[str, Any]) -> None:
    """decay_t = min(1 - 1/(t+1), 0.9): the mean of all batches first, then an EMA."""
    loss = make_config(**options).loss
    relation = Relation(loss, CLASSES, (CHANNELS, 6, 5), decay=0.9, stride=32)
    style = Style(loss, CHANNELS, decay=0.9)
    emas = {style.update: style.ema}
    if relation.ema is not None:
        emas[relation.update] = relation.ema
    expected: dict[str, Tensor] = {}
    for t in range(14):
        teacher = random_features(10 * t)
        decay = min(1 - 1 / (t + 1), 0.9)
        sides = (("x", teacher.x, teacher.valid_x), ("u", teacher.u, teacher.valid_u))
        for side, feat, valid in sides:
            stats = losses.channel_stats(feat, valid)
            gram = losses.batch_gram(feat, valid)
            for stat, value in {"mean": stats.mean, "std": stats.std, "gram": gram}.items():
                name, current = f"{stat}_{side}", value.detach()
                former = expected.get(name, current)
                expected[name] = decay * former + (1 - decay) * current if t else current
        for update, ema in emas.items():
            update(teacher)
            found = {name: ema[name] for name in ema.names}
            torch.testing.assert_close(found, {name: expected[name] for name in found})
            assert not any(v.requires_grad for v in found.values())


def test_tracked_statistics_are_those_of_the_unmixed_weak_view() -> None:
    config, batch, teacher = make_config(style_target="symmetric"), make_batch(), PointNet(1)
    method = make_method(config)
    method(PointNet(0), teacher, batch, step_that_moves_padding(config, batch["valid_u"]))
    for side, image, valid in (
        ("u", batch["image_u"], batch["valid_u"]),
        ("x", batch["image_x"], batch["mask_x"] != 255),
    ):
        stats = losses.channel_stats(*pool_features(teacher(image)[1], valid, 32))
        assert method.style is not None
        torch.testing.assert_close(method.style.ema[f"mean_{side}"], stats.mean)
        torch.testing.assert_close(method.style.ema[f"std_{side}"], stats.std)
