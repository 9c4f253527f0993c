"""Encoder (timm) and decoder (segmentation_models_pytorch), and the EMA teacher.

The whole forward is `segmentation_head(decoder(encoder(x)))`. `feat` is what the head sees. Inputs
are padded to a multiple of the network's stride and logits are cropped back, so any crop or image
size works with any decoder.

    B images   I channels of an image   K classes   C channels of `feat`   H,W pixels
    h,w positions of `feat` on the canvas, the padded image
Source of the EMA: mean teacher (Tarvainen & Valpola 2017), with the ramp of timm's ModelEmaV3.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from cid_ray.config import InputError, ModelConfig
from cid_ray.core import vit
from cid_ray.core.encoder_weights import load_encoder_weights

BandStats = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation per channel
ARCHITECTURES = smp.MODEL_ARCHITECTURES_MAPPING
# Arguments that the configuration's other keys set.
RESERVED_OPTIONS = ("self", "kwargs", "classes", "in_channels")
# Words of the errors by which timm's model hub says that it cannot be reached.
HUB_ERROR_WORDS = (
    "hub",
    "resolve",
    "connect",
    "offline",
    "internet",
    "cached",
    "http",
    "client has been closed",
)


class Segmenter(nn.Module):
    """A segmentation network: images u8[B,I,H,W] -> (logits f[B,K,H,W], feat f[B,C,h,w], ...).

    After `feat` come the encoder's maps that `encoder_levels` names, on the padded canvas.

    Pixels are normalised here: three channels by the encoder's own mean and standard deviation, any
    other number by those of the data's bands, which are then part of the state dict.

    Args:
        config: the `model` section.
        num_classes: K.
        band_stats: mean and standard deviation of each of the I channels, in values of 0 to 255.
            None: red, green and blue.

    Attributes:
        in_channels: I.
        freezes_encoder: whether the encoder gets no gradient and stays in eval mode.
        stride: pixels; both sides of the canvas are multiples of it.
        encoder_levels: numbers of the encoder's maps that a forward returns, from 1. Training sets
            them for relations between such maps.
        channel_dropout: of the encoder's maps, f[B,C,h,w] -> the same. Training sets it.

    Raises:
        InputError: for a combination that cannot be built.

    Example:
        >>> net = Segmenter(ModelConfig(encoder="resnet18"), 4, ([90.0] * 5, [40.0] * 5))
        >>> net.in_channels
        5
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int, band_stats: BandStats | None = None):
        super().__init__()
        self.in_channels = 3 if band_stats is None else len(band_stats[0])
        self.net: Any = build_network(config, num_classes, self.in_channels)
        self.freezes_encoder = config.freeze == "encoder"
        if self.freezes_encoder:
            self.net.encoder.requires_grad_(False)
        self.stride = vit.canvas_stride(self.net) if is_dpt(config) else vit.STRIDE
        self.encoder_levels: tuple[int, ...] = ()
        self.channel_dropout: nn.Module | None = None
        self._set_normalization(config.encoder, band_stats)

    def _set_normalization(self, encoder: str, band_stats: BandStats | None) -> None:
        if band_stats is None:
            mean, std = (255 * torch.tensor(part) for part in encoder_normalization(encoder))
        else:
            mean, std = (torch.tensor(part, dtype=torch.float32) for part in band_stats)
            std = std.clamp(min=1)  # a band may hold one value everywhere
        # A checkpoint holds what only the data knows.
        persistent = band_stats is not None
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=persistent)
        self.register_buffer("std", std.view(-1, 1, 1), persistent=persistent)

    def train(self, mode: bool = True) -> Segmenter:
        """As of nn.Module. A frozen encoder stays in eval mode: its batch norm learns nothing."""
        super().train(mode)
        if self.freezes_encoder:
            self.net.encoder.eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[-2:]
        logits, *maps = self.forward_canvas(image)
        return logits[..., :height, :width], *maps

    def forward_canvas(self, image: Tensor) -> tuple[Tensor, ...]:
        """The same with the logits of the whole canvas."""
        x = (image.float() - self.mean) / self.std
        x = pad_to_stride(x, self.stride).contiguous(memory_format=torch.channels_last)
        encoded = self.net.encoder(x)
        # A ViT returns maps and prefix tokens; DPT takes both. Others return `x` before their maps.
        maps, *tokens = encoded if isinstance(encoded, tuple) else (encoded,)
        levels = [each for each in maps if each is not x]
        if self.channel_dropout is not None:
            maps = [each if each is x else self.channel_dropout(each) for each in maps]
        feat = self.net.decoder(maps, *tokens)
        chosen = [levels[number - 1] for number in self.encoder_levels]
        return self.net.segmentation_head(feat), feat, *chosen


def pad_to_stride(x: Tensor, stride: int, value: float = 0.0) -> Tensor:
    """[B,C,H,W] padded with `value` on the right and below to multiples of `stride`: the canvas."""
    return F.pad(x, (0, -x.shape[-1] % stride, 0, -x.shape[-2] % stride), value=value)


