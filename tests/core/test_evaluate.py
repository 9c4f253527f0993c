"""References: mIoU against ten lines of numpy; laws of the sliding window and of sums of confusion matrices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from cid_ray.core.evaluate import confusion_of, predict, scores, starts
from tests.core.pieces import CLASSES, PointNet, make_batch

NAMES = [f"class {k}" for k in range(CLASSES)]
SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
relaxed = settings(deadline=None, max_examples=30)


class Reads(nn.Module):
    """Predicts the class that an image's red channel spells out."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = nn.functional.one_hot(image[:, 0].long(), CLASSES).permute(0, 3, 1, 2).float() * 9
        return logits, logits


class Wavy(nn.Module):
    """Logits of each pixel from itself alone, at any size and without padding."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.linspace(-1, 1, 3 * CLASSES).reshape(CLASSES, 3, 1, 1)
        logits = torch.sin(nn.functional.conv2d(image.float() / 40, weights))
        return logits, logits


def reference(truth: np.ndarray, guess: np.ndarray) -> tuple[float | None, list[float | None]]:
    seen, ious = truth != 255, []
    for k in range(CLASSES):
        t, g = (truth == k) & seen, (guess == k) & seen
        ious.append(100 * (t & g).sum() / (t | g).sum() if t.any() else None)
    present = [iou for iou in ious if iou is not None]
    return (float(np.mean(present)) if present else None), ious


def spelled(guess: np.ndarray) -> Tensor:
    return torch.from_numpy(guess)[None].expand(3, -1, -1)


@relaxed
@given(data=st.data(), size=SIDES, images=st.integers(1, 3))
def test_miou_is_that_of_numpy_over_the_classes_present(
    data: st.DataObject, size: tuple[int, int], images: int
) -> None:
    values = st.sampled_from(data.draw(st.sets(st.sampled_from([0, 1, 2, 3, 255]), min_size=1).map(sorted)))
    shape = (images, *size)
    truth = data.draw(hnp.arrays(np.uint8, shape, elements=values))
    guess = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    pairs = [(spelled(g), torch.from_numpy(t)) for g, t in zip(guess, truth, strict=True)]
    found = scores(confusion_of(Reads(), pairs, CLASSES), NAMES)
    miou, ious = reference(truth, guess)
    assert found["miou"] == (None if miou is None else pytest.approx(miou))
    for name, iou in zip(NAMES, ious, strict=True):
        assert found["iou"][name] == (None if iou is None else pytest.approx(iou))
        assert (name in found["absent"]) == (iou is None)
    labeled = truth != 255
    if labeled.any():
        assert found["pixel_accuracy"] == pytest.approx(100 * (truth == guess)[labeled].mean())


@relaxed
@given(data=st.data())
def test_confusions_of_parts_add_up_to_that_of_the_whole(data: st.DataObject) -> None:
    values = st.sampled_from([0, 1, 2, 3, 255])
    count = data.draw(st.integers(1, 5))
    sizes = data.draw(st.lists(SIDES, min_size=count, max_size=count))
    pairs = [
        (
            spelled(data.draw(hnp.arrays(np.uint8, size, elements=st.integers(0, 3)))),
            torch.from_numpy(data.draw(hnp.arrays(np.uint8, size, elements=values))),
        )
        for size in sizes
    ]
    whole = confusion_of(Reads(), pairs, CLASSES)
    for workers in (2, 3):
        parts = [confusion_of(Reads(), pairs[rank::workers], CLASSES) for rank in range(workers)]
        assert np.array_equal(sum(parts), whole)
    assert whole.sum() == sum(int((mask != 255).sum()) for _, mask in pairs)


def test_rows_of_the_confusion_are_truth_and_columns_predictions() -> None:
    truth, guess = np.array([[0, 0, 1, 255]], np.uint8), np.array([[1, 0, 1, 3]], np.uint8)
    matrix = confusion_of(Reads(), [(spelled(guess), torch.from_numpy(truth))], CLASSES)
    assert matrix.dtype == np.int64
    assert matrix[:2, :2].tolist() == [[1, 1], [0, 1]] and matrix.sum() == 3


def test_a_class_that_is_only_predicted_is_absent_not_0() -> None:
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    matrix[0, :2] = 3, 1
    found = scores(matrix, NAMES)
    assert found["miou"] == pytest.approx(75) and found["absent"] == NAMES[1:]
    assert scores(np.zeros_like(matrix), NAMES)["miou"] is None


@given(length=st.integers(1, 500), window=st.integers(32, 200))
def test_windows_cover_everything_and_the_last_is_shifted_inwards(length: int, window: int) -> None:
    found = starts(length, window)
    covered = {place for start in found for place in range(start, min(length, start + window))}
    assert covered == set(range(length))
    assert found == sorted(set(found)) and found[0] == 0
    assert found[-1] == max(0, length - window)
    assert all(b - a <= window * 2 // 3 for a, b in pairwise(found))


@pytest.mark.parametrize("size", [(65, 81), (40, 33), (32, 100), (20, 100), (33, 32)])
@pytest.mark.parametrize("window", [32, 48])
def test_a_sliding_window_gives_the_whole_images_classes_where_pixels_stand_alone(
    size: tuple[int, int], window: int
) -> None:
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for net in (Wavy(), PointNet(0)):
        whole = predict(net, image, size)
        assert torch.equal(predict(net, image, size, window), whole)
        assert len(whole.unique()) > 1


def test_a_window_as_large_as_the_image_is_the_whole_image() -> None:
    image = make_batch()["image_u"]
    assert torch.equal(predict(PointNet(0), image, (64, 64), 64), predict(PointNet(0), image, (64, 64)))


@pytest.mark.parametrize("size", [(64, 64), (64, 100), (13, 200), (129, 31)])
@pytest.mark.parametrize("window", [None, 32])
def test_predictions_have_the_masks_own_size(size: tuple[int, int], window: int | None) -> None:
    found = predict(PointNet(0), make_batch()["image_u"], size, window)
    assert found.shape == (4, *size) and found.dtype == torch.int64


def test_logits_not_classes_are_resized_to_the_mask() -> None:
    image = torch.tensor([[[[0, 2]]]], dtype=torch.uint8).expand(1, 3, 1, 2)
    assert predict(Reads(), image, (1, 8))[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert predict(Reads(), image, (2, 4))[0].tolist() == [[0, 0, 2, 2]] * 2


def test_a_mask_larger_than_its_image_counts_every_labeled_pixel_once() -> None:
    image, mask = spelled(np.array([[0, 2]], np.uint8)), torch.tensor([[0, 0, 255, 2], [1, 0, 2, 2]]).byte()
    for window in (None, 32):
        matrix = confusion_of(Reads(), [(image, mask)], CLASSES, window)
        assert matrix.sum() == 7 and matrix[1, 0] == 1 and np.trace(matrix) == 6


def test_evaluation_asks_for_no_gradient() -> None:
    class Remembers(PointNet):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            self.logits, feat = super().forward(image)
            return self.logits, feat

    net = Remembers(0)
    predict(net, make_batch()["image_u"], (64, 64))
    assert not net.logits.requires_grad
