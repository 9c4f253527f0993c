"""The sections of a configuration as frozen pydantic models: every key, its default, its rule.

Unknown keys are forbidden. `Config.fingerprint` names a configuration by everything that changes results.
Legend: H, W pixels; "share" means a fraction of the whole training length, in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cid_ray.rules import CUTMIX_GROUP, database, flat, label_share, place, without_secrets

Method = Literal["supervised", "pool_bn", "mean_teacher", "cid"]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    table: str = "demo"  # what `prepare` wrote, in a folder or at s3://bucket/path; or "demo": the generated set
    ratio: str = "1/8"  # share of the train masks that is used: "1/8", "0.2", or a count: "23"
    draw: int = Field(0, ge=0)  # which of the nested label draws
    split_seed: int = Field(0, ge=0)
    label_from: Literal["any", "each_group", "one_group"] = "any"  # how a draw treats the `group` column
    val_from_budget: float = Field(0, ge=0, lt=1)  # share of the label budget that serves as val; 0: the table's val
    split_files: str | None = None  # a folder with UniMatch's labeled.txt and unlabeled.txt, instead of a draw
    image_size: tuple[int, int] | None = None  # H, W that images are resized to when decoded; null keeps their own
    crop_size: int | tuple[int, int] = 321
    scale: tuple[float, float] = (0.5, 2.0)  # random resize before the crop
    hflip: Share = 0.5
    batch_size: int = Field(8, ge=1)  # labeled images per step, over all workers
    batch_size_u: int = Field(8, ge=1)  # unlabeled images per step, over all workers
    threads: int = Field(2, ge=1)  # decoding threads of a single-process run
    cache_mb: int = Field(512, ge=0)  # bound of a node's cache of decoded images, shared by its processes; 0: none
    max_bad_frac: Share = 0.01  # of the pool: images that cannot be read and are passed over; more end the run

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio(cls, value: Any) -> str:
        label_share(value)
        return str(value).replace(" ", "")

    @field_validator("table")
    @classmethod
    def _table(cls, value: str) -> str:
        return place(value)

    @field_validator("scale")
    @classmethod
    def _scale(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("must be two increasing positive numbers, such as [0.5, 2.0]")
        return value

    @field_validator("image_size", "crop_size")
    @classmethod
    def _pixels(cls, value: Any) -> Any:
        sides = (value,) if isinstance(value, int) else (value or ())
        if any(side < 16 for side in sides):
            raise ValueError("must be at least 16 pixels a side")
        return value

    @property
    def crop(self) -> tuple[int, int]:
        return (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else self.crop_size


class Model(Section):
    decoder: str = "deeplabv3plus"  # any segmentation_models_pytorch architecture
    encoder: str = "resnet50"  # any timm model that has features_only
    weights: str = "none"  # "none", "pretrained" (timm's hub), or a local .safetensors file
    decoder_options: dict[str, Any] = Field(default_factory=dict)  # passed on to the decoder as they are


class Loss(Section):
    pseudo: Literal["hard", "soft"] = "hard"
    pseudo_weight: Weight = 1.0
    conf_thresh: Share = 0.95
    temperature: float = Field(0.5, gt=0)  # sharpening of soft pseudo-labels
    pseudo_burn_in: Share = 0.0  # share of training before pseudo-labels begin
    pseudo_ramp: Share = 0.1  # share over which their weight then rises
    relation_kind: Literal["cross", "self", "transfer", "class"] = "self"
    relation_weight: Weight = 1.0
    relation_temperature: float = Field(0.1, gt=0)  # cross and class
    relation_grid: int = Field(1, ge=1)  # self on an m x m grid of cells (ICKD's dense form)
    relation_ramp: Share = 0.15
    style_weight: Weight = 0.1
    style_target: Literal["unlabeled", "labeled", "symmetric"] = "unlabeled"
    style_stat: Literal["mean_std", "gram"] = "mean_std"
    style_ramp: Share = 0.15
    stats_decay: float = Field(0.99, ge=0, lt=1)  # EMA of the teacher's statistics
    class_weights: Literal["none", "balanced"] = "none"


class Optim(Section):
    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)  # for the global batch
    head_lr_mult: float = Field(10.0, gt=0)  # decoder and head against encoder
    weight_decay: Weight = 1e-4
    momentum: float = Field(0.9, ge=0, lt=1)
    poly_power: float = Field(0.9, ge=0)
    clip_norm: float | None = Field(None, gt=0)


class Train(Section):
    steps: int = Field(1000, ge=1)
    rungs: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)  # shares at which val is evaluated and a checkpoint written
    seed: int = Field(0, ge=0)
    ema_decay: float = Field(0.996, ge=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["auto", "bf16", "off"] = "auto"  # auto: bf16 on CUDA, off on the CPU
    compile: bool = False
    on_nan: Literal["stop", "skip"] = "stop"  # at a loss that is no number: end the run, or leave the step out
    checkpoint_steps: int | None = Field(None, ge=1)  # a checkpoint every so many steps too, not at rungs alone
    checkpoint_minutes: float | None = Field(None, gt=0)  # or so often
    checkpoint_folder: str | None = None  # s3://bucket/path or a folder; null: the run's own
    keep: int = Field(1, ge=1)  # last checkpoints that are kept, beside the best
    micro_batch: int | None = Field(None, ge=2)  # images of a worker in one forward; null: its whole share at once
    window: int | None = Field(None, ge=32)  # sliding-window evaluation with this side; null: whole image
    samples: int = Field(4, ge=0)  # held-out images whose predictions are kept for the page
    alarm_steps: int = Field(200, ge=1)  # warn when no pseudo-label passed for so long

    @field_validator("checkpoint_folder")
    @classmethod
    def _checkpoint_folder(cls, value: str | None) -> str | None:
        return value and place(value)

    @field_validator("rungs")
    @classmethod
    def _rungs(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or value[-1] != 1.0 or any(not 0 < r <= 1 for r in value) or list(value) != sorted(set(value)):
            raise ValueError("must be increasing shares in (0, 1] that end in 1")
        return value

    @property
    def rung_steps(self) -> tuple[int, ...]:
        return tuple(sorted({math.ceil(share * self.steps - 1e-9) for share in self.rungs}))


class Scale(Section):
    workers: int | tuple[int, int] = 1  # [least, most]: shrinks and grows with the cluster, the global batch stays
    cpus_per_worker: float | None = Field(None, gt=0)  # null: what the machine has, shared out
    gpus_per_worker: float | None = Field(None, ge=0)  # null: 1 where the cluster has GPUs
    data_cpus: float = Field(0.5, gt=0)  # kept free for Ray Data's decoding tasks; they take more where CPUs are idle

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: Any) -> Any:
        bounds = list(value) if isinstance(value, list | tuple) else [value]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in bounds)
        if not whole or len(bounds) > 2 or (len(bounds) == 2 and bounds[0] >= bounds[1]) or not bounds:
            raise ValueError("must be a number of workers such as 2, or [least, most] such as [1, 4]")
        return tuple(bounds) if len(bounds) == 2 else bounds[0]

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"

    @property
    def least(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class Plugin(Section):
    """An Optuna class by name with its arguments, e.g. `{name: TPESampler, args: {multivariate: true}}`."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


