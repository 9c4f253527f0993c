"""Reference: the losses against numpy in plain loops over images, pairs, channels, classes and pixels, float64.

The formulas are those of the method's description: Fhat is `feat` with every channel L2-normalised over its valid
cells; cross and class are row-wise KL of softmax(R / T); self is ICKD's row-normalised Gram; style is scale-free.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cid_ray.core import losses
from tests.core.pieces import CHANNELS, CLASSES, features, some_valid

B, TEMPERATURE = 4, 0.1


def numbers(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().double().numpy() for t in tensors]


def close(found: Tensor, expected: float) -> None:
    assert expected > 1e-3
    assert found.item() == pytest.approx(expected, rel=2e-4)


def unit_channels(feat: np.ndarray, valid: np.ndarray) -> list[list[np.ndarray]]:
    """Per image and channel the vector of its valid cells, of length 1, with 0 in the others."""
    found = []
    for b in range(len(feat)):
        rows = [feat[b, c].ravel() * valid[b, 0].ravel() for c in range(feat.shape[1])]
        found.append([row / np.sqrt((row**2).sum()) for row in rows])
    return found


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - row.max())
    return e / e.sum()


def mean_row_kl(teacher: np.ndarray, student: np.ndarray) -> float:
    total = 0.0
    for row_t, row_s in zip(teacher, student, strict=True):
        p, q = softmax(row_t / TEMPERATURE), softmax(row_s / TEMPERATURE)
        total += sum(p[i] * (np.log(p[i]) - np.log(q[i])) for i in range(len(p)))
    return total / len(teacher)


def relation(rows: list[np.ndarray], columns: list[np.ndarray]) -> np.ndarray:
    return np.array([[(a * b).sum() for b in columns] for a in rows])


def test_cross_relation_is_the_mean_kl_over_labeled_unlabeled_pairs() -> None:
    feats, valid_x, valid_u = [features(s) for s in range(4)], some_valid(0), some_valid(1)
    valids = [valid_x, valid_u, valid_x, valid_u]
    units = [unit_channels(*numbers(f, v)) for f, v in zip(feats, valids, strict=True)]
    student_x, student_u, teacher_x, teacher_u = units
    pairs = [
        mean_row_kl(relation(teacher_x[i], teacher_u[j]), relation(student_x[i], student_u[j]))
        for i in range(B)
        for j in range(B)
    ]
    found = losses.cross_relation_loss(*feats, valid_x, valid_u, TEMPERATURE)
    close(found, float(np.mean(pairs)))


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_self_relation_is_the_squared_distance_of_row_normalised_grams(grid: int) -> None:
    shape = (B, CHANNELS, 6, 12)
    feats, valid = [features(0, shape), features(1, shape)], some_valid(0, (B, 1, 6, 12))
    h, w = 6 // grid, 12 // grid
    distances = []
    for i in range(grid):
        for j in range(grid):
            block = (slice(None), slice(None), slice(i * h, i * h + h), slice(j * w, j * w + w))
            units = [unit_channels(*numbers(f[block], valid[block])) for f in feats]
            for rows_s, rows_t in zip(*units, strict=True):
                grams = [relation(rows, rows) for rows in (rows_s, rows_t)]
                grams = [np.array([row / np.sqrt((row**2).sum()) for row in gram]) for gram in grams]
                distances.append(((grams[0] - grams[1]) ** 2).sum() / CHANNELS)
    close(losses.self_relation_loss(*feats, valid, grid), float(np.mean(distances)))


def global_gram(feat: Tensor, valid: Tensor) -> np.ndarray:
    """Cosine of channels over the valid cells of all images together, rows of length 1."""
    values, mask = numbers(feat, valid)
    rows = [np.concatenate([values[b, c][mask[b, 0] > 0] for b in range(B)]) for c in range(CHANNELS)]
    gram = relation([r / np.sqrt((r**2).sum()) for r in rows], [r / np.sqrt((r**2).sum()) for r in rows])
    return np.array([row / np.sqrt((row**2).sum()) for row in gram])


def test_transfer_relation_and_gram_style_are_squared_distances_of_batch_grams() -> None:
    own, other, valid = features(0), features(1), some_valid(0)
    expected = ((global_gram(own, valid) - global_gram(other, valid)) ** 2).sum() / CHANNELS
    target = losses.batch_gram(other, valid)
    close(losses.transfer_relation_loss(own, valid, target), expected)
    close(losses.gram_style_loss(losses.batch_gram(own, valid), target), expected)


def class_means(feat: Tensor, classes: Tensor) -> dict[int, np.ndarray]:
    values, ids = numbers(feat)[0], classes.numpy()
    found = {}
    for k in range(CLASSES):
        cells = [
            values[b, :, i, j]
            for b in range(B)
            for i in range(ids.shape[1])
            for j in range(ids.shape[2])
            if ids[b, i, j] == k
        ]
        if cells:
            found[k] = np.mean(cells, 0)
    return found


def test_class_relation_is_the_kl_of_prototype_relations_over_shared_classes() -> None:
    feats = [features(s) for s in range(4)]
    rng = torch.Generator().manual_seed(0)
    classes_x, classes_u = (torch.randint(0, CLASSES, (B, 6, 5), generator=rng) for _ in range(2))
    classes_x[classes_x == 1] = 255  # class 1 is shown by the pool alone
    classes_u[torch.rand(B, 6, 5, generator=rng) < 0.3] = 255
    means = [class_means(f, c) for f, c in zip(feats, (classes_x, classes_u) * 2, strict=True)]
    shared = sorted(set(means[0]) & set(means[1]))
    assert shared == [0, 2, 3]

    def of(x: dict[int, np.ndarray], u: dict[int, np.ndarray]) -> np.ndarray:
        columns = [[np.array([p[k][c] for k in shared]) for c in range(CHANNELS)] for p in (x, u)]
        units = [[v / np.sqrt((v**2).sum()) for v in side] for side in columns]
        return relation(*units)

    found = losses.class_relation_loss(*feats, classes_x, classes_u, CLASSES, TEMPERATURE)
    close(found, mean_row_kl(of(means[2], means[3]), of(means[0], means[1])))


def test_prototypes_are_class_means_and_absent_classes_are_named() -> None:
    feat = features(0)
    classes = torch.randint(0, CLASSES, (B, 6, 5), generator=torch.Generator().manual_seed(0))
    classes[classes == 2] = 255
    found, occurs = losses.prototypes(feat, classes, CLASSES)
    assert occurs.tolist() == [True, True, False, True]
    for k, mean in class_means(feat, classes).items():
        np.testing.assert_allclose(found[k].numpy(), mean, rtol=1e-4, atol=1e-5)


def test_style_is_the_scale_free_distance_of_means_and_log_deviations() -> None:
    feats, valids = [features(0), features(1)], [some_valid(0), some_valid(1)]
    total = 0.0
    for c in range(CHANNELS):
        cells = [numbers(f)[0][:, c][numbers(v)[0][:, 0] > 0] for f, v in zip(feats, valids, strict=True)]
        (mean, std), (mean_t, std_t) = [(values.mean(), values.std()) for values in cells]
        total += ((mean - mean_t) / std_t) ** 2 + (np.log(std) - np.log(std_t)) ** 2
    own, target = (losses.channel_statistics(f, v) for f, v in zip(feats, valids, strict=True))
    close(losses.style_loss(own, target), total / CHANNELS)


@pytest.mark.parametrize("conf_thresh", [0.0, 0.6, 0.9])
@pytest.mark.parametrize(("kind", "temperature"), [("hard", 0.5), ("soft", 0.5), ("soft", 2.0)])
def test_the_pseudo_label_loss_is_a_masked_mean_over_valid_pixels(
    kind: str, temperature: float, conf_thresh: float
) -> None:
    rng = torch.Generator().manual_seed(0)
    logits, other = (2 * torch.randn(2, CLASSES, 7, 5, generator=rng) for _ in range(2))
    probs, valid = other.softmax(1), torch.rand(2, 7, 5, generator=rng) < 0.7
    guess, target = numbers(logits, probs)
    total, kept, count = 0.0, 0, 0
    for b, i, j in np.ndindex(2, 7, 5):
        if not valid[b, i, j]:
            continue
        count += 1
        p = target[b, :, i, j]
        if p.max() < conf_thresh:
            continue
        kept += 1
        wanted = np.eye(CLASSES)[p.argmax()] if kind == "hard" else softmax(np.log(p) / temperature)
        total -= (wanted * np.log(softmax(guess[b, :, i, j]))).sum()
    found, ratio = losses.pseudo_label_loss(
        logits, probs, valid, conf_thresh=conf_thresh, kind=kind, temperature=temperature
    )  # fmt: skip
    close(found, total / count)
    assert ratio.item() == pytest.approx(kept / count)


def test_the_supervised_loss_is_a_weighted_mean_over_labeled_pixels() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 7, 5, generator=rng)
    mask = torch.randint(0, CLASSES, (2, 7, 5), generator=rng)
    mask[torch.rand(2, 7, 5, generator=rng) < 0.3] = 255
    for weights in (None, torch.tensor([0.3, 1.0, 2.5, 0.7])):
        total, mass = 0.0, 0.0
        for b, i, j in np.ndindex(2, 7, 5):
            k = int(mask[b, i, j])
            if k != 255:
                w = 1.0 if weights is None else weights[k].item()
                total -= w * np.log(softmax(logits[b, :, i, j].double().numpy())[k])
                mass += w
        close(losses.supervised_loss(logits, mask, weights), total / mass)
