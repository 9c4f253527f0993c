"""Law: a worker's memory does not grow with the pool.

Measured: the peak of a process that reads a whole pool. It is Linux's VmHWM, which starts afresh
in a new program. getrusage would include the peak of the process that started it.
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
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

SIDE = 160  # pixels; a decoded image has 75 KiB
STEPS = 190  # of 8 images: the large pool once, the small one ten times
SMALL, LARGE = 150, 1500  # images in the pool
BOUND_MB = 30

READ_POOL = """
import sys
from cid_ray.config import DataConfig
from cid_ray.data.cache import CachedReader
from cid_ray.data.loader import local_batches
from cid_ray.data.sampling import SamplingPlan
from cid_ray.data.splits import make_split
from cid_ray.data.table import Table

cache_mb = int(sys.argv[2])
steps = int(sys.argv[3])
data = DataConfig(
    ratio="1/1", crop_size=64, batch_size=1, batch_size_u=8, threads=2, cache_mb=cache_mb
)
table = Table(sys.argv[1])
plan = SamplingPlan.create(data, make_split(table, data), 0, feed_pool=True)
for batch in local_batches(CachedReader(table, None, cache_mb), plan, data, 0, steps):
    assert batch["image_u"].shape == (8, 3, 64, 64)
kept = []
if "keep" in sys.argv:
    kept = [table.read(row, mask=False) for row in table.rows("train").tolist()]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Table]:
    """Pool size -> a table with one label and a pool of JPEG noise."""
    images = [encode_image(random_image(i, (SIDE, SIDE)) // 16 + 100) for i in range(20)]
    label = labeled_row("x", random_image(0), random_mask(0))
    tables = {}
    for count in (SMALL, LARGE):
        pool = (table_row(f"u{i}", images[i % 20], size=(SIDE, SIDE)) for i in range(count))
        table = write_table(tmp_path_factory.mktemp("pools") / f"{count}", (label, *pool))
        assert int(np.sum(~table.labeled)) == count
        tables[count] = table
    return tables


def peak_mb(table: Table, cache_mb: int, *options: str) -> float:
    """The peak memory in MiB of a process that reads the pool."""
    package_root = str(Path(cid_ray.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", READ_POOL, str(table.folder), str(cache_mb), str(STEPS), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": package_root},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return float(done.stdout)


@pytest.fixture(scope="module")
def large_peak(pools: dict[int, Table]) -> float:
    return peak_mb(pools[LARGE], cache_mb=1)


@pytest.mark.process
def test_memory_of_large_pool_equals_small_pool(pools: dict[int, Table], large_peak: float) -> None:
    assert large_peak - peak_mb(pools[SMALL], cache_mb=1) < BOUND_MB


@pytest.mark.process
def test_memory_with_cache_does_not_grow(pools: dict[int, Table], large_peak: float) -> None:
    assert peak_mb(pools[LARGE], cache_mb=512) - large_peak < BOUND_MB


@pytest.mark.process
def test_memory_measure_detects_kept_pool(pools: dict[int, Table], large_peak: float) -> None:
    decoded_mb = LARGE * SIDE * SIDE * 3 / (1 << 20)
    assert peak_mb(pools[LARGE], 1, "keep") - large_peak > decoded_mb / 2 > BOUND_MB
