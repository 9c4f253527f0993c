"""The section `scale`: the counts of each ladder that `scale` measures.

None of these keys changes the result of a single run, so none is part of the fingerprint.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from cid_ray.config.search_schema import Method
from cid_ray.config.section import Section
from cid_ray.config.validators import parse_label_ratios


class ScaleConfig(Section):
    # Ladder `labels`: label ratios or counts, in the forms of data.ratio.
    ratios: tuple[str, ...] = ("1/16", "1/8", "1/4", "1/2")
    # Ladder `pool`: parts of the unlabeled pool, as data.pool_fraction.
    pool_fractions: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    # Ladder `workers`: numbers of workers.
    workers: tuple[int, ...] = (1, 2)
    # Ladder `workers`: the global batch stays (strong), or each worker's share of it (weak).
    scaling: Literal["strong", "weak"] = "strong"
    # Ladder `workers`: steps that are timed at each count, after as many as ten that are not.
    timed_steps: int = Field(30, ge=4)
    # Ladder `workers`: the least efficiency of an added worker that is recommended.
    min_efficiency: float = Field(0.5, gt=0, le=1)
    # Ladder `batch`: labeled images per step; those of the pool keep their proportion.
    batch_sizes: tuple[int, ...] = (4, 8, 16)
    # Ladder `model`: encoders, as model.encoder.
    encoders: tuple[str, ...] = ()
    # Ladder `concurrency`: trials at the same time.
    concurrent: tuple[int, ...] = (1, 2)
    # Methods that the ladders `labels` and `pool` train; []: that of `method`.
    methods: tuple[Method, ...] = ()
    # Seeds, each with its own label draw, of every count of `labels`, `pool`, `batch` and `model`.
    repeats: int = Field(3, ge=1)

    @field_validator("ratios", mode="before")
    @classmethod
    def _ratios(cls, value: Any) -> tuple[str, ...]:
        return parse_label_ratios(value)

    @field_validator("pool_fractions")
    @classmethod
    def _pool_fractions(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < part <= 1 for part in value):
            raise ValueError("must be parts of the pool in (0, 1]")
        return value

    @field_validator("workers", "batch_sizes", "concurrent")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not all(count >= 1 for count in value):
            raise ValueError("must be positive counts")
        return value

    @field_validator(
        "ratios", "pool_fractions", "workers", "batch_sizes", "encoders", "concurrent", "methods"
    )
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError("must name each value once")
        return value
