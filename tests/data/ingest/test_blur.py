"""Law: blurred masks are recognised, clean ones never are: on drawn shapes, and on real data before
and after JPEG compression and resizing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cid_ray.data.ingest.blur import BlurCheck, EdgeCounts, count_edges
from tests.helpers.image_tables import random_mask
from tests.helpers.tiny_run import real_data

Change = Callable[[np.ndarray], np.ndarray]


def as_jpeg(quality: int) -> Change:
    def change(mask: np.ndarray) -> np.ndarray:
        out = io.BytesIO()
        Image.fromarray(mask).save(out, "JPEG", quality=quality)
        return np.asarray(Image.open(out))

    return change


def resized(scale: float, how: Image.Resampling) -> Change:
    def change(mask: np.ndarray) -> np.ndarray:
        size = (round(mask.shape[1] * scale), round(mask.shape[0] * scale))
        return np.asarray(Image.fromarray(mask).resize(size, how))

    return change


def sampled(scale: float) -> Change:
    """Bilinear without averaging, as OpenCV and torch resize."""

    def change(mask: np.ndarray) -> np.ndarray:
        size = (round(mask.shape[1] * scale), round(mask.shape[0] * scale))
        step = (1 / scale, 0, 0, 0, 1 / scale, 0)
        image = Image.fromarray(mask)
        moved = image.transform(size, Image.Transform.AFFINE, step, Image.Resampling.BILINEAR)
        return np.asarray(moved)

    return change


CLEAN: dict[str, Change] = {
    "as it is": lambda mask: mask,
    "half, nearest": resized(0.5, Image.Resampling.NEAREST),
    "eighth, nearest": resized(0.125, Image.Resampling.NEAREST),
    "double, nearest": resized(2, Image.Resampling.NEAREST),
}
BLURRED: dict[str, Change] = {
    **{f"JPEG {quality}": as_jpeg(quality) for quality in (75, 92, 95)},
    **{f"bilinear {scale}": resized(scale, Image.Resampling.BILINEAR) for scale in (0.25, 0.9, 2)},
    **{f"bicubic {scale}": resized(scale, Image.Resampling.BICUBIC) for scale in (0.5, 2)},
    **{f"OpenCV {scale}": sampled(scale) for scale in (0.5, 1.5)},
}


def looks_blurred(masks: list[np.ndarray]) -> bool:
    total = EdgeCounts()
    for mask in masks:
        total.add(count_edges(mask))
    return total.looks_blurred()


def draw_disks(ids: list[int], border: int | None = None) -> list[np.ndarray]:
    """Five masks of disks, with a border of one pixel if it is asked for."""
    masks = []
    rows, columns = np.mgrid[:240, :320]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        mask = np.full(rows.shape, ids[0], np.uint8)
        for _ in range(6):
            radius = rng.uniform(12, 60)
            distance = np.hypot(rows - rng.uniform(0, 240), columns - rng.uniform(0, 320))
            if border is not None:
                mask[distance < radius + 1] = border
            mask[distance < radius] = rng.choice(ids)
        masks.append(mask)
    return masks


DRAWN: dict[str, list[np.ndarray]] = {
    "0 and 255": draw_disks([0, 255]),
    "0, 128 and 255": draw_disks([0, 128, 255]),
    "0 to 4": draw_disks([0, 1, 2, 3, 4]),
    "0 to 20": draw_disks(list(range(21))),
    "0 to 4, border 255": draw_disks([0, 1, 2, 3, 4], border=255),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("change", CLEAN)
def test_clean_shapes_are_not_called_blurred(name: str, change: str) -> None:
    assert not looks_blurred([CLEAN[change](mask) for mask in DRAWN[name]])


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("change", BLURRED)
def test_blurred_shapes_are_recognised(name: str, change: str) -> None:
    assert looks_blurred([BLURRED[change](mask) for mask in DRAWN[name]])


def poles() -> list[np.ndarray]:
    mask = np.zeros((96, 128), np.uint8)
    mask[40:] = 2
    mask[:, ::9] = 1  # one pixel wide, sky on both sides
    return [mask]


HARMLESS = {
    "noise of 3": [random_mask(i, 3) for i in range(5)],
    "noise of 182": [random_mask(i, 182) for i in range(5)],
    "one class": [np.zeros((9, 9), np.uint8)],
    "a pixel": [np.zeros((1, 1), np.uint8)],
    "a row": [np.arange(9, dtype=np.uint8)[None]],
    "poles": poles(),
    "border between": draw_disks([0, 2], border=1),
    "border between several": draw_disks([0, 1, 3], border=2),
    "binary": draw_disks([0, 1]),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_thin_tiny_and_random_masks_are_not_called_blurred(kind: str) -> None:
    assert not looks_blurred(HARMLESS[kind])


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    num_ids=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_counts_are_those_of_a_slow_count(shape: tuple[int, int], num_ids: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, num_ids, shape, dtype=np.uint8)
    counts = count_edges(mask)
    ramps, inner, edges = np.zeros(256, int), np.zeros(256, int), 0
    for rows in (mask.tolist(), mask.T.tolist()):
        for row in rows:
            edges += sum(a != b for a, b in pairwise(row))
            for a, b, c in zip(row, row[1:], row[2:], strict=False):
                ramps[b] += a < b < c or a > b > c
    for y in range(1, shape[0] - 1):
        for x in range(1, shape[1] - 1):
            inner[mask[y, x]] += (mask[y - 1 : y + 2, x - 1 : x + 2] == mask[y, x]).all()
    np.testing.assert_array_equal(counts.ramps, ramps)
    np.testing.assert_array_equal(counts.inner, inner)
    np.testing.assert_array_equal(counts.pixels, np.bincount(mask.ravel(), minlength=256))
    assert counts.edges == edges


def test_a_few_blurred_masks_among_many_are_a_warning() -> None:
    clean = draw_disks([0, 3, 6])[0]
    blurred = BLURRED["bilinear 0.9"](clean)
    check = BlurCheck()
    for number in range(40):
        check.add(f"{number}", count_edges(blurred if number == 7 else clean))
    assert check.error() is None
    assert "1 masks look blurred" in str(check.warning()) and "first 7" in str(check.warning())
    for number in range(40, 43):
        check.add(f"{number}", count_edges(blurred))
    assert "e.g. 7" in str(check.error())


REAL = {
    "camvid": ("camvid", "masks/*/*.png", 10),
    "VOC": ("voc_mini", "SegmentationClass/*.png", 1),
    "COCO-Stuff": ("cocostuff_mini", "label/*/*.png", 1),
}


def real_masks(name: str) -> list[np.ndarray]:
    folder, pattern, step = REAL[name]
    files: list[Path] = sorted(real_data(folder).glob(pattern))
    assert files
    return [np.asarray(Image.open(file)) for file in files[::step]]


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_no_real_mask_is_called_blurred_alone_or_in_its_set(name: str) -> None:
    masks = real_masks(name)
    assert not looks_blurred(masks)
    assert not any(looks_blurred([mask]) for mask in masks)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("change", ["JPEG 75", "JPEG 92", "JPEG 95", "bilinear 0.9", "bicubic 0.5"])
def test_real_sets_are_recognised_when_blurred(name: str, change: str) -> None:
    masks = [BLURRED[change](mask) for mask in real_masks(name)]
    assert looks_blurred(masks)
    check = BlurCheck()
    for number, mask in enumerate(masks):
        check.add(str(number), count_edges(mask))
    assert check.num_blurred >= 0.8 * len(masks)  # a mask of few classes may not show it alone
