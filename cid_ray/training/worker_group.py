"""A group of Ray Train workers that is started once and then runs one job after another.

Starting the processes and importing torch takes some 20 seconds on two workers; a group pays that
before its first job only. Consumer and workers exchange jobs and records through a `Mailbox`.

What rank 0 reads from the mailbox is broadcast before any rank acts on it, and it reads again every
second. So no worker waits in a collective alone, however long a group has no job.

A worker that raises or dies takes its group with it, and Ray Train starts a new one. The new group
takes the same job and resumes it from its last checkpoint, so a record may arrive twice. So it is
too when a node will be taken: rank 0 saves and raises, and the new group is placed elsewhere.
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
from cid_ray.resources.capacity import Resources
from cid_ray.resources.cpu_affinity import pin_process
from cid_ray.results.records import Record
from cid_ray.storage.paths import PathOrUri
from cid_ray.training.mailbox import SHUTDOWN, Mailbox, WorkersLost
from cid_ray.training.preemption import Preempted, own_node

CLOSE_TIMEOUT_S = 30.0  # for workers without a job to exit
# An attempt takes 30 s (RAY_ENVIRONMENT in resources/ray_session.py), so a lost node has 10 minutes
# to be replaced.
MAX_PLACEMENT_ATTEMPTS = 20
RESIZE_INTERVAL_S = 15.0  # how often an elastic group looks for resources for more workers


class WorkerGroupEnded(WorkersLost):
    """Ray Train gave up the whole group; another group may resume the job."""


@dataclass(frozen=True)
class GroupSpec:
    """What a group's processes depend on. A job that needs another spec needs another group."""

    num_workers: int | tuple[int, int]  # (least, most) of an elastic group
    per_worker: Resources

    @property
    def num_threads(self) -> int:
        return max(1, int(self.per_worker.cpus))


class WorkerGroup:
    """The consumer's side of a group, which ends with the process that made it."""

    def __init__(self, spec: GroupSpec, storage: PathOrUri, name: str):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.spec = spec
        self.idle = True  # no worker is between two rungs
        self.failure: BaseException | None = None
        # On the node of its consumer: the loss of any other node must not take the mailbox.
        this_node = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        options = {"num_cpus": 0, "max_concurrency": 8, "scheduling_strategy": this_node}
        self.mailbox = ray.remote(**options)(Mailbox).remote()
        trainer = _torch_trainer(spec, self.mailbox, storage, name)
        self.thread = threading.Thread(
            target=self._fit, args=(trainer,), daemon=True, name=f"ray-train-{name}"
        )
        self.thread.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self.failure = error

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    def records(self, job: dict[str, Any]) -> Generator[Record, None, None]:
        """Run a job and yield its records. Closing the generator stops the job at its next rung.

        Raises:
            WorkerGroupEnded: Ray Train gave up the group.
            Exception: the error that ended the job.
        """
        import ray

        number = ray.get(self.mailbox.submit.remote(job))
        self.idle = False
        try:
            while True:
                record = ray.get(self.mailbox.next_record.remote())
                if record is None:
                    self._check_alive()
                    continue
                if isinstance(record, Exception):
                    raise record
                # After a rung and at the end all workers wait, so closing the group is quick.
                self.idle = record["event"] != "progress"
                yield record
                if record["event"] == "final":
                    return
                if record["event"] == "rung":
                    self.idle = False
                    ray.get(self.mailbox.release.remote(record["step"]))
        finally:
            with suppress(ray.exceptions.RayError):
                ray.get(self.mailbox.cancel.remote(number))

    def _check_alive(self) -> None:
        if not self.alive:
            reason = self.failure or "no error was reported"
            raise WorkerGroupEnded(f"Ray Train ended: {reason}") from self.failure

    def close(self) -> None:
        """Tell the workers to exit.

        Workers in the middle of a job exit at its next rung, and are not waited for.
        """
        import ray

        with suppress(ray.exceptions.RayError):
            ray.get(self.mailbox.shut_down.remote())
        self.thread.join(CLOSE_TIMEOUT_S if self.idle else 0)


