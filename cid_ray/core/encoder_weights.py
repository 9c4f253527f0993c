"""Encoder weights from a local safetensors file in timm's layout.

timm publishes the state dict of the whole classifier, for one image size and three channels. Names,
the first convolution and position embeddings are brought to the encoder's own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from cid_ray.config import InputError


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
    _resample_position_embedding(encoder, weights, expected)
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


def _resample_position_embedding(
    encoder: Any, weights: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    """Give a ViT's position embedding of another square grid the encoder's grid, in place."""
    embedding, own = weights.get("pos_embed"), expected.get("pos_embed")
    # A grid of the same number of tokens is the same grid, for a square one.
    if embedding is None or own is None or embedding.shape == own.shape:
        return
    if not hasattr(encoder, "num_prefix_tokens"):
        return  # another kind of model with a tensor of this name
    has_prefix = not getattr(encoder, "no_embed_class", False)
    num_prefix_tokens = encoder.num_prefix_tokens if has_prefix else 0
    is_embedding = embedding.dim() == 3 and embedding.is_floating_point()
    tokens = embedding.shape[1] - num_prefix_tokens if is_embedding else 0
    if tokens > 0 and math.isqrt(tokens) ** 2 == tokens and embedding.shape[2] == own.shape[2]:
        weights["pos_embed"] = resample_abs_pos_embed(
            embedding, encoder.patch_embed.grid_size, num_prefix_tokens=num_prefix_tokens
        )
