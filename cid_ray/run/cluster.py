"""Starting Ray, and the check that a request can be placed at all: a clear error at once instead of a silent wait."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from cid_ray.config import InputError
from cid_ray.run.device import available_cpus

ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # ray.train.report blocks for up to this long
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a worker that does not answer for so long is replaced
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # a group that cannot be placed is asked for again, or smaller
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our rows are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled by the command
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # fills the dashboard's Train tab
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Resources:
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")

    def bundle(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def start_ray(verbose: bool = False) -> None:
    """Join the cluster of RAY_ADDRESS or a running local one, else start one with this machine's CPUs.

    `verbose`: what Ray's processes print is shown here too.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    running = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if running else {"num_cpus": available_cpus()}
    every: dict[str, Any] = {"log_to_driver": verbose, "logging_level": "ERROR"}
    try:
        ray.init(include_dashboard=None if running else True, **every, **own)
    except ValueError as error:
        if "num_cpus" not in str(error):
            raise
        ray.init(**every)  # a local cluster is already running: join it


def nodes() -> list[Resources]:
    """What each living node has in all."""
    import ray

    alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return [Resources(float(r.get("CPU", 0)), float(r.get("GPU", 0))) for r in alive]


def has_gpus() -> bool:
    return any(node.gpus for node in nodes())


def places(request: Resources) -> int:
    """How many such requests fit on the empty cluster at once, each on one node."""
    total = 0
    for node in nodes():
        by_cpu = node.cpus / request.cpus if request.cpus else float("inf")
        by_gpu = node.gpus / request.gpus if request.gpus else float("inf")
        total += int(min(by_cpu, by_gpu) + 1e-9)
    return total


def check_placeable(request: Resources, count: int, what: str, remedy: str, spare_cpus: float = 0.0) -> None:
    """InputError when `count` requests and some spare CPUs can never run together on this cluster."""
    have = nodes()
    cpus = sum(node.cpus for node in have)
    if places(request) < count or cpus < count * request.cpus + spare_cpus - 1e-9:
        listed = ", ".join(str(node) for node in have)
        spare = f", and {spare_cpus:g} CPU for Ray Data's tasks" if spare_cpus else ""
        raise InputError(
            f"{what} asks for {count} x ({request}){spare}; this can never be placed: the cluster has "
            f"{len(have)} node(s) with {listed}. {remedy}"
        )
