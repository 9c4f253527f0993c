"""Law: a batch is a function of (seed, step): workers, threads, caches and resume change no pixel.

And a weak view treats image, mask and validity alike.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cid_ray.config import DataConfig, InputError
from cid_ray.data.cache import CachedReader
from cid_ray.data.image_codec import encode_png
from cid_ray.data.loader import Batch, local_batches, weak_view
from cid_ray.data.sampling import SampleOrder, SamplingPlan
from cid_ray.data.splits import Split, make_split
from cid_ray.data.table import Table
from tests.helpers.image_tables import (
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

LABELS, POOL = 5, 13


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """5 labeled images and a pool of 13, of many sizes.

    The masks of the pool are not images, so a test fails if one is opened.
    """
    rng = np.random.default_rng(1)
    rows = []
    for i in range(LABELS + POOL):
        height, width = rng.integers(20, 70, 2).tolist()
        size = (height, width)
        image = random_image(i, size)
        if i < LABELS:
            rows.append(labeled_row(f"x{i}", image, random_mask(i, 3, size)))
        else:
            mask = b"never opened"
            rows.append(table_row(f"u{i}", encode_png(image), mask, pixels=[1, 1, 1], size=size))
    return write_table(tmp_path_factory.mktemp("batches") / "t", rows)


def data_of(**changes: Any) -> DataConfig:
    defaults = {"crop_size": (32, 40), "batch_size": 4, "batch_size_u": 8, "threads": 2}
    return DataConfig(**{**defaults, **changes})


def plan_of(data: DataConfig, seed: int = 0, feed_pool: bool = True) -> SamplingPlan:
    split = Split("5", np.arange(LABELS), np.arange(LABELS, LABELS + POOL), {})
    return SamplingPlan.create(data, split, seed, feed_pool)


def batches(
    table: Table,
    data: DataConfig,
    start: int = 0,
    stop: int = 5,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
) -> list[Batch]:
    reader = CachedReader(table, data.image_size, data.cache_mb)
    return list(local_batches(reader, plan_of(data, seed), data, start, stop, rank, world_size))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def taken_rows(order: SampleOrder, steps: int, world_size: int = 1) -> list[int]:
    """Table rows in the order in which all workers together take them."""
    return [
        order.row_at(position)
        for step in range(steps)
        for rank in range(world_size)
        for position in order.positions(step, rank, world_size)
    ]


def pool_order(data: DataConfig, seed: int = 0) -> SampleOrder:
    order = plan_of(data, seed).pool
    assert order is not None
    return order


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.sampled_from([1, 2, 4, 8, 16]))
def test_pool_order_passes_each_image_once_per_epoch(seed: int, batch: int) -> None:
    rows = taken_rows(pool_order(data_of(batch_size_u=batch), seed), 4 * POOL)
    epochs = [rows[i : i + POOL] for i in range(0, len(rows) - POOL + 1, POOL)]
    assert len(epochs) >= 4
    for epoch in epochs:
        assert sorted(epoch) == list(range(LABELS, LABELS + POOL))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs), "every epoch has a new order"


def test_labeled_order_cycles_evenly() -> None:
    counts = Counter(taken_rows(plan_of(data_of()).labeled, 20))
    assert counts == {row: 16 for row in range(LABELS)}


def test_pool_order_of_other_seeds_differs() -> None:
    orders = {tuple(taken_rows(pool_order(data_of(), seed), 4)) for seed in range(10)}
    assert len(orders) == 10


def test_pool_order_of_step_ignores_earlier_steps() -> None:
    def rows_of_step(order: SampleOrder, step: int) -> list[int]:
        return [order.row_at(position) for position in order.positions(step, 0, 1)]

    one = pool_order(data_of())
    other = pool_order(data_of())
    forward = [rows_of_step(one, step) for step in range(40)]
    backward = [rows_of_step(other, step) for step in reversed(range(40))]
    assert forward == backward[::-1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 30))
def test_sample_order_of_any_world_size_is_the_same(seed: int, steps: int) -> None:
    for order in (plan_of(data_of(), seed).labeled, pool_order(data_of(), seed)):
        single = taken_rows(order, steps)
        assert taken_rows(order, steps, world_size=2) == single
        assert taken_rows(order, steps, world_size=4) == single


@pytest.mark.parametrize("world_size", [2, 4])
def test_shards_of_all_workers_form_single_process_batch(table: Table, world_size: int) -> None:
    data = data_of()
    workers = [batches(table, data, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [
        {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        for shards in zip(*workers, strict=True)
    ]
    assert_equal(together, batches(table, data))


@pytest.mark.parametrize("step", [1, 3, 4])
def test_resumed_run_gets_the_batches_of_uninterrupted_run(table: Table, step: int) -> None:
    assert_equal(batches(table, data_of(), start=step), batches(table, data_of())[step:])


def test_batches_after_last_step_are_empty(table: Table) -> None:
    assert batches(table, data_of(), start=5, stop=5) == []


@pytest.mark.parametrize(
    "changes", [{"threads": 1}, {"threads": 4}, {"cache_mb": 0}, {"cache_mb": 1}]
)
def test_threads_and_cache_change_no_pixel(table: Table, changes: dict[str, int]) -> None:
    assert_equal(batches(table, data_of(**changes), stop=8), batches(table, data_of(), stop=8))


def test_batches_of_other_seed_differ(table: Table) -> None:
    one = batches(table, data_of(), stop=1)[0]
    other = batches(table, data_of(), stop=1, seed=1)[0]
    assert not np.array_equal(one["image_u"], other["image_u"])


def test_repeated_image_gets_a_new_crop(table: Table) -> None:
    data = data_of(hflip=0.0)
    plan = SamplingPlan(SampleOrder(np.array([0]), 0, 0, 4), None)
    batch = next(local_batches(CachedReader(table, None, 8), plan, data, 0, 1))
    assert len({image.tobytes() for image in batch["image_x"]}) == 4


def test_batch_has_documented_shapes_and_no_pool_mask(table: Table) -> None:
    batch = batches(table, data_of(), stop=1)[0]
    shapes = {name: (value.shape, value.dtype) for name, value in batch.items()}
    assert shapes == {
        "image_x": ((4, 3, 32, 40), np.uint8),
        "mask_x": ((4, 32, 40), np.uint8),
        "valid_x": ((4, 32, 40), bool),
        "image_u": ((8, 3, 32, 40), np.uint8),
        "valid_u": ((8, 32, 40), bool),
        "unreadable_u": ((8,), np.dtype("<U1")),
    }


def test_plan_without_pool_gives_labeled_images_only(table: Table) -> None:
    data = data_of()
    plan = plan_of(data, feed_pool=False)
    found = list(local_batches(CachedReader(table, None, 8), plan, data, 0, 3))
    names = ("image_x", "mask_x", "valid_x")
    expected = [{name: batch[name] for name in names} for batch in batches(table, data, stop=3)]
    assert_equal(found, expected)


def test_unreadable_pool_raises_input_error(tmp_path: Path) -> None:
    rows = [labeled_row("x", random_image(0), random_mask(0)), table_row("u", b"broken")]
    table = write_table(tmp_path / "t", rows)
    data = data_of(batch_size=1, batch_size_u=1, ratio="1/1")
    plan = SamplingPlan.create(data, make_split(table, data), 0, True)
    message = "1 pool images in a row cannot be read: train/u: not a picture"
    with pytest.raises(InputError, match=message):
        list(local_batches(CachedReader(table, None, 8), plan, data, 0, 3))


def view(
    image: np.ndarray, mask: np.ndarray, seed: int = 0, **changes: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels u8[3, H, W], mask u8[H, W] and valid bool[H, W] of a weak view."""
    data = data_of(**changes)
    pixels = np.zeros((3, *data.crop), np.uint8)
    valid = np.zeros(data.crop, bool)
    cropped = np.full(data.crop, 255, np.uint8)
    rng = np.random.default_rng(seed)
    weak_view(Image.fromarray(image), mask, data, rng, pixels, valid, cropped)
    return pixels, cropped, valid


