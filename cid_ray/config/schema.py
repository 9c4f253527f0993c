"""The configuration as frozen pydantic models: every key, its default and its rule.

`Config` is the whole. Its other sections are in train_schema, search_schema and scale_schema.
Legend: H, W pixels. A "fraction of training" is a fraction of `train.steps`, in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cid_ray.config.scale_schema import ScaleConfig
from cid_ray.config.search_schema import Method, PricesConfig, SearchConfig, StudyConfig
from cid_ray.config.section import Fraction, NonNegative, Section
from cid_ray.config.sharding import CUTMIX_GROUP_SIZE
from cid_ray.config.train_schema import DistributedConfig, OptimConfig, TrainConfig, steps_until
from cid_ray.config.validators import check_uri, flatten, parse_label_ratio
from cid_ray.config.yaml_reader import dump_yaml

LEVEL = re.compile("decoder|encoder_[1-9]")  # of loss.relation_levels
RATIO_FIELD = "{ratio}"  # of data.split_files

# Where a run's data is stored, how fast it works and how it handles faults do not change results.
NO_RESULT_SECTIONS = {"distributed", "search", "study", "scale", "prices"}
NOT_FINGERPRINTED = (
    "data.table",
    "data.split_files",
    "data.threads",
    "data.cache_mb",
    "data.max_bad_frac",
    "model.in_channels",  # checked against the table, whose hash is in the fingerprint
    "train.device",
    "train.on_nan",
    "train.checkpoint_steps",
    "train.checkpoint_minutes",
    "train.checkpoint_dir",
    "train.num_to_keep",
    "train.progress_s",
)


class DataConfig(Section):
    # A table written by `prepare`: a folder or s3://bucket/path. "demo": a generated data set.
    table: str = "demo"
    # Part of the training masks that is used: a fraction ("1/8", "0.2") or a count ("23").
    ratio: str = "1/8"
    # Which label draw. Draws of one number are nested: 1/16 is a subset of 1/8.
    draw: int = Field(0, ge=0)
    # Seed of all label draws.
    split_seed: int = Field(0, ge=0)
    # How a draw treats the table's `group` column: ignore it, cover every group, or use one group.
    label_from: Literal["any", "each_group", "one_group"] = "any"
    # Fraction of the drawn labels that serves as val, so that val costs labels; 0: the table's val.
    val_from_budget: float = Field(0, ge=0, lt=1)
    # Part of the unlabeled pool that is used, drawn with the labels; parts of one draw are nested.
    pool_fraction: float = Field(1.0, gt=0, le=1)
    # A folder with UniMatch's labeled.txt and unlabeled.txt, used instead of a draw. "{ratio}" in
    # it means data.ratio with "_" for "/": splits/cityscapes/{ratio} has a folder for each.
    split_files: str | None = None
    # H, W to which images are resized when they are decoded; null: their own size.
    image_size: tuple[int, int] | None = None
    # Side of a square training crop in pixels, or its H, W.
    crop_size: int | tuple[int, int] = 321
    # Random resize before the crop: lowest and highest factor.
    scale_range: tuple[float, float] = (0.5, 2.0)
    # Probability of a horizontal flip.
    hflip: Fraction = 0.5
    # Labeled images per step, over all workers.
    batch_size: int = Field(8, ge=1)
    # Unlabeled images per step, over all workers.
    batch_size_u: int = Field(8, ge=1)
    # Decoding threads of a single-process run.
    threads: int = Field(2, ge=1)
    # Limit of a node's cache of decoded images in MB, shared by its processes; 0: no cache.
    cache_mb: int = Field(512, ge=0)
    # Fraction of the unlabeled pool that may be unreadable: skipped up to this, an error above it.
    max_bad_frac: Fraction = 0.01

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio(cls, value: Any) -> str:
        parse_label_ratio(value)
        return str(value).replace(" ", "")

    @field_validator("table")
    @classmethod
    def _table(cls, value: str) -> str:
        return check_uri(value)

    @field_validator("scale_range")
    @classmethod
    def _scale_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("must be two increasing positive numbers, such as [0.5, 2.0]")
        return value

    @field_validator("image_size", "crop_size")
    @classmethod
    def _at_least_16_pixels(cls, value: Any) -> Any:
        sides = (value,) if isinstance(value, int) else (value or ())
        if any(side < 16 for side in sides):
            raise ValueError("must be at least 16 pixels a side")
        return value

    @property
    def has_list_per_ratio(self) -> bool:
        """Whether `split_files` names a folder for each ratio."""
        return RATIO_FIELD in (self.split_files or "")

    @property
    def split_folder(self) -> str | None:
        """`split_files` of this ratio.

        Example:
            >>> DataConfig(ratio="1/16", split_files="splits/cityscapes/{ratio}").split_folder
            'splits/cityscapes/1_16'
        """
        return self.split_files and self.split_files.replace(
            RATIO_FIELD, self.ratio.replace("/", "_")
        )

    @property
    def crop(self) -> tuple[int, int]:
        """H, W of a training crop."""
        if isinstance(self.crop_size, int):
            return self.crop_size, self.crop_size
        return self.crop_size


class ModelConfig(Section):
    # An architecture of segmentation_models_pytorch; dpt takes plain ViTs, the others all else.
    decoder: str = "deeplabv3plus"
    # Any timm model that supports features_only, or with dpt a plain ViT.
    encoder: str = "resnet50"
    # Encoder weights: "none", "pretrained" (timm's hub), or a local .safetensors file.
    weights: str = "none"
    # What training leaves as it is: nothing, or the encoder's weights and batch norm statistics.
    freeze: Literal["none", "encoder"] = "none"
    # Channels of the images, 1 to 16; null: the table's.
    in_channels: int | None = Field(None, ge=1, le=16)
    # Keyword arguments of the decoder.
    decoder_options: dict[str, Any] = Field(default_factory=dict)


class LossConfig(Section):
    # The method that `cid` adds relation and style to.
    base: Literal["mean_teacher", "unimatch_v2"] = "mean_teacher"
    # Pseudo-labels: the teacher's class, or its sharpened distribution.
    pseudo: Literal["hard", "soft"] = "hard"
    pseudo_weight: NonNegative = 1.0
    # Least confidence of the teacher at which a pixel gets a pseudo-label.
    conf_thresh: Fraction = 0.95
    # Least confidence: conf_thresh for all classes, or FreeMatch's, which follows each class.
    threshold: Literal["fixed", "class_adaptive"] = "fixed"
    # Multiply the teacher's probabilities so that their classes are as frequent as in the labels.
    align_distribution: bool = False
    # Sharpening of soft pseudo-labels; below 1 is sharper.
    temperature: float = Field(0.5, gt=0)
    # Fraction of training without pseudo-labels.
    pseudo_burn_in: Fraction = 0.0
    # Fraction of training over which pseudo_weight rises from 0, after pseudo_burn_in.
    pseudo_ramp: Fraction = 0.1
    # Fraction of training of the first round of `self_training`, on labels alone.
    first_round: float = Field(0.5, gt=0, lt=1)
    # What the relation loss compares: see core/losses.py.
    relation_kind: Literal["cross", "self", "transfer", "class"] = "self"
    relation_weight: NonNegative = 0.1
    # Temperature of the similarities of `cross` and `class`.
    relation_temperature: float = Field(0.1, gt=0)
    # `self` on an m x m grid of cells; 1: the whole image, above: ICKD's dense form.
    relation_grid: int = Field(1, ge=1)
    # Features that relations compare: "decoder", or "encoder_N" for the encoder's N-th map.
    relation_levels: tuple[str, ...] = ("decoder",)
    # Newest labeled images whose features relations compare, from the student; 0: the teacher's
    # features of the step's images.
    labeled_memory: int = Field(0, ge=0, le=4096)
    # Fraction of training over which relation_weight rises from 0.
    relation_ramp: Fraction = 0.15
    style_weight: NonNegative = 0.01
    # Images whose channel statistics the student's are compared with.
    style_target: Literal["unlabeled", "labeled", "symmetric"] = "unlabeled"
    # The statistics: mean and standard deviation of each channel, or the Gram matrix.
    style_stat: Literal["mean_std", "gram"] = "mean_std"
    # Fraction of training over which style_weight rises from 0.
    style_ramp: Fraction = 0.15
    # Fraction of training that the EMAs of statistics span: of channels, Grams and confidences.
    stats_span: float = Field(0.05, gt=0, le=1)
    # Weights of the classes in the supervised loss.
    class_weights: Literal["none", "balanced"] = "none"

    @field_validator("relation_levels")
    @classmethod
    def _relation_levels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value) or not all(map(LEVEL.fullmatch, value)):
            raise ValueError(
                "must be different names of features, such as [decoder] or [decoder, encoder_4]"
            )
        return value


class Config(Section):
    """One training run, and with `search` and `study` the search that it belongs to.

    Example:
        >>> config = load_config(None, ["train.steps=100"])
        >>> config.train.steps, config.images_per_step
        (100, 16)
    """

    method: Method = "cid"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    distributed: DistributedConfig = DistributedConfig()
    search: SearchConfig = SearchConfig()
    study: StudyConfig = StudyConfig()
    scale: ScaleConfig = ScaleConfig()
    prices: PricesConfig = PricesConfig()

    @model_validator(mode="after")
    def _batch_has_images_for_every_worker(self) -> Config:
        workers = self.distributed.max_workers
        if workers == 1:
            return self
        for name, least in (("batch_size", 1), ("batch_size_u", CUTMIX_GROUP_SIZE)):
            size = getattr(self.data, name)
            if size < least * workers:
                raise ValueError(
                    f"data.{name} is {size} for all workers together, must be at least "
                    f"{least} for each of distributed.num_workers ({workers})"
                )
        return self

    @model_validator(mode="after")
    def _second_round_has_steps(self) -> Config:
        if self.method == "self_training" and self.first_round_steps == self.train.steps:
            raise ValueError(
                f"loss.first_round is {self.loss.first_round:g}, must leave the second round at "
                f"least one of train.steps={self.train.steps}; lower it, or raise train.steps"
            )
        return self

    @property
    def first_round_steps(self) -> int:
        """Steps of the first round of `self_training`: until `loss.first_round` is done."""
        return steps_until(self.loss.first_round, self.train.steps)

    @property
    def uses_unlabeled(self) -> bool:
        """Whether unlabeled images pass the student: in every method but `supervised`."""
        return self.method != "supervised"

    @property
    def num_strong_views(self) -> int:
        """Strong views of each unlabeled image in a step: two in `unimatch_v2` and on it."""
        on_two = self.method == "cid" and self.loss.base == "unimatch_v2"
        return 2 if on_two or self.method == "unimatch_v2" else 1

    @property
    def encoder_levels(self) -> tuple[int, ...]:
        """Numbers of the encoder's maps that relations compare, from 1, in rising order."""
        if self.method != "cid" or self.loss.relation_weight == 0:
            return ()
        names = (name for name in self.loss.relation_levels if name != "decoder")
        return tuple(sorted(int(name.removeprefix("encoder_")) for name in names))

    @property
    def images_per_step(self) -> int:
        """Images of one training step over all workers; unlabeled ones only where they are used."""
        if self.uses_unlabeled:
            return self.data.batch_size + self.data.batch_size_u
        return self.data.batch_size

    def fingerprint(self, *content_hashes: str) -> str:
        """Hash of everything that changes results, in 16 hexadecimal digits.

        Args:
            content_hashes: hashes of the data set, the split and the weights file.
        """
        values = self.result_affecting_values()
        if values["model.weights"] not in ("none", "pretrained"):
            # The hash of a weights file is among `content_hashes`; its path says nothing.
            values["model.weights"] = "file"
        text = json.dumps([values, *content_hashes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def result_affecting_values(self) -> dict[str, Any]:
        """The values that change a run's results: dotted key -> value."""
        tree = self.model_dump(mode="json", exclude=NO_RESULT_SECTIONS)
        return {key: value for key, value in flatten(tree).items() if key not in NOT_FINGERPRINTED}

    def to_yaml(self) -> str:
        """The whole configuration, which `load_config` reads back as an equal one."""
        return dump_yaml(self.model_dump(mode="json"))
