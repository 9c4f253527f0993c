"""Which images to label: `label_next` against random images and against the most uncertain ones.

Rounds of 12, 24 and 48 labels. Each seed draws 12 images, which all strategies share; then a
network of the labels so far chooses as many again from the rest of train. Networks are trained from
the same start with the same seed, and tested on the table's test images. `random` draws
from the rest.

    python -m benchmarks.label_next TABLE --name camvid --config FILE \\
        --out benchmarks/results/label-next

A seed is added to OUT/NAME.jsonl when it is complete; the same command continues. `--summary`
prints the table and draws the figure of what is there.

A table whose test is of another domain than its train can hide what labels are worth. `--blocks 20`
tests on every third block of 20 consecutive train images of a group instead, so test and pool are
of the same drives, and neighbouring frames are mostly on the same side.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import cid_ray
from benchmarks.harness.study_file import StudyFile
from cid_ray.config import Config, build_config, load_config
from cid_ray.data.split_files import write_lists
from cid_ray.data.splits import make_split
from cid_ray.data.table import IGNORED, Table
from cid_ray.data.table_copy import copied_meta, copied_row
from cid_ray.data.table_writer import TableWriter
from cid_ray.inference.choose_images import Strategy, choose_images
from cid_ray.inference.load import load_model
from cid_ray.inference.pool_scores import PoolScores, score_image

ROUNDS = (12, 24, 48)
STRATEGIES: tuple[Strategy, ...] = ("combined", "uncertainty", "random")
FIRST = "first"  # the draw that all strategies share


def redraw(table: Table, block: int, out: Path) -> Table:
    """A table whose test is every third block of consecutive train images of each group."""
    train = table.rows("train")
    names = [
        (group, name, row)
        for group, name, row in zip(table.groups(train), table.ids(train), train, strict=True)
    ]
    writer = TableWriter(out, table.classes, table.colors, IGNORED)
    position: Counter[str] = Counter()
    for group, _, row in sorted(names):
        is_test = position[group] // block % 3 == 2
        position[group] += 1
        split = "test" if is_test else "train"
        writer.add({**copied_row(table, int(row), with_mask=True), "split": split})
    for row in table.rows("val").tolist():
        writer.add(copied_row(table, row, with_mask=True))
    facts = {"format": "redraw", "table": table.fingerprint, "block": block}
    writer.close(**copied_meta(table), imported=facts, findings=[], skipped=[], warnings=[])
    return Table(out)


def train(config: Config, table: Table, rows: np.ndarray, seed: int, run: Path) -> dict[str, Any]:
    """Train on some rows; returns what a line of the results has."""
    rest = np.setdiff1d(table.rows("train"), rows)
    write_lists(table, rows, rest, {}, run / "split")
    changes: dict[str, Any] = {"data.split_files": str(run / "split")}
    changes["data.ratio"] = str(len(rows))
    changes |= {"train.seed": seed, "train.num_sample_images": 0}
    tree = config.model_dump(mode="json", exclude_unset=True)
    started = time.monotonic()
    for record in cid_ray.train(build_config(tree, changes), run, cpus=1):
        final = record
    return {
        "test": final["test/miou_teacher"],
        "val": final["val/miou_teacher"],
        "seconds": round(time.monotonic() - started, 1),
    }


def next_rows(
    table: Table, rows: np.ndarray, run: Path, by: Strategy, count: int, seed: int
) -> np.ndarray:
    """The rows that a network of `run` chooses."""
    pool = np.setdiff1d(table.rows("train"), rows)
    checkpoint = run / "checkpoints" / "train" / "last.pt"
    predictor = load_model(checkpoint, device="cpu", num_threads=1)
    scores = PoolScores.of_records(
        score_image(predictor, table.read(r, mask=False)[0]) for r in pool
    )
    known = PoolScores.of_records(
        score_image(predictor, table.read(r, mask=False)[0]) for r in rows
    )
    pixels = table.class_pixels[rows].astype(float)
    area = (pixels / np.maximum(1, pixels.sum(1, keepdims=True))).sum(0)
    found = choose_images(scores, known, area, count, by, seed)
    return pool[[choice.index for choice in found.choices]]


def run_seed(config: Config, table: Table, seed: int) -> Iterator[dict[str, Any]]:
    """A line of results for each network of one seed."""
    data = config.data.model_copy(update={"draw": seed, "ratio": str(ROUNDS[0])})
    first = make_split(table, data).labeled
    with tempfile.TemporaryDirectory(prefix="cid_ray-") as scratch:
        folder = Path(scratch)

        def score(by: str, rows: np.ndarray) -> dict[str, Any]:
            run = folder / f"{by}-{len(rows)}"
            run.mkdir()
            classes = int((table.class_pixels[rows].sum(0) > 0).sum())
            facts = {"seed": seed, "by": by, "labels": len(rows), "classes": classes}
            return {**facts, **train(config, table, rows, seed, run), "rows": rows.tolist()}

        yield score(FIRST, first)
        for by in STRATEGIES:
            rows, name = first, FIRST
            for labels in ROUNDS[1:]:
                run = folder / f"{name}-{len(rows)}"
                chosen = next_rows(table, rows, run, by, labels - len(rows), seed)
                rows, name = np.sort(np.concatenate([rows, chosen])), by
                yield score(by, rows)


def summarize(lines: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: test mIoU, mean of the seeds, and the paired difference to `random`."""
    value = {(one["seed"], one["by"], one["labels"]): one["test"] for one in lines}
    seeds = sorted({one["seed"] for one in lines})
    found = ["| labels | chosen | seeds | test mIoU | minus random | better seeds |"]
    found.append("|---:|---|---:|---:|---:|---:|")
    for labels in ROUNDS:
        for by in (FIRST,) if labels == ROUNDS[0] else STRATEGIES:
            own = [seed for seed in seeds if (seed, by, labels) in value]
            if not own:
                continue
            scores = [value[seed, by, labels] for seed in own]
            paired = [
                value[seed, by, labels] - value[seed, "random", labels]
                for seed in own
                if (seed, "random", labels) in value and by not in (FIRST, "random")
            ]
            gain, better = "", ""
            if len(paired) > 1:
                error = statistics.stdev(paired) / len(paired) ** 0.5
                gain = f"{statistics.mean(paired):+.2f} ± {error:.2f}"
                better = f"{sum(one > 0 for one in paired)} of {len(paired)}"
            mean = statistics.mean(scores)
            found.append(f"| {labels} | {by} | {len(own)} | {mean:.2f} | {gain} | {better} |")
    return found