class Confirm(Section):
    """Re-runs of every ratio's baselines and best CID trials on fresh seeds and label draws: the noise floor."""

    repeats: int = Field(0, ge=0)  # pairs of seed and draw, the same for every candidate; 0: no confirming
    top: int = Field(1, ge=1)  # CID trials per ratio
    draws: bool = True  # fresh label draws too, not seeds alone

    @field_validator("repeats")
    @classmethod
    def _repeats(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (off) or at least 2: one repeat has no spread")
        return value


class Search(Section):
    ratios: tuple[str, ...] = ("1/16", "1/8")
    trials: int = Field(20, ge=1)  # CID trials per ratio
    baseline_trials: int = Field(1, ge=1)  # trials per ratio of each baseline, over the settings that are its own
    space: dict[str, Any] = Field(default_factory=dict)  # see search/space.py
    start: tuple[dict[str, Any], ...] = ()  # settings that are tried first
    baselines: tuple[Literal["supervised", "pool_bn", "mean_teacher"], ...] = ("supervised", "pool_bn", "mean_teacher")
    metric: Literal["val/miou_teacher", "val/miou"] = "val/miou_teacher"
    cost: Literal["seconds", "latency_ms"] | None = None  # a second objective, to be small: ends in a Pareto table
    carry_over: bool = False  # ratios one after the other, each starting from the best settings of the one before
    confirm: Confirm = Confirm()
    sampler: Plugin = Plugin(name="TPESampler", args={"multivariate": True, "group": True, "constant_liar": True})
    pruner: Plugin = Plugin(name="SuccessiveHalvingPruner", args={"reduction_factor": 2})
    seed: int = Field(0, ge=0)
    retries: int = Field(2, ge=0)  # a trial whose process dies goes on from its checkpoint so often, then it failed
    max_failures: int = Field(5, ge=1)  # failed trials of one kind that end the search
    concurrency: int | None = Field(None, ge=1)  # null: as many as fit
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float | None = Field(None, ge=0)  # null: 1 where the cluster has GPUs; 0.5: two trials on one
    trackers: dict[str, dict[str, Any]] = Field(default_factory=dict)  # name -> arguments, see search/trackers.py

    @field_validator("trackers")
    @classmethod
    def _trackers(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return without_secrets(value)

    @field_validator("ratios", mode="before")
    @classmethod
    def _ratios(cls, value: Any) -> tuple[str, ...]:
        value = tuple(str(ratio).replace(" ", "") for ratio in (value if isinstance(value, list | tuple) else (value,)))
        for ratio in value:
            label_share(ratio)
        if not value or len(set(value)) != len(value):
            raise ValueError("must name at least one ratio, each once")
        return value


class Study(Section):
    """Where Optuna's studies lie: in the run's folder or, for several machines, in a database that they share."""

    storage: str | None = None  # postgresql+psycopg://host/database; null: the run's study.journal
    name: str | None = None  # whoever gives the same name in one database shares the studies; null: that of the folder

    @field_validator("storage")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        return value and database(value)


class Config(Section):
    method: Method = "cid"
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()
    scale: Scale = Scale()
    search: Search = Search()
    study: Study = Study()

    @model_validator(mode="after")
    def _batch_over_workers(self) -> Config:
        for name, least in (("batch_size", 1), ("batch_size_u", CUTMIX_GROUP)):
            size = getattr(self.data, name)
            if self.scale.most > 1 and size < least * self.scale.most:
                raise ValueError(
                    f"data.{name} is {size} for all workers together, must be at least {least} for each of "
                    f"scale.workers ({self.scale.most})"
                )
        return self

    def fingerprint(self, *contents: str) -> str:
        """Hash of everything that changes results; `contents` are hashes of data, split and weights file.

        Where the data lies, how many workers there are and how the search is run do not change a run's results.
        """
        kept = self.what_counts()
        if kept["model.weights"] not in ("none", "pretrained"):
            kept["model.weights"] = "file"
        text = json.dumps([kept, *contents], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def what_counts(self) -> dict[str, Any]:
        """The values that change a run's results: dotted key -> value."""
        kept = flat(self.model_dump(mode="json", exclude={"scale", "search", "study"}))
        return {key: value for key, value in kept.items() if key not in CHANGE_NO_RESULT}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


CHANGE_NO_RESULT = (  # of a run: where its data lies, how fast it works, what it does about faults
    "data.table", "data.split_files", "data.threads", "data.cache_mb", "data.max_bad_frac", "train.device",
    "train.on_nan", "train.checkpoint_steps", "train.checkpoint_minutes",
    "train.checkpoint_folder", "train.keep",
)  # fmt: skip
