"""Encoder (timm) + decoder (segmentation_models_pytorch) -> logits and `feat`; and the EMA teacher.

The whole forward is `segmentation_head(decoder(encoder(x)))`; `feat` is what the head sees. Inputs are padded to a
multiple of 32 and logits cropped back, so any crop or image size works with any decoder.
"""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cid_ray.config import InputError
from cid_ray.config import Model as ModelConfig

STRIDE = 32
FEAT_STRIDE = 16  # relations and statistics are taken at about this stride


class Segmenter(nn.Module):
    """Images u8[B,3,H,W] -> logits f[B,K,H,W] and feat f[B,C,h,w] on the padded canvas."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int):
        super().__init__()
        self.net: Any = build(config, num_classes)
        mean, std = normalization(config.encoder)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        x = (image.float() - self.mean) / self.std
        x = pad_to_stride(x).contiguous(memory_format=torch.channels_last)
        feat = self.net.decoder(self.net.encoder(x))
        logits = self.net.segmentation_head(feat)
        return logits[..., :height, :width], feat


def pad_to_stride(x: Tensor, value: float = 0.0) -> Tensor:
    return F.pad(x, (0, -x.shape[-1] % STRIDE, 0, -x.shape[-2] % STRIDE), value=value)


def build(config: ModelConfig, num_classes: int) -> nn.Module:
    """The smp model; every impossible choice is an InputError that names the choices."""
    options = dict(config.decoder_options)
    architectures = {name: kind for name, kind in smp.MODEL_ARCHITECTURES_MAPPING.items() if name != "dpt"}  # ViT only
    if config.decoder.lower() not in architectures:
        raise InputError(f"model.decoder is {config.decoder!r}, must be one of {', '.join(architectures)}")
    known = inspect.signature(architectures[config.decoder.lower()].__init__).parameters
    for name in options:
        if name not in known:
            allowed = [
                p for p in known if p not in ("self", "kwargs", "classes", "in_channels") and "encoder_n" not in p
            ]
            raise InputError(f"model.decoder_options has {name!r}; {config.decoder} takes {', '.join(allowed)}")
    if not timm.is_model(config.encoder):
        near = difflib.get_close_matches(config.encoder.split(".")[0], timm.list_models(), n=5, cutoff=0.6)
        raise InputError(f"model.encoder {config.encoder!r} is no timm model; similar: {', '.join(near) or 'none'}")
    try:
        net = smp.create_model(
            config.decoder,
            encoder_name=f"tu-{config.encoder}",
            encoder_weights=True if config.weights == "pretrained" else None,
            classes=num_classes,
            **options,
        )
    except InputError:
        raise
    except Exception as error:
        raise _build_error(config, error) from error
    if config.weights not in ("none", "pretrained"):
        load_encoder(net.encoder.model, Path(config.weights))
    return net


def _build_error(config: ModelConfig, error: Exception) -> InputError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    hub = ("hub", "resolve", "connect", "offline", "internet", "cached", "http", "client has been closed")
    if config.weights == "pretrained" and any(word in str(error).lower() for word in hub):
        return InputError(
            f"model.weights=pretrained: the model hub cannot be reached for {config.encoder} ({lines[0][:120]}); "
            "give a local file (model.weights=FILE.safetensors) or start untrained (model.weights=none)"
        )
    return InputError(f"{config.decoder} cannot be built on {config.encoder}: {lines[0][:200]}")


def dilate_pointwise(net: nn.Module) -> None:
    """For the CPU: one tap is the same convolution dilated or not, but torch takes a quicker way when it is.

    On one thread it sends 1x1 convolutions of fewer than 16 images through a copy and a general product, unless they
    are dilated (`use_mkldnn` in ATen's Convolution.cpp); oneDNN is 1.1 to 1.35 times as fast (benchmarks/results/step).
    """
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
            conv.dilation = (2, 2)


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """ImageNet weights from a local safetensors file; every tensor of the encoder must be found."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model.weights {path} cannot be read as a safetensors file ({error})") from None
    own = encoder.state_dict()
    flat = {name.replace(".", "_"): value for name, value in weights.items()}  # features_only renames stem.0 to stem_0
    weights = {name: flat[name.replace(".", "_")] for name in own if name.replace(".", "_") in flat}
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    wrong = [k for k in own if k in weights and weights[k].shape != own[k].shape]
    if missing or wrong:
        first = (missing or wrong)[0]
        raise InputError(
            f"model.weights {path} does not fit the encoder: {len(missing)} tensors missing, {len(wrong)} of another "
            f"shape, first {first}; is it for another model?"
        )
    encoder.load_state_dict(weights, strict=False)


def normalization(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the encoder's own data config (0..1 scale)."""
    pretrained: Any = timm.get_pretrained_cfg(encoder, allow_unregistered=True)
    config = timm.data.resolve_data_config(pretrained_cfg=pretrained.to_dict() if pretrained else {})
    return tuple(config["mean"]), tuple(config["std"])


def pool_feat(feat: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """feat on the canvas and valid bool[B,H,W] -> feat f32[B,C,h,w] at about stride 16 and valid f32[B,1,h,w].

    A cell averages its valid positions only; it is valid when any of its pixels is.
    """
    mask = pad_to_stride(valid.float()[:, None])
    fine = F.adaptive_max_pool2d(mask, feat.shape[-2:])
    stride = mask.shape[-1] // feat.shape[-1]
    cells = max(1, FEAT_STRIDE // stride)
    if cells == 1:
        return feat.float() * fine, fine
    share = F.avg_pool2d(fine, cells)
    pooled: Tensor = _PoolValid.apply(feat, fine, share.clamp(min=1e-6), cells)  # type: ignore[no-untyped-call]
    return pooled, (share > 0).float()


class _PoolValid(torch.autograd.Function):
    """Mean over the valid of cells x cells positions; both divide the canvas. Keeps nothing as large as the features,
    of which autograd keeps one copy and makes three more on its way back."""

    @staticmethod
    def forward(ctx: Any, feat: Tensor, fine: Tensor, share: Tensor, cells: int) -> Tensor:
        ctx.save_for_backward(fine, share)
        ctx.cells, ctx.dtype = cells, feat.dtype
        return F.avg_pool2d(feat.float() * fine, cells) / share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        fine, share = ctx.saved_tensors
        each = F.interpolate(grad / share / ctx.cells**2, scale_factor=ctx.cells, mode="nearest")
        return each.mul_(fine).to(ctx.dtype), None, None, None


def make_teacher(student: nn.Module, decay: float) -> ModelEmaV3:
    """The EMA teacher: alpha_t = min(1 - 1/(t+1), decay), weights and float buffers averaged, no gradient."""
    teacher = ModelEmaV3(
        student, decay=decay, use_warmup=True, warmup_gamma=1.0, warmup_power=1.0, update_after_step=-1, foreach=True
    )
    teacher.requires_grad_(False)
    return teacher.eval()