def _torch_trainer(spec: GroupSpec, mailbox: Any, storage: PathOrUri, name: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    has_gpus = spec.per_worker.gpus > 0
    return TorchTrainer(
        worker_main,
        train_loop_config={
            "mailbox": mailbox,
            "num_threads": spec.num_threads,
            "cpus": spec.per_worker.cpus,
        },
        scaling_config=ScalingConfig(
            num_workers=spec.num_workers,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
            use_gpu=has_gpus,
            resources_per_worker=spec.per_worker.bundle(),
        ),
        torch_config=TorchConfig(backend="nccl" if has_gpus else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            # Unlimited here: the mailbox counts failures, and a job that advances may have any
            # number.
            failure_config=FailureConfig(
                max_failures=-1, controller_failure_limit=MAX_PLACEMENT_ATTEMPTS
            ),
        ),
    )


# ---- in the workers ----


def worker_main(setup: dict[str, Any]) -> None:
    """One worker from the start of its group to the end, on its own CPUs."""
    mailbox = setup["mailbox"]
    pin_process(int(setup["cpus"]))  # a fraction of a CPU is not pinned
    while (job := broadcast_call(mailbox.next_job)) != SHUTDOWN:
        try:
            run_job(job, mailbox, setup["num_threads"])
        except Preempted as end:
            ends_job = end.notice.node in job["consumer_nodes"]
            call(mailbox.report_preempted, job["number"], end, ends_job)
            raise
        except Exception as error:
            call(mailbox.report_error, job["number"], *picklable_error(error))
            raise
        gc.collect()  # frees the networks of this job before the next one builds its own


def run_job(job: dict[str, Any], mailbox: Any, num_threads: int) -> None:
    """This worker's part of one job."""
    import torch.distributed as dist

    from cid_ray.data.cache import cached_reader
    from cid_ray.training.collectives import gather_objects
    from cid_ray.training.loop import train
    from cid_ray.training.run_spec import RunSpec

    config = Config.model_validate_json(job["config"])
    nodes = job["consumer_nodes"].union(*gather_objects(own_node()))
    spec = RunSpec(
        config,
        job["run_dir"],
        job["name"],
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        num_threads=num_threads,
        use_ray_data=True,
        score_test=job["score_test"],
        reader=cached_reader(config.data),
        nodes=nodes if dist.get_rank() == 0 else frozenset(),
    )
    number = job["number"]
    for record in train(spec):
        if spec.rank == 0:
            call(mailbox.push_record, number, record)
        if record["event"] == "rung":
            released = broadcast_call(mailbox.wait_release, number, record["step"])
            if released is not True:  # the job was cancelled, or the mailbox is gone
                return


def broadcast_call(method: Any, *args: Any) -> Any:
    """The mailbox's answer to rank 0, on every rank. After None rank 0 asks again."""
    import torch.distributed as dist

    while True:
        answer = [call(method, *args) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(answer)
        if answer[0] is not None:
            return answer[0]


def call(method: Any, *args: Any) -> Any:
    """Call the mailbox. SHUTDOWN when it is gone, because then its consumer has ended too."""
    import ray

    try:
        return ray.get(method.remote(*args))
    except ray.exceptions.RayActorError:
        return SHUTDOWN


def picklable_error(error: Exception) -> tuple[Exception, bool]:
    """An error that any process can unpickle, and whether a second attempt would fail too."""
    if isinstance(error, InputError | FloatingPointError):
        return error, True
    is_network = isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, OSError) and error.errno and not is_network:
        permanent = error.errno != errno.EIO  # of an object store, which may recover
        return OSError(error.errno, error.strerror, error.filename), permanent
    type_name = type(error).__name__
    return RuntimeError(f"{type_name}: {error}"), type_name == "OutOfMemoryError"
