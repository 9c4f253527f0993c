"""The time of a training step on n workers, split into computing, collectives and waiting for data.

Ray Train starts the workers, each builds its part of the run, takes some steps that are not timed,
and then times each of `scale.timed_steps`. Images are read by the workers' own threads: Ray Data
would still be starting in so short a run. Nothing is evaluated or saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cid_ray.config import Config, build_config, images_seen
from cid_ray.resources.capacity import Resources
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

MAX_WARMUP_STEPS = 10  # and not more than are timed
PROFILED_STEPS = 3
FOLDER = "timings"
MEASURED_PARTS = ("step", "data", "collectives", "compute")


def worker_config(config: Config, count: int) -> Config:
    """The configuration of a worker ladder at one count.

    With weak scaling its batches are those of one worker, so the global ones grow.
    """
    factor = count if config.scale.scaling == "weak" else 1
    needed = MAX_WARMUP_STEPS + config.scale.timed_steps + PROFILED_STEPS
    changes = {
        "distributed.num_workers": count,
        "train.steps": max(config.train.steps, needed),
        "data.batch_size": config.data.batch_size * factor,
        "data.batch_size_u": config.data.batch_size_u * factor,
    }
    return build_config(config.model_dump(mode="json"), changes)


def time_steps(
    config: Config, run_dir: PathOrUri, name: str, resources: Resources, profile: bool = False
) -> dict[str, Any]:
    """Start `distributed.num_workers` workers and time their steps.

    Args:
        config: of `worker_config`.
        run_dir: a folder that all nodes share, or s3://bucket/path.
        name: of the file below `timings` that rank 0 writes.
        resources: of each worker.
        profile: also write torch's profile of some steps.

    Returns:
        "seconds": {"step", "data", "collectives", "compute"} -> a list, one value per timed step,
        the mean over the workers; "images": of a step; "gradient_bytes"; "memory": see results/
        record_types.py.

    Raises:
        RuntimeError: the workers have failed.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    run_dir = paths.absolute(run_dir)  # the workers have another working folder
    on_gpu = resources.gpus > 0
    setup = {
        "config": config.model_dump_json(),
        "run_dir": str(run_dir),
        "name": name,
        "cpus": resources.cpus,
        "profile": profile,
    }
    trainer = TorchTrainer(
        timing_worker,
        train_loop_config=setup,
        scaling_config=ScalingConfig(
            num_workers=config.distributed.max_workers,
            use_gpu=on_gpu,
            resources_per_worker=resources.bundle(),
        ),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=str(paths.join(run_dir, "ray_train")),
            failure_config=FailureConfig(max_failures=1, controller_failure_limit=3),
        ),
    )
    trainer.fit()
    paths.remove(paths.join(run_dir, "ray_train"))  # Ray Train's own files say nothing more
    with paths.open_read(paths.join(run_dir, FOLDER, f"{name}.json")) as file:
        return dict(json.load(file))


# ---- in the workers ----


def timing_worker(setup: dict[str, Any]) -> None:
    """What each worker runs."""
    import numpy as np
    import torch.distributed as dist

    from cid_ray.data.cache import cached_reader
    from cid_ray.resources.cpu_affinity import pin_process
    from cid_ray.training.collectives import gather_objects
    from cid_ray.training.footprint import memory_fields
    from cid_ray.training.run_spec import RunSpec
    from cid_ray.training.trainer import Trainer

    pin_process(int(setup["cpus"]))
    config = Config.model_validate_json(setup["config"])
    spec = RunSpec(
        config,
        setup["run_dir"],
        setup["name"],
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        num_threads=max(1, int(setup["cpus"])),
        reader=cached_reader(config.data),
    )
    trainer = Trainer(spec)
    own = measure(trainer)
    with profiler(setup, spec.rank) as step_done:
        for batch in batches(trainer, PROFILED_STEPS if setup["profile"] else 0):
            trainer.train_step(batch)
            step_done()
    of_workers = gather_objects(own)
    memory = memory_fields()
    if spec.rank != 0:
        return
    seconds = {part: np.mean([w[part] for w in of_workers], axis=0) for part in MEASURED_PARTS}
    trained = [weight for weight in trainer.student.parameters() if weight.requires_grad]
    found = {
        "seconds": {part: values.tolist() for part, values in seconds.items()},
        "images": images_seen(config, 1),
        "gradient_bytes": sum(p.numel() * p.element_size() for p in trained),
        "memory": memory,
    }
    file = paths.join(setup["run_dir"], FOLDER, f"{setup['name']}.json")
    paths.write_text(file, json.dumps(found, indent=1))


def batches(trainer: Any, count: int) -> Iterator[Any]:
    """The next `count` batches of a trainer, read by threads of this process."""
    from cid_ray.data.loader import local_batches

    if count < 1:
        return
    spec = trainer.spec
    source = (trainer.reader, trainer.plan_at(trainer.step), trainer.config.data)
    start = trainer.step
    yield from local_batches(*source, start, start + count, spec.rank, spec.world_size)


def measure(trainer: Any) -> dict[str, list[float]]:
    """Seconds of each timed step of this worker, and their parts."""
    from cid_ray.scaling.collective_timer import CollectiveTimer, now

    timed = trainer.config.scale.timed_steps
    warmup = min(MAX_WARMUP_STEPS, timed)
    found: dict[str, list[float]] = {part: [] for part in MEASURED_PARTS}
    with CollectiveTimer(trainer.wrapped_student) as timer:
        started = now()
        for number, batch in enumerate(batches(trainer, warmup + timed)):
            has_batch = now()
            trainer.train_step(batch)
            ended = now()
            collectives = timer.take()
            if number >= warmup:
                found["step"].append(ended - started)
                found["data"].append(has_batch - started)
                found["collectives"].append(collectives)
                found["compute"].append(ended - has_batch - collectives)
            started = ended
    return found


@contextmanager
def profiler(setup: dict[str, Any], rank: int) -> Iterator[Any]:
    """torch's profiler around some steps of rank 0; yields what is called after each step.

    The trace is `timings/NAME.trace.json`, for https://ui.perfetto.dev.
    """
    if not setup["profile"] or rank != 0:
        yield lambda: None
        return
    import tempfile
    from pathlib import Path

    from torch.profiler import profile

    with profile() as found:
        yield found.step
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        found.export_chrome_trace(str(trace))
        file = paths.join(setup["run_dir"], FOLDER, f"{setup['name']}.trace.json")
        paths.write_text(file, trace.read_text(encoding="utf-8"))
