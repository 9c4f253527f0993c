"""Reference: the losses in numpy, in plain loops over images, pairs, channels, classes and pixels.

The formulas are those of the method's description, in float64. Fhat is `feat` with every channel
L2-normalised over its valid cells. `cross` and `class` are the KL of softmax(R / T), `self` is the
row-normalised Gram of ICKD, and style is scale-free.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cid_ray.core import losses, pseudo_labels
from cid_ray.core.cross_relation import cross_relation_loss
from tests.helpers.core_pieces import CHANNELS, CLASSES, random_feat, random_feats, random_valid

B = 4
TEMPERATURE = 0.1


def to_numpy(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().double().numpy() for t in tensors]


def assert_close(found: Tensor, expected: float) -> None:
    assert expected > 1e-3
    assert found.item() == pytest.approx(expected, rel=2e-4)


def unit(vector: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.sqrt((vector**2).sum())
    return vector / length


def unit_channels(feat: np.ndarray, valid: np.ndarray) -> list[list[np.ndarray]]:
    """For each image and channel the vector of its cells, 0 where invalid, of length 1."""
    return [
        [unit(feat[b, c].ravel() * valid[b, 0].ravel()) for c in range(feat.shape[1])]
        for b in range(len(feat))
    ]


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max())
    return e / e.sum()


def mean_kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean over channels of KL(softmax(teacher[c] / T) || softmax(student[c] / T))."""
    total = 0.0
    for relations_t, relations_s in zip(teacher, student, strict=True):
        p, q = softmax(relations_t / TEMPERATURE), softmax(relations_s / TEMPERATURE)
        total += sum(p[i] * (np.log(p[i]) - np.log(q[i])) for i in range(len(p)))
    return total / len(teacher)


