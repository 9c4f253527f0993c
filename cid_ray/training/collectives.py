"""Values over all workers: sums of scores, means of losses, any small object. Without gradients.

With one worker, or without torch.distributed, each function returns what it was given. Sums that
gradients pass through are in `core.distributed`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cid_ray.config import InputError
from cid_ray.core.calibration import Calibration
from cid_ray.core.distributed import world_size
from cid_ray.storage.paths import PathOrUri


def sum_matrix(matrix: np.ndarray, device: torch.device) -> np.ndarray:
    """The sum of a confusion matrix i64[K,K] over all workers."""
    if world_size() == 1:
        return matrix
    total = torch.from_numpy(matrix).to(device)
    dist.all_reduce(total)
    return total.cpu().numpy()


def sum_calibration(own: Calibration) -> Calibration:
    """The pixels of all workers."""
    total = Calibration()
    for state in gather_objects(own.state_dict()):
        total.add_state(state)
    return total


def mean_values(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each value over all workers."""
    if world_size() == 1:
        return values
    total = torch.tensor(list(values.values()), device=device)
    dist.all_reduce(total)
    return dict(zip(values, (total / world_size()).tolist(), strict=True))


def gather_objects(value: Any) -> list[Any]:
    """The workers' values in rank order, on every worker."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def check_same_step(step: int, checkpoint: PathOrUri) -> None:
    """Raise InputError when workers resume from different steps: gradients must match."""
    steps = gather_objects(step)
    if len(set(steps)) > 1:
        raise InputError(
            f"the workers resume from different steps, {', '.join(map(str, steps))}: they do not "
            f"see the same checkpoints in {checkpoint}; --out must be a folder that all nodes "
            "share, or s3://..."
        )
