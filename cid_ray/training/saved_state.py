"""What a checkpoint holds besides tensors, and the check of it.

A checkpoint may come from another version, or from somebody else. Every value is checked before the
first is used, so that a run is restored as a whole or not at all.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cid_ray.config import format_validation_error

STATE_FIELDS = ("step", "seconds", "best", "last_val", "last_rung")  # attributes of the trainer
Score = float | None  # percent; None without ground truth


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Scores(_Strict):
    miou: Score
    iou: dict[str, Score]
    absent: list[str]


class _BothScores(_Strict):
    student: _Scores
    teacher: _Scores


class _Best(_Strict):
    step: int = Field(ge=0)
    val: _BothScores


class _Rung(_Strict):
    event: Literal["rung"]
    step: int = Field(ge=0)
    images_seen: int = Field(ge=0)
    seconds: float = Field(ge=0)
    student: Score = Field(alias="val/miou")
    teacher: Score = Field(alias="val/miou_teacher")


class _Nothing(_Strict):
    """Before the first rung there are no scores."""

    model_config = ConfigDict(extra="forbid")


class _Health(_Strict):
    model_config = ConfigDict(extra="forbid")
    warnings: list[str]
    unreadable: dict[str, str]
    skipped: list[int]
    reported: int = Field(ge=0)


class _SavedState(_Strict):
    step: int = Field(ge=0)
    seconds: float = Field(ge=0)
    best: _Nothing | _Best
    last_val: _Nothing | _BothScores
    last_rung: _Nothing | _Rung
    health: _Health
    identity: dict[str, str]


def check_saved_state(extra: Any, steps: int) -> None:
    """Check the plain values of a checkpoint.

    Args:
        extra: as `checkpoint.load_checkpoint` gives them.
        steps: `train.steps` of the run.

    Raises:
        ValueError: one is missing or of another type, or the run has no such step.
    """
    try:
        state = _SavedState.model_validate(extra)
    except ValidationError as error:
        raise ValueError(format_validation_error(error)) from None
    if state.step > steps:
        raise ValueError(f"step {state.step} of {steps}")
