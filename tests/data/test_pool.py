"""Law: who reads the pool, a worker's own threads or Ray Data, changes no pixel; no run waits for its start."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cid_ray.config import Data
from cid_ray.data import pool as pool_module
from cid_ray.data.batches import Batch, Plan, Reader, Stream, local_batches
from cid_ray.data.pool import Opening, Share, ray_batches
from cid_ray.data.table import open_table
from tests.data.made import encoded, ids, masked_row, picture, row, write_table

LABELS, POOL, STEPS = 3, 11, 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """3 labeled images and a pool of 11, one of which cannot be read."""
    rows = [masked_row(f"x{n}", picture(n, (40, 50)), ids(n, size=(40, 50))) for n in range(LABELS)]
    rows += [row(f"u{n}", b"" if n == 4 else encoded(picture(n, (40, 50))), size=(40, 50)) for n in range(POOL)]
    table = write_table(tmp_path_factory.mktemp("pool") / "table", rows)
    return Data(table=str(table.folder), crop_size=(24, 32), batch_size=4, batch_size_u=8, threads=2, cache_mb=1)


def plan_of(data: Data) -> Plan:
    rows = np.arange(LABELS + POOL)
    return Plan(Stream(rows[:LABELS], 0, 0, data.batch_size), Stream(rows[LABELS:], 0, 1, data.batch_size_u))


def reader_of(data: Data) -> Reader:
    return Reader(open_table(data.table), None, data.cache_mb)


def local(data: Data, start: int, stop: int, rank: int = 0, world: int = 1) -> list[Batch]:
    return list(local_batches(reader_of(data), plan_of(data), data, start, stop, rank, world))


def by_ray(data: Data, start: int = 0, stop: int = STEPS) -> Iterator[Batch]:
    return ray_batches(reader_of(data), plan_of(data), data, start, stop, 0, 1, 0.5)


def share_of(data: Data, rank: int = 0, world: int = 1, start: int = 0, stop: int = STEPS) -> Share:
    stream = plan_of(data).pool
    assert stream
    return Share(stream, data, rank, world, 0.5, start, stop)


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() <= other.keys() and "image_u" in one
        for name in one:
            assert one[name].dtype.kind == other[name].dtype.kind
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2), (2, 3)])
def test_ray_data_gives_what_the_worker_would_have_read(
    data: Data, monkeypatch: pytest.MonkeyPatch, rank: int, world: int
) -> None:
    share = share_of(data, rank, world, 3)
    bytes_a_step = len(share.stream.share(rank, world)) * 4 * math.prod(data.crop)
    monkeypatch.setattr(pool_module, "BLOCK_BYTES", 5 * bytes_a_step)  # blocks that do not divide the steps
    assert share.dataset().materialize().num_blocks() == 8
    found, expected = list(share.batches()), local(data, 3, STEPS, rank, world)
    assert_equal(found, expected)
    assert any("u4: " in told for batch in found for told in batch["unreadable_u"])
    assert not found[0]["image_u"].flags.owndata, "read where it lies"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_takes_over_in_the_middle_and_no_pixel_tells(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Opening] = []

    class Seen(Opening):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(pool_module, "Opening", Seen)
    monkeypatch.setattr(pool_module, "START_SECONDS", 0.0)
    stands, fifth = Share.stands, threading.Event()
    monkeypatch.setattr(Share, "stands", lambda share, closed: stands(share, closed) and fifth.wait(60))
    found = []
    for batch in by_ray(data):
        found.append(batch)
        if len(found) == 5:
            fifth.set()
        while len(found) == 5 and made[0].first == STEPS and not made[0].failure:
            time.sleep(0.01)  # a training so slow that Ray Data stands at its sixth step
    assert made[0].first == 5
    assert_equal(found, local(data, 0, STEPS))
    assert [batch["image_u"].flags.writeable for batch in found] == [True] * 5 + [False] * (STEPS - 5)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_that_ends_while_processes_start_does_not_wait_for_them(data: Data) -> None:
    closed = threading.Event()
    closed.set()
    assert not share_of(data).stands(closed)
    assert share_of(data).stands(threading.Event())


# ---- without Ray: what is opened is given ----


class Given:
    """In the place of a `Share` on Ray: stands when its gate opens, as a cluster that takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None):
        self.gate, self.failure = threading.Event(), failure
        self.asked: list[object] = []
        monkeypatch.setattr(Share, "stands", lambda share, closed: self.stands(share.start, closed))
        monkeypatch.setattr(Share, "batches", lambda share: self.batches(share.start, share.stop))

    def stands(self, step: int, closed: threading.Event) -> bool:
        self.asked.append(step)
        while not self.gate.wait(0.001):
            if closed.is_set():
                return False
        if self.failure:
            raise self.failure
        return True

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        self.asked.append((start, stop))
        yield from ({"image_u": np.full(1, step)} for step in range(start, stop))


def opening_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ray-data-opening"]


def test_a_run_that_is_over_first_does_not_wait(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(monkeypatch)
    assert_equal(list(by_ray(data)), local(data, 0, STEPS))
    assert given.asked == [0] and not opening_threads(), "nothing is opened for a run that has ended"


def test_a_run_that_is_closed_opens_nothing_more(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(monkeypatch)
    with closing(by_ray(data)) as batches:  # type: ignore[type-var]
        next(batches)
    assert given.asked == [0] and not opening_threads()


def test_what_fails_while_it_is_opened_is_raised_at_the_next_step(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(monkeypatch, ValueError("no such table"))
    batches = by_ray(data)
    assert_equal([next(batches) for _ in range(3)], local(data, 0, 3))
    given.gate.set()
    for thread in opening_threads():
        thread.join(60)
    with pytest.raises(ValueError, match="no such table"):
        next(batches)


def test_a_worker_never_passes_the_step_at_which_it_hands_over(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it is: every step comes once, in order, from one of the two."""
    given = Given(monkeypatch)
    for _ in range(50):
        given.gate.clear()
        opening = Opening(share_of(data, stop=10_000))
        steps = []
        for step in range(10_000):
            if step == 10:
                given.gate.set()
            if opening.takes(step):
                steps += [int(batch["image_u"][0]) for batch in opening.batches()]
                break
            steps.append(step)
        opening.thread.join(60)
        assert steps == list(range(10_000))


def test_what_was_resumed_begins_there(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(monkeypatch)
    assert_equal(list(by_ray(data, 30, 36)), local(data, 30, 36))
    assert given.asked == [30]


def test_without_a_pool_nothing_is_opened(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(monkeypatch)
    plan = Plan(plan_of(data).labeled, None)
    found = list(ray_batches(reader_of(data), plan, data, 0, 3, 0, 1, 0.5))
    assert [sorted(batch) for batch in found] == [["image_x", "mask_x", "valid_x"]] * 3 and not given.asked


def test_a_table_that_vanished_is_named_by_ray_data_too(data: Data, tmp_path: Path) -> None:
    gone = data.model_copy(update={"table": str(tmp_path / "gone")})
    with pytest.raises(Exception, match="gone"):
        pool_module.load_steps(share_of(gone).stream, gone, 0, 1, [0])
