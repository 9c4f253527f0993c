"""A crew: Ray Train's workers, started once and given one job after another.

Process starts and imports cost a run on two workers some 20 seconds; a crew pays them before its first job only.
Consumer and crew meet at a `Board`. At a rung every rank waits until the consumer lets the job go on; a job that was
taken down stops there, and the crew waits for the next. What rank 0 reads is broadcast before any rank acts on it, and
it asks again every second: so no worker is left in a collective alone, however long a crew has nothing to do.

A worker that raises or dies takes its group with it, and Ray Train starts a new one. The new group takes the job that
is still pinned up and goes on from its last checkpoint; a row that was shown already may be shown again.
"""

from __future__ import annotations

import errno
import gc
import threading
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cid_ray.config import Config, InputError
from cid_ray.places import Name
from cid_ray.results.record import Row
from cid_ray.run.board import END, Board, WorkersLost
from cid_ray.run.fleet import Resources
from cid_ray.run.pinning import pin

CLOSE_SECONDS = 30.0  # for workers with nothing to do to leave
PLACING_TRIES = 20  # of 30 seconds each (run/cluster.py): how long a lost node may take to be replaced
RESIZE_SECONDS = 15.0  # between looks for room for more workers, where their number may change


class CrewEnded(WorkersLost):
    """Ray Train gave the whole group up; another crew may go on with the job."""


@dataclass(frozen=True)
class Shape:
    """What a crew's processes depend on; a job of another shape needs another crew."""

    workers: int | tuple[int, int]
    each: Resources

    @property
    def threads(self) -> int:
        return max(1, int(self.each.cpus))


class Crew:
    """The consumer's side of a crew. It dies with the process that made it, wherever its workers are."""

    def __init__(self, shape: Shape, folder: Name, name: str):
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.shape, self.resting = shape, True
        self.failure: BaseException | None = None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = ray.remote(num_cpus=0, max_concurrency=8, scheduling_strategy=here)(Board).remote()
        trainer = TorchTrainer(
            crew_loop,
            train_loop_config={"board": self.board, "threads": shape.threads, "cpus": shape.each.cpus},
            scaling_config=ScalingConfig(
                num_workers=shape.workers, elastic_resize_monitor_interval_s=RESIZE_SECONDS,
                use_gpu=shape.each.gpus > 0, resources_per_worker=shape.each.bundle(),
            ),
            torch_config=TorchConfig(backend="nccl" if shape.each.gpus else "gloo"),
            run_config=RunConfig(
                name=name, storage_path=str(folder),
                # the board counts the failures of a job
                failure_config=FailureConfig(max_failures=-1, controller_failure_limit=PLACING_TRIES),
            ),
        )  # fmt: skip
        self.thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True, name=f"ray-train-{name}")
        self.thread.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self.failure = error

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    def rows(self, job: dict[str, Any]) -> Generator[Row, None, None]:
        """Run a job; closing the generator stops it at its next rung."""
        import ray

        number = ray.get(self.board.pin.remote(job))
        self.resting = False
        try:
            while True:
                row = ray.get(self.board.next_row.remote())
                if row is None:
                    if not self.alive:
                        raise CrewEnded(f"Ray Train ended: {self.failure or 'without a word'}") from self.failure
                    continue
                if isinstance(row, Exception):
                    raise row
                self.resting = row["event"] != "progress"
                yield row
                if row["event"] == "final":
                    return
                if row["event"] == "rung":
                    self.resting = False
                    ray.get(self.board.allow.remote(row["step"]))
        finally:
            with suppress(ray.exceptions.RayError):
                ray.get(self.board.take_down.remote(number))

    def close(self) -> None:
        """Send the workers home. Those in the middle of a job leave at its next rung; they are not waited for."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.board.end.remote())
        self.thread.join(CLOSE_SECONDS if self.resting else 0)


# ---- in the workers ----


def crew_loop(setup: dict[str, Any]) -> None:
    """One worker, from the start of its group to the end, on CPUs of its own."""
    board = setup["board"]
    pin(int(setup["cpus"]))  # shares of a CPU are not pinned
    while (job := agreed(board.take)) != END:
        try:
            run_job(job, board, setup["threads"])
        except Exception as error:
            ask(board.fail, job["number"], *told(error))
            raise
        gc.collect()  # networks of the former job, before the next one builds its own


def run_job(task: dict[str, Any], board: Any, threads: int) -> None:
    """This worker's part of one job."""
    import torch.distributed as dist

    from cid_ray.data.batches import kept_reader
    from cid_ray.run.loop import train
    from cid_ray.run.run import Job

    config = Config.model_validate_json(task["config"])
    job = Job(
        config, task["root"], task["name"], dist.get_rank(), dist.get_world_size(), threads=threads,
        use_ray_data=True, test=task["test"], reader=kept_reader(config.data, config.data.cache_mb),
    )  # fmt: skip
    for row in train(job):
        if job.rank == 0:
            ask(board.show, task["number"], row)
        if row["event"] == "rung" and agreed(board.may_go, task["number"], row["step"]) is not True:
            return


def agreed(method: Any, *args: Any) -> Any:
    """The board's answer to rank 0, on every rank; None is asked again."""
    import torch.distributed as dist

    while True:
        said = [ask(method, *args) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(said)
        if said[0] is not None:
            return said[0]


def ask(method: Any, *args: Any) -> Any:
    """END when the board is gone, and with it whoever wanted rows."""
    import ray

    try:
        return ray.get(method.remote(*args))
    except ray.exceptions.RayActorError:
        return END


def told(error: Exception) -> tuple[Exception, bool]:
    """What others are told of an error, as a type that unpickles anywhere; and whether it would only come again."""
    if isinstance(error, InputError | FloatingPointError):
        return error, True
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return OSError(error.errno, error.strerror, error.filename), error.errno != errno.EIO  # a store may recover
    kind = type(error).__name__
    return RuntimeError(f"{kind}: {error}"), kind == "OutOfMemoryError"
