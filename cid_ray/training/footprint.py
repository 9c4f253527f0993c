"""What a run takes: bytes on the disk, known before it starts, and memory, measured as it runs."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cid_ray.config import Config
from cid_ray.data.cache import cache_layout, decoded_sizes
from cid_ray.data.table import Table
from cid_ray.resources.container import memory_limit
from cid_ray.training.collectives import gather_objects

STATUS_FILE = Path("/proc/self/status")
ENTRY_BYTES = 400  # of a tensor in a checkpoint, besides its values: name, headers, padding


@dataclass(frozen=True)
class DiskBytes:
    """What a run writes.

    Attributes:
        last: a checkpoint with all that the next step depends on.
        best: the checkpoint with the networks of the best step.
        labeler: the third network in `last`, which the second round of `self_training` has.
        image: pixels of the largest image, so at most the bytes of a predicted picture.
        cache: the decoded images of all runs on a node.
    """

    last: int
    best: int
    labeler: int
    image: int
    cache: int


def disk_bytes(config: Config, net: nn.Module, table: Table, memory_bytes: int = 0) -> DiskBytes:
    """The sizes, without the few kilobytes of plain values in a checkpoint.

    Args:
        config: names optimizer, image size and the bound of the cache.
        net: the student; teacher and labeler are as large. The first two are in every checkpoint.
        table: the data table.
        memory_bytes: of the labeled features that the method keeps.
    """
    network = sum(tensor.nbytes + ENTRY_BYTES for tensor in net.state_dict().values())
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    weights = sum(parameter.nbytes + ENTRY_BYTES for parameter in trained)
    moments = 2 if config.optim.name == "adamw" else int(config.optim.momentum > 0)
    heights, widths = decoded_sizes(table, config.data.image_size)
    ends = cache_layout(table, heights, widths)[1]
    return DiskBytes(
        last=2 * network + moments * weights + memory_bytes,
        best=2 * network,
        labeler=network,
        image=int((heights * widths).max()),
        cache=int(ends[ends <= config.data.cache_mb << 20].max(initial=0)),
    )


def memory_fields() -> dict[str, Any]:
    """The memory that training took so far: the largest process of all workers, and its machine's.

    Returns:
        The fields of `Memory` in results/record_types.py. Every worker must call it.
    """
    own: dict[str, int | None] = {
        "process_bytes": peak_resident_bytes(),
        "machine_bytes": machine_bytes(),
        "gpu_process_bytes": None,
        "gpu_bytes": None,
    }
    if torch.cuda.is_initialized():
        own["gpu_process_bytes"] = torch.cuda.max_memory_reserved()
        own["gpu_bytes"] = torch.cuda.get_device_properties(
            torch.cuda.current_device()
        ).total_memory
    return max(gather_objects(own), key=lambda fields: fields["process_bytes"] or 0)


def peak_resident_bytes() -> int | None:
    """The most memory that this process had at any time; None where the system does not say."""
    # getrusage's peak survives exec: it may be the peak of the process that started this one.
    with suppress(OSError):
        for line in STATUS_FILE.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def machine_bytes() -> int | None:
    """The memory of this machine, or of the container if that may use less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return min(total, memory_limit() or total)
