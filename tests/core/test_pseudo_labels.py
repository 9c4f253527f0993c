"""Laws of the class-adaptive threshold and of distribution alignment, against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cid_ray.core import pseudo_labels
from cid_ray.core.pseudo_labels import MIN_FREQUENCY, PseudoLabels, class_counts
from tests.helpers.core_pieces import CLASSES, PointNet, loss_terms, make_batch, make_config

DECAY = 0.9


def make_pseudo_labels(**loss: Any) -> PseudoLabels:
    return PseudoLabels(make_config(**loss).loss, CLASSES, DECAY)


def random_probs(seed: int, favour: int | None = None) -> Tensor:
    """f32[2,K,6,5]; `favour` is a class that gets more."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, CLASSES, 6, 5, generator=rng)
    if favour is not None:
        logits[:, favour] += 3
    return logits.softmax(1)


def random_valid(seed: int) -> Tensor:
    return torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(seed)) < 0.8


def random_labels(seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (2, 6, 5), generator=rng)
    labels[:, 0] = 255
    return labels


def test_fixed_threshold_changes_nothing() -> None:
    probs = random_probs(0)
    found, thresh = make_pseudo_labels(conf_thresh=0.7)(probs, random_valid(0), random_labels(0))
    assert found is probs and thresh.item() == pytest.approx(0.7)


def test_class_adaptive_threshold_is_freematchs_over_the_pixels_of_each_class() -> None:
    module = make_pseudo_labels(threshold="class_adaptive", conf_thresh=0.123)
    overall, by_class = 0.0, np.zeros(CLASSES)
    lacks_class = range(3)
    for t in range(12):
        probs, valid = random_probs(t), random_valid(t)
        if t in lacks_class:
            probs[:, 2] *= 1e-3
            probs /= probs.sum(1, keepdim=True)
        decay = min(1 - 1 / (t + 1), DECAY)
        conf, classes = (v[valid].numpy() for v in probs.max(1))
        overall = decay * overall + (1 - decay) * conf.mean()
        for k in range(CLASSES):
            if (classes == k).any():
                current = conf[classes == k].mean()
                former = by_class[k] or current
                by_class[k] = decay * former + (1 - decay) * current
        found, thresh = module(probs, valid, random_labels(t))
        assert found is probs
        known = np.where(by_class > 0, by_class, overall)
        np.testing.assert_allclose(thresh.numpy(), overall * known / known.max(), rtol=1e-5)
        assert (by_class[2] == 0) == (t in lacks_class)


def test_class_that_was_never_predicted_follows_the_overall_confidence() -> None:
    module = make_pseudo_labels(threshold="class_adaptive")
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    for sure in (0.3, 0.6, 0.9, 0.9):
        probs = torch.full((1, CLASSES, 2, 2), (1 - sure) / (CLASSES - 1))
        probs[:, 0] = sure
        _, thresh = module(probs, valid, random_labels(0))
        assert thresh[3] == pytest.approx(thresh[0].item())


def test_a_class_that_the_teacher_is_less_sure_of_gets_a_lower_threshold() -> None:
    probs = torch.full((1, CLASSES, 2, 2), 0.02)
    probs[0, 0, 0], probs[0, 1, 1] = 0.94, 0.94
    probs[0, 1, 1, 0] = 0.5
    probs /= probs.sum(1, keepdim=True)
    module = make_pseudo_labels(threshold="class_adaptive")
    _, thresh = module(probs, torch.ones(1, 2, 2, dtype=torch.bool), random_labels(0))
    assert thresh[1] < thresh[0] == thresh.max()
    kept, classes = pseudo_labels.confident_pixels(probs, thresh)
    assert classes.tolist() == [[[0, 0], [1, 1]]] and kept[0, 0].all() and not kept[0, 1].all()


def test_padding_counts_neither_in_thresholds_nor_in_frequencies() -> None:
    options = {"threshold": "class_adaptive", "align_distribution": True}
    probs, valid, labels = random_probs(0), random_valid(0), random_labels(0)
    noise = torch.where(valid[:, None], probs, random_probs(7, favour=1))
    one, one_thresh = make_pseudo_labels(**options)(probs, valid, labels)
    other, other_thresh = make_pseudo_labels(**options)(noise, valid, labels)
    torch.testing.assert_close(one_thresh, other_thresh)
    whole = valid[:, None].expand_as(one)
    torch.testing.assert_close(one[whole], other[whole])


def test_aligned_probabilities_are_remixmatchs() -> None:
    module = make_pseudo_labels(align_distribution=True)
    frequencies = {"labels": np.zeros(CLASSES), "predictions": np.zeros(CLASSES)}
    for t in range(12):
        probs, valid, labels = random_probs(t, favour=3), random_valid(t), random_labels(t)
        decay = min(1 - 1 / (t + 1), DECAY)
        labeled = labels[labels != 255].numpy()
        current = {
            "labels": np.bincount(labeled, minlength=CLASSES) / len(labeled),
            "predictions": probs.movedim(1, -1)[valid].mean(0).numpy(),
        }
        for name, value in current.items():
            frequencies[name] = decay * frequencies[name] + (1 - decay) * value
        ratio = frequencies["labels"] / frequencies["predictions"]
        expected = probs.numpy() * ratio[:, None, None]
        expected /= expected.sum(1, keepdims=True)
        found, _ = module(probs, valid, labels)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    # It undoes the preference for one class.
    assert found.mean((0, 2, 3))[3] < 0.75 * probs.mean((0, 2, 3))[3]


def test_alignment_keeps_probabilities_of_classes_without_labels_bounded() -> None:
    module = make_pseudo_labels(align_distribution=True)
    labels = torch.zeros(2, 6, 5, dtype=torch.int64)
    found, _ = module(random_probs(0), random_valid(0), labels)
    assert found.isfinite().all() and (found > 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(2, 6, 5))
    assert found[:, 1].max() < found[:, 0].max() * 1e3 * MIN_FREQUENCY * 1e3


def test_weighted_class_counts_are_sums() -> None:
    labels, weight = random_labels(0), torch.rand(2, 6, 5)
    for k in range(CLASSES):
        assert class_counts(labels, CLASSES)[k] == (labels == k).sum()
        expected = weight[labels == k].sum()
        torch.testing.assert_close(class_counts(labels, CLASSES, weight)[k], expected)


@pytest.mark.parametrize(
    "option", [{"threshold": "class_adaptive"}, {"align_distribution": True}], ids=str
)
def test_options_reach_the_loss(option: dict[str, Any]) -> None:
    batch, net, teacher = make_batch(), PointNet(0), PointNet(1)
    plain = loss_terms(make_config("mean_teacher"), net, teacher, batch)
    changed = loss_terms(make_config("mean_teacher", **option), net, teacher, batch)
    assert changed.pseudo != plain.pseudo and changed.sup == plain.sup


@pytest.mark.parametrize("step", [0, 3])
def test_crops_without_a_labeled_pixel_leave_the_alignment_as_it_was(step: int) -> None:
    module = make_pseudo_labels(align_distribution=True)
    for t in range(step):
        module(random_probs(t), random_valid(t), random_labels(t))
    frequency = module.frequency
    assert frequency is not None
    before = frequency["labels"].clone()
    probs, valid = random_probs(9), torch.ones(2, 6, 5, dtype=torch.bool)
    found, _ = module(probs, valid, torch.full((2, 6, 5), 255))
    if step:
        torch.testing.assert_close(frequency["labels"], before)
    else:
        torch.testing.assert_close(found, probs)