def relation(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
    return np.array([[(a * b).sum() for b in right] for a in left])


def normalised_gram(channels: list[np.ndarray]) -> np.ndarray:
    return np.array([unit(relations) for relations in relation(channels, channels)])


def test_cross_relation_equals_mean_kl_over_labeled_unlabeled_pairs() -> None:
    feats, valid_x, valid_u = random_feats(), random_valid(0), random_valid(1)
    valids = [valid_x, valid_u, valid_x, valid_u]
    units = [unit_channels(*to_numpy(f, v)) for f, v in zip(feats, valids, strict=True)]
    student_x, student_u, teacher_x, teacher_u = units
    pairs = [
        mean_kl(relation(teacher_x[i], teacher_u[j]), relation(student_x[i], student_u[j]))
        for i in range(B)
        for j in range(B)
    ]
    found = cross_relation_loss(*feats, valid_x, valid_u, TEMPERATURE)
    assert_close(found, float(np.mean(pairs)))


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_self_relation_equals_squared_distance_of_row_normalised_grams(grid: int) -> None:
    shape = (B, CHANNELS, 6, 12)
    student, teacher = random_feat(0, shape), random_feat(1, shape)
    valid = random_valid(0, (B, 1, 6, 12))
    h, w = 6 // grid, 12 // grid
    distances = []
    for i, j in np.ndindex(grid, grid):
        block = (..., slice(i * h, i * h + h), slice(j * w, j * w + w))
        units = [unit_channels(*to_numpy(f[block], valid[block])) for f in (student, teacher)]
        for channels_s, channels_t in zip(*units, strict=True):
            difference = normalised_gram(channels_s) - normalised_gram(channels_t)
            distances.append((difference**2).sum() / CHANNELS)
    found = losses.self_relation_loss(student, teacher, valid, grid)
    assert_close(found, float(np.mean(distances)))


def global_gram(feat: Tensor, valid: Tensor) -> np.ndarray:
    """Row-normalised cosines of channels over the valid cells of all images together."""
    values, mask = to_numpy(feat, valid)
    channels = [
        unit(np.concatenate([values[b, c][mask[b, 0] > 0] for b in range(B)]))
        for c in range(CHANNELS)
    ]
    return normalised_gram(channels)


def test_transfer_relation_and_gram_style_equal_squared_distance_of_batch_grams() -> None:
    feat, other, valid = random_feat(0), random_feat(1), random_valid(0)
    expected = ((global_gram(feat, valid) - global_gram(other, valid)) ** 2).sum() / CHANNELS
    target = losses.batch_gram(other, valid)
    assert_close(losses.transfer_relation_loss(feat, valid, target), expected)
    assert_close(losses.gram_style_loss(losses.batch_gram(feat, valid), target), expected)


def class_means(feat: Tensor, classes: Tensor) -> dict[int, np.ndarray]:
    """The mean feature of each class that occurs."""
    values, ids = to_numpy(feat)[0], classes.numpy()
    cells: dict[int, list[np.ndarray]] = {}
    for b, i, j in np.ndindex(*ids.shape):
        cells.setdefault(int(ids[b, i, j]), []).append(values[b, :, i, j])
    return {k: np.mean(cells[k], 0) for k in range(CLASSES) if k in cells}


def test_class_relation_equals_kl_of_prototype_relations_over_shared_classes() -> None:
    feats = random_feats()
    rng = torch.Generator().manual_seed(0)
    classes_x, classes_u = (torch.randint(0, CLASSES, (B, 6, 5), generator=rng) for _ in range(2))
    classes_x[classes_x == 1] = 255  # class 1 is unlabeled only
    classes_u[torch.rand(B, 6, 5, generator=rng) < 0.3] = 255
    means = [class_means(f, c) for f, c in zip(feats, (classes_x, classes_u) * 2, strict=True)]
    shared = sorted(set(means[0]) & set(means[1]))
    assert shared == [0, 2, 3]

    def relation_of(x: dict[int, np.ndarray], u: dict[int, np.ndarray]) -> np.ndarray:
        sides = [
            [unit(np.array([prototypes[k][c] for k in shared])) for c in range(CHANNELS)]
            for prototypes in (x, u)
        ]
        return relation(*sides)

    found = losses.class_relation_loss(*feats, classes_x, classes_u, CLASSES, TEMPERATURE)
    assert_close(found, mean_kl(relation_of(*means[2:]), relation_of(*means[:2])))


def test_prototypes_equal_class_means_and_report_absent_classes() -> None:
    feat = random_feat(0)
    rng = torch.Generator().manual_seed(0)
    classes = torch.randint(0, CLASSES, (B, 6, 5), generator=rng)
    classes[classes == 2] = 255
    found, occurs = losses.prototypes(feat, classes, CLASSES)
    assert occurs.tolist() == [True, True, False, True]
    for k, mean in class_means(feat, classes).items():
        np.testing.assert_allclose(found[k].numpy(), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("constant_channel", [False, True])
def test_style_loss_equals_scale_free_distance_of_means_and_log_deviations(
    constant_channel: bool,
) -> None:
    feats, valids = [random_feat(0), random_feat(1)], [random_valid(0), random_valid(1)]
    if constant_channel:  # a dead one: without a floor it would outweigh all others
        feats[1][:, 2] *= 1e-3
    channels = [
        [to_numpy(f)[0][:, c][to_numpy(v)[0][:, 0] > 0] for f, v in zip(feats, valids, strict=True)]
        for c in range(CHANNELS)
    ]
    scales = [max(values.std(), target.std()) for values, target in channels]
    floor = 0.1 * np.sqrt(np.mean(np.square(scales)))
    total = 0.0
    for (values, target_values), scale in zip(channels, scales, strict=True):
        distance = (values.mean() - target_values.mean()) / np.hypot(scale, floor)
        std, std_t = (np.hypot(v.std(), floor) for v in (values, target_values))
        total += distance**2 + (np.log(std) - np.log(std_t)) ** 2
    stats, target = (losses.channel_stats(f, v) for f, v in zip(feats, valids, strict=True))
    assert_close(losses.style_loss(stats, target), total / CHANNELS)


@pytest.mark.parametrize("conf_thresh", [0.0, 0.6, 0.9])
@pytest.mark.parametrize(("kind", "temperature"), [("hard", 0.5), ("soft", 0.5), ("soft", 2.0)])
def test_pseudo_label_loss_equals_masked_mean_over_valid_pixels(
    kind: str, temperature: float, conf_thresh: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    logits, other = (2 * torch.randn(2, CLASSES, 7, 5, generator=rng) for _ in range(2))
    probs, valid = other.softmax(1), torch.rand(2, 7, 5, generator=rng) < 0.7
    student, teacher = to_numpy(logits, probs)
    total, confident, count = 0.0, 0, 0
    for b, i, j in np.ndindex(2, 7, 5):
        if not valid[b, i, j]:
            continue
        count += 1
        p = teacher[b, :, i, j]
        if p.max() < conf_thresh:
            continue
        confident += 1
        hard = kind == "hard"
        target = np.eye(CLASSES)[p.argmax()] if hard else softmax(np.log(p) / temperature)
        total -= (target * np.log(softmax(student[b, :, i, j]))).sum()
    found, mask_ratio = pseudo_labels.pseudo_label_loss(
        logits, probs, valid, conf_thresh=conf_thresh, kind=kind, temperature=temperature
    )
    assert_close(found, total / count)
    assert mask_ratio.item() == pytest.approx(confident / count)


def test_supervised_loss_equals_weighted_mean_over_labeled_pixels() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 7, 5, generator=rng)
    mask = torch.randint(0, CLASSES, (2, 7, 5), generator=rng)
    mask[torch.rand(2, 7, 5, generator=rng) < 0.3] = 255
    values = to_numpy(logits)[0]
    for weights in (None, torch.tensor([0.3, 1.0, 2.5, 0.7])):
        total, mass = 0.0, 0.0
        for b, i, j in np.ndindex(2, 7, 5):
            k = int(mask[b, i, j])
            if k != 255:
                w = 1.0 if weights is None else weights[k].item()
                total -= w * np.log(softmax(values[b, :, i, j])[k])
                mass += w
        assert_close(losses.supervised_loss(logits, mask, weights), total / mass)
