"""The one checked description of a run: data, model, loss, optim, train, scale, search.

Frozen pydantic models, unknown keys forbidden. A config is read from YAML (`load`), changed with
`section.key=value` (`override`), and named by a hash of everything that changes results (`Config.fingerprint`).
Every mistake is an `InputError`: one line with the key, its value, the rule and, where there is one, the remedy.

Legend: H, W pixels; "share" means a fraction of the whole training length, in [0, 1].
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

METHODS = ("supervised", "pool_bn", "mean_teacher", "cid")
Method = Literal["supervised", "pool_bn", "mean_teacher", "cid"]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class InputError(Exception):
    """What the user gave cannot be used: the message says what, where, why and what to do. Exit code 2."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    table: str = "demo"  # a folder written by `prepare`, or "demo": the generated set
    ratio: str = "1/8"  # share of the train masks that is used: "1/8", "0.2", or a count: "23"
    draw: int = Field(0, ge=0)  # which of the nested label draws
    split_seed: int = Field(0, ge=0)
    label_from: Literal["any", "each_group", "one_group"] = "any"  # how a draw treats the `group` column
    split_files: str | None = None  # a folder with UniMatch's labeled.txt and unlabeled.txt, instead of a draw
    image_size: tuple[int, int] | None = None  # H, W that images are resized to when decoded; null keeps their own
    crop_size: int | tuple[int, int] = 321
    scale: tuple[float, float] = (0.5, 2.0)  # random resize before the crop
    hflip: Share = 0.5
    batch_size: int = Field(8, ge=1)  # labeled images per step, over all workers
    batch_size_u: int = Field(8, ge=1)  # unlabeled images per step, over all workers
    threads: int = Field(2, ge=1)  # decoding threads of a single-process run
    cache_mb: int = Field(512, ge=0)  # bound of the decoded-image cache of a process

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio(cls, value: Any) -> str:
        label_share(value)
        return str(value).replace(" ", "")

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
    rungs: tuple[float, ...] = (1 / 9, 1 / 3, 2 / 3, 1.0)  # shares at which val is evaluated and a checkpoint written
    seed: int = Field(0, ge=0)
    ema_decay: float = Field(0.996, ge=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["auto", "bf16", "off"] = "auto"  # auto: bf16 on CUDA, off on the CPU
    compile: bool = False
    window: int | None = Field(None, ge=32)  # sliding-window evaluation with this side; null: whole image
    samples: int = Field(4, ge=0)  # held-out images whose predictions are kept for the page
    alarm_steps: int = Field(200, ge=1)  # warn when no pseudo-label passed for so long

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
    workers: int = Field(1, ge=1)
    cpus_per_worker: float | None = Field(None, gt=0)  # null: what the machine has, shared out
    gpus_per_worker: float | None = Field(None, ge=0)  # null: 1 where the cluster has GPUs
    data_cpus: float = Field(0.5, gt=0)  # kept free for Ray Data's decoding tasks


class Plugin(Section):
    """An Optuna class by name with its arguments, e.g. `{name: TPESampler, args: {multivariate: true}}`."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


class Search(Section):
    ratios: tuple[str, ...] = ("1/16", "1/8")
    trials: int = Field(20, ge=1)  # CID trials per ratio
    space: dict[str, Any] = Field(default_factory=dict)  # see search/space.py
    start: tuple[dict[str, Any], ...] = ()  # settings that are tried first
    baselines: tuple[Literal["supervised", "pool_bn", "mean_teacher"], ...] = ("supervised", "pool_bn", "mean_teacher")
    metric: Literal["val/miou_teacher", "val/miou"] = "val/miou_teacher"
    sampler: Plugin = Plugin(name="TPESampler", args={"multivariate": True, "group": True, "constant_liar": True})
    pruner: Plugin = Plugin(name="SuccessiveHalvingPruner", args={"reduction_factor": 3})
    seed: int = Field(0, ge=0)
    concurrency: int | None = Field(None, ge=1)  # null: as many as fit
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float | None = Field(None, ge=0)  # null: 1 where the cluster has GPUs; 0.5: two trials on one

    @field_validator("ratios")
    @classmethod
    def _ratios(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for ratio in value:
            label_share(ratio)
        if not value or len(set(value)) != len(value):
            raise ValueError("must name at least one ratio, each once")
        return value


class Config(Section):
    method: Method = "cid"
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()
    scale: Scale = Scale()
    search: Search = Search()

    @model_validator(mode="after")
    def _batch_over_workers(self) -> Config:
        for name in ("batch_size", "batch_size_u"):
            size = getattr(self.data, name)
            if size % self.scale.workers:
                raise ValueError(
                    f"data.{name} is {size} for all workers together, must be a multiple of scale.workers "
                    f"({self.scale.workers})"
                )
        return self

    def fingerprint(self, *contents: str) -> str:
        """Hash of everything that changes results; `contents` are hashes of data, split and weights file.

        Where the data lies, how many workers there are and how the search is run do not change a run's results.
        """
        kept = self.model_dump(
            mode="json",
            exclude={
                "scale": True,
                "search": True,
                "data": {"table", "split_files", "threads", "cache_mb"},
                "train": {"device"},
            },
        )
        if kept["model"]["weights"] not in ("none", "pretrained"):
            kept["model"]["weights"] = "file"
        text = json.dumps([kept, *contents], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def label_share(ratio: Any) -> tuple[float | None, int | None]:
    """ "1/8" or "0.2" -> (share, None); a whole number above 1 -> (None, count)."""
    text = str(ratio).replace(" ", "")
    try:
        top, _, bottom = text.partition("/")
        number = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        number = -1.0
    if not bottom and number > 1 and number == int(number):
        return None, int(number)
    if not 0 < number <= 1:
        raise ValueError(f"label ratio {ratio!r} must be a share such as '1/8' or a count of at least 2 such as '23'")
    return number, None


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Config from a YAML file (None: all defaults), then `key=value` overrides."""
    return override(read_yaml(path) if path else {}, overrides)


def read_yaml(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1, cutoff=0.4)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise InputError(f"config file {path} does not exist{hint}")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(tree, dict | None):
        raise InputError(f"{path}: must hold `section:` mappings, found a {type(tree).__name__}")
    return tree or {}


def override(tree: Mapping[str, Any], changes: Iterable[str] | Mapping[str, Any]) -> Config:
    """A checked Config from a tree of plain values and changes: "a.b=1" strings or a {"a.b": 1} mapping."""
    merged: dict[str, Any] = json.loads(json.dumps(tree))
    if not isinstance(changes, Mapping):
        changes = dict(_assignment(text) for text in changes)
    for key, value in changes.items():
        node = merged
        *parents, leaf = key.split(".")
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = value
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise InputError(explain(error)) from None


def _assignment(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set {text!r} must look like section.key=value, e.g. loss.relation_weight=0.5")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text!r}: the value is not valid YAML") from None


def explain(error: ValidationError) -> str:
    """One line for the first mistake: key, value, rule, remedy; and how many more there are."""
    errors = error.errors(include_url=False)
    first, more = errors[0], len(errors) - 1
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        line = f"unknown key `{key}`{_nearest(key)}"
    else:
        rule = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        line = f"`{key}` is {first['input']!r}: {rule}{_in_percent(first)}" if key else rule
    return line + (f" (and {more} more mistake{'s' * (more > 1)})" if more else "")


def _in_percent(error: Any) -> str:
    value, limit = error["input"], error.get("ctx", {}).get("le")
    return (
        f"; did you mean {value / 100}?" if limit == 1 and isinstance(value, int | float) and 1 < value <= 100 else ""
    )


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration: sections and values."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        for option in options:
            if isinstance(option, type) and issubclass(option, Section):
                keys += known_keys(option, f"{prefix}{name}.")
    return keys


def _nearest(key: str) -> str:
    known = known_keys()
    by_leaf = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1, cutoff=0.6)
    best = near[0] if near else by_leaf[leaf[0]] if leaf else None
    return f"; did you mean `{best}`?" if best else f"; sections are {', '.join(Config.model_fields)}"
