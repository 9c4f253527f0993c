"""Records learning curves of random settings on CamVid at 1/16 (23): the table that search_efficiency.py replays.

Two processes, a core each; killed or stopped, the same commands go on with what is missing:

    for part in 0/2 1/2; do
        OMP_NUM_THREADS=1 python benchmarks/record_curves.py --table tables/camvid --part $part \
            --weights tf_efficientnet_lite0.safetensors --out curves.jsonl --count 120 &
    done

The space is that of search_spaces/camvid.yaml plus `optim.lr`. Runs are small enough for half a minute on one core:
60 steps, images of 60 x 80 pixels, every fifth val image, masks at the size of the images. The loop is cid_ray's own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from PIL import Image

from cid_ray.config import Config, load, override
from cid_ray.data.batches import Reader
from cid_ray.data.table import Table
from cid_ray.results.record import provenance
from cid_ray.run.loop import train
from cid_ray.run.run import Job
from cid_ray.search.space import Space

DRAW_SEED = 20_011  # of the recorded settings; no search of the benchmark has it
LEARNING_RATE = {"float": [1e-4, 3e-3], "log": True}
VAL_EVERY = 5
REDUCED = {
    "data.ratio": "1/16",
    "data.image_size": [60, 80],
    "data.crop_size": [48, 64],
    "data.batch_size": 4,
    "data.batch_size_u": 4,
    "data.threads": 1,
    "train.steps": 60,
    "train.rungs": [0.05, 0.1, 0.2, 1 / 3, 0.5, 2 / 3, 1.0],
    "train.ema_decay": 0.95,  # 0.996 would average over more steps than there are
    "train.device": "cpu",
    "search.ratios": ["1/16"],
    "search.start": [],
}


class SmallTable(Table):
    """A table with every fifth val image, and masks at the size that images are trained at."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.fingerprint += "-small"  # caches of decoded images go by it

    def rows(self, split: str) -> np.ndarray:
        rows = super().rows(split)
        return rows[::VAL_EVERY] if split == "val" else rows

    def mask(self, row: int) -> np.ndarray:
        high, wide = REDUCED["data.image_size"]
        return np.asarray(Image.fromarray(super().mask(row)).resize((wide, high), Image.Resampling.NEAREST))


def base_config(path: str, **changes: Any) -> Config:
    """camvid.yaml made small, with the learning rate in its space."""
    tree = load(path).model_dump(mode="json")
    tree["search"]["space"] = {"optim.lr": LEARNING_RATE, **tree["search"]["space"]}
    return override(tree, {**REDUCED, **changes})


def settings(config: Config, count: int) -> list[dict[str, Any]]:
    """`count` random points of the space; a longer list begins with the shorter one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space.parse(config.search.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=DRAW_SEED))
    return [space.suggest(study.ask()) for _ in range(count)]


def curve(config: Config, reader: Reader) -> dict[str, Any]:
    """The teacher's val mIoU at every rung of one run, whose checkpoints are thrown away."""
    started, folder = time.monotonic(), Path(tempfile.mkdtemp())
    try:
        rows = [r for r in train(Job(config, folder, threads=1, test=False, reader=reader)) if r["event"] == "rung"]
    except FloatingPointError as error:
        return {"failed": str(error)}
    finally:
        shutil.rmtree(folder)
    miou = [round(row["val/miou_teacher"], 3) for row in rows]
    return {"images": [r["images_seen"] for r in rows], "miou": miou, "seconds": round(time.monotonic() - started, 1)}


def recorded(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def rounded(params: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in params.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", default="search_spaces/camvid.yaml")
    options.add_argument("--table", required=True, help="a folder written by `python -m cid_ray.prepare camvid`")
    options.add_argument("--weights", required=True, help="tf_efficientnet_lite0.safetensors")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--count", type=int, default=120, help="settings in all")
    options.add_argument("--part", default="0/1", help="K/N: this process runs every Nth setting from K on")
    options.add_argument("--train-seed", type=int, default=0, help="another one repeats settings: the noise")
    options.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so long")
    args = options.parse_args()
    started, (part, parts) = time.monotonic(), map(int, args.part.split("/"))
    config = base_config(
        args.config, **{"data.table": args.table, "model.weights": args.weights, "train.seed": args.train_seed}
    )
    reader = Reader(SmallTable(args.table), config.data.image_size, cache_mb=64)
    for number, params in enumerate(settings(config, args.count)):
        done = {(row["number"], row["seed"]) for row in recorded(args.out)}
        if number % parts != part or (number, args.train_seed) in done:
            continue
        if time.monotonic() - started > args.seconds:
            break
        tree, versions = config.model_dump(mode="json"), provenance()["versions"]
        row = {
            "number": number,
            "seed": args.train_seed,
            "params": rounded(params),
            **curve(override(tree, params), reader),
        }
        append(args.out, {**row, "torch": versions["torch"]})
        print(number, row.get("seconds"), row.get("failed") or row["miou"][-1], flush=True)


if __name__ == "__main__":
    main()
