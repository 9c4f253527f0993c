"""Seconds from a suggestion to the first optimizer step: `cid_ray.tune` against stock Ray.

    python -m benchmarks.trial_overhead --out benchmarks/results/trial-overhead

Both train the same network on the same batches with cid_ray's own loop (search_spaces/demo.yaml);
only what starts it differs. Stock is the documented pattern: a Tune function trainable that builds
a TorchTrainer, with new processes for every trial. The cases alternate, round by round, on one Ray
cluster of two CPUs. The clock starts in the searcher's `suggest` and stops after the first
`Optimizer.step()` of any worker of the trial.
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

from cid_ray.config import Config, build_config, load_config
from cid_ray.resources.container import available_cpus
from cid_ray.resources.ray_session import RAY_ENVIRONMENT
from cid_ray.results.provenance import provenance
from cid_ray.results.records import Record, of_event, read_records

SPACE = Path(__file__).parents[1] / "search_spaces" / "demo.yaml"
SMALL = {
    "train.steps": 4,
    "train.rungs": [1.0],
    "train.num_sample_images": 0,
    "search.ratios": ["1/8"],
    "search.baselines": [],
    "search.max_concurrent_trials": 1,
    "search.repeats.n": 0,
    "search.pruner": {"name": "NopPruner"},
}
WORKER_CPUS = {1: 1.0, 2: 0.7}  # of two CPUs, as cid_ray.tune divides them
STAMPS_FILE = "stamps.jsonl"


def make_config(workers: int, changes: dict[str, Any] | None = None) -> Config:
    return load_config(SPACE, {**SMALL, "distributed.num_workers": workers, **(changes or {})})


# ---- clocks ----


def stamp(file: str, event: str, seconds: float | None = None) -> None:
    """Append an event with its time to a file that all processes share."""
    line = json.dumps({"time": seconds or time.time(), "event": event})
    with open(file, "a") as log:
        log.write(line + "\n")


def stamp_first_steps(file: str) -> None:
    """From now on this process stamps the first step of every new optimizer."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def note(optimizer: Any, *_: Any) -> None:
        if not getattr(optimizer, "stamped", False):
            optimizer.stamped = True
            stamp(file, "step")

    register_optimizer_step_post_hook(note)


def intervals(file: Path) -> list[float]:
    """Seconds between every suggestion and the first step after it."""
    events = [json.loads(line) for line in file.read_text().splitlines()]
    events.sort(key=lambda event: event["time"])
    found = []
    for index, event in enumerate(events):
        if event["event"] != "suggest":
            continue
        steps = [later for later in events[index + 1 :] if later["event"] == "step"]
        if steps:
            found.append(round(steps[0]["time"] - event["time"], 4))
    return found


# ---- ours: the command itself, with clocks around it ----


def time_ours(
    folder: Path, workers: int, trials: int, changes: dict[str, Any] | None = None
) -> list[float]:
    from cid_ray import tune
    from cid_ray.search import ray_adapter

    folder.mkdir(parents=True)
    file = folder / STAMPS_FILE
    suggest = ray_adapter.TuneSearcher.suggest
    run_trial = ray_adapter.run_trial

    def stamped_suggest(self: Any, trial_id: str) -> Any:
        started = time.time()
        payload = suggest(self, trial_id)
        if isinstance(payload, dict):
            stamp(str(file), "suggest", started)
        return payload

    (folder / "config.yaml").write_text(make_config(workers, changes).to_yaml())
    command = ["--config", str(folder / "config.yaml"), "--trials", str(trials)]
    ray_adapter.TuneSearcher.suggest = stamped_suggest  # type: ignore[method-assign]
    ray_adapter.run_trial = functools.partial(stamped_trial, str(file))
    try:
        assert tune.main([*command, "--out", str(folder / "run")]) == 0
    finally:
        ray_adapter.TuneSearcher.suggest = suggest  # type: ignore[method-assign]
        ray_adapter.run_trial = run_trial
    return intervals(file)[:trials]


def stamped_trial(file: str, *args: Any, **kwargs: Any) -> Iterator[Record]:
    """In the trial's process: stamp its own steps, and those of the workers that it starts."""
    from cid_ray.search.trial_fn import run_trial
    from cid_ray.training import worker_group

    stamp_first_steps(file)
    worker_group.worker_main = functools.partial(stamped_worker_main, file)
    yield from run_trial(*args, **kwargs)


def stamped_worker_main(file: str, setup: dict[str, Any]) -> None:
    from cid_ray.training.worker_group import worker_main

    stamp_first_steps(file)
    worker_main(setup)


# ---- stock: a TorchTrainer in a Tune function trial ----