def draw(lines: list[dict[str, Any]], out: Path) -> None:
    """Test mIoU against labels, a line for each strategy with the standard error."""
    from cid_ray.results.figures import new_figure

    figure, (axis,) = new_figure(1)
    for by in STRATEGIES:
        means, errors = [], []
        for labels in ROUNDS:
            name = FIRST if labels == ROUNDS[0] else by
            scores = [o["test"] for o in lines if o["by"] == name and o["labels"] == labels]
            means.append(statistics.mean(scores))
            errors.append(statistics.stdev(scores) / len(scores) ** 0.5)
        axis.errorbar(ROUNDS, means, errors, marker="o", capsize=3, label=by)
    axis.set_xlabel("labels")
    axis.set_ylabel("test mIoU, %")
    axis.set_xticks(ROUNDS)
    axis.legend()
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--name", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--blocks", type=int, metavar="N")
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    file = StudyFile(args.out, args.name)
    if not args.summary:
        table = cid_ray.open_table(args.table)
        if args.blocks:
            redrawn = args.out / f"{args.name}-table"
            is_there = (redrawn / "meta.json").exists()
            table = Table(redrawn) if is_there else redraw(table, args.blocks, redrawn)
        config = load_config(args.config, [*args.set, f"data.table={table.folder}"])
        file.start({"table": table.fingerprint, **config.result_affecting_values()})
        for seed in args.seeds:
            if any(line["seed"] == seed for line in file.read()):
                continue
            found = []
            for line in run_seed(config, table, seed):
                found.append(line)
                print(seed, line["by"], line["labels"], round(line["test"], 2), flush=True)
            file.append(found)  # a whole seed, or nothing of it
    lines = file.read()
    print("\n".join(summarize(lines)))
    draw(lines, args.out / f"{args.name}.svg")


if __name__ == "__main__":
    main()
