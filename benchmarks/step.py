"""A training step: ours against a plain loop; CID against mean teacher; two workers against one.

    python -m benchmarks.step --out benchmarks/results/step

EfficientNet-Lite0 + DeepLabV3+ on the CPU, ResNet-50 with crops of 321 on a GPU; 8 + 8 images,
batches in memory. All cases alternate step by step in one process, so that the machine treats them
alike. "plain" is the loop that one would write by hand around the same model, losses and batches;
"ours" is the whole `training.loop.train`: clock, checks, records. Peak memory is that of a separate
process, or the GPU's. `--profile` adds torch's table of operators.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.memory import peak_mib
from benchmarks.harness.plain_loop import Step, plain_step
from benchmarks.harness.step_workers import time_on_workers
from cid_ray.config import Config, build_config
from cid_ray.data.loader import Batch, local_batches
from cid_ray.results.provenance import provenance
from cid_ray.training import loop
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer

CPU = {"data.crop_size": 128, "model.encoder": "tf_efficientnet_lite0", "model.decoder_options": {}}
GPU = {"data.crop_size": 321, "model.encoder": "resnet50", "model.decoder_options": {}}
WORKERS_CROP = 256  # with small crops several workers mostly wait for each other
WARMUP_STEPS = 3
IMAGES_PER_STEP = 16

# names of cases
WHOLE_LOOP = "our whole loop, CID (self)"
PLAIN_LOOP = "plain loop, CID (self)"
MEAN_TEACHER = "mean teacher"
UNIMATCH = "UniMatch V2"
# case of CID -> its base, and what it changes
MEMORY = {"loss.labeled_memory": 8}
CID_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "CID (self)": (MEAN_TEACHER, {"loss.relation_kind": "self"}),
    "CID (cross)": (MEAN_TEACHER, {"loss.relation_kind": "cross"}),
    "CID (transfer)": (MEAN_TEACHER, {"loss.relation_kind": "transfer"}),
    "CID (class)": (MEAN_TEACHER, {"loss.relation_kind": "class"}),
    "CID (cross, memory)": (MEAN_TEACHER, {"loss.relation_kind": "cross", **MEMORY}),
    "CID (transfer, memory)": (MEAN_TEACHER, {"loss.relation_kind": "transfer", **MEMORY}),
    "CID (class, memory)": (MEAN_TEACHER, {"loss.relation_kind": "class", **MEMORY}),
    "CID (self) on UniMatch V2": (UNIMATCH, {"loss.base": "unimatch_v2"}),
}
ONE_WORKER = "1 worker of 1 thread"
TWO_WORKERS = "2 workers of 1 thread"
TWO_RUNS = "2 runs of 1 thread that share nothing"

Seconds = dict[str, list[float]]  # case -> seconds of each step


@dataclass
class Result:
    """What was measured."""

    seconds: Seconds = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)


def make_config(steps: int, **changes: Any) -> Config:
    defaults = {
        "data.table": "demo",
        "data.ratio": "1/8",
        "model.decoder": "deeplabv3plus",
        "train.steps": steps,
        "train.rungs": [1.0],
        "train.num_sample_images": 0,
        "loss.pseudo_burn_in": 0.0,
        "loss.conf_thresh": 0.5,
    }
    base = GPU if torch.cuda.is_available() else CPU
    return build_config({}, {**defaults, **base, **changes})


def make_batches(config: Config, count: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(RunSpec(config, Path(folder)))
        batches = local_batches(
            trainer.reader, trainer.plan, config.data, 0, count, rank, world_size
        )
        return list(batches)


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---- cases of one process ----


def trainer_step(config: Config, folder: str, threads: int) -> Step:
    trainer = Trainer(RunSpec(config, Path(folder), num_threads=threads))
    return lambda batch, _: trainer.train_step(dict(batch))


def time_whole_loop(
    config: Config, batches: list[Batch], threads: int, others: dict[str, Step]
) -> Seconds:
    """Seconds of every step of `training.loop.train` and, before each, of a step of all others."""
    seconds: Seconds = {name: [] for name in (*others, WHOLE_LOOP)}

    def alternate(_: Trainer) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            for name, step in others.items():
                started = time.perf_counter()
                step(batch, number)
                wait_for_device()
                seconds[name].append(time.perf_counter() - started)
            started = time.perf_counter()
            yield dict(batch)  # the loop trains until it asks for the next batch
            wait_for_device()
            seconds[WHOLE_LOOP].append(time.perf_counter() - started)

    original = loop.make_batches
    loop.make_batches = alternate  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = RunSpec(config, Path(folder), num_threads=threads, score_test=False)
            for _ in loop.train(spec):
                pass
    finally:
        loop.make_batches = original
    # The last step ends in an evaluation.
    return {name: values[WARMUP_STEPS:-1] for name, values in seconds.items()}


def training_peak_mib(config: Config, batches: list[Batch]) -> float:
    """MiB that training needs at most: of the GPU's memory, or of a separate process."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        time_whole_loop(config, batches, 1, {})
        return torch.cuda.max_memory_allocated() / 2**20
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_mib, (config, batches))


def _peak_mib(config: Config, batches: list[Batch]) -> float:
    time_whole_loop(config, batches, 1, {})
    return peak_mib()


