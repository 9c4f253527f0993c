"""Checkpoints of networks that nobody trained, of any classes and channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cid_ray.config import Config, ModelConfig
from cid_ray.core.model import Segmenter
from cid_ray.data.input_spec import ModelData
from cid_ray.training import checkpoint


def save_untrained(path: Path, data: ModelData, band_stats: Any = None) -> None:
    """A checkpoint of an untrained network."""
    config = Config(model=ModelConfig(encoder="test_efficientnet", decoder="fpn"))
    net = Segmenter(config.model, len(data.classes), band_stats)
    checkpoint.save_checkpoint(path, {"teacher": net, "student": net}, config, data, step=0)
