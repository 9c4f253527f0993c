"""Images per second that reach the training loop: our loader against torch's DataLoader.

    python -m benchmarks.feeding --camvid DIR --out benchmarks/results/feeding

The pool alone, batches of 8, random resize, crop of 320, flip: `data.loader.weak_view` in all
cases. The cases alternate, round by round; every round starts with cold caches and times each epoch
separately. DataLoader reads JPEG files, as its users do; ours reads a table. Nothing consumes the
batches, so this is the most that each can give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cid_ray import prepare
from cid_ray.config import DataConfig
from cid_ray.data.cache import CachedReader, cache_file_name
from cid_ray.data.loader import local_batches, weak_view
from cid_ray.data.ray_data import ray_batches
from cid_ray.data.sampling import POOL, SampleOrder, SamplingPlan
from cid_ray.data.sources import open_table
from cid_ray.results.provenance import provenance
from cid_ray.storage.user_dirs import private_temp_dir
from cid_ray.training.device import keep_freed_memory

BATCH_SIZE = 8
CROP_SIZE = 320
Case = Callable[[], Iterator[float]]  # seconds of each epoch


class ImageFiles(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray]]):
    """What a user of DataLoader writes."""

    def __init__(self, files: list[Path], data: DataConfig):
        self.files = files
        self.data = data

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = Image.open(self.files[index]).convert("RGB")
        rng = np.random.default_rng([index, int(torch.randint(1 << 30, ()))])
        pixels = np.zeros((3, *self.data.crop), np.uint8)
        valid = np.zeros(self.data.crop, bool)
        weak_view(image, None, self.data, rng, pixels, valid)
        return pixels, valid


def time_data_loader(
    files: list[Path], data: DataConfig, cores: int, epochs: int
) -> Iterator[float]:
    loader = torch.utils.data.DataLoader(
        ImageFiles(files, data),
        BATCH_SIZE,
        shuffle=True,
        num_workers=cores,
        drop_last=True,
        persistent_workers=True,
    )
    for _ in range(epochs):
        started = time.perf_counter()
        for _ in loader:
            pass
        yield time.perf_counter() - started


def time_local_batches(
    table: str, data: DataConfig, cores: int, epochs: int, use_cache: bool
) -> Iterator[float]:
    """Our loader in one process, with `cores` threads."""
    with tempfile.TemporaryDirectory() as folder:
        # The node's cache is below TMPDIR: a new folder makes it cold.
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = folder
        cache_mb = data.cache_mb if use_cache else 0
        changes = {"threads": cores, "cache_mb": cache_mb, "table": table}
        data = data.model_copy(update=changes)
        reader = CachedReader(open_table(table), None, data.cache_mb)
        rows = reader.table.rows("train")
        steps = len(rows) // BATCH_SIZE
        plan = SamplingPlan(SampleOrder(rows, 0, POOL, BATCH_SIZE), None)
        for epoch in range(epochs):
            started = time.perf_counter()
            for _ in local_batches(reader, plan, data, epoch * steps, (epoch + 1) * steps):
                pass
            yield time.perf_counter() - started
    del os.environ["TMPDIR"]
    tempfile.tempdir = None


def time_ray_batches(table: str, data: DataConfig, cores: int, epochs: int) -> Iterator[float]:
    """The pool as a worker of several gets it: from its own threads until Ray Data is ready.

    Each batch has one labeled image too, because Ray Data feeds the pool alone.
    """
    import ray.data  # a worker of Ray Train has it imported too

    data = data.model_copy(update={"threads": cores, "table": table, "batch_size": 1})
    opened = open_table(table)
    (private_temp_dir() / cache_file_name(opened, None)).unlink(missing_ok=True)
    ray.init(address="local", num_cpus=cores, log_to_driver=False, logging_level="ERROR")
    try:
        reader = CachedReader(opened, None, data.cache_mb)
        rows = opened.rows("train")
        steps = len(rows) // BATCH_SIZE
        labeled = SampleOrder(rows[:1], 0, POOL, 1)
        plan = SamplingPlan(labeled, SampleOrder(rows, 0, POOL, BATCH_SIZE))
        # One dataset for all epochs, as in training.
        batches = ray_batches(reader, plan, data, 0, epochs * steps, 0, 1, 1.0)
        started = time.perf_counter()
        for number, _ in enumerate(batches, 1):
            if number % steps == 0:
                yield time.perf_counter() - started
                started = time.perf_counter()
    finally:
        ray.shutdown()


def link_copies(source: Path, folder: Path, copies: int) -> list[Path]:
    """CamVid with every training image under `copies` names; returns the training images."""
    for path in source.rglob("*"):
        if not path.is_file():
            continue
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if copies == 1 or path.parent.name != "train":
            target.symlink_to(path)
            continue
        for copy in range(copies):
            target.with_stem(f"{target.stem}_{copy}").symlink_to(path)
    return sorted((folder / "images" / "train").iterdir())


def run(args: argparse.Namespace) -> tuple[dict[str, list[list[float]]], int]:
    """Images per second of each case, round and epoch, and the number of images."""
    data = DataConfig(crop_size=CROP_SIZE, cache_mb=args.cache_mb)
    rates: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        camvid = Path(folder) / "camvid"
        table = f"{folder}/table"
        files = link_copies(args.camvid, camvid, args.copies)
        assert prepare.main(["camvid", str(camvid), "--out", table]) == 0
        ours = partial(time_local_batches, table, data, args.cores, args.epochs)
        cases: dict[str, Case] = {
            "DataLoader": partial(time_data_loader, files, data, args.cores, args.epochs),
            "ours, no cache": partial(ours, False),
            "ours": partial(ours, True),
        }
        if args.ray:
            cases["ours, Ray Data"] = partial(
                time_ray_batches, table, data, args.cores, args.epochs
            )
        images = len(files) // BATCH_SIZE * BATCH_SIZE
        for number in range(args.rounds):
            for name, case in cases.items():
                epoch_rates = [round(images / seconds, 1) for seconds in case()]
                rates.setdefault(name, []).append(epoch_rates)
                print(number, name, epoch_rates, flush=True)
    return rates, len(files)


def relative_rates(rates: dict[str, list[list[float]]], epoch: int) -> dict[str, float]:
    """Median over the rounds of one epoch, over that of DataLoader."""
    medians = {
        name: statistics.median(rounds[epoch] for rounds in values)
        for name, values in rates.items()
    }
    return {name: round(value / medians["DataLoader"], 3) for name, value in medians.items()}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--camvid", type=Path, required=True)
    options.add_argument("--out", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--ray", action="store_true", help="Ray Data too")
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument(
        "--cache-mb", type=int, default=16384, help="data.cache_mb; holds the pool"
    )
    options.add_argument("--copies", type=int, default=1, help="names of each image of the pool")
    args = options.parse_args()
    keep_freed_memory()  # as training on the CPU does, here for all cases
    rates, images = run(args)
    content: dict[str, Any] = {
        "images_per_s": rates,
        "cores": args.cores,
        "images": images,
        "cache_mb": args.cache_mb,
        **provenance(),
    }
    for epoch in range(args.epochs):
        relative = relative_rates(rates, epoch)
        content[f"epoch {epoch + 1}, over DataLoader"] = relative
        print(relative)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "result.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