def is_dpt(config: ModelConfig) -> bool:
    """Whether the decoder is DPT, which takes plain ViTs and nothing else."""
    return config.decoder.lower() == "dpt"


def build_network(config: ModelConfig, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The smp model with an encoder of timm.

    Published weights are of three channels. For another number timm repeats the first convolution's
    weights over the channels, scaled so that the sum of their inputs keeps its size.

    Raises:
        InputError: for an unknown decoder, decoder option or encoder, with the names there are; for
            an encoder that the decoder cannot use; for weights that cannot be read or do not fit.
    """
    check_names(config)
    create_model: Any = vit.create_dpt if is_dpt(config) else smp.create_model
    try:
        net = create_model(
            config.decoder,
            encoder_name=f"tu-{config.encoder}",
            encoder_weights=True if config.weights == "pretrained" else None,
            classes=num_classes,
            in_channels=in_channels,
            **config.decoder_options,
        )
    # timm and smp raise errors of many types for choices that do not fit together.
    except Exception as error:
        raise _build_error(config, error) from error
    if config.weights not in ("none", "pretrained"):
        load_encoder_weights(net.encoder.model, Path(config.weights))
    return net


def check_names(config: ModelConfig) -> None:
    """Raise InputError for an encoder, a decoder or a pair that does not exist. Builds nothing."""
    _check_decoder(config)
    _check_encoder(config.encoder)
    if is_dpt(config) and not vit.is_plain_vit(config.encoder):
        raise InputError(
            f"model.decoder=dpt takes plain ViTs of timm, such as {', '.join(vit.EXAMPLES)}; "
            f"model.encoder is {config.encoder}: take another decoder, such as fpn"
        )
    if vit.is_plain_vit(config.encoder) and not is_dpt(config):
        raise InputError(
            f"model.encoder {config.encoder} is a plain ViT, whose features have one stride; "
            f"model.decoder is {config.decoder}: take dpt, or another encoder for {config.decoder}"
        )


def _check_decoder(config: ModelConfig) -> None:
    architecture = ARCHITECTURES.get(config.decoder.lower())
    if architecture is None:
        raise InputError(
            f"model.decoder is {config.decoder!r}, must be one of {', '.join(ARCHITECTURES)}"
        )
    known = inspect.signature(architecture.__init__).parameters
    for name in config.decoder_options:
        if name not in known or name in RESERVED_OPTIONS:
            allowed = [p for p in known if p not in RESERVED_OPTIONS and "encoder_n" not in p]
            raise InputError(
                f"model.decoder_options has {name!r}; {config.decoder} takes {', '.join(allowed)}"
            )


def _check_encoder(encoder: str) -> None:
    if timm.is_model(encoder):
        return
    # A tag such as ".in1k" would hide the similarity of the names.
    name = encoder.split(".")[0]
    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
    raise InputError(
        f"model.encoder {encoder!r} is no timm model; similar: {', '.join(near) or 'none'}"
    )


def _build_error(config: ModelConfig, error: Exception) -> InputError:
    """What went wrong inside timm or smp, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    unreachable = any(word in str(error).lower() for word in HUB_ERROR_WORDS)
    if config.weights == "pretrained" and unreachable:
        return InputError(
            f"model.weights=pretrained: the model hub cannot be reached for {config.encoder} "
            f"({lines[0][:120]}); give a local file (model.weights=FILE.safetensors) or start "
            "untrained (model.weights=none)"
        )
    options = f" with {config.decoder_options}" if config.decoder_options else ""
    return InputError(
        f"{config.decoder} cannot be built on {config.encoder}{options}: {lines[0][:200]}"
    )


def dilate_pointwise(net: nn.Module) -> None:
    """Make 1x1 convolutions faster on one CPU thread, in place; results stay the same.

    A single tap is the same convolution with any dilation. On one thread torch sends undilated 1x1
    convolutions of fewer than 16 images through a copy and a general matrix product (`use_mkldnn`
    in ATen's Convolution.cpp). oneDNN takes the dilated ones and is 1.1 to 1.35 times as fast
    (benchmarks/results/step).
    """
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
            conv.dilation = (2, 2)


def encoder_normalization(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """timm's mean and standard deviation of red, green and blue, on a scale of 0 to 1."""
    pretrained: Any = timm.get_pretrained_cfg(encoder, allow_unregistered=True)
    config = timm.data.resolve_data_config(
        pretrained_cfg=pretrained.to_dict() if pretrained else {}
    )
    return tuple(config["mean"]), tuple(config["std"])


def make_teacher(student: nn.Module, decay: float) -> ModelEmaV3:
    """The EMA teacher of `student`: alpha_t = min(1 - 1/(t+1), decay), t from 0.

    Weights and float buffers are averaged, integer buffers copied. It is in eval mode and asks for
    no gradient.
    """
    teacher = ModelEmaV3(
        student,
        decay=decay,
        use_warmup=True,
        warmup_gamma=1.0,  # gamma and power 1 give the published ramp 1 - 1/(t+1)
        warmup_power=1.0,
        update_after_step=-1,  # so that step 0 updates too
        foreach=True,
    )
    teacher.requires_grad_(False)
    return teacher.eval()
