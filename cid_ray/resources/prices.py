"""A dated price list, `cluster/prices.yaml`: what each machine has, and what an hour of it costs.

A machine that is not listed has no price. It is shown as unknown and never counted as free.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cid_ray.config import InputError, format_validation_error, read_yaml
from cid_ray.resources.capacity import NodeType, Resources
from cid_ray.storage.packaged import packaged_file


class Machine(BaseModel):
    """One machine of a cloud. Prices are US dollars per hour, memory is in GiB."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    cpus: float = Field(gt=0)
    gpus: float = Field(0, ge=0)
    memory: float | None = Field(None, gt=0)  # of the machine
    gpu_memory: float | None = Field(None, gt=0)  # of each GPU
    usd: float | None = Field(None, gt=0)  # on demand
    spot: float | None = Field(None, gt=0)


class _PriceFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    date: str
    machines: dict[str, Machine]


@dataclass(frozen=True)
class Prices:
    date: str  # when the prices were looked up
    machines: dict[str, Machine]

    @classmethod
    def read(cls, path: str | Path) -> Prices:
        """Read a price list; InputError with path, key and rule when it breaks one."""
        try:
            content = _PriceFile.model_validate(read_yaml(path))
        except ValidationError as error:
            raise InputError(f"{path}: {format_validation_error(error)}") from None
        return cls(content.date, content.machines)

    @classmethod
    def read_for(cls, cluster_file: Path) -> Prices:
        """Read prices.yaml in the cluster file's folder, else the one that comes with cid_ray."""
        own = cluster_file.parent / "prices.yaml"
        return cls.read(own if own.is_file() else packaged_file("prices.yaml", "cluster"))

    def resources(self) -> dict[str, Resources]:
        """Machine name -> its resources."""
        return {
            name: Resources(machine.cpus, machine.gpus) for name, machine in self.machines.items()
        }

    def memory_of(self, node_type: NodeType) -> int | None:
        """Bytes of memory of a node; None where neither cluster file nor price list says it."""
        machine = self.machines.get(node_type.machine or "")
        if node_type.memory_bytes is not None:
            return node_type.memory_bytes
        return int(machine.memory * 2**30) if machine and machine.memory else None

    def gpu_memory_of(self, node_type: NodeType) -> int | None:
        """Bytes of memory of each GPU of a node; None where unknown."""
        machine = self.machines.get(node_type.machine or "")
        return int(machine.gpu_memory * 2**30) if machine and machine.gpu_memory else None

    def price_of(self, node_type: NodeType) -> float | None:
        """US dollars per hour of one node; None where unknown.

        A node with more GPUs than the listed machine has is another machine (Google attaches GPUs),
        so its price is unknown too.
        """
        machine = self.machines.get(node_type.machine or "")
        if machine is None or node_type.resources.gpus > machine.gpus:
            return None
        return machine.spot if node_type.spot else machine.usd