def test_weak_view_at_full_scale_is_image_with_padding() -> None:
    image = random_image(0, (24, 30))
    mask = random_mask(0, 3, (24, 30))
    pixels, cropped, valid = view(image, mask, scale_range=(1, 1), hflip=0.0)
    inside = np.zeros((32, 40), bool)
    inside[:24, :30] = True
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(pixels[:, :24, :30], image.transpose(2, 0, 1))
    np.testing.assert_array_equal(cropped[:24, :30], mask)
    assert (cropped[~inside] == 255).all()
    assert not pixels[:, ~inside].any()


views = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "size": st.tuples(st.integers(1, 90), st.integers(1, 90)),
        "crop_size": st.tuples(st.integers(16, 60), st.integers(16, 60)),
        "scale_range": st.tuples(st.floats(0.1, 1), st.floats(1, 3)),
    }
)


@settings(max_examples=100, deadline=None)
@given(case=views)
def test_weak_view_valid_is_false_exactly_on_padding(case: dict[str, Any]) -> None:
    image = np.full((*case["size"], 3), 200, np.uint8)
    mask = np.ones(case["size"], np.uint8)
    pixels, cropped, valid = view(image, mask, case["seed"], **data_values(case))
    np.testing.assert_array_equal(valid, (pixels == 200).all(0))
    np.testing.assert_array_equal(valid, cropped == 1)
    assert valid.any()
    assert (cropped[~valid] == 255).all()
    assert not pixels[:, ~valid].any()
    is_rectangle = np.outer(valid.any(1), valid.any(0))
    np.testing.assert_array_equal(valid, is_rectangle)


