"""Time and memory of a large pool: import, open, splits and the audit page.

    python -m benchmarks.import_rows --rows 10000 100000 1000000 --out benchmarks/results/import

A pool of generated JPEGs of 32 x 32 pixels, all different, 1000 to a folder, beside 300 labeled
images. They are as small as images get: what is measured is what every row costs. Each step runs in
a process of its own, whose peak memory is that of the step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness.memory import peak_mib
from cid_ray import prepare
from cid_ray.config import DataConfig
from cid_ray.data.importers import list_folders
from cid_ray.data.ingest import write_table
from cid_ray.data.splits import make_split, write_split
from cid_ray.data.table import Table
from cid_ray.results.provenance import provenance

NUM_LABELED = 300
NUM_CLASSES = 11
SIDE = 32  # pixels
IMAGES_PER_FOLDER = 1000
RATIOS = ("1/16", "1/8", "1/2")


def generate(folder: Path, num_rows: int) -> None:
    """Write the image files of a pool, and labeled images with masks."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    names = [f"class{index}" for index in range(NUM_CLASSES)]
    (folder / "classes.txt").write_text("\n".join(names))
    for index in range(NUM_LABELED):
        write_noise(folder / "images" / f"{index:03d}.jpg", rng)
        mask = rng.integers(0, NUM_CLASSES, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{index:03d}.png")
    for index in range(num_rows):
        parent = folder / "pool" / f"{index // IMAGES_PER_FOLDER:04d}"
        if index % IMAGES_PER_FOLDER == 0:
            parent.mkdir(parents=True)
        write_noise(parent / f"{index:07d}.jpg", rng)


def write_noise(file: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")


def import_pool(folder: Path) -> None:
    plan = list_folders(
        folder / "images",
        folder / "masks",
        unlabeled=[folder / "pool"],
        classes=folder / "classes.txt",
    )
    write_table(plan, folder / "table")


def open_table(folder: Path) -> None:
    table = Table(folder / "table")
    table.read(len(table) - 1, mask=False)


def draw_splits(folder: Path) -> None:
    table = Table(folder / "table")
    for ratio in RATIOS:
        make_split(table, DataConfig(ratio=ratio))


def write_split_files(folder: Path) -> None:
    table = Table(folder / "table")
    write_split(table, make_split(table, DataConfig()), folder / "split")


def read_split_files(folder: Path) -> None:
    make_split(Table(folder / "table"), DataConfig(split_files=str(folder / "split")))


def write_audit(folder: Path) -> None:
    prepare.write_audit(Table(folder / "table"))


STEPS: dict[str, Callable[[Path], None]] = {
    "start": lambda folder: None,
    "import": import_pool,
    "open": open_table,
    "draw splits": draw_splits,
    "write split files": write_split_files,
    "read split files": read_split_files,
    "audit page": write_audit,
}


def run_step(name: str, folder: Path) -> dict[str, float]:
    """Seconds of a step and the peak memory of this process."""
    started = time.perf_counter()
    STEPS[name](folder)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 3), "peak_mb": round(peak_mib())}


def measure(num_rows: int, folder: Path) -> dict[str, Any]:
    """Every step on a pool of `num_rows`, each in a new process."""
    started = time.perf_counter()
    generate(folder, num_rows)
    print(f"{num_rows} files generated in {time.perf_counter() - started:.0f} s", flush=True)
    found: dict[str, Any] = {}
    for name in STEPS:
        command = [sys.executable, "-m", "benchmarks.import_rows", "--step", name, str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(num_rows, name, found[name], flush=True)
    found["table_mb"] = round((folder / "table" / "table.parquet").stat().st_size / 1e6)
    found["index_mb"] = round((folder / "table" / "index.parquet").stat().st_size / 1e6, 1)
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    options.add_argument("--out", type=Path)
    options.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help="one step, here")
    args = options.parse_args()
    if args.step:
        print(json.dumps(run_step(args.step[0], Path(args.step[1]))))
        return
    results = {}
    for num_rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            results[str(num_rows)] = measure(num_rows, Path(folder) / "set")
            if args.out:  # now: removing a million files takes minutes
                args.out.mkdir(parents=True, exist_ok=True)
                content = {"rows": results, **provenance()}
                (args.out / "result.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
