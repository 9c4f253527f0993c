"""Law: which image comes when is a function of (seed, step), so workers, threads, caches and restarts change no pixel.

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

from cid_ray.config import Data, InputError
from cid_ray.data.batches import Batch, Plan, Reader, Stream, local_batches, weak_view
from cid_ray.data.splits import Split, make_split
from cid_ray.data.table import Table, png
from tests.data.made import ids, masked_row, picture, row, write_table

LABELS, POOL = 5, 13


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """5 labeled images and a pool of 13, of many sizes. What lies in the pool's masks is no mask: none may open it."""
    rng = np.random.default_rng(1)
    sizes = [tuple(int(side) for side in rng.integers(20, 70, 2)) for _ in range(LABELS + POOL)]
    rows: list[dict[str, Any]] = [masked_row(f"x{i}", picture(i, sizes[i]), ids(i, 3, sizes[i])) for i in range(LABELS)]
    for i in range(LABELS, LABELS + POOL):
        rows.append(row(f"u{i}", png(picture(i, sizes[i])), b"never opened", pixels=[1, 1, 1], size=sizes[i]))
    return write_table(tmp_path_factory.mktemp("batches") / "t", rows)


def data_of(**changes: Any) -> Data:
    return Data(**{"crop_size": (32, 40), "batch_size": 4, "batch_size_u": 8, "threads": 2, **changes})


def plan_of(data: Data, seed: int = 0, feed_pool: bool = True) -> Plan:
    split = Split("5", np.arange(LABELS), np.arange(LABELS, LABELS + POOL), {})
    return Plan.of(data, split, seed, feed_pool)


def batches(
    table: Table, data: Data, start: int = 0, stop: int = 5, rank: int = 0, world: int = 1, seed: int = 0
) -> list[Batch]:
    reader = Reader(table, data.image_size, data.cache_mb)
    return list(local_batches(reader, plan_of(data, seed), data, start, stop, rank, world))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def order(stream: Stream, steps: int, world: int = 1) -> list[int]:
    """Table rows in the order in which all workers together take them."""
    places = [p for step in range(steps) for rank in range(world) for p in stream.places(step, rank, world)]
    return [stream.row(place) for place in places]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.sampled_from([1, 2, 4, 8, 16]))
def test_every_pool_image_comes_exactly_once_an_epoch(seed: int, batch: int) -> None:
    stream = plan_of(data_of(batch_size_u=batch), seed).pool
    assert stream is not None
    rows = order(stream, 4 * POOL)
    epochs = [rows[i : i + POOL] for i in range(0, len(rows) - POOL + 1, POOL)]
    assert len(epochs) >= 4
    for epoch in epochs:
        assert sorted(epoch) == list(range(LABELS, LABELS + POOL))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs), "every epoch has an order of its own"


def test_labeled_images_cycle_while_the_pool_is_passed() -> None:
    plan = plan_of(data_of())
    counts = Counter(order(plan.labeled, 20))
    assert counts == {row: 16 for row in range(LABELS)}


def test_the_order_of_another_seed_is_another_one() -> None:
    orders = set()
    for seed in range(10):
        stream = plan_of(data_of(), seed).pool
        assert stream is not None
        orders.add(tuple(order(stream, 4)))
    assert len(orders) == 10


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    stream = plan_of(data_of()).pool
    fresh = plan_of(data_of()).pool
    assert stream is not None and fresh is not None
    forward = [[stream.row(p) for p in stream.places(step, 0, 1)] for step in range(40)]
    backward = [[fresh.row(p) for p in fresh.places(step, 0, 1)] for step in reversed(range(40))]
    assert forward == backward[::-1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 30))
def test_any_number_of_workers_takes_the_same_images_in_the_same_order(seed: int, steps: int) -> None:
    plan = plan_of(data_of(), seed)
    for stream in (plan.labeled, plan.pool):
        assert stream is not None
        assert order(stream, steps, world=2) == order(stream, steps, world=4) == order(stream, steps)


@pytest.mark.parametrize("world", [2, 4])
def test_workers_shares_together_are_the_single_workers_batch(table: Table, world: int) -> None:
    data = data_of()
    shares = [batches(table, data, rank=rank, world=world) for rank in range(world)]
    together = [
        {name: np.concatenate([s[name] for s in step]) for name in step[0]} for step in zip(*shares, strict=True)
    ]
    assert_equal(together, batches(table, data))


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_run_gets_the_batches_that_it_would_have_got(table: Table, step: int) -> None:
    assert_equal(batches(table, data_of(), start=step), batches(table, data_of())[step:])


def test_nothing_is_left_to_do_at_the_last_step(table: Table) -> None:
    assert batches(table, data_of(), start=5, stop=5) == []


@pytest.mark.parametrize("changes", [{"threads": 1}, {"threads": 4}, {"cache_mb": 0}, {"cache_mb": 1}])
def test_threads_and_cache_change_no_pixel(table: Table, changes: dict[str, int]) -> None:
    assert_equal(batches(table, data_of(**changes), stop=8), batches(table, data_of(), stop=8))


def test_another_seed_gives_other_pixels(table: Table) -> None:
    one, other = batches(table, data_of(), stop=1)[0], batches(table, data_of(), stop=1, seed=1)[0]
    assert not np.array_equal(one["image_u"], other["image_u"])


def test_an_image_is_cropped_anew_each_time_it_comes(table: Table) -> None:
    data = data_of(hflip=0.0)
    plan = Plan(Stream(np.array([0]), 0, 0, 4), None)
    batch = next(local_batches(Reader(table, None, 8), plan, data, 0, 1))
    assert len({image.tobytes() for image in batch["image_x"]}) == 4


