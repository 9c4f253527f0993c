"""Images per second that reach the training loop: our pipeline against torch's DataLoader, with the same cores.

    python benchmarks/feeding.py --camvid DIR --out benchmarks/results/feeding

The pool alone, batches of 8, random resize, crop of 320, flip: `data.batches.weak_view` in all of them. Ways take
turns, round by round; every round starts with cold caches, and counts every epoch apart. DataLoader
reads JPEG files as its users do; ours reads a table. Nothing consumes the batches: this is the most that each can give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cid_ray import prepare
from cid_ray.config import Data
from cid_ray.data.batches import POOL, Plan, Stream, local_batches, weak_view
from cid_ray.data.cache import Reader, name_of, node_folder
from cid_ray.data.pool import ray_batches
from cid_ray.data.table import open_table
from cid_ray.results.record import provenance
from cid_ray.run.device import keep_memory

BATCH, CROP = 8, 320


class Files(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray]]):
    """What a user of DataLoader writes."""

    def __init__(self, files: list[Path], data: Data):
        self.files, self.data = files, data

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = Image.open(self.files[index]).convert("RGB")
        rng = np.random.default_rng([index, int(torch.randint(1 << 30, ()))])
        pixels, valid = np.zeros((3, *self.data.crop), np.uint8), np.zeros(self.data.crop, bool)
        weak_view(image, None, self.data, rng, pixels, valid)
        return pixels, valid


def loader(files: list[Path], data: Data, cores: int, epochs: int) -> Iterator[float]:
    """Seconds of every epoch."""
    made = torch.utils.data.DataLoader(
        Files(files, data), BATCH, shuffle=True, num_workers=cores, drop_last=True, persistent_workers=True
    )
    for _ in range(epochs):
        started = time.perf_counter()
        for _ in made:
            pass
        yield time.perf_counter() - started


def ours(table: str, data: Data, cores: int, epochs: int, cache: bool) -> Iterator[float]:
    with tempfile.TemporaryDirectory() as node:  # a cold cache
        os.environ["TMPDIR"] = tempfile.tempdir = node
        data = data.model_copy(update={"threads": cores, "cache_mb": data.cache_mb if cache else 0, "table": table})
        reader = Reader(open_table(table), None, data.cache_mb)
        rows = reader.table.rows("train")
        steps = len(rows) // BATCH
        plan = Plan(Stream(rows, 0, POOL, BATCH), None)
        for epoch in range(epochs):
            started = time.perf_counter()
            for _ in local_batches(reader, plan, data, epoch * steps, (epoch + 1) * steps):
                pass
            yield time.perf_counter() - started
    del os.environ["TMPDIR"]
    tempfile.tempdir = None


def on_ray(table: str, data: Data, cores: int, epochs: int) -> Iterator[float]:
    """The pool as a worker of several gets it: by its own threads until Ray Data stands; one more image a batch."""
    import ray.data  # a worker of Ray Train has it

    data = data.model_copy(update={"threads": cores, "table": table, "batch_size": 1})
    opened = open_table(table)
    (node_folder() / name_of(opened, None)).unlink(missing_ok=True)
    ray.init(address="local", num_cpus=cores, log_to_driver=False, logging_level="ERROR")
    try:
        reader, rows = Reader(opened, None, data.cache_mb), opened.rows("train")
        steps = len(rows) // BATCH
        plan = Plan(Stream(rows[:1], 0, POOL, 1), Stream(rows, 0, POOL, BATCH))
        started = time.perf_counter()  # one dataset for all epochs, as in training
        for number, _ in enumerate(ray_batches(reader, plan, data, 0, epochs * steps, 0, 1, 1.0), 1):
            if number % steps == 0:
                yield time.perf_counter() - started
                started = time.perf_counter()
    finally:
        ray.shutdown()


def lengthened(source: Path, folder: Path, times: int) -> list[Path]:
    """CamVid with every training image under so many names; the training images."""
    for path in source.rglob("*"):
        if path.is_file():
            name, copies = path.relative_to(source), times if path.parent.name == "train" else 1
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                (folder / name.with_stem(f"{name.stem}_{copy}" if copies > 1 else name.stem)).symlink_to(path)
    return sorted((folder / "images" / "train").iterdir())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--camvid", type=Path, required=True)
    options.add_argument("--out", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--ray", action="store_true", help="Ray Data too")
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--cache-mb", type=int, default=16384, help="data.cache_mb; it holds the pool")
    options.add_argument("--times", type=int, default=1, help="a pool so many times as long, of the same images")
    args = options.parse_args()
    keep_memory()  # as a training on CPU does, here for all ways
    data = Data(crop_size=CROP, cache_mb=args.cache_mb)
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        camvid, table = Path(folder) / "camvid", f"{folder}/table"
        files = lengthened(args.camvid, camvid, args.times)
        assert prepare.main(["camvid", str(camvid), "--out", table]) == 0
        ways: dict[str, Any] = {
            "DataLoader": partial(loader, files, data, args.cores, args.epochs),
            "ours, no cache": partial(ours, table, data, args.cores, args.epochs, False),
            "ours": partial(ours, table, data, args.cores, args.epochs, True),
        }
        if args.ray:
            ways["ours, Ray Data"] = partial(on_ray, table, data, args.cores, args.epochs)
        for number in range(args.rounds):
            for name, way in ways.items():
                steps = len(files) // BATCH
                rates = [round(steps * BATCH / seconds, 1) for seconds in way()]
                found.setdefault(name, []).append(rates)
                print(number, name, rates, flush=True)
    said: dict[str, Any] = {
        "images_per_s": found, "cores": args.cores, "images": len(files), "cache_mb": args.cache_mb, **provenance(),
    }  # fmt: skip
    for epoch in range(args.epochs):
        base = statistics.median(r[epoch] for r in found["DataLoader"])
        said[f"epoch {epoch + 1}, over DataLoader"] = {
            name: round(statistics.median(r[epoch] for r in rates) / base, 3) for name, rates in found.items()
        }
        print(said[f"epoch {epoch + 1}, over DataLoader"])
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "result.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
