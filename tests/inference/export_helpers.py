"""Untrained networks of any decoder and encoder, as `load_model` would return them."""

from __future__ import annotations

from typing import Any

import torch

from cid_ray.config import Config, ModelConfig
from cid_ray.core.model import Segmenter
from cid_ray.data.image_codec import default_colors
from cid_ray.data.input_spec import ModelData
from cid_ray.inference.locate import CheckpointSource
from cid_ray.inference.predictor import Predictor
from cid_ray.training.device import Device
from tests.helpers.tiny_run import SMALL_DPT

BANDS: dict[str, Any] = {"num_channels": 5, "bands": [1, 2, 3, 4, 5]}


def untrained(decoder: str, encoder: str = "test_efficientnet", bands: bool = False) -> Predictor:
    """A network of random weights for five classes."""
    options = SMALL_DPT if decoder == "dpt" else {}
    config = Config(model=ModelConfig(decoder=decoder, encoder=encoder, decoder_options=options))
    data = ModelData(classes=list("abcde"), colors=default_colors(5), **(BANDS if bands else {}))
    torch.manual_seed(0)
    stats = ([90.0, 80, 70, 60, 50], [40.0] * 5) if bands else None
    net = Segmenter(config.model, 5, stats).eval().requires_grad_(False)
    device = Device(torch.device("cpu"), bf16=False)
    return Predictor(net, config, data, device, CheckpointSource("last.pt", {}), "teacher", 0)
