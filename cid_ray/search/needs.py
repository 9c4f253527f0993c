"""What a search needs of disk and memory, before anything is started: for `cluster check`.

The disk is that of `search.disk`. Of memory only a lower bound is known before training: imported
libraries, and the networks with the optimizer's state. Activations come on top; a search measures
all of it at its first rung. So a node that is too small by this bound is too small for certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cid_ray.config import Config, build_config
from cid_ray.resources.capacity import NodeType, PlacementRequest
from cid_ray.resources.costs import PlacementCost
from cid_ray.resources.prices import Prices
from cid_ray.results.formatting import format_bytes
from cid_ray.search.checks import check_search
from cid_ray.search.disk import DiskEstimate, check_disk, estimate_disk
from cid_ray.storage.paths import PathOrUri

LIBRARY_BYTES = 450_000_000  # torch, Ray and the rest in a process; 455 MB measured, not shared
UNKNOWN_RUN_DIR = Path("--out")


@dataclass(frozen=True)
class SearchNeeds:
    """Bytes that a search needs.

    Attributes:
        disk: of its run folder, and of decoded images on a node.
        network_bytes: student, teacher and optimizer of one process, on its GPU if it has one.
    """

    disk: DiskEstimate
    network_bytes: int

    def process_bytes(self, on_gpu: bool) -> int:
        """Memory of one training process on its machine, at least."""
        return LIBRARY_BYTES + (0 if on_gpu else self.network_bytes)


def search_needs(config: Config, run_dir: PathOrUri | None) -> SearchNeeds:
    """Open the data table and build the network, without its pretrained weights.

    Args:
        config: of the search.
        run_dir: its folder, which need not exist; None: not known yet.

    Raises:
        InputError: table or model cannot be used, or the disk of the run folder is too small.
    """
    from cid_ray.search.plan import search_variants
    from cid_ray.training.preflight import check_data

    space = check_search(config)
    config = build_config(config.model_dump(mode="json"), {"model.weights": "none"})
    run = check_data(config, search_variants(config, space)).disk
    if run_dir is not None:
        disk = check_disk(config, space, run, run_dir)
    else:
        disk = replace(estimate_disk(config, space, run, UNKNOWN_RUN_DIR), used=0, free=None)
    return SearchNeeds(disk, run.last + run.labeler * ("self_training" in config.search.baselines))


def describe_needs(
    config: Config,
    request: PlacementRequest,
    placement: PlacementCost | None,
    prices: Prices,
    run_dir: PathOrUri | None,
) -> Iterator[str]:
    """A line about the disk, and one about each type of node that holds trials.

    Args:
        config: of the search.
        request: of one trial.
        placement: the nodes on which the trials run; None: there are none.
        prices: knows the memory of machines.
        run_dir: the run folder; None: not known yet.

    Raises:
        InputError: table or model cannot be used, or the disk of the run folder is too small.
    """
    needs = search_needs(config, run_dir)
    yield str(replace(needs.disk, cache=0))
    if placement is None:
        return
    processes = min(placement.count, needs.disk.trials) * request.count
    for node_type in placement.nodes:
        if count := request.per_process.count_in(node_type.resources):
            yield from _describe_node(needs, min(count, processes), node_type, prices)


def _describe_node(
    needs: SearchNeeds, count: int, node_type: NodeType, prices: Prices
) -> Iterator[str]:
    on_gpu = node_type.resources.gpus > 0
    wanted = [("memory", count * needs.process_bytes(on_gpu), prices.memory_of(node_type))]
    if on_gpu:
        per_gpu = max(1, int(count / node_type.resources.gpus))
        available = prices.gpu_memory_of(node_type)
        wanted.append(("memory of each GPU", per_gpu * needs.network_bytes, available))
    if needs.disk.cache:
        wanted.append(("disk for decoded images", needs.disk.cache, node_type.disk_bytes))
    parts = []
    for what, needed, there_is in wanted:
        bound = "at most" if what.startswith("disk") else "at least"
        size = "unknown" if there_is is None else format_bytes(there_is)
        parts.append(f"{what} {bound} {format_bytes(needed)} of {size}")
    where = f"{node_type.name} with {count} training process(es)"
    yield f"{where}: {', '.join(parts)}"
    for what, needed, there_is in wanted:
        if there_is is not None and needed > there_is:
            yield (
                f"warning: {where} has too little {what}: {format_bytes(needed)} are needed, it "
                f"has {format_bytes(there_is)}; {_remedy(what)}"
            )


def _remedy(what: str) -> str:
    if what.startswith("disk"):
        return "lower data.cache_mb, or take a larger disk"
    kind = "gpus" if "GPU" in what else "cpus"
    return f"raise search.{kind}_per_trial, or take a larger machine"
