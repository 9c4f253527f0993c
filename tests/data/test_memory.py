"""Law: a worker's memory does not grow with the pool. Measured: the peak of a process that walks through one.

The peak is Linux's VmHWM, which a new program starts afresh; getrusage keeps that of the process that started it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cid_ray
from cid_ray.data.table import Table
from tests.data.made import encoded, ids, masked_row, picture, row, write_table

SIDE = 160  # 75 KiB an image when decoded
STEPS = 190  # of 8 images: the large pool once, the small one ten times
SMALL, LARGE = 150, 1500
BOUND_MB = 30

WALK = """
import sys
from cid_ray.config import Data
from cid_ray.data.batches import Plan, Reader, local_batches
from cid_ray.data.splits import make_split
from cid_ray.data.table import Table

data = Data(ratio="1/1", crop_size=64, batch_size=1, batch_size_u=8, threads=2, cache_mb=int(sys.argv[2]))
table = Table(sys.argv[1])
plan = Plan.of(data, make_split(table, data), 0, feed_pool=True)
for batch in local_batches(Reader(table, None, data.cache_mb), plan, data, 0, int(sys.argv[3])):
    assert batch["image_u"].shape == (8, 3, 64, 64)
kept = [table.read(row, mask=False) for row in table.rows("train").tolist() if "keep" in sys.argv]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Table]:
    """Tables with one label and a small and a large pool of JPEG noise."""
    images = [encoded(picture(i, (SIDE, SIDE)) // 16 + 100) for i in range(20)]
    label = masked_row("x", picture(0), ids(0))
    made = {}
    for count in (SMALL, LARGE):
        rows = (row(f"u{i}", images[i % len(images)], size=(SIDE, SIDE)) for i in range(count))
        made[count] = write_table(tmp_path_factory.mktemp("pools") / f"{count}", (label, *rows))
        assert int(np.sum(~made[count].labeled)) == count
    return made


def peak_mb(table: Table, cache_mb: int, *options: str) -> float:
    """MiB that a process needed at most while it walked through the pool."""
    done = subprocess.run(
        [sys.executable, "-c", WALK, str(table.folder), str(cache_mb), str(STEPS), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return float(done.stdout)


@pytest.fixture(scope="module")
def large_peak(pools: dict[int, Table]) -> float:
    return peak_mb(pools[LARGE], cache_mb=1)


def test_memory_does_not_grow_with_the_pool(pools: dict[int, Table], large_peak: float) -> None:
    assert large_peak - peak_mb(pools[SMALL], cache_mb=1) < BOUND_MB


def test_what_is_cached_is_no_memory_of_the_process(pools: dict[int, Table], large_peak: float) -> None:
    assert peak_mb(pools[LARGE], cache_mb=512) - large_peak < BOUND_MB


def test_the_measure_would_see_a_pool_that_is_kept(pools: dict[int, Table], large_peak: float) -> None:
    decoded_mb = LARGE * SIDE * SIDE * 3 / (1 << 20)
    assert peak_mb(pools[LARGE], 1, "keep") - large_peak > decoded_mb / 2 > BOUND_MB
