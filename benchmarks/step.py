"""A training step: ours against a plain PyTorch loop; CID against mean teacher; two workers against one.

    python -m benchmarks.step --out benchmarks/results/step

EfficientNet-Lite0 + DeepLabV3+, 8 + 8 crops, batches ready in memory, ways in turns round by round. "plain" is the loop
one would write by hand around the same model, losses and batches; "ours" is `run.loop.train`, whole: clock, checks,
rows. Peak memory is that of a process of its own. On CUDA the same, with more pixels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cid_ray.config import Config, override
from cid_ray.core.method import Method
from cid_ray.core.model import Segmenter, make_teacher
from cid_ray.data.batches import Batch, local_batches
from cid_ray.results.record import provenance
from cid_ray.run import build, loop
from cid_ray.run.run import Job, Run

CPU = {"data.crop_size": 64, "model.encoder": "tf_efficientnet_lite0", "model.decoder_options": {}}
GPU = {"data.crop_size": 320, "model.encoder": "resnet50", "model.decoder_options": {}}
KINDS = ("self", "cross", "transfer", "class")


def config_of(steps: int, **changes: Any) -> Config:
    base = GPU if torch.cuda.is_available() else CPU
    settings = {
        "data.table": "demo", "data.ratio": "1/8", "model.decoder": "deeplabv3plus", "train.steps": steps,
        "train.rungs": [1.0], "train.samples": 0, "loss.pseudo_burn_in": 0.0, "loss.conf_thresh": 0.5,
    }  # fmt: skip
    return override({}, {**settings, **base, **changes})


def batches(config: Config, count: int, rank: int = 0, world: int = 1) -> list[Batch]:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Job(config, Path(folder)))
        return list(local_batches(run.reader, run.plan, config.data, 0, count, rank, world))


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plain(config: Config, given: list[Batch], classes: int, threads: int) -> float:
    """Seconds a step, the first two left out."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Segmenter(config.model, classes).to(device).to(memory_format=torch.channels_last).train()
    teacher = make_teacher(student, config.train.ema_decay)
    channels = student(torch.zeros(2, 3, *config.data.crop, device=device))[1].shape[1]
    method = Method(config, classes, channels).to(device)
    optimizer = build.make_optimizer(config, student)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, config.train.steps, config.optim.poly_power)
    for step, batch in enumerate(given):
        if step == 2:
            wait()
            started = time.perf_counter()
        tensors = {
            k: torch.from_numpy(v).pin_memory().to(device, non_blocking=True) if device.type == "cuda"
            else torch.from_numpy(v) for k, v in batch.items() if k != "unreadable_u"
        }  # fmt: skip
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            terms = method(student, teacher, tensors, step)
        optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        optimizer.step()
        schedule.step()
        teacher.update(student, step=step)
    wait()
    return (time.perf_counter() - started) / (len(given) - 2)


def ours(config: Config, given: list[Batch], threads: int) -> float:
    """Seconds a step of `run.loop.train`, from its third batch to the wish for one after the last."""
    times = []

    def fed(_: Run) -> Iterator[Batch]:
        for step, batch in enumerate(given):
            if step == 2:
                wait()
                times.append(time.perf_counter())
            yield dict(batch)
            if step == len(given) - 2:  # the last step ends in an evaluation
                wait()
                times.append(time.perf_counter())

    feed, loop.feed = loop.feed, fed
    try:
        with tempfile.TemporaryDirectory() as folder:
            for _ in loop.train(Job(config, Path(folder), threads=threads, test=False)):
                pass
    finally:
        loop.feed = feed
    return (times[1] - times[0]) / (len(given) - 3)


def peak(config: Config, given: list[Batch]) -> float:
    """MiB that a process of its own needs at most, the GPU's where there is one."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (config, given))


def _peak(config: Config, given: list[Batch]) -> float:
    ours(config, given, 1)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def on_workers(config: Config, given: list[list[Batch]]) -> float:
    """Seconds a step on as many processes of one thread as there are shares."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    with context.Pool(len(given)) as pool:
        jobs = [(config, share, rank, len(given), port) for rank, share in enumerate(given)]
        return max(pool.starmap(_one_of, jobs, chunksize=1))


def _one_of(config: Config, given: list[Batch], rank: int, world: int, port: int) -> float:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Job(config, Path(folder), rank=rank, world=world, threads=1))
        for step, batch in enumerate(given):
            if step == 2:
                started = time.perf_counter()
            run.train_step(dict(batch))
    torch.distributed.destroy_process_group()
    return (time.perf_counter() - started) / (len(given) - 2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=22)
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    steps, config = args.steps, config_of(args.steps)
    given, classes = batches(config, steps), 5
    with tempfile.TemporaryDirectory() as folder:
        classes = Run(Job(config, Path(folder))).table.num_classes
    teaches = config_of(steps, method="mean_teacher")
    kinds = {kind: config_of(steps, **{"loss.relation_kind": kind}) for kind in KINDS}
    found: dict[str, list[float]] = {}
    shares = [batches(config, steps, rank, 2) for rank in range(2)] if not torch.cuda.is_available() else []
    for number in range(args.rounds):
        found.setdefault("plain loop, CID (self)", []).append(plain(kinds["self"], given, classes, args.threads))
        found.setdefault("mean teacher", []).append(ours(teaches, given, args.threads))
        for kind, changed in kinds.items():
            found.setdefault(f"CID ({kind})", []).append(ours(changed, given, args.threads))
        if shares:
            found.setdefault("1 worker of 1 thread", []).append(on_workers(config, [given]))
            found.setdefault("2 workers of 1 thread", []).append(on_workers(config, shares))
        print(number, {name: round(1000 * values[-1], 1) for name, values in found.items()}, flush=True)
    middle = {name: statistics.median(values) for name, values in found.items()}
    pairs = lambda a, b: statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))  # noqa: E731
    ratios = {"ours / plain loop": pairs("CID (self)", "plain loop, CID (self)")}
    ratios |= {f"CID ({kind}) / mean teacher": pairs(f"CID ({kind})", "mean teacher") for kind in KINDS}
    if shares:
        ratios["efficiency of 2 workers"] = pairs("1 worker of 1 thread", "2 workers of 1 thread") / 2
    memory = {"mean teacher": peak(teaches, given)} | {f"CID ({k})": peak(c, given) for k, c in kinds.items()}
    ratios |= {f"memory of {name} / mean teacher": m / memory["mean teacher"] for name, m in memory.items()}
    for name, value in ratios.items():
        print(f"{name:40} {value:.3f}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        said = {"ms_per_step": {n: [round(1000 * v, 2) for v in values] for n, values in found.items()}}
        said |= {"median_ms": {n: round(1000 * v, 2) for n, v in middle.items()}, "peak_mib": memory}
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {args.threads} threads"
        said |= {"ratios": {n: round(v, 4) for n, v in ratios.items()}, "device": device, **provenance()}
        (args.out / "result.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
