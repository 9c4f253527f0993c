"""CamVid on a GPU at full length: 23 and 46 labels, drawn at random and from one drive, four methods, paired seeds.

    python -m benchmarks.camvid_gpu --camvid DIR --weights tf_efficientnet_lite0.safetensors --out runs/camvid-gpu

Needs no Ray: `run.loop.train` in `--processes` processes that share the GPU. A pair has one seed and one label draw for
all methods. Test mIoU of the teacher at the last step. `--search RUN` takes CID's settings from a search's rows;
`--amp off` is float32, to hold against bf16. On a machine without a GPU it runs too: try it with --steps 4.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

from cid_ray import prepare
from cid_ray.config import Config, load
from cid_ray.results.record import Rows, provenance, read_rows

METHODS = ("supervised", "pool_bn", "mean_teacher", "cid")
Place = tuple[str, str, str, int]  # labels, how they were drawn, method, seed


def config_of(place: Place, table: str, found: dict[str, dict[str, Any]], args: argparse.Namespace) -> Config:
    labels, drawn, method, seed = place
    settings = found.get(labels, {}) if method == "cid" else {}
    changes = {
        "data.table": table, "data.ratio": labels, "data.label_from": drawn, "data.draw": seed, "method": method,
        "data.image_size": [240, 320], "data.crop_size": [240, 320], "data.scale": [0.5, 2.0], "train.seed": seed,
        "model.weights": args.weights, "model.encoder": args.encoder, "model.decoder": "deeplabv3plus",
        "model.decoder_options": {}, "train.steps": args.steps, "train.amp": args.amp, "train.samples": 0,
        "train.rungs": [0.25, 0.5, 0.75, 1.0], **settings,
    }  # fmt: skip
    return load("search_spaces/camvid.yaml", [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def train_one(name: str, config: Config, out: Path) -> list[dict[str, Any]]:
    from cid_ray.run.loop import train
    from cid_ray.run.run import Job

    return [row for row in train(Job(config, out, name)) if row["event"] != "progress"]


def settings_of(search: Path | None) -> dict[str, dict[str, Any]]:
    """Label count -> the settings of the best CID trial that a search has tested there."""
    rows = read_rows(search) if search else []
    best = [row for row in rows if row["event"] == "final" and row["method"] == "cid" and row.get("params")]
    return {str(row["label_count"]): row["params"] for row in best}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--camvid", type=Path, required=True)
    options.add_argument("--weights", default="none")
    options.add_argument("--encoder", default="tf_efficientnet_lite0")
    options.add_argument("--search", type=Path)
    options.add_argument("--steps", type=int, default=8000)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--processes", type=int, default=3)
    options.add_argument("--amp", default="auto")
    options.add_argument("--out", type=Path, required=True)
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table, found = str(args.out / "table"), settings_of(args.search)
    if not Path(table, "meta.json").exists():
        assert prepare.main(["camvid", str(args.camvid), "--out", table]) == 0
    places = list(itertools.product(("23", "46"), ("any", "one_group"), METHODS, range(args.seeds)))
    names = ["-".join(map(str, place)) for place in places]
    jobs = [(n, config_of(p, table, found, args), args.out) for n, p in zip(names, places, strict=True)]
    rows, scores = Rows(args.out), dict[tuple[str, str, str], list[float]]()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        waiting = [pool.apply_async(train_one, job) for job in jobs]
        for (labels, drawn, method, _), name, result in zip(places, names, waiting, strict=True):
            for row in result.get():
                rows.add(row)
            scores.setdefault((labels, drawn, method), []).append(row["test/miou_teacher"])
            print(f"{name}: {row['test/miou_teacher']:.2f} in {row['seconds']:.0f} s", flush=True)
    print("| labels | drawn | method | test mIoU | CID over it, in pairs |")
    for (labels, drawn, method), values in scores.items():
        ahead = [a - b for a, b in zip(scores[labels, drawn, "cid"], values, strict=True)]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        pairs = ", ".join(f"{gain:+.2f}" for gain in ahead)
        print(f"| {labels} | {drawn} | {method} | {statistics.mean(values):.2f} ± {spread:.2f} | {pairs} |")
    said = {"scores": {" ".join(key): values for key, values in scores.items()}, "steps": args.steps, **provenance()}
    (args.out / "result.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
