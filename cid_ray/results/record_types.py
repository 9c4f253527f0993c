"""The fields of every record: one TypedDict per event. docs/records.md explains them.
Those of noise, ladders, plans and a checked pool are in files of their own.

Scores are percent (their fields are in score_types.py), times seconds.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

# pydantic rejects typing's own TypedDict before Python 3.12
from typing_extensions import TypedDict

from cid_ray.results.common_fields import CommonFields
from cid_ray.results.ladder_types import ForecastRecord, LadderRecord, RecommendationRecord
from cid_ray.results.noise_types import NoiseRecord
from cid_ray.results.plan_types import PlanRecord
from cid_ray.results.pool_types import PoolRecord
from cid_ray.results.score_types import (
    BestScores,
    Color,
    Confusion,
    Count,
    Number,
    Percent,
    PositiveCount,
    Seconds,
    TestScores,
    ValScores,
)


class RunHeader(CommonFields):
    """What was trained, on what, by which code: fields of `rung` and `final`."""

    ratio_name: str  # ratio with its number of labels: "1/16 (23)"
    label_count: Count  # labeled images, those used as val included
    val_count: Count  # images that val scores are computed on
    pool_count: Count  # unlabeled images
    draw: int  # number of the label draw
    label_from: str  # how the draw treats groups: any, each_group, one_group
    seed: int
    steps: PositiveCount  # optimizer steps of the whole run
    workers: PositiveCount  # processes that trained together
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

    total: Number | None
    sup: Number | None
    pseudo: Number | None
    relation: Number | None
    style: Number | None
    mask_ratio: Number | None  # fraction of pixels whose pseudo-label passed the threshold


class Progress(TypedDict):
    """How far a run is and what it took."""

    step: Count  # optimizer steps done
    images_seen: Count  # labeled and unlabeled images over all workers: the time axis
    seconds: Seconds  # wall-clock over all restarts
    images_per_s: Seconds  # since the last restart


class Sample(TypedDict):
    """One image of the gallery; paths are relative to the run folder."""

    image_id: str
    image: str
    label: str
    prediction: str
    confidence: NotRequired[str]  # of the teacher, white is 100 %; test images only
    miou: NotRequired[Percent | None]  # of the image; the worst test images only


class GradientFields(TypedDict):
    """The gradient of a weighted loss term against that of the supervised loss; None if either
    is 0 or not finite.
    """

    cosine: Number | None  # -1 to 1; below 0 it works against the labels
    norm: Number | None  # its length, relative to the supervised one's


class PoolSignals(TypedDict):
    """What the networks say of a few pool images, the same in all runs of a ratio and draw."""

    images: PositiveCount
    confidence: Percent  # of the teacher in its class, the mean over pixels
    confident: Percent  # pixels where it is above 95 %
    agreement: Percent  # pixels where student and teacher see the same class
    prior_distance: Percent  # between the teacher's class shares and those of the labels
    class_shares: dict[str, Percent]  # class -> pixels where the teacher sees it
    label_shares: dict[str, Percent]  # class -> pixels of the labeled images


class Memory(TypedDict):
    """Bytes of memory that training took, at most; None where the system does not say."""

    process_bytes: Count | None  # resident, of the largest worker: its peak so far
    machine_bytes: Count | None  # that there are on its machine, or in its container
    gpu_process_bytes: Count | None  # reserved on its GPU; None on the CPU
    gpu_bytes: Count | None  # that the GPU has


class ProgressRecord(CommonFields, Progress):
    """Between two rungs, every few seconds. Callbacks receive it; the file never holds it."""

    event: Literal["progress"]
    losses: Losses
    warning: str | None  # new warnings since the last record


class RungRecord(RunHeader, Progress, ValScores):
    """Val was scored at a rung and a checkpoint was written."""

    event: Literal["rung"]
    losses: Losses
    gradients: NotRequired[dict[str, GradientFields]]  # by term; absent in older records
    pool_signals: NotRequired[PoolSignals | None]  # None without a pool; absent in older records
    samples: list[Sample]  # val images of the gallery
    colors: dict[str, Color]  # by class
    unreadable: Count  # pool images that could not be decoded and were replaced
    unreadable_ids: list[str]  # the first ten of them
    skipped_steps: Count  # steps left out because their loss was not finite
    warning: str | None
    memory: NotRequired[Memory]  # absent in records of older versions
    params: NotRequired[dict[str, Any]]  # hyperparameters of the trial; absent in a run of `train`


class FinalRecord(RunHeader, Progress, ValScores, TestScores, BestScores):
    """The last step is done. Without test scores until the search has chosen the run."""

    event: Literal["final"]
    test_split: NotRequired[str]  # split behind `test/*`: test, or val where the table has no test
    test_is_val: NotRequired[bool]  # the split behind `test/*` also chose the hyperparameters
    test_seconds: NotRequired[Number]  # wall-clock of the test
    samples: NotRequired[list[Sample]]  # test images of the gallery
    worst_samples: NotRequired[list[Sample]]  # test images with the teacher's lowest mIoU
    confusions: NotRequired[list[Confusion]]  # the teacher's largest on test, most pixels first
    colors: NotRequired[dict[str, Color]]
    latency_ms: NotRequired[Number]  # teacher, one image; only as the second objective
    warnings: list[str]
    params: NotRequired[dict[str, Any]]


class TrialRecord(CommonFields):
    """A trial of a search has finished."""

    event: Literal["trial"]
    state: Literal["complete", "pruned", "failed"]
    reason: str  # why it failed, else ""
    timestamp: NotRequired[Number]  # Unix time; absent when the end is known from the study only


class RetryRecord(CommonFields):
    """A trial's process died, or its node was taken; it resumes from its last checkpoint."""

    event: Literal["retry"]
    attempt: int  # from 1
    reason: str  # of a node that was taken it begins with "preempted"
    timestamp: Number


