"""The fields of every record: one TypedDict per event. docs/records.md explains them.

Scores are percent, times seconds. A key such as "val/miou" holds a slash, hence the functional
syntax. In scores `_teacher` is the EMA network, without it the student. An `absent` class has no
pixel in the ground truth: it is left out of mIoU instead of counting as 0.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

# pydantic rejects typing's own TypedDict before Python 3.12
from typing_extensions import TypedDict


class CommonFields(TypedDict):
    """Fields of every record, so that nobody has to parse a run's name."""

    run: str  # name of the run; of `search` and `noise` the name of the study or comparison
    ratio: str  # label ratio as configured: "1/16"
    method: str  # supervised, pool_bn, mean_teacher or cid; "" in `noise`, which compares methods
    trial_number: int  # number in the Optuna study; 0 for `train`
    repeats_of: str  # the run that this one repeats with another seed; "" for a first run
    repeat_index: int  # counts the repeats of a run from 1; 0 for a first run


class RunHeader(CommonFields):
    """What was trained, on what, by which code: fields of `rung` and `final`."""

    ratio_name: str  # ratio with its number of labels: "1/16 (23)"
    label_count: int  # labeled images, those used as val included
    val_count: int  # images that val scores are computed on
    pool_count: int  # unlabeled images
    draw: int  # number of the label draw
    label_from: str  # how the draw treats groups: any, each_group, one_group
    seed: int
    steps: int  # optimizer steps of the whole run
    workers: int  # processes that trained together
    device: str  # device, dtype and memory format, in words
    split_id: str  # hash of the label split
    data: str  # hash of the data table
    fingerprint: str  # hash of everything that changes results
    versions: dict[str, str]  # package -> version
    python: str
    machine: str  # architecture and cores
    git: str | None  # commit, with "+" when the tree differs from it


class Losses(TypedDict):
    """Loss terms of one step; None where a value is not finite.

    The mean over all workers; in `progress` records those of the first worker.
    """

    total: float | None
    sup: float | None
    pseudo: float | None
    relation: float | None
    style: float | None
    mask_ratio: float | None  # fraction of pixels whose pseudo-label passed the threshold


class Progress(TypedDict):
    """How far a run is and what it took."""

    step: int  # optimizer steps done
    images_seen: int  # labeled and unlabeled images over all workers: the time axis
    seconds: float  # wall-clock over all restarts
    images_per_s: float  # since the last restart


class Sample(TypedDict):
    """One image of the gallery; paths are relative to the run folder."""

    image_id: str
    image: str
    label: str
    prediction: str


ValScores = TypedDict(
    "ValScores",
    {
        "val/miou": float | None,  # None when val has no ground truth
        "val/miou_teacher": float | None,
        "val/iou": dict[str, float | None],  # class -> IoU
        "val/iou_teacher": dict[str, float | None],
        "val/pixel_accuracy": float,
        "val/pixel_accuracy_teacher": float,
        "val/absent": list[str],  # classes without ground truth, left out of mIoU
    },
)
TestScores = TypedDict(
    "TestScores",
    {
        "test/miou": NotRequired[float | None],
        "test/miou_teacher": NotRequired[float | None],
        "test/iou": NotRequired[dict[str, float | None]],
        "test/iou_teacher": NotRequired[dict[str, float | None]],
        "test/pixel_accuracy": NotRequired[float],
        "test/pixel_accuracy_teacher": NotRequired[float],
        "test/absent": NotRequired[list[str]],
    },
)
BestScores = TypedDict(
    "BestScores",
    {
        "best/step": NotRequired[int],  # the rung with the teacher's best mIoU on val
        "best/val/miou": NotRequired[float | None],
        "best/val/miou_teacher": NotRequired[float | None],
        "best/val/iou": NotRequired[dict[str, float | None]],
        "best/val/iou_teacher": NotRequired[dict[str, float | None]],
        "best/val/pixel_accuracy": NotRequired[float],
        "best/val/pixel_accuracy_teacher": NotRequired[float],
        "best/val/absent": NotRequired[list[str]],
        "best/test/miou": NotRequired[float | None],
        "best/test/miou_teacher": NotRequired[float | None],
        "best/test/iou": NotRequired[dict[str, float | None]],
        "best/test/iou_teacher": NotRequired[dict[str, float | None]],
        "best/test/pixel_accuracy": NotRequired[float],
        "best/test/pixel_accuracy_teacher": NotRequired[float],
        "best/test/absent": NotRequired[list[str]],
    },
)


