"""Small JPEGs of images, and of images with their masks on top."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import resize_nearest, shrink

SIDE = 224  # pixels of the longer side
MAX_BYTES = 9_000  # of one JPEG: the quality falls until it fits
QUALITIES = (82, 65, 45, 30, 15)
MASK_OPACITY = 0.55
VOID_OPACITY = 0.75
VOID_GRAYS = (70, 190)  # of its stripes: no class looks like that
STRIPE_WIDTH = 3  # pixels


def overlay(image: Image.Image, mask: np.ndarray, colors: list[list[int]]) -> Image.Image:
    """A thumbnail of an image with its mask.

    Args:
        image: in RGB, H x W.
        mask: u8[H, W] of class ids; ids without a colour are void, drawn as grey stripes.
        colors: [r, g, b] of each class.
    """
    small = shrink(image, SIDE)
    class_ids = resize_nearest(mask, small.size)
    table = np.zeros((256, 3), np.float32)
    table[: len(colors)] = colors
    fill = table[class_ids]
    opacity = np.full((*class_ids.shape, 1), MASK_OPACITY, np.float32)
    rows, columns = np.indices(class_ids.shape)
    is_void = class_ids >= len(colors)
    stripes = np.where((rows + columns) // STRIPE_WIDTH % 2, *VOID_GRAYS)
    fill[is_void] = stripes[is_void][:, None]
    opacity[is_void] = VOID_OPACITY
    mixed = (1 - opacity) * np.asarray(small, np.float32) + opacity * fill
    return Image.fromarray(mixed.astype(np.uint8))


def encode_thumbnail(image: Image.Image) -> bytes:
    """A JPEG of at most MAX_BYTES; noise at the lowest quality may have a few more."""
    small = shrink(image, SIDE)
    for quality in QUALITIES:
        out = io.BytesIO()
        small.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= MAX_BYTES:
            break
    return out.getvalue()