@settings(max_examples=50, deadline=None)
@given(case=views)
def test_weak_view_flip_mirrors_image_mask_and_valid(case: dict[str, Any]) -> None:
    image = random_image(1, case["size"])
    mask = np.random.default_rng(1).integers(0, 9, case["size"], dtype=np.uint8)
    plain = view(image, mask, case["seed"], hflip=0.0, **data_values(case))
    flipped = view(image, mask, case["seed"], hflip=1.0, **data_values(case))
    for one, other in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(other, one[..., ::-1])


@settings(max_examples=100, deadline=None)
@given(case=views, flip=st.sampled_from([0.0, 1.0]))
def test_weak_view_crops_image_and_mask_at_same_place(case: dict[str, Any], flip: float) -> None:
    """Red is the column, green the row. A mask of columns (of rows) must agree to one pixel.

    In a view that is four times smaller or more, to a quarter of its own pixels: at the border half
    of the image's resampling filter is cut off.
    """
    tolerance = max(1.0, 0.25 / case["scale_range"][0])
    ys, xs = coordinates(*case["size"])
    image = np.stack([xs, ys, np.zeros_like(xs)], -1)
    for channel, mask in enumerate((xs, ys)):
        pixels, cropped, valid = view(image, mask, case["seed"], hflip=flip, **data_values(case))
        difference = np.abs(pixels[channel].astype(int) - cropped)[valid]
        assert difference.max() <= tolerance


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """u8[H, W] rows and u8[H, W] columns."""
    ys, xs = np.mgrid[:height, :width]
    return ys.astype(np.uint8), xs.astype(np.uint8)


def data_values(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("crop_size", "scale_range")}


def test_weak_views_reach_every_corner() -> None:
    ys, xs = coordinates(64, 80)
    image = np.stack([xs, ys, xs], -1)
    crops = [view(image, ys, seed, scale_range=(1, 1), hflip=0.0) for seed in range(300)]
    corners = [pixels[:, 0, 0].tolist() for pixels, _, _ in crops]
    lefts = {left for left, _, _ in corners}
    tops = {top for _, top, _ in corners}
    assert (min(lefts), max(lefts)) == (0, 80 - 40)
    assert (min(tops), max(tops)) == (0, 64 - 32)


def test_image_size_resizes_image_and_mask(table: Table) -> None:
    image, mask = CachedReader(table, (48, 64), 8)(0, mask=True)
    assert (image.height, image.width) == (48, 64)
    assert mask is not None
    assert mask.shape == (48, 64)
    assert set(np.unique(mask)) <= set(np.unique(table.mask(0)))
