"""`load_model`: a checkpoint becomes a `Predictor`. Needs no table, no Ray and no model hub."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from cid_ray.config import (
    Config,
    InputError,
    build_config,
    error_summary,
    format_validation_error,
)
from cid_ray.config.yaml_reader import parse_yaml
from cid_ray.core.model import BandStats, Segmenter, dilate_pointwise
from cid_ray.data.image_codec import default_colors
from cid_ray.data.input_spec import ModelData
from cid_ray.inference.locate import find_checkpoint
from cid_ray.inference.predictor import Predictor
from cid_ray.storage.paths import PathOrUri
from cid_ray.training.checkpoint import check_alike, load_checkpoint
from cid_ray.training.device import Device

Network = Literal["teacher", "student"]
NETWORKS = ("teacher", "student")


def load_model(
    source: PathOrUri,
    network: Network = "teacher",
    device: str = "auto",
    num_threads: int | None = None,
) -> Predictor:
    """Load a trained network.

    Args:
        source: a checkpoint of `train` or `tune` (`.../last.pt`), a run folder, or `RUN:RATIO` or
            `RUN:NAME` with a label ratio or the name of a trial. Of a search without a choice it is
            the best CID trial at the ratio with the most labels. Paths may be `s3://...`.
        network: "teacher", the moving average of the weights, or "student".
        device: "auto", "cpu" or "cuda".
        num_threads: of torch; None: one per CPU that this process may use.

    Returns:
        A `Predictor`: call it with an image.

    Raises:
        InputError: there is no such checkpoint, or it cannot be read.

    Example:
        >>> predictor = cid_ray.load_model("runs/demo")
        >>> prediction = predictor("photo.jpg")
        >>> prediction.classes.shape, prediction.confidence.mean()
    """
    if network not in NETWORKS:
        raise InputError(f"network is {network!r}, must be one of {', '.join(NETWORKS)}")
    located = find_checkpoint(source)
    content = load_checkpoint(located.path)
    try:
        config, weights = _config_of(content, device)
        data = _data_of(content)
        state = content[network]
        net = Segmenter(config.model, len(data.classes), _band_stats(state))
        check_alike(network, state, net.state_dict())
        net.load_state_dict(state)
    except InputError as error:
        raise InputError(f"checkpoint {located.path}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise InputError(
            f"checkpoint {located.path} is of another layout "
            f"({error_summary(e, with_type=True)[:160]}); it must be a last.pt or best.pt of this "
            "version of cid_ray"
        ) from None
    chosen = Device.choose(config.train, num_threads)
    if chosen.torch.type == "cpu":
        dilate_pointwise(net)
    net = net.eval().requires_grad_(False).to(chosen.torch)
    net = net.to(memory_format=torch.channels_last)
    step = int(content["extra"].get("step", 0))
    return Predictor(net, config, data, chosen, located, network, step, weights)


def _config_of(content: dict[str, Any], device: str) -> tuple[Config, str]:
    """The run's configuration, and its `model.weights`.

    In the configuration these are "none": the checkpoint has weights of its own.
    """
    tree = parse_yaml(content["config"])
    if not isinstance(tree, dict):
        raise ValueError("its config is no mapping")
    config = build_config(tree, {"model.weights": "none", "train.device": device})
    return config, str(tree.get("model", {}).get("weights", "none"))


def _data_of(content: dict[str, Any]) -> ModelData:
    if "data" not in content:  # of version 0.1.0
        classes = content["classes"]
        return ModelData(classes=classes, colors=default_colors(len(classes)))
    try:
        data = ModelData.model_validate_json(content["data"])
    except ValidationError as error:
        raise ValueError(format_validation_error(error)) from None
    if len(data.colors) != len(data.classes):
        raise ValueError(f"{len(data.classes)} classes have {len(data.colors)} colors")
    return data


def _band_stats(state: dict[str, Tensor]) -> BandStats | None:
    """Mean and standard deviation of the bands, which the state of a network of bands has."""
    if "mean" not in state:
        return None
    return state["mean"].flatten().tolist(), state["std"].flatten().tolist()
