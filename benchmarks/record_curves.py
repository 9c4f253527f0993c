"""Records learning curves of random points, the same at several label ratios; search_efficiency and
search_families replay them.

One process and one thread. After a kill the same command continues with what is missing:

    OMP_NUM_THREADS=1 python -m benchmarks.record_curves --config demo --ratios 1/16 1/8 \
        --count 48 --out curves-demo.jsonl
    OMP_NUM_THREADS=1 python -m benchmarks.record_curves --config camvid --ratios 1/16 1/8 \
        --count 52 --out curves.jsonl --table tables/camvid --weights FILE

`--part 0/2` and `1/2` share the points between two processes. The space is that of the file in
search_spaces plus `optim.lr`. CamVid: 60 steps, images of 60 x 80 pixels, every fifth val image,
masks at the size of the images. Demo: 80 steps of its own setting. The training loop is cid_ray's
own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from PIL import Image

from cid_ray.config import Config, build_config, load_config
from cid_ray.data.cache import CachedReader
from cid_ray.data.sources import open_table
from cid_ray.data.table import Table
from cid_ray.results.provenance import provenance
from cid_ray.search.space import Space
from cid_ray.training.loop import train
from cid_ray.training.run_spec import RunSpec

SAMPLER_SEED = 20_011  # of the recorded points; no search of the benchmark uses it
LEARNING_RATE = {"float": [1e-4, 3e-3], "log": True}
VAL_EVERY = 5
IMAGE_SIZE = (60, 80)  # height, width of CamVid
SHORT = {
    "data.threads": 1,
    "data.batch_size": 4,
    "data.batch_size_u": 4,
    "train.rungs": [0.05, 0.1, 0.2, 1 / 3, 0.5, 2 / 3, 1.0],
    "train.device": "cpu",
    "train.num_sample_images": 0,
    "search.supervised_ratios": [],
    "search.points_to_evaluate": [],
}
REDUCED: dict[str, dict[str, Any]] = {
    "camvid": {
        **SHORT,
        "data.image_size": list(IMAGE_SIZE),
        "data.crop_size": [48, 64],
        "train.steps": 60,
        "train.ema_span": 1 / 3,  # a decay of 0.95
    },
    "demo": {**SHORT, "train.steps": 80},
}


class SmallTable(Table):
    """A table with every fifth val image, and masks at the size that images are trained at."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.fingerprint += "-small"  # part of the name of the cache of decoded images

    def rows(self, split: str) -> np.ndarray:
        rows = super().rows(split)
        return rows[::VAL_EVERY] if split == "val" else rows

    def mask(self, row: int) -> np.ndarray:
        height, width = IMAGE_SIZE
        mask = Image.fromarray(super().mask(row))
        return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))


def base_config(name: str, **changes: Any) -> Config:
    """A file of search_spaces made small, with the learning rate in its space."""
    tree = load_config(f"search_spaces/{name}.yaml").model_dump(mode="json")
    space = {"optim.lr": LEARNING_RATE, **tree["search"]["space"]}
    tree["search"]["space"] = {k: v for k, v in space.items() if k not in REDUCED[name]}
    return build_config(tree, {**REDUCED[name], **changes})


def random_points(config: Config, count: int) -> list[dict[str, Any]]:
    """`count` random points of the space; a longer list starts with the shorter one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space.parse(config.search.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SAMPLER_SEED))
    return [space.suggest(study.ask()) for _ in range(count)]


def curve(config: Config, reader: CachedReader) -> dict[str, Any]:
    """The teacher's val mIoU at every rung of one run, whose checkpoints are deleted."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp())
    spec = RunSpec(config, folder, num_threads=1, score_test=False, reader=reader)
    try:
        rungs = [record for record in train(spec) if record["event"] == "rung"]
    except FloatingPointError as error:
        return {"failed": str(error)}
    finally:
        shutil.rmtree(folder)
    return {
        "images": [r["images_seen"] for r in rungs],
        "miou": [round(r["val/miou_teacher"], 3) for r in rungs],
        "seconds": round(time.monotonic() - started, 1),
    }


def recorded(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def rounded(params: dict[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.5g}") if isinstance(value, float) else value
        for key, value in params.items()
    }


def open_reader(config: Config) -> CachedReader:
    if config.data.table == "demo":
        return CachedReader(open_table("demo"), config.data.image_size, cache_mb=64)
    return CachedReader(SmallTable(config.data.table), config.data.image_size, cache_mb=64)


def main() -> None:
    args = parse_options()
    started = time.monotonic()
    part, parts = map(int, args.part.split("/"))
    changes = {"train.seed": args.train_seed}
    if args.table:
        changes |= {"data.table": args.table, "model.weights": args.weights}
    config = base_config(args.config, **changes)
    tree = config.model_dump(mode="json")
    reader = open_reader(config)
    points = enumerate(random_points(config, args.count))
    for (number, params), ratio in itertools.product(points, args.ratios):
        done = {(line["number"], line["seed"], line["ratio"]) for line in recorded(args.out)}
        if number % parts != part or (number, args.train_seed, ratio) in done:
            continue
        if time.monotonic() - started > args.seconds:
            break
        line = {
            "ratio": ratio,
            "number": number,
            "seed": args.train_seed,
            "params": rounded(params),
            **curve(build_config(tree, {**params, "data.ratio": ratio}), reader),
            "torch": provenance()["versions"]["torch"],
        }
        append(args.out, line)
        score = line.get("failed") or line["miou"][-1]
        print(number, ratio, line.get("seconds"), score, flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="camvid", choices=list(REDUCED))
    add("--ratios", nargs="+", default=["1/16"])
    add("--table", help="of CamVid: written by `python -m cid_ray.prepare camvid`")
    add("--weights", help="of CamVid: tf_efficientnet_lite0.safetensors")
    add("--out", type=Path, required=True)
    add("--count", type=int, default=120, help="number of points")
    add("--part", default="0/1", help="K/N: this process runs every Nth point from K on")
    add("--train-seed", type=int, default=0, help="another seed repeats the points: the noise")
    add("--seconds", type=float, default=float("inf"), help="start no run after so long")
    args = parser.parse_args()
    if args.config == "camvid" and not (args.table and args.weights):
        parser.error("--config camvid needs --table and --weights")
    return args


if __name__ == "__main__":
    main()
