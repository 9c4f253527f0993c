"""Which fraction of the training the teacher's EMA should span: `train.ema_span`.

In `supervised` the teacher has no influence on its student. So one training carries an EMA of each
span, and all of them are scored at its end, on val and test.

    python -m benchmarks.ema_span --name demo --config FILE --steps 100 400 1600 --seeds 5 \\
        --out benchmarks/results/ema-span

Each training adds a line to OUT/NAME.jsonl; the same command continues.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.harness.study_file import Line, StudyFile
from cid_ray.config import Config, build_config, load_config
from cid_ray.config.train_schema import ema_decay
from cid_ray.core import iou
from cid_ray.core.model import make_teacher
from cid_ray.training.loop import make_batches
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer

SPANS = (0.0024, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5)
STUDENT = "student"


def train(config: Config) -> Line:
    """Train once; the scores of student and EMAs on val and test."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cid_ray-") as folder:
        trainer = Trainer(RunSpec(config, Path(folder), num_threads=1))
        steps = config.train.steps
        emas = {span: make_teacher(trainer.student, ema_decay(span, steps)) for span in SPANS}
        for step, batch in enumerate(make_batches(trainer)):
            trainer.train_step(batch)
            for ema in emas.values():
                ema.update(trainer.student, step=step)
        networks: dict[str, nn.Module] = {str(span): ema.module for span, ema in emas.items()}
        networks[STUDENT] = trainer.student.eval()
        scores = {
            f"{split} {name}": score(trainer, net, split)
            for split in ("val", "test")
            for name, net in networks.items()
        }
    return {**scores, "seconds": round(time.monotonic() - started, 1)}


def score(trainer: Trainer, net: nn.Module, split: str) -> float | None:
    images = trainer.eval_images(trainer.eval_rows(split))
    matrices = iou.confusion_matrices(net, images, trainer.table.num_classes)
    return iou.mean_iou(np.sum(list(matrices), axis=0))


def summarize(lines: list[Line], split: str) -> list[str]:
    """A Markdown table: mean over seeds of the score minus the student's."""
    steps = sorted({line["steps"] for line in lines})
    found = [
        f"| {split} mIoU minus the student's | " + " | ".join(f"{n} steps" for n in steps) + " |",
        "|---|" + "---:|" * len(steps),
    ]
    for span in SPANS:
        cells = []
        for count in steps:
            gains = [
                line[f"{split} {span}"] - line[f"{split} {STUDENT}"]
                for line in lines
                if line["steps"] == count
            ]
            decay = ema_decay(span, count)
            cells.append(f"{statistics.mean(gains):+.2f} ({decay:.4g})")
        found.append(f"| span {span:g} | " + " | ".join(cells) + " |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--name", required=True)
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    file = StudyFile(args.out, args.name)
    config = load_config(args.config, [*args.changes, "method=supervised", "train.rungs=[1.0]"])
    file.start(config.result_affecting_values())
    tree = config.model_dump(mode="json", exclude_unset=True)
    for steps in args.steps:
        for seed in range(args.seeds):
            if any((x["steps"], x["seed"]) == (steps, seed) for x in file.read()):
                continue
            changes = {"train.steps": steps, "train.seed": seed, "data.draw": seed}
            line = {"steps": steps, "seed": seed, **train(build_config(tree, changes))}
            file.append([line])
            print(steps, seed, line["seconds"], flush=True)
    for split in ("val", "test"):
        print("\n".join(summarize(file.read(), split)), end="\n\n")


if __name__ == "__main__":
    main()
