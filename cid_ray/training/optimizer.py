"""The optimizer: which weights it changes, and at which learning rate.

A layer of the encoder is what timm calls one in its `group_matcher`: the patch embedding or stem is
layer 0, a block of a ViT is one layer.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from cid_ray.config import Config, InputError


def make_optimizer(config: Config, student: nn.Module) -> torch.optim.Optimizer:
    """Encoder at `optim.lr`, decoder and head at `lr * head_lr_mult`, for the global batch.

    With `optim.layer_decay` layer i of the encoder's `depth` layers has the rate
    `lr * layer_decay ** (depth - i)`. Weight decay is the same for all weights. Weights of a frozen
    encoder are left out.

    Raises:
        InputError: `optim.layer_decay` is below 1 and timm does not know the encoder's layers.
    """
    optim = config.optim
    encoder = list(student.net.encoder.parameters())  # type: ignore[union-attr]
    encoder_ids = {id(parameter) for parameter in encoder}
    head = [parameter for parameter in student.parameters() if id(parameter) not in encoder_ids]
    groups: list[dict[str, Any]] = []
    if config.model.freeze == "none":
        layers = [encoder] if optim.layer_decay == 1 else encoder_layers(config, student)
        for distance, layer in enumerate(reversed(layers)):
            groups.insert(0, {"params": layer, "lr": optim.lr * optim.layer_decay**distance})
    groups.append({"params": head, "lr": optim.lr * optim.head_lr_mult})
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, weight_decay=optim.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=optim.weight_decay)


def encoder_layers(config: Config, student: nn.Module) -> list[list[nn.Parameter]]:
    """The encoder's weights by layer, from the image to the features.

    Raises:
        InputError: timm does not know the layers of this encoder.
    """
    encoder: Any = student.net.encoder.model  # type: ignore[union-attr]
    layer_of = _layer_numbers(config.model.encoder, encoder)
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        layers.setdefault(layer_of[name.replace(".", "_")], []).append(parameter)
    return [layers[number] for number in sorted(layers)]


def _layer_numbers(name: str, encoder: Any) -> dict[str, int]:
    """Name of a weight, with "_" for ".", -> its layer, from 0."""
    if not hasattr(encoder, "group_matcher"):
        # timm's features_only hides it and renames modules: layer1.0 becomes layer1_0. The whole
        # model is built for its names; it must not move the run's random numbers.
        with torch.random.fork_rng(devices=[]):
            encoder = timm.create_model(name)
    if not hasattr(encoder, "group_matcher"):
        raise InputError(
            f"optim.layer_decay: timm does not know the layers of {name}; leave "
            "optim.layer_decay=1, or take an encoder such as a ViT, resnet50 or convnext_tiny"
        )
    numbers = group_parameters(encoder, encoder.group_matcher(coarse=False), reverse=True)
    return {weight.replace(".", "_"): number for weight, number in numbers.items()}