class ProgressRecord(CommonFields, Progress):
    """Between two rungs, every few seconds. Callbacks receive it; the file never holds it."""

    event: Literal["progress"]
    losses: Losses
    warning: str | None  # new warnings since the last record


class RungRecord(RunHeader, Progress, ValScores):
    """Val was scored at a rung and a checkpoint was written."""

    event: Literal["rung"]
    losses: Losses
    samples: list[Sample]  # val images of the gallery
    colors: dict[str, list[int]]  # class -> RGB
    unreadable: int  # pool images that could not be decoded and were replaced
    unreadable_ids: list[str]  # the first ten of them
    skipped_steps: int  # steps left out because their loss was not finite
    warning: str | None
    params: NotRequired[dict[str, Any]]  # hyperparameters of the trial; absent in a run of `train`


class FinalRecord(RunHeader, Progress, ValScores, TestScores, BestScores):
    """The last step is done. Without test scores until the search has chosen the run."""

    event: Literal["final"]
    test_split: NotRequired[str]  # split behind `test/*`: test, or val where the table has no test
    test_is_val: NotRequired[bool]  # the split behind `test/*` also chose the hyperparameters
    test_seconds: NotRequired[float]  # wall-clock of the test
    samples: NotRequired[list[Sample]]  # test images of the gallery
    colors: NotRequired[dict[str, list[int]]]
    latency_ms: NotRequired[float]  # teacher, one image; only as the second objective
    warnings: list[str]
    params: NotRequired[dict[str, Any]]


class TrialRecord(CommonFields):
    """A trial of a search has finished."""

    event: Literal["trial"]
    state: Literal["complete", "pruned", "failed"]
    reason: str  # why it failed, else ""
    timestamp: NotRequired[float]  # Unix time; absent when the end is known from the study only


class RetryRecord(CommonFields):
    """A trial's process died; the trial resumes from its last checkpoint."""

    event: Literal["retry"]
    attempt: int  # from 1
    reason: str
    timestamp: float


class StaleRecord(CommonFields):
    """The heartbeat of a trial's machine stopped; its hyperparameters are tried again elsewhere."""

    event: Literal["stale"]
    reason: str
    timestamp: float


class WarningRecord(CommonFields):
    """A warning that came up between two rungs."""

    event: Literal["warning"]
    message: str
    timestamp: float


class ParetoPoint(TypedDict):
    """A trial that no other trial beats in both objectives."""

    run: str
    params: dict[str, Any]
    value: float  # of the metric
    cost: float  # of the second objective


class SearchRecord(CommonFields):
    """Result of one study (ratio and method); `run` is the study's name."""

    event: Literal["search"]
    states: dict[str, int]  # Optuna's state -> trials
    num_trials: int  # trials asked for
    best: str | None  # the run that val chose
    metric: str  # what val chose by: val/miou_teacher or val/miou
    candidates: list[str]  # runs that were repeated
    best_hyperparameters: dict[
        str, dict[str, Any]
    ]  # key -> best value, and what the best quarter took
    importances: dict[str, float]  # key -> fraction; empty with too few trials
    importance_method: str
    second_objective: NotRequired[str]  # seconds or latency_ms, if the search had one
    pareto: NotRequired[list[ParetoPoint]]  # best value first


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
    means: dict[str, float]  # run -> mean over its repeats
    sds: dict[str, float | None]  # run -> standard deviation over its repeats
    differences: dict[str, dict[str, float]]  # method -> other method -> paired mean difference
    residual_variance: float | None
    floor: float | None  # what a difference of two means must exceed
    single_run_floor: float | None  # the same for two single runs
    procedure: str  # in words


class FailedRecord(CommonFields):
    """A trial's process reports the exception that ended it."""

    event: Literal["failed"]
    reason: str  # one line
    traceback: str
    params: dict[str, Any]  # hyperparameters of the trial


class StorageErrorRecord(TypedDict):
    """A trial's process cannot write its run folder. The file never holds it."""

    event: Literal["storage_error"]
    run: str
    errno: int  # of the OSError: disk full, read-only file system, ...
    reason: str
    path: str  # "" when the OSError names no file


EVENTS: dict[str, type] = {
    "progress": ProgressRecord,
    "rung": RungRecord,
    "final": FinalRecord,
    "trial": TrialRecord,
    "retry": RetryRecord,
    "stale": StaleRecord,
    "warning": WarningRecord,
    "search": SearchRecord,
    "noise": NoiseRecord,
    "failed": FailedRecord,
    "storage_error": StorageErrorRecord,
}
