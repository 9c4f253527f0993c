"""The fields of the record of a checked pool. docs/records.md explains them."""

from __future__ import annotations

from typing import Literal

# pydantic rejects typing's own TypedDict before Python 3.12
from typing_extensions import TypedDict

from cid_ray.results.common_fields import CommonFields
from cid_ray.results.score_types import Count, Number, Percent

MOSTLY_UNLIKE = 0.5  # of the pool: from there on it is another domain than the labels
CopyOf = Literal["labeled", "val", "test", "pool"]


class UnlikeFields(TypedDict):
    """How much of a pool is unlike the labels, by one distance."""

    count: Count  # images
    percent: Percent  # of those that were looked at
    low: Percent  # of its 95 % interval
    high: Percent
    by_chance: Percent  # that is expected in a pool like the labels
    chance_high: Percent  # that 99 % of such pools stay below
    beyond_chance: bool  # low is above chance_high


class PoolGroup(TypedDict):
    """One group of the images that were looked at."""

    split: Literal["pool", "val"]
    name: str  # "": images without a group
    images: Count
    labeled: Count  # labeled images of the group
    features: Count  # images that are unlike the labels by features
    colors: Count  # by colors
    beyond_chance: bool


class PoolClass(TypedDict):
    """Percent of the pixels."""

    labeled: Percent  # in the masks of the labels
    expected_labeled: Percent  # that the network expects in the labeled images
    expected: Percent  # in the pool
    finding: Literal["", "absent", "rarer"]


class PoolCopies(TypedDict):
    """Images of the pool that are near-duplicates."""

    of: CopyOf
    count: Count
    example: str  # "" without any
    example_of: str  # the image that the example looks like


class PoolPicture(TypedDict):
    """An image that the page shows."""

    image_id: str
    group: str
    reason: str
    file: str  # relative to the run folder


class PoolRecord(CommonFields):
    """`pool` has looked at a run's pool; a newer record of the run replaces it."""

    event: Literal["pool"]
    timestamp: Number
    table: str  # whose pool
    data: str  # hash of that table
    pool_count: Count
    images: Count  # of the pool, that were looked at
    labeled: Count
    unreadable: Count
    by_features: UnlikeFields | None  # None with too few labels
    by_colors: UnlikeFields | None
    unlike: Count  # images that are unlike the labels by features or colors
    groups: list[PoolGroup]
    uncertainty: dict[Literal["labeled", "val", "pool"], Number]  # means, 0 to 1
    uncertainty_excess: Number | None  # pool minus val, in standard errors; None without val
    classes: dict[str, PoolClass]
    copies: list[PoolCopies]
    outliers: dict[Literal["brightness", "contrast", "size", "shape"], Count]
    outlier_images: Count
    left_out: Count  # images of leave_out.txt
    split_files: str  # lists without them, relative to the run folder; "" where there are none
    pictures: list[PoolPicture]
