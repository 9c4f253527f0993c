"""How long a worker spends in collectives during a step, waiting for the others included.

Two kinds are timed. Our own (statistics of losses and batch norm) block, so the time around each
call counts. DDP's all-reduce of gradients overlaps with the backward pass. Only what is left when
the last bucket of gradients is complete counts, because until then the worker computes.

On a GPU the clock is read after the device has finished, so a timed step is a little slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

BLOCKING = ("all_reduce", "all_gather_into_tensor", "all_gather_object", "broadcast")


class CollectiveTimer:
    """Adds up the seconds of collectives while it is entered.

    Args:
        student: the wrapped student; its gradients are timed if it is a DDP module.

    Example:
        >>> with CollectiveTimer(trainer.wrapped_student) as timer:
        ...     trainer.train_step(batch)
        ...     seconds = timer.take()
    """

    def __init__(self, student: nn.Module):
        self._seconds = 0.0
        self._original: dict[str, Callable[..., Any]] = {}
        if isinstance(student, DistributedDataParallel):
            # DDP reads the annotations of a hook, and those of this file are texts.
            student.register_comm_hook(None, lambda _, bucket: self._reduce_bucket(bucket))

    def __enter__(self) -> CollectiveTimer:
        for name in BLOCKING:
            self._original[name] = getattr(dist, name)
            setattr(dist, name, self._timed(self._original[name]))
        return self

    def __exit__(self, *_: Any) -> None:
        for name, function in self._original.items():
            setattr(dist, name, function)

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            started = now()
            result = function(*args, **options)
            self._seconds += now() - started
            return result

        return call

    def _reduce_bucket(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        world = dist.group.WORLD
        assert world is not None  # there is one wherever DDP is
        reduced = allreduce_hook(world, bucket)
        if not bucket.is_last():
            return reduced
        complete = now()

        def finish(future: torch.futures.Future[Tensor]) -> Tensor:
            self._seconds += now() - complete
            return future.value()

        return reduced.then(finish)


def now() -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
