"""The checked configuration: schema, YAML, `--set` overrides, and messages for what is wrong."""

from cid_ray.config.errors import InputError, error_summary
from cid_ray.config.load import (
    build_config,
    describe_changes,
    format_validation_error,
    known_keys,
    load_config,
    read_yaml,
)
from cid_ray.config.rounds import Round, images_seen, round_at, rounds_of
from cid_ray.config.schema import (
    NOT_FINGERPRINTED,
    Config,
    DataConfig,
    LossConfig,
    Method,
    ModelConfig,
)
from cid_ray.config.search_schema import PluginConfig, RepeatsConfig, SearchConfig, StudyConfig
from cid_ray.config.section import Section
from cid_ray.config.sharding import (
    CUTMIX_GROUP_SIZE,
    labeled_shard,
    shard_range,
    unlabeled_shard,
)
from cid_ray.config.text_files import read_limited_bytes, read_utf8
from cid_ray.config.train_schema import DistributedConfig, OptimConfig, TrainConfig, ema_decay
from cid_ray.config.validators import check_uri, flatten, holds_secret, parse_label_ratio

__all__ = [
    "CUTMIX_GROUP_SIZE",
    "NOT_FINGERPRINTED",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "InputError",
    "LossConfig",
    "Method",
    "ModelConfig",
    "OptimConfig",
    "PluginConfig",
    "RepeatsConfig",
    "Round",
    "SearchConfig",
    "Section",
    "StudyConfig",
    "TrainConfig",
    "build_config",
    "check_uri",
    "describe_changes",
    "ema_decay",
    "error_summary",
    "flatten",
    "format_validation_error",
    "holds_secret",
    "images_seen",
    "known_keys",
    "labeled_shard",
    "load_config",
    "parse_label_ratio",
    "read_limited_bytes",
    "read_utf8",
    "read_yaml",
    "round_at",
    "rounds_of",
    "shard_range",
    "unlabeled_shard",
]
