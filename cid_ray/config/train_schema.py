"""The sections `optim`, `train` and `distributed`: how a model is trained, and on how many workers.

A "fraction of training" is a fraction of `train.steps`, in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator

from cid_ray.config.section import NonNegative, Section
from cid_ray.config.validators import check_uri

EMA_DECAY_RANGE = (0.9, 0.9996)


def steps_until(fraction: float, steps: int) -> int:
    """The first step at which a fraction of `steps` is done.

    Example:
        >>> steps_until(0.5, 5)
        3
    """
    # 0.7 * 30 is 21.000000000000004: without the tolerance that would be step 22.
    return math.ceil(fraction * steps - 1e-9)


def ema_decay(span: float, steps: int) -> float:
    """The decay per step of an EMA that spans this fraction of `steps`: 1 - 1/(span * steps).

    At least 0.9, or an EMA would follow single steps; at most 0.9996, as timm's recipes have it.

    Example:
        >>> round(ema_decay(0.05, 1000), 4), ema_decay(0.05, 100), ema_decay(0.05, 1_000_000)
        (0.98, 0.9, 0.9996)
    """
    low, high = EMA_DECAY_RANGE
    return min(max(1 - 1 / max(1.0, span * steps), low), high)


class OptimConfig(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    # Learning rate of the encoder, for the global batch.
    lr: float = Field(1e-3, gt=0)
    # Learning rate of decoder and head as a multiple of lr.
    head_lr_mult: float = Field(10.0, gt=0)
    # Each layer of the encoder has the learning rate of the next one times this; 1: all have lr.
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: NonNegative = 1e-4
    # Of SGD.
    momentum: float = Field(0.9, ge=0, lt=1)
    # The learning rate is lr * (1 - step / steps) ** poly_power.
    poly_power: float = Field(0.9, ge=0)
    # Greatest L2 norm of the gradient; null: no clipping.
    clip_norm: float | None = Field(None, gt=0)


class TrainConfig(Section):
    # Optimizer steps of a whole run.
    steps: int = Field(1000, ge=1)
    # Fractions of training at which val is evaluated, a checkpoint written and a trial pruned.
    rungs: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)
    # Seed of weights, sampling and augmentation.
    seed: int = Field(0, ge=0)
    # Fraction of training that the EMA of the teacher's weights spans.
    ema_span: float = Field(0.05, gt=0, le=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Mixed precision; auto: bf16 on CUDA, off on the CPU.
    amp: Literal["auto", "bf16", "off"] = "auto"
    # torch.compile of the model.
    compile: bool = False
    # When a loss is NaN or inf: stop the run, or skip the step.
    on_nan: Literal["stop", "skip"] = "stop"
    # Steps between checkpoints, besides those at rungs; null: rungs only.
    checkpoint_steps: int | None = Field(None, ge=1)
    # Minutes between checkpoints, besides those at rungs; null: rungs only.
    checkpoint_minutes: float | None = Field(None, gt=0)
    # Seconds between two progress records, at least; many concurrent trials send them less often.
    progress_s: float = Field(2.0, gt=0)
    # Checkpoints are stored here: a folder or s3://bucket/path; null: in the run folder.
    checkpoint_dir: str | None = None
    # Newest checkpoints that are kept, besides the best one.
    num_to_keep: int = Field(1, ge=1)
    # Images of one forward pass of a worker; null: the worker's whole part of the batch.
    micro_batch_size: int | None = Field(None, ge=2)
    # Evaluate with sliding windows of this side in pixels; null: whole images.
    sliding_window: int | None = Field(None, ge=32)
    # Held-out images whose predictions are saved for the report.
    num_sample_images: int = Field(4, ge=0)
    # Warn after this many consecutive steps in which no pixel got a pseudo-label.
    warn_no_pseudo_steps: int = Field(200, ge=1)

    @field_validator("checkpoint_dir")
    @classmethod
    def _checkpoint_dir(cls, value: str | None) -> str | None:
        return value and check_uri(value)

    @field_validator("rungs")
    @classmethod
    def _rungs(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        inside = all(0 < rung <= 1 for rung in value)
        increasing = list(value) == sorted(set(value))
        if not value or value[-1] != 1.0 or not inside or not increasing:
            raise ValueError("must be increasing fractions in (0, 1] that end in 1")
        return value

    @property
    def ema_decay(self) -> float:
        """EMA decay per step of the teacher's weights."""
        return ema_decay(self.ema_span, self.steps)

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The first steps at which each fraction of `rungs` is done."""
        return tuple(sorted({steps_until(rung, self.steps) for rung in self.rungs}))


class DistributedConfig(Section):
    # Workers, or [min, max]: elastic, follows the cluster. The global batch size does not change.
    num_workers: int | tuple[int, int] = 1
    # null: the CPUs of the machine divided by its workers.
    cpus_per_worker: float | None = Field(None, gt=0)
    # null: 1 where the cluster has GPUs.
    gpus_per_worker: float | None = Field(None, ge=0)
    # CPUs that stay free for Ray Data's decoding tasks. They also use other CPUs that are idle.
    data_cpus: float = Field(0.5, gt=0)

    @field_validator("num_workers", mode="before")
    @classmethod
    def _num_workers(cls, value: Any) -> Any:
        bounds = list(value) if isinstance(value, list | tuple) else [value]
        # bool is an int in Python; `num_workers: yes` must not mean 1.
        positive = all(type(bound) is int and bound >= 1 for bound in bounds)
        if positive and len(bounds) == 1:
            return bounds[0]
        if positive and len(bounds) == 2 and bounds[0] < bounds[1]:
            return tuple(bounds)
        raise ValueError("must be a number of workers such as 2, or [min, max] such as [1, 4]")

    def __str__(self) -> str:
        if self.min_workers == self.max_workers:
            return str(self.min_workers)
        return f"{self.min_workers} to {self.max_workers}"

    @property
    def min_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]
