"""A dated list of machines, cluster/prices.yaml: what each has, and what an hour of it costs, on demand and as spot.

A machine that is not listed has no price: it is said to be unknown, never taken for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cid_ray.config import InputError, explain, read_yaml
from cid_ray.run.fleet import NodeType, Resources


class Machine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    cpus: float = Field(gt=0)
    gpus: float = Field(0, ge=0)
    usd: float | None = Field(None, gt=0)  # an hour, on demand
    spot: float | None = Field(None, gt=0)


class _List(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    date: str
    machines: dict[str, Machine]


@dataclass(frozen=True)
class Prices:
    date: str
    machines: dict[str, Machine]

    @classmethod
    def read(cls, path: str | Path) -> Prices:
        try:
            found = _List.model_validate(read_yaml(path))
        except ValidationError as error:
            raise InputError(f"{path}: {explain(error)}") from None
        return cls(found.date, found.machines)

    def resources(self) -> dict[str, Resources]:
        return {name: Resources(machine.cpus, machine.gpus) for name, machine in self.machines.items()}

    def of(self, kind: NodeType) -> float | None:
        """Dollars an hour of one such node; None where the list does not know, or knows the machine without its GPU."""
        machine = self.machines.get(kind.machine or "")
        if machine is None or kind.each.gpus > machine.gpus:
            return None
        return machine.spot if kind.spot else machine.usd
