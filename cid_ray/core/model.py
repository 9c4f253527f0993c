"""Encoder (timm) and decoder (segmentation_models_pytorch), and the EMA teacher.

The whole forward is `segmentation_head(decoder(encoder(x)))`. `feat` is what the head sees. Inputs
are padded to a multiple of 32 and logits are cropped back, so any crop or image size works with any
decoder.

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
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from cid_ray.config import InputError, ModelConfig

BandStats = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation per channel
STRIDE = 32
# smp's DPT takes ViT encoders only, at fixed sizes.
ARCHITECTURES = {
    name: kind for name, kind in smp.MODEL_ARCHITECTURES_MAPPING.items() if name != "dpt"
}
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
    """A segmentation network: images u8[B,I,H,W] -> (logits f[B,K,H,W], feat f[B,C,h,w]).

    Pixels are normalised here: three channels by the encoder's own mean and standard deviation, any
    other number by those of the data's bands, which are then part of the state dict.

    Args:
        config: the `model` section.
        num_classes: K.
        band_stats: mean and standard deviation of each of the I channels, in values of 0 to 255.
            None: red, green and blue.

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

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        logits, feat = self.forward_canvas(image)
        return logits[..., :height, :width], feat

    def forward_canvas(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the logits of the whole canvas, whose sides are multiples of 32."""
        x = (image.float() - self.mean) / self.std
        x = pad_to_stride(x).contiguous(memory_format=torch.channels_last)
        feat = self.net.decoder(self.net.encoder(x))
        return self.net.segmentation_head(feat), feat


def pad_to_stride(x: Tensor, value: float = 0.0) -> Tensor:
    """[B,C,H,W] padded with `value` on the right and below to multiples of 32: the canvas."""
    return F.pad(x, (0, -x.shape[-1] % STRIDE, 0, -x.shape[-2] % STRIDE), value=value)


def build_network(config: ModelConfig, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The smp model with an encoder of timm.

    Published weights are of three channels. For another number timm repeats the first convolution's
    weights over the channels, scaled so that the sum of their inputs keeps its size.

    Raises:
        InputError: for an unknown decoder, decoder option or encoder, with the names there are; for
            an encoder that the decoder cannot use; for weights that cannot be read or do not fit.
    """
    _check_decoder(config)
    _check_encoder(config.encoder)
    try:
        net = smp.create_model(
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


def load_encoder_weights(encoder: nn.Module, path: Path) -> None:
    """Load timm's weights from a local safetensors file, which cannot run code.

    Raises:
        InputError: for a file that cannot be read, without a tensor that the encoder needs, or with
            a tensor that holds NaN or infinity.
    """
    try:
        published = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"model.weights {path} cannot be read as a safetensors file ({error})"
        ) from None
    expected = encoder.state_dict()
    # timm's features_only renames modules: stem.0 becomes stem_0.
    by_flat_name = {name.replace(".", "_"): value for name, value in published.items()}
    weights = {
        name: by_flat_name[name.replace(".", "_")]
        for name in expected
        if name.replace(".", "_") in by_flat_name
    }
    _adapt_first_convolution(encoder, weights, expected)
    missing = [
        name
        for name in expected
        if name not in weights and not name.endswith("num_batches_tracked")
    ]
    misshapen = [name for name, value in weights.items() if value.shape != expected[name].shape]
    if missing or misshapen:
        first = (missing or misshapen)[0]
        raise InputError(
            f"model.weights {path} does not fit the encoder: {len(missing)} tensors missing, "
            f"{len(misshapen)} of another shape, first {first}; is it for another model?"
        )
    for name, value in weights.items():
        # Numbers of another kind would be converted without a word.
        is_float = expected[name].is_floating_point()
        if value.is_floating_point() != is_float or (is_float and not value.isfinite().all()):
            raise InputError(
                f"model.weights {path}: {name} holds values that are no finite numbers"
            )
    encoder.load_state_dict(weights, strict=False)


def _adapt_first_convolution(
    encoder: nn.Module, weights: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    """Give weights of three channels the encoder's number, in place, as timm does for its own."""
    pretrained: Any = getattr(encoder, "pretrained_cfg", {})
    first = pretrained.get("first_conv") or ()
    names = [first] if isinstance(first, str) else first
    flat_names = {f"{name}.weight".replace(".", "_") for name in names}
    for name, weight in weights.items():
        own, published = expected[name].shape, weight.shape
        is_first = name.replace(".", "_") in flat_names and len(own) == len(published) == 4
        if is_first and published[1] == 3 != own[1]:
            weights[name] = adapt_input_conv(own[1], weight)


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
