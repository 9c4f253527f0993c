"""Law: who reads the pool, a worker's own threads or Ray Data, changes no pixel.

And no run waits until Ray Data has started. The reference is `loader.local_batches`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cid_ray.config import DataConfig
from cid_ray.data import ray_data
from cid_ray.data.cache import CachedReader
from cid_ray.data.loader import Batch, local_batches
from cid_ray.data.ray_data import Handover, PoolShard, ray_batches
from cid_ray.data.sampling import LABELED, POOL, SampleOrder, SamplingPlan
from cid_ray.data.sources import open_table
from tests.helpers.band_files import write_band_table
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

NUM_LABELED, NUM_POOL, STEPS = 3, 11, 40
UNREADABLE = 4  # the number of the pool image that cannot be read
CPUS = 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """3 labeled images and a pool of 11, one of which cannot be read."""
    size = (40, 50)
    rows = [
        labeled_row(f"x{n}", random_image(n, size), random_mask(n, size=size))
        for n in range(NUM_LABELED)
    ]
    for n in range(NUM_POOL):
        encoded = b"" if n == UNREADABLE else encode_image(random_image(n, size))
        rows.append(table_row(f"u{n}", encoded, size=size))
    table = write_table(tmp_path_factory.mktemp("pool") / "table", rows)
    return DataConfig(
        table=str(table.folder),
        crop_size=(24, 32),
        batch_size=4,
        batch_size_u=8,
        threads=2,
        cache_mb=1,
    )


def plan_of(data: DataConfig) -> SamplingPlan:
    rows = np.arange(NUM_LABELED + NUM_POOL)
    labeled = SampleOrder(rows[:NUM_LABELED], 0, LABELED, data.batch_size)
    pool = SampleOrder(rows[NUM_LABELED:], 0, POOL, data.batch_size_u)
    return SamplingPlan(labeled, pool)


def reader_of(data: DataConfig) -> CachedReader:
    return CachedReader(open_table(data.table), None, data.cache_mb)


def read_locally(
    data: DataConfig, start: int, stop: int, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    batches = local_batches(reader_of(data), plan_of(data), data, start, stop, rank, world_size)
    return list(batches)


def read_by_ray(data: DataConfig, start: int = 0, stop: int = STEPS) -> Iterator[Batch]:
    return ray_batches(reader_of(data), plan_of(data), data, start, stop, 0, 1, CPUS)


def shard_of(
    data: DataConfig, rank: int = 0, world_size: int = 1, start: int = 0, stop: int = STEPS
) -> PoolShard:
    order = plan_of(data).pool
    assert order
    return PoolShard(order, data, rank, world_size, CPUS, start, stop)


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() <= other.keys()
        assert "image_u" in one
        for name in one:
            assert one[name].dtype.kind == other[name].dtype.kind
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3)])
def test_pool_shard_equals_local_batches(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int
) -> None:
    shard = shard_of(data, rank, world_size, 3)
    step_bytes = len(shard.order.shard(rank, world_size)) * 4 * math.prod(data.crop)
    # Blocks of 5 steps do not divide the 37 steps evenly.
    monkeypatch.setattr(ray_data, "BLOCK_BYTES", 5 * step_bytes)
    assert shard.dataset().materialize().num_blocks() == 8
    found = list(shard.batches())
    assert_equal(found, read_locally(data, 3, STEPS, rank, world_size))
    unreadable = [line for batch in found for line in batch["unreadable_u"]]
    assert any(f"u{UNREADABLE}: " in line for line in unreadable)
    assert not found[0]["image_u"].flags.owndata, "read from the object store without a copy"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_pool_shard_of_five_bands_equals_local_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (14, 5, 40, 50), dtype=np.uint8)
    masks = [random_mask(n, size=(40, 50)) for n in range(NUM_LABELED)]
    table = write_band_table(tmp_path / "t", list(planes), masks)
    data = DataConfig(table=str(table.folder), crop_size=(24, 32), batch_size=4, batch_size_u=8)
    shard = replace(shard_of(data), num_channels=table.num_channels)
    # A crop has five bands and `valid`: a block of 8 steps.
    monkeypatch.setattr(ray_data, "BLOCK_BYTES", 8 * 8 * 6 * math.prod(data.crop))
    assert shard.num_blocks == 5
    found = list(shard.batches())
    assert found[0]["image_u"].shape == (8, 5, 24, 32)
    assert_equal(found, read_locally(data, 0, STEPS))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_batches_after_handover_equal_local_batches(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    handovers: list[Handover] = []

    class RecordedHandover(Handover):
        def __init__(self, shard: PoolShard):
            super().__init__(shard)
            handovers.append(self)

    monkeypatch.setattr(ray_data, "Handover", RecordedHandover)
    monkeypatch.setattr(ray_data, "STARTUP_MARGIN_S", 0.0)
    wait_until_ready = PoolShard.wait_until_ready
    fifth_step = threading.Event()

    def ready_at_fifth_step(shard: PoolShard, closed: threading.Event) -> bool:
        return wait_until_ready(shard, closed) and fifth_step.wait(60)

    monkeypatch.setattr(PoolShard, "wait_until_ready", ready_at_fifth_step)
    found = []
    for batch in read_by_ray(data):
        found.append(batch)
        if len(found) == 5:
            fifth_step.set()
            # The worker computes until the handover step is chosen: the sixth step.
            while handovers[0].handover_step == STEPS and not handovers[0].error:
                time.sleep(0.01)
    assert handovers[0].handover_step == 5
    assert_equal(found, read_locally(data, 0, STEPS))
    is_local = [batch["image_u"].flags.writeable for batch in found]
    assert is_local == [True] * 5 + [False] * (STEPS - 5)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_closed_run_does_not_wait_for_starting_processes(data: DataConfig) -> None:
    closed = threading.Event()
    closed.set()
    assert not shard_of(data).wait_until_ready(closed)
    assert shard_of(data).wait_until_ready(threading.Event())


# ---- without Ray: a fake dataset ----


class FakeRayData:
    """Stands in for Ray in `PoolShard`: becomes ready when the test opens its gate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None):
        self.gate = threading.Event()
        self.failure = failure
        self.calls: list[object] = []  # a step per wait, (start, stop) per opened dataset
        monkeypatch.setattr(
            PoolShard, "wait_until_ready", lambda shard, closed: self.wait(shard.start, closed)
        )
        monkeypatch.setattr(
            PoolShard, "batches", lambda shard: self.batches(shard.start, shard.stop)
        )

    def wait(self, step: int, closed: threading.Event) -> bool:
        self.calls.append(step)
        while not self.gate.wait(0.001):
            if closed.is_set():
                return False
        if self.failure:
            raise self.failure
        return True

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        self.calls.append((start, stop))
        yield from ({"image_u": np.full(1, step)} for step in range(start, stop))