def profile(config: Config, batches: list[Batch], threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = trainer_step(config, folder, threads)
        for number in range(WARMUP_STEPS):
            step(batches[number], number)
        with torch.profiler.profile() as profiler:
            for number in range(WARMUP_STEPS, 2 * WARMUP_STEPS):
                step(batches[number], number)
            wait_for_device()
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)
    print(table)


def measure_one_process(args: argparse.Namespace) -> Result:
    size = GPU if args.full_size else {}
    config = make_config(args.steps, **size)
    batches = make_batches(config, args.steps)
    configs = {
        MEAN_TEACHER: make_config(args.steps, **size, method="mean_teacher"),
        UNIMATCH: make_config(args.steps, **size, method="unimatch_v2"),
    }
    for name, (_, changes) in CID_CASES.items():
        configs[name] = make_config(args.steps, **size, **changes)
    memory = {name: training_peak_mib(one, batches[:4]) for name, one in configs.items()}
    print({name: round(mib) for name, mib in memory.items()}, flush=True)
    if args.profile:
        profile(config, batches, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        spec = RunSpec(config, Path(folder), num_threads=args.threads)
        num_classes = Trainer(spec).table.num_classes
        others = {PLAIN_LOOP: plain_step(config, num_classes)}
        for name, one in configs.items():
            others[name] = trainer_step(one, folder, args.threads)
        seconds = time_whole_loop(config, batches, args.threads, others)
    ratios = {f"{WHOLE_LOOP} / plain loop": median_ratio(seconds, WHOLE_LOOP, PLAIN_LOOP)}
    for name, (base, _) in CID_CASES.items():
        ratios[f"{name} / {base}"] = median_ratio(seconds, name, base)
        ratios[f"memory of {name} / {base}"] = memory[name] / memory[base]
    return Result(seconds, ratios, memory)


# ---- cases of several processes ----


def measure_workers(rounds: int, steps: int, full_size: bool) -> Result:
    """One worker, two workers, and two runs with half of the batch each."""
    config = make_config(steps, **(GPU if full_size else {"data.crop_size": WORKERS_CROP}))
    warmup = 1 if full_size else WARMUP_STEPS  # a step takes half a minute at full size
    one = [make_batches(config, steps)]
    two = [make_batches(config, steps, rank, 2) for rank in range(2)]
    half = build_config(
        config.model_dump(mode="json"), {"data.batch_size": 4, "data.batch_size_u": 4}
    )
    seconds: Seconds = {ONE_WORKER: [], TWO_WORKERS: [], TWO_RUNS: []}
    for _ in range(rounds):
        seconds[ONE_WORKER].append(time_on_workers(config, one, warmup))
        seconds[TWO_WORKERS].append(time_on_workers(config, two, warmup))
        seconds[TWO_RUNS].append(time_on_workers(half, two, warmup, together=False))
        print({name: round(values[-1], 3) for name, values in seconds.items()}, flush=True)
    ratios = {
        "efficiency of 2 workers": median_ratio(seconds, ONE_WORKER, TWO_WORKERS) / 2,
        "the same of 2 runs that share nothing": median_ratio(seconds, ONE_WORKER, TWO_RUNS) / 2,
        "2 such runs / 2 workers": median_ratio(seconds, TWO_RUNS, TWO_WORKERS),
    }
    return Result(seconds, ratios)


def median_ratio(seconds: Seconds, case: str, other: str) -> float:
    """The median over the steps, or rounds, that were timed one after the other."""
    return statistics.median(a / b for a, b in zip(seconds[case], seconds[other], strict=True))


# ---- the command ----


def as_content(result: Result, threads: int) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in result.seconds.items()}
    on_cuda = torch.cuda.is_available()
    return {
        "ms_per_step": {
            name: [round(1000 * value, 1) for value in values]
            for name, values in result.seconds.items()
        },
        "median_ms": {name: round(1000 * median, 1) for name, median in medians.items()},
        "images_per_s": {
            name: round(IMAGES_PER_STEP / median, 1) for name, median in medians.items()
        },
        "peak_mib": result.peak_mib,
        "ratios": {name: round(value, 4) for name, value in result.ratios.items()},
        "device": torch.cuda.get_device_name() if on_cuda else f"CPU, {threads} threads",
        **provenance(),
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path)
    options.add_argument("--steps", type=int, default=16)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--worker-rounds", type=int, default=3)
    options.add_argument("--worker-steps", type=int, default=6)
    options.add_argument("--only-workers", action="store_true")
    options.add_argument("--full-size", action="store_true", help="the GPU's network and crop")
    options.add_argument("--profile", action="store_true")
    args = options.parse_args()
    result = Result() if args.only_workers else measure_one_process(args)
    if args.worker_rounds and not torch.cuda.is_available():
        workers = measure_workers(args.worker_rounds, args.worker_steps, args.full_size)
        result.seconds |= workers.seconds
        result.ratios |= workers.ratios
    for name, value in result.ratios.items():
        print(f"{name:40} {value:.3f}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps(as_content(result, args.threads), indent=1)
        (args.out / "result.json").write_text(content + "\n")


if __name__ == "__main__":
    main()
