"""A training step: ours against a plain PyTorch loop; CID against mean teacher; two workers against one.

    python -m benchmarks.step --out benchmarks/results/step

EfficientNet-Lite0 + DeepLabV3+ on the CPU, ResNet-50 with crops of 321 on a GPU; 8 + 8 images, batches ready in memory.
All ways take turns step by step in one process, so that whatever else a machine does meets them alike. "plain" is the
loop one would write by hand around the same model, losses, batches; "ours" is `run.loop.train`, whole: clock, checks,
rows. Peak memory is that of a process of its own. `--profile` adds torch's table of what a step is made of.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from cid_ray.config import Config, override
from cid_ray.core.method import Method
from cid_ray.core.model import Segmenter, dilate_pointwise, make_teacher
from cid_ray.data.batches import Batch, local_batches
from cid_ray.results.record import provenance
from cid_ray.run import build, loop
from cid_ray.run.pinning import pin
from cid_ray.run.run import Job, Run

CPU = {"data.crop_size": 128, "model.encoder": "tf_efficientnet_lite0", "model.decoder_options": {}}
GPU = {"data.crop_size": 321, "model.encoder": "resnet50", "model.decoder_options": {}}
WORKERS_CROP = 256  # small crops on several CPUs wait for each other
Step = Callable[[Batch, int], object]
OURS, WARM = "our whole loop, CID (self)", 3
KINDS = ("self", "cross", "transfer", "class")
ONE, TWO, APART = "1 worker of 1 thread", "2 workers of 1 thread", "2 runs of 1 thread that share nothing"


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


def plain(config: Config, classes: int) -> Step:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Segmenter(config.model, classes).to(device).to(memory_format=torch.channels_last).train()
    if device.type == "cpu":
        dilate_pointwise(student)
    teacher = make_teacher(student, config.train.ema_decay)
    channels = student(torch.zeros(2, 3, *config.data.crop, device=device))[1].shape[1]
    method = Method(config, classes, channels).to(device)
    optimizer = build.make_optimizer(config, student)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, config.train.steps, config.optim.poly_power)

    def one(batch: Batch, step: int) -> None:
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

    return one


def ours(config: Config, folder: str, threads: int) -> Step:
    run = Run(Job(config, Path(folder), threads=threads))
    return lambda batch, _: run.train_step(dict(batch))


def whole_loop(config: Config, given: list[Batch], threads: int, others: dict[str, Step]) -> dict[str, list[float]]:
    """Seconds of every step of `run.loop.train` and, before each, of one step of all other ways."""
    found: dict[str, list[float]] = {name: [] for name in (*others, OURS)}

    def fed(_: Run) -> Iterator[Batch]:
        for step, batch in enumerate(given):
            for name, way in others.items():
                started = time.perf_counter()
                way(batch, step)
                wait()
                found[name].append(time.perf_counter() - started)
            started = time.perf_counter()
            yield dict(batch)
            wait()
            found[OURS].append(time.perf_counter() - started)

    feed, loop.feed = loop.feed, fed
    try:
        with tempfile.TemporaryDirectory() as folder:
            for _ in loop.train(Job(config, Path(folder), threads=threads, test=False)):
                pass
    finally:
        loop.feed = feed
    return {name: seconds[WARM:-1] for name, seconds in found.items()}  # the last step ends in an evaluation


def peak(config: Config, given: list[Batch]) -> float:
    """MiB that a process of its own needs at most, the GPU's where there is one."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (config, given))


def _peak(config: Config, given: list[Batch]) -> float:
    whole_loop(config, given, 1, {})
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10  # ru_maxrss would keep that of the process that started this one


