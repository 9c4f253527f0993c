"""Reference: mIoU in ten lines of numpy. Laws of the sliding window and of confusion matrices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from cid_ray.core.iou import confusion_matrices, iou_scores, predict, window_starts
from tests.helpers.core_pieces import CLASSES, PointNet, make_batch

NAMES = [f"class {k}" for k in range(CLASSES)]
SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
relaxed = settings(deadline=None, max_examples=30)


class RedChannelNet(nn.Module):
    """Predicts the class that is written in an image's red channel."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = nn.functional.one_hot(image[:, 0].long(), CLASSES)
        logits = one_hot.permute(0, 3, 1, 2).float() * 9
        return logits, logits


class SineNet(nn.Module):
    """Logits of each pixel from itself alone, at any size and without padding."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.linspace(-1, 1, 3 * CLASSES).reshape(CLASSES, 3, 1, 1)
        logits = torch.sin(nn.functional.conv2d(image.float() / 40, weights))
        return logits, logits


def reference(truth: np.ndarray, pred: np.ndarray) -> tuple[float | None, list[float | None]]:
    """mIoU over the classes present, and the IoU of each class, in percent."""
    labeled = truth != 255
    ious: list[float | None] = []
    for k in range(CLASSES):
        t, p = (truth == k) & labeled, (pred == k) & labeled
        ious.append(100 * (t & p).sum() / (t | p).sum() if t.any() else None)
    present = [iou for iou in ious if iou is not None]
    return (float(np.mean(present)) if present else None), ious


def image_of(pred: np.ndarray) -> Tensor:
    """An image u8[3,H,W] for which RedChannelNet predicts `pred`."""
    return torch.from_numpy(pred)[None].expand(3, -1, -1)


def approx_or_none(value: float | None) -> object:
    return None if value is None else pytest.approx(value)


def confusion_of(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], window: int | None = None
) -> np.ndarray:
    """The counts of all images."""
    matrices = confusion_matrices(RedChannelNet(), pairs, CLASSES, window)
    return sum(matrices, np.zeros((CLASSES, CLASSES), np.int64))


@relaxed
@given(data=st.data(), size=SIDES, count=st.integers(1, 3))
def test_iou_scores_equal_numpy_over_the_classes_present(
    data: st.DataObject, size: tuple[int, int], count: int
) -> None:
    subsets = st.sets(st.sampled_from([0, 1, 2, 3, 255]), min_size=1).map(sorted)
    values = st.sampled_from(data.draw(subsets))
    shape = (count, *size)
    truth = data.draw(hnp.arrays(np.uint8, shape, elements=values))
    pred = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    pairs = [(image_of(p), torch.from_numpy(t)) for p, t in zip(pred, truth, strict=True)]
    found = iou_scores(confusion_of(pairs), NAMES)
    miou, ious = reference(truth, pred)
    assert found["miou"] == approx_or_none(miou)
    for name, iou in zip(NAMES, ious, strict=True):
        assert found["iou"][name] == approx_or_none(iou)
        assert (name in found["absent"]) == (iou is None)
    labeled = truth != 255
    if labeled.any():
        accuracy = 100 * (truth == pred)[labeled].mean()
        assert found["pixel_accuracy"] == pytest.approx(accuracy)


@relaxed
@given(data=st.data())
def test_confusion_matrices_of_shards_sum_to_that_of_the_whole(data: st.DataObject) -> None:
    values = st.sampled_from([0, 1, 2, 3, 255])
    count = data.draw(st.integers(1, 5))
    sizes = data.draw(st.lists(SIDES, min_size=count, max_size=count))
    pairs = []
    for size in sizes:
        pred = data.draw(hnp.arrays(np.uint8, size, elements=st.integers(0, 3)))
        truth = data.draw(hnp.arrays(np.uint8, size, elements=values))
        pairs.append((image_of(pred), torch.from_numpy(truth)))
    whole = confusion_of(pairs)
    for world_size in (2, 3):
        shards = [confusion_of(pairs[rank::world_size]) for rank in range(world_size)]
        assert np.array_equal(sum(shards), whole)
    assert whole.sum() == sum(int((mask != 255).sum()) for _, mask in pairs)


def test_confusion_matrix_has_truth_first_and_prediction_second() -> None:
    truth, pred = np.array([[0, 0, 1, 255]], np.uint8), np.array([[1, 0, 1, 3]], np.uint8)
    pairs = [(image_of(pred), torch.from_numpy(truth))]
    matrix = confusion_of(pairs)
    assert matrix.dtype == np.int64
    assert matrix[:2, :2].tolist() == [[1, 1], [0, 1]] and matrix.sum() == 3


def test_class_that_is_only_predicted_is_absent_not_0() -> None:
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    matrix[0, :2] = 3, 1
    found = iou_scores(matrix, NAMES)
    assert found["miou"] == pytest.approx(75) and found["absent"] == NAMES[1:]
    assert iou_scores(np.zeros_like(matrix), NAMES)["miou"] is None


@given(length=st.integers(1, 500), window=st.integers(32, 200))
def test_windows_cover_everything_and_the_last_is_shifted_inwards(length: int, window: int) -> None:
    found = window_starts(length, window)
    covered = {x for start in found for x in range(start, min(length, start + window))}
    assert covered == set(range(length))
    assert found == sorted(set(found)) and found[0] == 0
    assert found[-1] == max(0, length - window)
    assert all(b - a <= window * 2 // 3 for a, b in pairwise(found))


@pytest.mark.parametrize("size", [(65, 81), (40, 33), (32, 100), (20, 100), (33, 32)])
@pytest.mark.parametrize("window", [32, 48])
def test_sliding_window_over_independent_pixels_equals_the_whole_image(
    size: tuple[int, int], window: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=rng)
    for net in (SineNet(), PointNet(0)):
        whole = predict(net, image, size)
        assert torch.equal(predict(net, image, size, window), whole)
        assert len(whole.unique()) > 1


def test_sliding_window_as_large_as_the_image_equals_the_whole_image() -> None:
    image = make_batch()["image_u"]
    whole = predict(PointNet(0), image, (64, 64))
    assert torch.equal(predict(PointNet(0), image, (64, 64), 64), whole)


@pytest.mark.parametrize("size", [(64, 64), (64, 100), (13, 200), (129, 31)])
@pytest.mark.parametrize("window", [None, 32])
def test_predictions_have_the_size_of_the_mask(size: tuple[int, int], window: int | None) -> None:
    found = predict(PointNet(0), make_batch()["image_u"], size, window)
    assert found.shape == (4, *size) and found.dtype == torch.int64


def test_predict_resizes_logits_not_classes() -> None:
    image = torch.tensor([[[[0, 2]]]], dtype=torch.uint8).expand(1, 3, 1, 2)
    assert predict(RedChannelNet(), image, (1, 8))[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert predict(RedChannelNet(), image, (2, 4))[0].tolist() == [[0, 0, 2, 2]] * 2


def test_mask_larger_than_its_image_counts_every_labeled_pixel_once() -> None:
    image = image_of(np.array([[0, 2]], np.uint8))
    mask = torch.tensor([[0, 0, 255, 2], [1, 0, 2, 2]]).byte()
    for window in (None, 32):
        matrix = confusion_of([(image, mask)], window)
        assert matrix.sum() == 7 and matrix[1, 0] == 1 and np.trace(matrix) == 6


def test_predict_computes_no_gradient() -> None:
    class KeepsLogits(PointNet):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            self.logits, feat = super().forward(image)
            return self.logits, feat

    net = KeepsLogits(0)
    predict(net, make_batch()["image_u"], (64, 64))
    assert not net.logits.requires_grad
