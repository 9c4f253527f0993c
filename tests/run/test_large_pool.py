"""A pool ten times as large as Ray's object store trains: it is streamed, nothing is spilled, nothing waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.made import encoded, ids, masked_row, picture, row, write_table

STORE = 80 << 20  # bytes; Ray allows no less than 75 MiB
SIDE, KINDS = 1600, 8
TRAIN = """
import json, sys
from pathlib import Path

import ray

from cid_ray.config import override
from cid_ray.run.cluster import ENVIRONMENT
from cid_ray.run.workers import train_on_workers
from tests.support import TINY
import os

os.environ.update(ENVIRONMENT)
ray.init(num_cpus=2, object_store_memory=int(sys.argv[2]), include_dashboard=True, log_to_driver=False)
config = override(TINY, {
    "data.table": sys.argv[1], "data.ratio": "1/1", "data.crop_size": 256, "data.batch_size_u": 8, "data.cache_mb": 0,
    "scale.workers": 2, "scale.cpus_per_worker": 0.75, "scale.data_cpus": 0.4, "train.steps": int(sys.argv[3]),
    "train.rungs": [1.0], "train.samples": 0, "loss.conf_thresh": 0.0,
})
rows = list(train_on_workers(config, Path(sys.argv[1]).parent / "run", test=False))
nodes = [node["Resources"]["object_store_memory"] for node in ray.nodes()]
spilled = [path for path in Path(ray._private.worker._global_node.get_session_dir_path()).rglob("ray_spilled*/*")]
print(json.dumps({"row": rows[-1]["step"], "store": sum(nodes), "spilled": len(spilled)}))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pool_ten_times_the_object_store_trains(tmp_path: Path) -> None:
    base = [encoded(picture(kind, (SIDE, SIDE))) for kind in range(KINDS)]
    count = 10 * STORE // min(map(len, base)) // 8 * 8 + 8
    pool = (row(f"u{n}", base[n % KINDS] + bytes([n % 256, n // 256]), size=(SIDE, SIDE)) for n in range(count))
    labels = [masked_row(f"x{n}", picture(n, (256, 256)), ids(n, size=(256, 256))) for n in range(4)]
    val = [masked_row(f"v{n}", picture(n, (256, 256)), ids(n, size=(256, 256)), split="val") for n in range(2)]
    table = write_table(tmp_path / "table", (*labels, *val, *pool))
    assert (tmp_path / "table" / "table.parquet").stat().st_size > 10 * STORE
    command = [sys.executable, "-c", TRAIN, str(table.folder), str(STORE), str(count // 8)]  # the pool once
    done = subprocess.run(command, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["row"] == count // 8 and found["spilled"] == 0
    assert np.isclose(found["store"], STORE, rtol=0.05)