def on_workers(config: Config, given: list[list[Batch]], warm: int, together: bool = True) -> float:
    """Seconds a step on as many processes of one thread as there are shares; not `together`: each a run of its own."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    with context.Pool(len(given)) as pool:
        jobs = [(config, share, rank, len(given), port, warm, together) for rank, share in enumerate(given)]
        return max(pool.starmap(_one_of, jobs, chunksize=1))


def _one_of(config: Config, given: list[Batch], rank: int, world: int, port: int, warm: int, together: bool) -> float:
    store = torch.distributed.TCPStore("127.0.0.1", port, world, is_master=rank == 0)
    if together:
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    pin(1)
    with tempfile.TemporaryDirectory() as folder:
        place = {"rank": rank, "world": world} if together else {}
        run = Run(Job(config, Path(folder), threads=1, **place))
        for step, batch in enumerate(given):
            if step == warm:
                store.add("warm", 1)
                while store.add("warm", 0) < world:
                    time.sleep(0.001)
                started = time.perf_counter()
            run.train_step(dict(batch))
    seconds = time.perf_counter() - started
    store.add("done", 1)
    while rank == 0 and store.add("done", 0) < world:  # the store is this process's
        time.sleep(0.01)
    if together:
        torch.distributed.destroy_process_group()
    return seconds / (len(given) - warm)


def profile(config: Config, given: list[Batch], threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = ours(config, folder, threads)
        for number, batch in enumerate(given[:3]):
            step(batch, number)
        with torch.profiler.profile() as seen:
            for number, batch in enumerate(given[3:6]):
                step(batch, number)
            wait()
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def workers(rounds: int, steps: int, full_size: bool) -> dict[str, list[float]]:
    """Seconds a step of one worker of one thread, of two, and of two runs with half of the batch each."""
    config = config_of(steps, **(GPU if full_size else {"data.crop_size": WORKERS_CROP}))
    warm = 1 if full_size else WARM  # half a minute a step
    shares = {world: [batches(config, steps, rank, world) for rank in range(world)] for world in (1, 2)}
    half = override(config.model_dump(mode="json"), {"data.batch_size": 4, "data.batch_size_u": 4})
    found: dict[str, list[float]] = {ONE: [], TWO: [], APART: []}
    for _ in range(rounds):
        found[ONE].append(on_workers(config, shares[1], warm))
        found[TWO].append(on_workers(config, shares[2], warm))
        found[APART].append(on_workers(half, shares[2], warm, together=False))
        print({name: round(seconds[-1], 3) for name, seconds in found.items()}, flush=True)
    return found


def ratio(found: dict[str, list[float]], a: str, b: str) -> float:
    """Median of what stood side by side."""
    return statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))


def one_process(args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """Seconds of every step of all ways, their ratios, and MiB."""
    steps, size = args.steps, GPU if args.full_size else {}
    config = config_of(steps, **size)
    given = batches(config, steps)
    teaches = config_of(steps, **size, method="mean_teacher")
    kinds = {kind: config_of(steps, **size, **{"loss.relation_kind": kind}) for kind in KINDS}
    memory = {"mean teacher": peak(teaches, given[:4])} | {f"CID ({k})": peak(c, given[:4]) for k, c in kinds.items()}
    print({name: round(mib) for name, mib in memory.items()}, flush=True)
    if args.profile:
        profile(config, given, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        classes = Run(Job(config, Path(folder), threads=args.threads)).table.num_classes
        others = {"plain loop, CID (self)": plain(config, classes), "mean teacher": ours(teaches, folder, args.threads)}
        others |= {f"CID ({kind})": ours(changed, folder, args.threads) for kind, changed in kinds.items()}
        found = whole_loop(config, given, args.threads, others)
    ratios = {f"{OURS} / plain loop": ratio(found, OURS, "plain loop, CID (self)")}
    ratios |= {f"CID ({kind}) / mean teacher": ratio(found, f"CID ({kind})", "mean teacher") for kind in KINDS}
    ratios |= {f"memory of {name} / mean teacher": m / memory["mean teacher"] for name, m in memory.items()}
    return found, ratios, memory


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    options.add_argument("--steps", type=int, default=16)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--worker-rounds", type=int, default=3)
    options.add_argument("--worker-steps", type=int, default=6)
    options.add_argument("--only-workers", action="store_true")
    options.add_argument("--full-size", action="store_true", help="the GPU's network and crop")
    options.add_argument("--profile", action="store_true")
    args = options.parse_args()
    found, ratios, memory = {}, {}, {}
    if not args.only_workers:
        found, ratios, memory = one_process(args)
    if args.worker_rounds and not torch.cuda.is_available():
        found |= workers(args.worker_rounds, args.worker_steps, args.full_size)
        ratios["efficiency of 2 workers"] = ratio(found, ONE, TWO) / 2
        ratios["the same of 2 runs that share nothing"] = ratio(found, ONE, APART) / 2
        ratios["2 such runs / 2 workers"] = ratio(found, APART, TWO)
    for name, value in ratios.items():
        print(f"{name:40} {value:.3f}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {args.threads} threads"
    said = {
        "ms_per_step": {n: [round(1000 * v, 1) for v in values] for n, values in found.items()},
        "median_ms": {n: round(1000 * statistics.median(values), 1) for n, values in found.items()},
        "images_per_s": {n: round(16 / statistics.median(values), 1) for n, values in found.items()},
        "peak_mib": memory, "ratios": {n: round(v, 4) for n, v in ratios.items()}, "device": device, **provenance(),
    }  # fmt: skip
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "result.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
