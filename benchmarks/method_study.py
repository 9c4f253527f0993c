"""Which parts of the method pay: every baseline, relation and style, each tuned equally.

An arm is a method with some terms. Every arm gets the same number of tries, with the same random
values for the keys that it shares with others. The try that is best on val is trained again with
new seeds and label draws, and those repeats are scored on test at the last step. Repeat i has the
same seed and draw in every arm, so differences are paired.

    python -m benchmarks.method_study --name demo-12 --config FILE --tries 8 --repeats 3 \\
        --out benchmarks/results/method --set data.ratio=12

Each training adds a line to OUT/NAME.jsonl; the same command continues. `--processes` trainings run
at the same time, on one GPU where there is one. `--summary` prints the table of what is there.
`--tuned-in OTHER` takes each arm's tries from OUT/OTHER.jsonl, so that only its repeats run.
The best of many arms looks better than it is. `--first-repeat 6` tests it again, on new repeats.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import cid_ray
from benchmarks.harness.study_file import Line, StudyFile
from cid_ray.config import Config, build_config, load_config
from cid_ray.core import iou
from cid_ray.data.sources import open_table
from cid_ray.inference.load import load_model
from cid_ray.results.noise import Noise

BASES = ("mean_teacher", "unimatch_v2")
KINDS = ("self", "cross", "transfer", "class")
STYLES = [(s, t) for s in ("mean_std", "gram") for t in ("unlabeled", "labeled", "symmetric")]
BASELINES = ("supervised", "pool_bn", "mean_teacher", "unimatch_v2", "self_training")
# key -> lowest and highest value, drawn uniformly or on a logarithmic scale.
SPACE: dict[str, tuple[float, float, bool]] = {
    "optim.lr": (3e-4, 3e-3, True),
    "train.ema_span": (0.02, 0.2, True),
    "loss.pseudo_weight": (0.05, 1.0, True),
    "loss.conf_thresh": (0.6, 0.97, False),
    "loss.pseudo_burn_in": (0.0, 0.6, False),
    "loss.relation_weight": (0.01, 1.0, True),
    "loss.relation_temperature": (0.05, 0.5, True),
    "loss.style_weight": (0.003, 0.3, True),
}


def make_arms() -> dict[str, dict[str, Any]]:
    """Arm -> the changes that make it. `style` is filled in by the number of the try."""
    arms: dict[str, dict[str, Any]] = {name: {"method": name} for name in BASELINES}
    for base in BASES:
        cid = {"method": "cid", "loss.base": base}
        for kind in KINDS:
            arms[f"{base} + {kind}"] = {
                **cid,
                "loss.relation_kind": kind,
                "loss.style_weight": 0.0,
            }
        for kind in ("cross", "class"):
            arms[f"{base} + {kind}, memory"] = {
                **arms[f"{base} + {kind}"],
                "loss.labeled_memory": 16,
            }
        arms[f"{base} + style"] = {**cid, "loss.relation_weight": 0.0}
        arms[f"{base} + self + style"] = {**cid, "loss.relation_kind": "self"}
    return arms


def drawn_value(key: str, number: int) -> float:
    """The value of a key in a try: the same in every arm."""
    digest = hashlib.sha256(f"{key} {number}".encode()).digest()
    u = int.from_bytes(digest[:8]) / 2**64
    low, high, log = SPACE[key]
    value = low * (high / low) ** u if log else low + u * (high - low)
    return float(f"{value:.4g}")


def hyperparameters(arm: dict[str, Any], number: int) -> dict[str, Any]:
    """What a try of an arm sets. Try 0 keeps the values of the configuration."""
    drawn: dict[str, Any] = {}
    if number > 0:
        drawn = {key: drawn_value(key, number) for key in SPACE if key not in arm}
    if arm["method"] == "cid" and arm.get("loss.style_weight") != 0:
        stat, target = STYLES[number % len(STYLES)]
        drawn |= {"loss.style_stat": stat, "loss.style_target": target}
    return {**drawn, **arm}


def train(config: Config, job: Line) -> Line:
    """Train once; scores of both networks on val and test at the last step. A try has seed 0.

    Where test has several groups, also the teacher's on each of them.
    """
    seed = job["number"] if job["stage"] == "repeat" else 0
    changes = {**job["set"], "train.seed": seed, "data.draw": seed, "train.num_sample_images": 0}
    tree = config.model_dump(mode="json", exclude_unset=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cid_ray-") as folder:
        for record in cid_ray.train(build_config(tree, changes), folder, cpus=1):
            final = record
        by_group = score_groups(config, Path(folder))
    scores = {
        f"{split}_{network}": final[f"{split}/miou{suffix}"]
        for split in ("val", "test")
        for network, suffix in (("teacher", "_teacher"), ("student", ""))
    }
    return {**job, **scores, **by_group, "seconds": round(time.monotonic() - started, 1)}


def score_groups(config: Config, run: Path) -> dict[str, float | None]:
    """The teacher's mIoU on the test images of each group, such as a drive; {} for one group."""
    table = open_table(config.data.table)
    rows = table.rows("test")
    groups = np.array(table.groups(rows))
    if len(set(groups)) < 2:
        return {}
    predictor = load_model(run / "checkpoints" / "train" / "last.pt", num_threads=1)
    device = next(predictor.net.parameters()).device
    matrices: dict[str, np.ndarray] = {}
    for group, row in zip(groups.tolist(), rows.tolist(), strict=True):
        image, mask = table.read(row, mask=True)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        pair = (pixels.to(device), torch.from_numpy(np.array(mask)).to(device))
        (matrix,) = iou.confusion_matrices(predictor.net, [pair], table.num_classes)
        matrices[group] = matrices.get(group, 0) + matrix
    return {
        f"test_{group}": iou.iou_scores(matrix, table.classes)["miou"]
        for group, matrix in sorted(matrices.items())
    }