def handover_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ray-data-handover"]


def test_finished_run_opens_no_dataset(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRayData(monkeypatch)
    assert_equal(list(read_by_ray(data)), read_locally(data, 0, STEPS))
    assert fake.calls == [0]
    assert not handover_threads()


def test_closed_run_opens_no_dataset(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRayData(monkeypatch)
    with closing(read_by_ray(data)) as batches:  # type: ignore[type-var]
        next(batches)
    assert fake.calls == [0]
    assert not handover_threads()


def test_handover_failure_is_raised_at_next_step(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRayData(monkeypatch, ValueError("no such table"))
    batches = read_by_ray(data)
    assert_equal([next(batches) for _ in range(3)], read_locally(data, 0, 3))
    fake.gate.set()
    for thread in handover_threads():
        thread.join(60)
    with pytest.raises(ValueError, match="no such table"):
        next(batches)


def test_worker_never_passes_handover_step(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast the worker is, every step comes once and in order, from one of the two."""
    fake = FakeRayData(monkeypatch)
    for _ in range(50):
        fake.gate.clear()
        handover = Handover(shard_of(data, stop=10_000))
        steps = []
        for step in range(10_000):
            if step == 10:
                fake.gate.set()
            if handover.is_handover_step(step):
                steps += [int(batch["image_u"][0]) for batch in handover.batches()]
                break
            steps.append(step)
        handover.thread.join(60)
        assert steps == list(range(10_000))


def test_resumed_run_starts_handover_at_its_step(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRayData(monkeypatch)
    assert_equal(list(read_by_ray(data, 30, 36)), read_locally(data, 30, 36))
    assert fake.calls == [30]


def test_ray_batches_without_pool_open_no_dataset(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRayData(monkeypatch)
    plan = SamplingPlan(plan_of(data).labeled, None)
    found = list(ray_batches(reader_of(data), plan, data, 0, 3, 0, 1, CPUS))
    assert [sorted(batch) for batch in found] == [["image_x", "mask_x", "valid_x"]] * 3
    assert not fake.calls


def test_load_steps_of_missing_table_names_it(data: DataConfig, tmp_path: Path) -> None:
    missing = data.model_copy(update={"table": str(tmp_path / "gone")})
    with pytest.raises(Exception, match="gone"):
        ray_data.load_steps(shard_of(missing).order, missing, 0, 1, [0])
