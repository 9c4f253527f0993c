"""Law: a pool ten times as large as Ray's object store is streamed, and nothing is spilled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

STORE_BYTES = 80 << 20  # Ray allows no less than 75 MiB
SIDE = 1600  # pixels of a pool image
BATCH_SIZE_U = 8
LABELED_SIZE = (256, 256)
TRAIN = """
import json, os, sys
from pathlib import Path

import ray

from cid_ray.config import build_config
from cid_ray.resources.ray_session import RAY_ENVIRONMENT
from cid_ray.training.workers import train_on_workers
from tests.helpers.tiny_run import TINY

table, store_bytes, batch_size_u, steps = sys.argv[1], *map(int, sys.argv[2:])
os.environ.update(RAY_ENVIRONMENT)
ray.init(
    num_cpus=2, object_store_memory=store_bytes, include_dashboard=True, log_to_driver=False
)
config = build_config(TINY, {
    "data.table": table, "data.ratio": "1/1", "data.crop_size": 256,
    "data.batch_size_u": batch_size_u, "data.cache_mb": 0,
    "distributed.num_workers": 2, "distributed.cpus_per_worker": 0.75,
    "distributed.data_cpus": 0.4, "train.steps": steps, "train.rungs": [1.0],
    "train.num_sample_images": 0, "loss.conf_thresh": 0.0,
})
records = list(train_on_workers(config, Path(table).parent / "run", score_test=False))
stores = [node["Resources"]["object_store_memory"] for node in ray.nodes()]
session = Path(ray._private.worker._global_node.get_session_dir_path())
spilled = list(session.rglob("ray_spilled*/*"))
print(json.dumps({"step": records[-1]["step"], "store": sum(stores), "spilled": len(spilled)}))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pool_ten_times_the_object_store_trains_without_spilling(tmp_path: Path) -> None:
    images = [encode_image(random_image(seed, (SIDE, SIDE))) for seed in range(8)]
    smallest = min(map(len, images))
    steps = 10 * STORE_BYTES // smallest // BATCH_SIZE_U + 1
    pool = (  # two bytes at the end make each image another one
        table_row(f"u{n}", images[n % 8] + bytes([n % 256, n // 256]), size=(SIDE, SIDE))
        for n in range(steps * BATCH_SIZE_U)
    )
    labeled = [labeled_image(f"x{n}", n) for n in range(4)]
    val = [labeled_image(f"v{n}", n, split="val") for n in range(2)]
    table = write_table(tmp_path / "table", (*labeled, *val, *pool))
    assert (tmp_path / "table" / "table.parquet").stat().st_size > 10 * STORE_BYTES
    numbers = map(str, (STORE_BYTES, BATCH_SIZE_U, steps))  # the pool is passed once
    command = [sys.executable, "-c", TRAIN, str(table.folder), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert result["step"] == steps and result["spilled"] == 0
    assert np.isclose(result["store"], STORE_BYTES, rtol=0.05)


def labeled_image(name: str, seed: int, **columns: Any) -> dict[str, object]:
    image = random_image(seed, LABELED_SIZE)
    return labeled_row(name, image, random_mask(seed, size=LABELED_SIZE), **columns)
