"""The fields of a `noise` record. docs/records.md explains them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from cid_ray.results.common_fields import CommonFields
from cid_ray.results.score_types import Number


class ComparisonOfMeans(TypedDict):
    """A method minus another one: of the means over their repeats (see noise.py)."""

    difference: Number
    p: Number
    adjusted_p: Number  # Holm's, for all comparisons of this method


class NoiseRecord(CommonFields):
    """What repeats say about chance, for one ratio and split (see noise.py)."""

    event: Literal["noise"]
    ratio_name: str
    label_count: int
    split: str  # val or test
    test_split: str
    metric: str
    n: int  # repeats that all candidates finished
    df: int  # degrees of freedom
    chosen: dict[str, str]  # method -> run
    means: dict[str, Number]  # run -> mean over its repeats
    sds: dict[str, Number | None]  # run -> standard deviation over its repeats
    differences: dict[str, dict[str, Number]]  # method -> other method -> paired mean difference
    # method -> other method -> the difference with its p-values
    comparisons: NotRequired[dict[str, dict[str, ComparisonOfMeans]]]
    residual_variance: Number | None
    floor: Number | None  # what a difference of two means must exceed
    single_run_floor: Number | None  # the same for two single runs
    procedure: str  # in words
