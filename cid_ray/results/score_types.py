"""The fields of scores in records, in percent.

A key such as "val/miou" holds a slash, hence the functional syntax. `_teacher` is the EMA network,
without it the student. An `absent` class has no pixel in the ground truth: it is left out of mIoU
instead of counting as 0.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from annotated_types import Ge, Le, Len

# pydantic rejects typing's own TypedDict before Python 3.12
from typing_extensions import TypedDict

Percent = Annotated[float, Ge(0), Le(100)]
# The other bounds leave out what is not finite, or is damaged beyond doubt.
Count = Annotated[int, Ge(0), Le(2**53)]
TrialNumber = Annotated[int, Ge(0), Le(10**6)]  # a repair adds a trial for every number
PositiveCount = Annotated[int, Ge(1), Le(2**53)]
Seconds = Annotated[float, Ge(0), Le(1e12)]
Number = Annotated[float, Ge(-1e300), Le(1e300)]
Color = Annotated[list[Annotated[int, Ge(0), Le(255)]], Len(3, 3)]  # red, green, blue
Method = Literal["supervised", "pool_bn", "mean_teacher", "unimatch_v2", "self_training", "cid", ""]


class Confusion(TypedDict):
    """A class that is taken for another one."""

    truth: str
    predicted: str
    pixels: PositiveCount
    percent: Percent  # of the pixels of `truth`


ValScores = TypedDict(
    "ValScores",
    {
        "val/miou": Percent | None,  # None when val has no ground truth
        "val/miou_teacher": Percent | None,
        "val/iou": dict[str, Percent | None],  # class -> IoU
        "val/iou_teacher": dict[str, Percent | None],
        "val/pixel_accuracy": Percent,
        "val/ece": NotRequired[Percent | None],  # calibration error; absent in old records
        "val/pixel_accuracy_teacher": Percent,
        "val/ece_teacher": NotRequired[Percent | None],
        "val/absent": list[str],  # classes without ground truth, left out of mIoU
    },
)
TestScores = TypedDict(
    "TestScores",
    {
        "test/miou": NotRequired[Percent | None],
        "test/miou_teacher": NotRequired[Percent | None],
        "test/iou": NotRequired[dict[str, Percent | None]],
        "test/iou_teacher": NotRequired[dict[str, Percent | None]],
        "test/pixel_accuracy": NotRequired[Percent],
        "test/ece": NotRequired[Percent | None],
        "test/pixel_accuracy_teacher": NotRequired[Percent],
        "test/ece_teacher": NotRequired[Percent | None],
        "test/absent": NotRequired[list[str]],
    },
)
BestScores = TypedDict(
    "BestScores",
    {
        "best/step": NotRequired[Count],  # the rung with the teacher's best mIoU on val
        "best/val/miou": NotRequired[Percent | None],
        "best/val/miou_teacher": NotRequired[Percent | None],
        "best/val/iou": NotRequired[dict[str, Percent | None]],
        "best/val/iou_teacher": NotRequired[dict[str, Percent | None]],
        "best/val/pixel_accuracy": NotRequired[Percent],
        "best/val/ece": NotRequired[Percent | None],
        "best/val/pixel_accuracy_teacher": NotRequired[Percent],
        "best/val/ece_teacher": NotRequired[Percent | None],
        "best/val/absent": NotRequired[list[str]],
        "best/test/miou": NotRequired[Percent | None],
        "best/test/miou_teacher": NotRequired[Percent | None],
        "best/test/iou": NotRequired[dict[str, Percent | None]],
        "best/test/iou_teacher": NotRequired[dict[str, Percent | None]],
        "best/test/pixel_accuracy": NotRequired[Percent],
        "best/test/ece": NotRequired[Percent | None],
        "best/test/pixel_accuracy_teacher": NotRequired[Percent],
        "best/test/ece_teacher": NotRequired[Percent | None],
        "best/test/absent": NotRequired[list[str]],
    },
)
