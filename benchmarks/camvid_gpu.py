"""CamVid on a GPU at full length: 23 and 46 labels, random and from one drive, four methods.

    python -m benchmarks.camvid_gpu --camvid DIR --weights tf_efficientnet_lite0.safetensors --out
    runs/camvid-gpu

Needs no Ray: `training.loop.train` runs in `--processes` processes that share the GPU. A pair has
one seed and one label draw for all methods. Scores are test mIoU of the teacher at the last step.
`--search RUN` takes CID's hyperparameters from a search's records; `--amp off` is float32, to
compare with bf16. It also runs without a GPU: try it with --steps 4.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from cid_ray import prepare
from cid_ray.config import Config, load_config
from cid_ray.results.provenance import provenance
from cid_ray.results.records import Record, RecordWriter, read_records

METHODS = ("supervised", "pool_bn", "mean_teacher", "unimatch_v2", "cid")
Scores = dict[tuple[str, str, str], list[float]]  # labels, label_from, method -> mIoU of each seed


class Cell(NamedTuple):
    """One run of the comparison."""

    labels: str
    label_from: str
    method: str
    seed: int


def make_config(
    cell: Cell, table: str, params: dict[str, dict[str, Any]], args: argparse.Namespace
) -> Config:
    changes = {
        "method": cell.method,
        "data.table": table,
        "data.ratio": cell.labels,
        "data.label_from": cell.label_from,
        "data.draw": cell.seed,
        "data.image_size": [240, 320],
        "data.crop_size": [240, 320],
        "data.scale_range": [0.5, 2.0],
        "model.weights": args.weights,
        "model.encoder": args.encoder,
        "model.decoder": "deeplabv3plus",
        "model.decoder_options": {},
        "train.seed": cell.seed,
        "train.steps": args.steps,
        "train.amp": args.amp,
        "train.num_sample_images": 0,
        "train.rungs": [0.25, 0.5, 0.75, 1.0],
    }
    if cell.method == "cid":
        changes |= params.get(cell.labels, {})
    return load_config("search_spaces/camvid.yaml", changes)


def train_one(name: str, config: Config, out: Path) -> list[Record]:
    from cid_ray.training.loop import train
    from cid_ray.training.run_spec import RunSpec

    records = train(RunSpec(config, out, name))
    return [record for record in records if record["event"] != "progress"]


def searched_params(run: Path | None) -> dict[str, dict[str, Any]]:
    """Label count -> the hyperparameters of the best CID trial that a search has tested there."""
    records = read_records(run) if run else []
    return {
        str(record["label_count"]): record["params"]
        for record in records
        if record["event"] == "final" and record["method"] == "cid" and record.get("params")
    }


def run_all(cells: list[Cell], configs: list[Config], out: Path, processes: int) -> Scores:
    writer = RecordWriter(out)
    scores: Scores = {}
    names = ["-".join(map(str, cell)) for cell in cells]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        results = [
            pool.apply_async(train_one, (name, config, out))
            for name, config in zip(names, configs, strict=True)
        ]
        for cell, name, result in zip(cells, names, results, strict=True):
            records = result.get()
            for record in records:
                writer.append(record)
            miou = records[-1]["test/miou_teacher"]
            scores.setdefault(cell[:3], []).append(miou)
            print(f"{name}: {miou:.2f} in {records[-1]['seconds']:.0f} s", flush=True)
    return scores


def show(scores: Scores) -> None:
    print("| labels | drawn from | method | test mIoU | CID minus it, in pairs |")
    for (labels, label_from, method), values in scores.items():
        cid = scores[labels, label_from, "cid"]
        gains = ", ".join(f"{ours - other:+.2f}" for ours, other in zip(cid, values, strict=True))
        sd = statistics.stdev(values) if len(values) > 1 else float("nan")
        mean = f"{statistics.mean(values):.2f} ± {sd:.2f}"
        print(f"| {labels} | {label_from} | {method} | {mean} | {gains} |")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--camvid", type=Path, required=True)
    options.add_argument("--weights", default="none")
    options.add_argument("--encoder", default="tf_efficientnet_lite0")
    options.add_argument("--search", type=Path)
    options.add_argument("--labels", nargs="+", default=["23", "46"])
    options.add_argument("--label-from", nargs="+", default=["any", "one_group"])
    options.add_argument("--steps", type=int, default=8000)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--processes", type=int, default=3)
    options.add_argument("--amp", default="auto")
    options.add_argument("--out", type=Path, required=True)
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = str(args.out / "table")
    if not Path(table, "meta.json").exists():
        assert prepare.main(["camvid", str(args.camvid), "--out", table]) == 0
    label_sources = itertools.product(args.labels, args.label_from)
    cells = [
        Cell(labels, label_from, method, seed)
        for labels, label_from in label_sources
        for method in METHODS
        for seed in range(args.seeds)
    ]
    params = searched_params(args.search)
    configs = [make_config(cell, table, params, args) for cell in cells]
    scores = run_all(cells, configs, args.out, args.processes)
    show(scores)
    content = {
        "scores": {" ".join(key): values for key, values in scores.items()},
        "steps": args.steps,
        **provenance(),
    }
    (args.out / "result.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
