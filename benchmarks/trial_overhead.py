"""Seconds from a suggestion to the trial's first optimizer step: `cid_ray.tune` against TorchTrainer inside Tune.

    python benchmarks/trial_overhead.py --out benchmarks/results/trial-overhead

Every way trains the same network on the same batches with cid_ray's own loop (search_spaces/demo.yaml); what differs is
who starts it. Stock is the documented pattern: a Tune function trainable that builds a TorchTrainer, process by process
anew for every trial. Ways take turns, round by round, on one Ray cluster of two CPUs. The clock starts in the
searcher's `suggest` and stops after the first `Optimizer.step()` that any worker of the trial has done.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cid_ray.config import Config, load, override
from cid_ray.results.record import Row, of_event, provenance
from cid_ray.run.cluster import ENVIRONMENT

SPACE = Path(__file__).parents[1] / "search_spaces" / "demo.yaml"
SMALL = {
    "train.steps": 4, "train.rungs": [1.0], "train.samples": 0, "search.ratios": ["1/8"], "search.baselines": [],
    "search.concurrency": 1, "search.confirm.repeats": 0, "search.pruner": {"name": "NopPruner"},
}  # fmt: skip
WORKER_CPUS = {1: 1.0, 2: 0.7}  # of two CPUs, as cid_ray.tune shares them out


# ---- clocks ----


def stamp(file: str, what: str) -> None:
    with open(file, "a") as log:
        log.write(json.dumps({"time": time.time(), "what": what}) + "\n")


def stamp_first_steps(file: str) -> None:
    """From now on this process writes down the first step of every new optimizer."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def note(optimizer: Any, *_: Any) -> None:
        if not getattr(optimizer, "noted", False):
            optimizer.noted = True
            stamp(file, "step")

    register_optimizer_step_post_hook(note)


def intervals(file: Path) -> list[float]:
    """Seconds between every suggestion and the first step after it."""
    events = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda e: e["time"])
    found = []
    for place, event in enumerate(events):
        if event["what"] == "suggest":
            following = [e for e in events[place + 1 :] if e["what"] == "step"]
            if following:
                found.append(round(following[0]["time"] - event["time"], 4))
    return found


# ---- ours: the command itself, with clocks around it ----


def ours(folder: Path, workers: int, trials: int, changes: dict[str, Any] | None = None) -> list[float]:
    from cid_ray import tune
    from cid_ray.search import tuning

    folder.mkdir(parents=True)
    file = folder / "stamps.jsonl"
    suggest, rows = tuning.StudySearcher.suggest, tune.trial_rows

    def stamped(self: Any, trial_id: str) -> Any:
        before = time.time()
        found = suggest(self, trial_id)
        if isinstance(found, dict):
            with file.open("a") as log:
                log.write(json.dumps({"time": before, "what": "suggest"}) + "\n")
        return found

    tuning.StudySearcher.suggest = stamped
    tune.trial_rows = functools.partial(stamped_rows, str(file))
    config = override(load(SPACE).model_dump(mode="json"), {**SMALL, "scale.workers": workers, **(changes or {})})
    (folder / "config.yaml").write_text(config.to_yaml())
    try:
        assert (
            tune.main(["--config", str(folder / "config.yaml"), "--trials", str(trials), "--out", str(folder / "run")])
            == 0
        )
    finally:
        tuning.StudySearcher.suggest, tune.trial_rows = suggest, rows
    return intervals(file)[:trials]


def stamped_rows(file: str, *args: Any, **kwargs: Any) -> Iterator[Row]:
    """In the trial's process: its own steps, and those of the workers it starts, are stamped."""
    from cid_ray.run import crew
    from cid_ray.tune import trial_rows

    stamp_first_steps(file)
    crew.crew_loop = functools.partial(stamped_crew_loop, file)
    yield from trial_rows(*args, **kwargs)


def stamped_crew_loop(file: str, setup: dict[str, Any]) -> None:
    from cid_ray.run.crew import crew_loop

    stamp_first_steps(file)
    crew_loop(setup)


# ---- stock: a TorchTrainer in a Tune function trial ----