def time_stock(folder: Path, workers: int, trials: int) -> list[float]:
    from ray import tune
    from ray.tune.search import Searcher

    folder.mkdir(parents=True)
    file = folder / STAMPS_FILE
    config = make_config(workers)

    class StampedSearcher(Searcher):
        count = 0

        def suggest(self, trial_id: str) -> Any:
            if self.count == trials:
                return Searcher.FINISHED
            self.count += 1
            stamp(str(file), "suggest")
            seeded = build_config(config.model_dump(mode="json"), {"train.seed": self.count})
            return {"config": seeded.model_dump_json(), "name": f"stock-{self.count}"}

        def on_trial_complete(self, *_: Any, **__: Any) -> None: ...

    trial = functools.partial(stock_trial, str(folder), str(file), workers)
    searcher = StampedSearcher(metric="val/miou_teacher", mode="max")
    tuner = tune.Tuner(
        tune.with_resources(trial, {"CPU": 0.01}),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder / "tune"), verbose=0),
    )
    tuner.fit()
    return intervals(file)


def stock_trial(folder: str, file: str, workers: int, payload: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    per_worker = {"CPU": WORKER_CPUS[workers]}
    trainer = TorchTrainer(
        stock_loop,
        train_loop_config={**payload, "run_dir": folder, "file": file},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(
            name=payload["name"], storage_path=f"{folder}/train", callbacks=[TuneReportCallback()]
        ),
    )
    trainer.fit()


def stock_loop(setup: dict[str, Any]) -> None:
    """cid_ray's loop as a Ray Train user would call it, the pool of several workers by Ray Data."""
    import ray.train

    from cid_ray.training.loop import train
    from cid_ray.training.run_spec import RunSpec

    stamp_first_steps(setup["file"])
    context = ray.train.get_context()
    world_size = context.get_world_size()
    spec = RunSpec(
        Config.model_validate_json(setup["config"]),
        Path(setup["run_dir"]),
        setup["name"],
        rank=context.get_world_rank(),
        world_size=world_size,
        num_threads=1,
        use_ray_data=world_size > 1,
        score_test=False,
    )
    for record in train(spec):
        if record["event"] != "progress":
            numbers = {k: v for k, v in record.items() if isinstance(v, int | float)}
            ray.train.report(numbers)


# ---- two concurrent trials against one ----


def training_seconds(folder: Path, concurrent: int, steps: int) -> list[float]:
    """Seconds that each trial trains for `steps` steps, without each process's first trial."""
    changes = {"search.max_concurrent_trials": concurrent, "train.steps": steps}
    time_ours(folder, 1, 3 * concurrent, changes)
    finals = of_event(read_records(folder / "run"), "final")
    # A winner's second `final` record has its test scores.
    trained = [record for record in finals if "test/miou" not in record]
    return [round(record["seconds"], 3) for record in trained[concurrent:]]


# ---- the command ----

Case = tuple[str, Callable[[Path, int, int], list[float]], int, int]  # name, how, workers, trials
CASES: list[Case] = [
    ("ours, 1 worker", time_ours, 1, 8),
    ("stock, 1 worker", time_stock, 1, 2),
    ("ours, 2 workers", time_ours, 2, 6),
    ("stock, 2 workers", time_stock, 2, 2),
]


def measure(rounds: int, steps: int, folder: Path) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    alone: list[float] = []
    together: list[float] = []
    for number in range(rounds):
        for index, (name, time_case, workers, trials) in enumerate(CASES):
            values = time_case(folder / f"{number}-{index}", workers, trials)
            if time_case is time_ours:
                seconds.setdefault(f"{name}, first trial", []).append(values[0])
                values = values[1:]
            seconds.setdefault(name, []).extend(values)
            print(number, name, values, flush=True)
        alone += training_seconds(folder / f"{number}-alone", 1, steps)
        together += training_seconds(folder / f"{number}-together", 2, steps)
        print(number, "alone", alone, "together", together, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_to_first_step": {
            name: {"median": round(medians[name], 4), "values": values}
            for name, values in seconds.items()
        },
        "stock_over_ours": {
            name: round(medians[f"stock, {name}"] / medians[f"ours, {name}"], 2)
            for name in ("1 worker", "2 workers")
        },
        "training_seconds": {
            "steps": steps,
            "alone": {"median": statistics.median(alone), "values": alone},
            "two_concurrent": {"median": statistics.median(together), "values": together},
            "ratio": round(statistics.median(together) / statistics.median(alone), 3),
        },
    }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/trial-overhead"))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=150, help="of the trials of the last part")
    args = options.parse_args()
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, include_dashboard=True, **quiet)
    with tempfile.TemporaryDirectory(prefix="trial-overhead-") as folder:
        result = measure(args.rounds, args.steps, Path(folder))
    ray.shutdown()
    hardware = {"cpus": available_cpus(), "machine": platform.machine(), "gpu": None}
    result |= {"versions": provenance()["versions"], "hardware": hardware}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