class StaleRecord(CommonFields):
    """The heartbeat of a trial's machine stopped; its hyperparameters are tried again elsewhere."""

    event: Literal["stale"]
    reason: str
    timestamp: Number


class WarningRecord(CommonFields):
    """A warning that came up between two rungs."""

    event: Literal["warning"]
    message: str
    timestamp: Number


class DiskRecord(CommonFields):
    """A search starts: what it needs of the disk, estimated; `run` is the search's name."""

    event: Literal["disk"]
    folder: str  # of the checkpoints
    at_most_bytes: Count  # when no trial is pruned
    at_least_bytes: Count  # when all but one trial of each study are pruned; 0 when not certain
    used_bytes: Count  # of the checkpoints that a resumed search has
    free_bytes: Count | None  # of the folder's file system; None when nobody knows
    cache_bytes: Count  # decoded images of a node, at most
    cache_free_bytes: Count | None  # of the file system for temporary files


class MemoryRecord(CommonFields):
    """The first rung of a search: what its concurrent trials need of memory."""

    event: Literal["memory"]
    memory: Memory
    processes: Count  # that train on one machine at the same time
    gpu_processes: Count  # that train on one GPU at the same time; 0 on the CPU
    fits: bool  # machine and GPU have as much
    timestamp: Number


class ParetoPoint(TypedDict):
    """A trial that no other trial beats in both objectives."""

    run: str
    params: dict[str, Any]
    value: Number  # of the metric
    cost: Number  # of the second objective


class BestChoice(TypedDict):
    """The best trial's choice, and those of the best quarter of the completed trials."""

    best: Any
    values: list[Any]


class BestNumber(TypedDict):
    """The best trial's value, and the range of the best quarter of the completed trials."""

    best: Number
    low: Number
    high: Number


class SearchRecord(CommonFields):
    """Result of one study (ratio and method); `run` is the study's name."""

    event: Literal["search"]
    states: dict[str, int]  # Optuna's state -> trials
    num_trials: int  # trials asked for
    hyperparameters: NotRequired[list[str]]  # keys that were searched; [] where nothing was
    log_hyperparameters: NotRequired[list[str]]  # those of them on a log scale
    best: str | None  # the run that val chose
    metric: str  # what val chose by: val/miou_teacher or val/miou
    candidates: list[str]  # runs that were repeated
    best_hyperparameters: dict[str, BestChoice | BestNumber]
    importances: dict[str, Number]  # key -> fraction; empty with too few trials
    importance_trials: NotRequired[dict[str, int]]  # key -> completed trials behind it
    importance_method: str
    second_objective: NotRequired[Literal["seconds", "latency_ms"]]  # if the search had one
    pareto: NotRequired[list[ParetoPoint]]  # best value first


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
    "disk": DiskRecord,
    "memory": MemoryRecord,
    "search": SearchRecord,
    "noise": NoiseRecord,
    "plan": PlanRecord,
    "ladder": LadderRecord,
    "forecast": ForecastRecord,
    "recommendation": RecommendationRecord,
    "pool": PoolRecord,
    "failed": FailedRecord,
    "storage_error": StorageErrorRecord,
}