def stock(folder: Path, workers: int, trials: int) -> list[float]:
    from ray import tune
    from ray.tune.search import Searcher

    folder.mkdir(parents=True)
    file = folder / "stamps.jsonl"
    config = override(load(SPACE).model_dump(mode="json"), {**SMALL, "scale.workers": workers})

    class Stamped(Searcher):
        count = 0

        def suggest(self, trial_id: str) -> Any:
            if self.count == trials:
                return Searcher.FINISHED
            self.count += 1
            stamp(str(file), "suggest")
            seeded = override(config.model_dump(mode="json"), {"train.seed": self.count})
            return {"config": seeded.model_dump_json(), "name": f"stock-{self.count}"}

        def on_trial_complete(self, *_: Any, **__: Any) -> None: ...

    trial = functools.partial(stock_trial, str(folder), str(file), workers)
    tune.Tuner(
        tune.with_resources(trial, {"CPU": 0.01}),
        tune_config=tune.TuneConfig(
            search_alg=Stamped(metric="val/miou_teacher", mode="max"), num_samples=-1, max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    return intervals(file)


def stock_trial(folder: str, file: str, workers: int, task: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        stock_loop,
        train_loop_config={**task, "root": folder, "file": file},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": WORKER_CPUS[workers]}),
        run_config=ray.train.RunConfig(
            name=task["name"], storage_path=f"{folder}/train", callbacks=[TuneReportCallback()]
        ),
    ).fit()


def stock_loop(task: dict[str, Any]) -> None:
    """cid_ray's loop as a Ray Train user would call it; with several workers Ray Data feeds the pool."""
    import ray.train

    from cid_ray.run.loop import train
    from cid_ray.run.run import Job

    stamp_first_steps(task["file"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    job = Job(
        Config.model_validate_json(task["config"]), Path(task["root"]), task["name"], rank, world, threads=1,
        use_ray_data=world > 1, test=False,
    )  # fmt: skip
    for row in train(job):
        if row["event"] != "progress":
            ray.train.report({k: v for k, v in row.items() if isinstance(v, int | float)})


# ---- two trials at once against one ----


def training_seconds(folder: Path, at_once: int, steps: int) -> list[float]:
    """Seconds that each trial trains for `steps` steps, the first of every process left out."""
    ours(folder, 1, 3 * at_once, {"search.concurrency": at_once, "train.steps": steps, "train.samples": 0})
    rows = [json.loads(line) for line in (folder / "run" / "rows.jsonl").read_text().splitlines()]
    finals = [row for row in of_event(rows, "final") if "test/miou" not in row]
    return [round(row["seconds"], 3) for row in finals[at_once:]]


# ---- the run ----


def measure(rounds: int, steps: int, folder: Path) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    alone, together = list[float](), list[float]()
    ways: list[tuple[str, Callable[..., list[float]], int, int]] = [
        ("ours, 1 worker", ours, 1, 8), ("stock, 1 worker", stock, 1, 2),
        ("ours, 2 workers", ours, 2, 6), ("stock, 2 workers", stock, 2, 2),
    ]  # fmt: skip
    for turn in range(rounds):
        for number, (name, way, workers, trials) in enumerate(ways):
            seconds = way(folder / f"{turn}-{number}", workers, trials)
            if way is ours:
                found.setdefault(f"{name}, first trial", []).append(seconds[0])
                seconds = seconds[1:]
            found.setdefault(name, []).extend(seconds)
            print(turn, name, seconds, flush=True)
        alone += training_seconds(folder / f"{turn}-alone", 1, steps)
        together += training_seconds(folder / f"{turn}-together", 2, steps)
        print(turn, "alone", alone, "together", together, flush=True)
    return {
        "seconds_to_first_step": {
            name: {"median": round(statistics.median(v), 4), "values": v} for name, v in found.items()
        },
        "stock_over_ours": {
            f"{n} worker{'s' * (n > 1)}": round(
                statistics.median(found[f"stock, {n} worker{'s' * (n > 1)}"])
                / statistics.median(found[f"ours, {n} worker{'s' * (n > 1)}"]), 2
            )
            for n in (1, 2)
        },
        "training_seconds": {
            "steps": steps,
            "alone": {"median": statistics.median(alone), "values": alone},
            "two_at_once": {"median": statistics.median(together), "values": together},
            "ratio": round(statistics.median(together) / statistics.median(alone), 3),
        },
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/trial-overhead"))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=150, help="of the trials that run alone and two at once")
    args = options.parse_args()
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=True)
    with tempfile.TemporaryDirectory(prefix="trial-overhead-") as folder:
        result = measure(args.rounds, args.steps, Path(folder))
    ray.shutdown()
    result["versions"] = provenance()["versions"]
    result["hardware"] = {"cpus": len(os.sched_getaffinity(0)), "machine": platform.machine(), "gpu": None}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
