"""Weights as a safetensors file, under the names that segmentation_models_pytorch gives them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cid_ray.core.model import build_network, pad_to_stride
from cid_ray.inference.export_graph import Output
from cid_ray.inference.predictor import Predictor


def smp_arguments(predictor: Predictor) -> dict[str, Any]:
    """The arguments of `smp.create_model` that build the network of the file."""
    model = predictor.config.model
    return {
        "arch": model.decoder,
        "encoder_name": f"tu-{model.encoder}",
        "encoder_weights": None,
        "classes": len(predictor.classes),
        "in_channels": predictor.net.in_channels,
        **model.decoder_options,
    }


def normalization(predictor: Predictor) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, in values of 0 to 255."""
    net = predictor.net
    return {"mean": net.mean.flatten().tolist(), "std": net.std.flatten().tolist()}


def save_weights(
    predictor: Predictor, output: Output, example: Tensor, dynamic: Collection[str]
) -> bytes:
    """The state dict of smp's model; `smp` (arguments), `mean` and `std` are in the metadata."""
    return with_metadata(predictor, {})


def with_metadata(predictor: Predictor, card: dict[str, Any]) -> bytes:
    """The same with a card in the metadata, whose values are JSON."""
    weights = predictor.net.net.state_dict().items()
    values = {"smp": smp_arguments(predictor), **normalization(predictor), "card": card}
    metadata = {name: json.dumps(value) for name, value in values.items()}
    return safetensors.torch.save(
        {name: weight.cpu().contiguous() for name, weight in weights}, metadata
    )


def load_weights(content: bytes, predictor: Predictor) -> Any:
    """A new smp model with these weights, as a function from images to [logits]."""
    channels = predictor.net.in_channels
    net = build_network(predictor.config.model, len(predictor.classes), channels).eval()
    net.load_state_dict(safetensors.torch.load(content))
    stride = predictor.net.stride
    mean, std = predictor.net.mean.cpu(), predictor.net.std.cpu()

    @torch.no_grad()
    def run(images: np.ndarray) -> list[np.ndarray]:
        height, width = images.shape[-2:]
        x = pad_to_stride((torch.from_numpy(images).float() - mean) / std, stride)
        logits: Tensor = net(x)[..., :height, :width]
        return [logits.numpy()]

    return run