def missing_jobs(name: str, tries: int, repeats: range, lines: list[Line]) -> list[Line]:
    """What an arm has yet to train: its tries; when it has them, the repeats of the best."""
    arm = make_arms()[name]
    done = {(one["stage"], one["number"]): one for one in lines if one["arm"] == name}
    missing = [
        {"arm": name, "stage": "try", "number": number, "set": hyperparameters(arm, number)}
        for number in range(tries)
        if ("try", number) not in done
    ]
    if missing:
        return missing
    best = max(range(tries), key=lambda k: done["try", k]["val_teacher"])
    chosen = {"set": hyperparameters(arm, best), "try": best}
    return [
        {"arm": name, "stage": "repeat", "number": number, **chosen}
        for number in repeats
        if done.get(("repeat", number), {}).get("try") != best
    ]


def run_arms(
    config: Config, args: argparse.Namespace, repeats: range, lines: list[Line]
) -> Iterator[Line]:
    """The lines that are not there yet, as they are trained; the first arms come first."""
    lines = list(lines)
    running: dict[Future[Line], Line] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context) as pool:
        while True:
            jobs = [
                job
                for name in args.arms
                for job in missing_jobs(name, args.tries, repeats, lines)
                if job not in running.values()
            ]
            for job in jobs[: args.processes - len(running)]:
                running[pool.submit(train, config, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                lines.append(future.result())
                yield lines[-1]


def repeated(lines: list[Line], split: str) -> dict[str, list[float]]:
    """Arm -> the teacher's score of each repeat; only arms with all repeats."""
    scores: dict[str, dict[int, float]] = {}
    for one in lines:
        if one["stage"] == "repeat":
            scores.setdefault(one["arm"], {})[one["number"]] = one[f"{split}_teacher"]
    count = max((len(values) for values in scores.values()), default=0)
    return {
        name: [scores[name][i] for i in sorted(scores[name])]
        for name in make_arms()
        if len(scores.get(name, {})) == count > 0
    }


def base_of(arm: str) -> str | None:
    """The method that an arm of CID adds terms to."""
    base = arm.partition(" + ")[0]
    return base if base != arm else None


def gain(scores: dict[str, list[float]], arm: str, other: str | None) -> tuple[float, float] | None:
    """Mean of the paired differences and half of its 95 % interval (t)."""
    if other is None or other == arm or other not in scores:
        return None
    gains = [a - b for a, b in zip(scores[arm], scores[other], strict=True)]
    half = math.inf
    if len(gains) > 1:
        error = statistics.stdev(gains) / math.sqrt(len(gains))
        half = error * float(stats.t.ppf(0.975, len(gains) - 1))
    return statistics.mean(gains), half


def strongest_baseline(scores: dict[str, list[float]]) -> str:
    return max((b for b in BASELINES if b in scores), key=lambda name: np.mean(scores[name]))


def summarize(lines: list[Line], split: str = "test") -> list[str]:
    """A Markdown table of the repeats: means, and gains over the base and the best baseline."""
    scores = repeated(lines, split)
    if not any(name in scores for name in BASELINES):
        return []
    rival = strongest_baseline(scores)
    count = len(scores[rival])
    floor = Noise(scores).floor
    found = [
        f"{count} repeats; noise floor {'not known' if floor is None else f'{floor:.2f}'}; "
        f"strongest baseline: {rival}. Intervals are 95 %, paired.",
        "",
        f"| arm | {split} mIoU | over its base | over {rival} | better repeats |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, values in scores.items():
        cells = [
            f"{g[0]:+.2f} ± {g[1]:.2f}" if (g := gain(scores, name, other)) else ""
            for other in (base_of(name), rival)
        ]
        better = sum(a > b for a, b in zip(values, scores[rival], strict=True))
        wins = f"{better} of {count}" if name != rival else ""
        found.append(
            f"| {name} | {statistics.mean(values):.2f} | {cells[0]} | {cells[1]} | {wins} |"
        )
    return found


def draw(lines: list[Line], out: Path) -> None:
    """The gain of each arm over the strongest baseline, with its 95 % interval."""
    from cid_ray.results.figures import new_figure

    scores = repeated(lines, "test")
    rival = strongest_baseline(scores)
    arms = [name for name in scores if name != rival][::-1]
    figure, (axis,) = new_figure(1, size=(6.4, 0.6 + 0.28 * len(arms)))
    for row, name in enumerate(arms):
        found = gain(scores, name, rival)
        assert found is not None
        color = "#6b7280" if name in BASELINES else "#dc2626"
        axis.errorbar(found[0], row, xerr=found[1], marker="o", capsize=3, color=color)
    axis.axvline(0, color="#9ca3af", linewidth=1)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_xlabel(f"test mIoU minus {rival}, points")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--name", required=True)
    parser.add_argument("--config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="*", default=list(make_arms()), choices=list(make_arms()))
    parser.add_argument("--tries", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first-repeat", type=int, default=1, help="leave out those before it")
    parser.add_argument("--processes", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--tuned-in", metavar="OTHER", help="take the tries of this study")
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    file = StudyFile(args.out, args.name)
    repeats = range(args.first_repeat, args.first_repeat + args.repeats)
    if not args.summary:
        config = load_config(args.config, args.changes)
        file.start(config.result_affecting_values())
        tuned = StudyFile(args.out, args.tuned_in).read() if args.tuned_in else []
        tuned = [one for one in tuned if one["stage"] == "try"]
        for line in run_arms(config, args, repeats, [*tuned, *file.read()]):
            file.append([line])
            facts = (line[key] for key in ("arm", "stage", "number", "val_teacher", "test_teacher"))
            print(*facts, line["seconds"], flush=True)
    lines = [one for one in file.read() if one["stage"] == "try" or one["number"] in repeats]
    print("\n".join(summarize(lines)))
    if len(repeated(lines, "test")) > 1:
        draw(lines, args.out / f"{args.name}.svg")


if __name__ == "__main__":
    main()
