"""Law: a search knows how many of its processes share a machine and a GPU. Reference: by hand."""

from __future__ import annotations

from typing import Any

import pytest

from cid_ray.config import build_config
from cid_ray.resources.capacity import ClusterCapacity, NodeType, Resources
from cid_ray.search.plan import plan_placement

TWO_GPU_MACHINES = (NodeType("gpu", Resources(8, 2), 2, 2),)
WITH_SMALL_HEAD = (NodeType("head", Resources(0, 0), 1, 1), NodeType("cpu", Resources(6, 0), 0, 4))
FOUR_WORKERS = {"distributed.num_workers": 4}


@pytest.mark.parametrize(
    ("node_types", "changes", "expected"),
    [
        # concurrent trials, processes on a machine, processes on a GPU
        (TWO_GPU_MACHINES, {}, (4, 2, 1)),
        (TWO_GPU_MACHINES, {"search.gpus_per_trial": 0.25}, (16, 8, 4)),
        (TWO_GPU_MACHINES, {"search.gpus_per_trial": 2}, (2, 1, 1)),
        (TWO_GPU_MACHINES, {"search.max_concurrent_trials": 1}, (1, 1, 1)),
        (TWO_GPU_MACHINES, {"train.device": "cpu"}, (16, 8, 1)),
        (WITH_SMALL_HEAD, {"search.cpus_per_trial": 2}, (12, 3, 1)),
        (
            WITH_SMALL_HEAD,
            {"distributed.num_workers": 4, "distributed.cpus_per_worker": 2},
            (2, 3, 1),
        ),
    ],
)
def test_placement_counts_the_processes_of_a_machine_and_a_gpu(
    node_types: tuple[NodeType, ...], changes: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    placement = plan_placement(build_config({}, changes), ClusterCapacity(node_types, 5))
    found = (placement.max_concurrent, placement.processes, placement.gpu_processes)
    assert found == expected