def test_batches_have_their_shapes_and_types_and_no_mask_of_the_pool(table: Table) -> None:
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


def test_without_a_pool_to_feed_only_labeled_images_come(table: Table) -> None:
    data = data_of()
    found = list(local_batches(Reader(table, None, 8), plan_of(data, feed_pool=False), data, 0, 3))
    both = batches(table, data, stop=3)
    assert_equal(found, [{name: batch[name] for name in ("image_x", "mask_x", "valid_x")} for batch in both])


def test_a_pool_without_a_readable_image_stops_the_batches(tmp_path: Path) -> None:
    rows = [masked_row("x", picture(0), ids(0)), row("u", b"broken")]
    table = write_table(tmp_path / "t", rows)
    data = data_of(batch_size=1, batch_size_u=1, ratio="1/1")
    feed = local_batches(Reader(table, None, 8), Plan.of(data, make_split(table, data), 0, True), data, 0, 3)
    with pytest.raises(InputError, match="1 pool images in a row cannot be read: train/u: not a picture"):
        list(feed)


def view(image: np.ndarray, mask: np.ndarray, seed: int = 0, **changes: Any) -> tuple[np.ndarray, ...]:
    """Pixels, cropped mask, validity."""
    data = data_of(**changes)
    pixels, valid = np.zeros((3, *data.crop), np.uint8), np.zeros(data.crop, bool)
    cropped = np.full(data.crop, 255, np.uint8)
    weak_view(Image.fromarray(image), mask, data, np.random.default_rng(seed), pixels, valid, cropped)
    return pixels, cropped, valid


def test_a_view_at_full_scale_is_the_image_itself_with_padding_beside_it() -> None:
    image, mask = picture(0, (24, 30)), ids(0, 3, (24, 30))
    pixels, cropped, valid = view(image, mask, scale=(1, 1), hflip=0.0)
    inside = np.zeros((32, 40), bool)
    inside[:24, :30] = True
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(pixels[:, :24, :30], image.transpose(2, 0, 1))
    np.testing.assert_array_equal(cropped[:24, :30], mask)
    assert (cropped[~inside] == 255).all() and not pixels[:, ~inside].any()


views = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "size": st.tuples(st.integers(1, 90), st.integers(1, 90)),
        "crop_size": st.tuples(st.integers(16, 60), st.integers(16, 60)),
        "scale": st.tuples(st.floats(0.1, 1), st.floats(1, 3)),
    }
)


@settings(max_examples=100, deadline=None)
@given(case=views)
def test_valid_is_false_exactly_on_padding(case: dict[str, Any]) -> None:
    image = np.full((*case["size"], 3), 200, np.uint8)
    pixels, cropped, valid = view(image, np.ones(case["size"], np.uint8), case["seed"], **without_size(case))
    np.testing.assert_array_equal(valid, (pixels == 200).all(0))
    np.testing.assert_array_equal(valid, cropped == 1)
    assert valid.any() and (cropped[~valid] == 255).all() and not pixels[:, ~valid].any()
    rows, columns = valid.any(1), valid.any(0)
    np.testing.assert_array_equal(valid, np.outer(rows, columns))


@settings(max_examples=50, deadline=None)
@given(case=views)
def test_a_flip_flips_image_mask_and_valid_alike(case: dict[str, Any]) -> None:
    image, mask = picture(1, case["size"]), np.random.default_rng(1).integers(0, 9, case["size"], dtype=np.uint8)
    kept, flipped = (view(image, mask, case["seed"], hflip=p, **without_size(case)) for p in (0.0, 1.0))
    for one, other in zip(kept, flipped, strict=True):
        np.testing.assert_array_equal(other, one[..., ::-1])


@settings(max_examples=100, deadline=None)
@given(case=views, flip=st.sampled_from([0.0, 1.0]))
def test_image_and_mask_are_cut_at_the_same_place(case: dict[str, Any], flip: float) -> None:
    """A picture whose red is its column, green its row: a mask of columns (of rows) must say the same to one pixel."""
    ys, xs = (axis.astype(np.uint8) for axis in np.mgrid[: case["size"][0], : case["size"][1]])
    image = np.stack([xs, ys, np.zeros_like(xs)], -1)
    for channel, mask in enumerate((xs, ys)):
        pixels, cropped, valid = view(image, mask, case["seed"], hflip=flip, **without_size(case))
        off = np.abs(pixels[channel].astype(int) - cropped)[valid]
        assert off.max() <= 1


def without_size(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("crop_size", "scale")}


def test_views_reach_every_corner_of_the_image() -> None:
    ys, xs = (axis.astype(np.uint8) for axis in np.mgrid[:64, :80])
    reached = [view(np.stack([xs, ys, xs], -1), ys, seed, scale=(1, 1), hflip=0.0)[0][:, 0, 0] for seed in range(300)]
    lefts, tops = {int(pixel[0]) for pixel in reached}, {int(pixel[1]) for pixel in reached}
    assert (min(lefts), max(lefts)) == (0, 80 - 40) and (min(tops), max(tops)) == (0, 64 - 32)


def test_image_size_resizes_image_and_mask_before_the_crop(table: Table) -> None:
    image, mask = Reader(table, (48, 64), 8)(0, mask=True)
    assert (image.height, image.width) == (48, 64) and mask is not None and mask.shape == (48, 64)
    assert set(np.unique(mask)) <= set(np.unique(table.mask(0)))
