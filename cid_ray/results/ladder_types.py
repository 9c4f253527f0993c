"""The fields of the records of ladders. docs/records.md explains them."""

from __future__ import annotations

from typing import Literal

from cid_ray.results.common_fields import CommonFields
from cid_ray.results.score_types import Number


class LadderRecord(CommonFields):
    """One count of a ladder of `scale` was measured; a later repeat replaces the record."""

    event: Literal["ladder"]
    ladder: str  # labels, pool, batch, model, workers or concurrency
    label: str  # the count as configured: "1/16", "resnet18"
    count: Number  # labels, pool images, batch, workers, trials; of `model` millions of parameters
    samples: list[Number]  # of `workers` seconds of each timed step, else the score of each repeat
    measured: dict[str, Number | None]  # by name, such as `mean`; docs/records.md has them


class ForecastRecord(CommonFields):
    """What the law of a ladder expects at a count, from the smaller ones.

    A method has one of its largest count and one of the double; newer ones replace them.
    """

    event: Literal["forecast"]
    ladder: str
    count: Number
    value: Number  # percent mIoU; of `workers` seconds of a step
    low: Number  # of its 95 % interval
    high: Number
    measured: Number | None  # the mean there; None: not measured


class RecommendationRecord(CommonFields):
    """What a ladder says, in numbers: all that its table and sentences add to the other records."""

    event: Literal["recommendation"]
    ladder: str
    chosen: list[str]  # the counts that are recommended; of `model` the encoders that none beats
    numbers: dict[str, Number | None]  # by name; docs/records.md has them
    by_count: dict[str, dict[str, Number | None]]  # count -> the same of this count
