"""Plain vision transformers (ViT) of timm with smp's DPT decoder, for images of any size.

A plain ViT has one stride, its patch of p pixels. DPT reassembles four of its layers to strides of
4, 8, 16 and 32 pixels and fuses them to a stride of 2. The factors are powers of two, so p must be
one. For DINOv2's p = 14 the decoder is built as for 16 and the head resizes by 14/16 more: one
token becomes 8 x 8 positions of `feat` for both.

Source: DPT (Ranftl et al. 2021); the treatment of p = 14 is that of Depth Anything and UniMatch V2.
"""

from __future__ import annotations

import math
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from timm.models import is_model_in_modules

# timm's modules of ViTs that take `dynamic_img_size` and have one stride.
VIT_MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")
EXAMPLES = ("vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_tiny_patch16_224")
# Pixels of the coarsest stride of any decoder.
STRIDE = 32


def is_plain_vit(encoder: str) -> bool:
    """Whether timm's model of this name, with or without a tag, has one stride and takes any size.

    Example:
        >>> is_plain_vit("vit_small_patch14_dinov2.lvd142m"), is_plain_vit("resnet50")
        (True, False)
    """
    return is_model_in_modules(encoder, VIT_MODULES)


def nearest_power_of_two(patch: int) -> int:
    """The patch that the decoder is built for.

    Example:
        >>> nearest_power_of_two(14), nearest_power_of_two(16)
        (16, 16)
    """
    return 2 ** round(math.log2(patch))


def create_dpt(arch: str = "dpt", **arguments: Any) -> Any:
    """`smp.create_model` for DPT: images of any size, patches of any size.

    Layers that the decoder does not read (the last norm, the classifier, blocks behind the last
    one that is read) are removed: they would never get a gradient.

    Example:
        >>> net = create_dpt(encoder_name="tu-vit_small_patch14_dinov2", encoder_weights=None)
        >>> canvas_stride(net)
        28
    """
    net = smp.create_model(arch, dynamic_img_size=True, **arguments)
    encoder = net.encoder
    # smp keeps the numbers of the blocks that it reads in a private attribute.
    encoder._output_indices = encoder.model.prune_intermediate_layers(
        encoder._output_indices, prune_norm=True
    )
    patch = encoder.output_stride
    nominal = nearest_power_of_two(patch)
    if patch != nominal:
        options = {
            name.removeprefix("decoder_"): value
            for name, value in arguments.items()
            if name.startswith("decoder_")
        }
        net.decoder = DPTDecoder(
            encoder_out_channels=encoder.out_channels,
            encoder_output_strides=[nominal] * len(encoder.out_channels),
            encoder_has_prefix_tokens=encoder.has_prefix_tokens,
            **options,
        )
        initialize_decoder(net.decoder)
        net.segmentation_head.upsampling_factor *= patch / nominal
    return net


def canvas_stride(net: Any) -> int:
    """Pixels of which the sides of a DPT's canvas are multiples: 28 for a patch of 14, else 32.

    The coarsest of the reassembled strides, so that fused maps have equal sizes.
    """
    patch: int = net.encoder.output_stride
    return patch * STRIDE // nearest_power_of_two(patch)
