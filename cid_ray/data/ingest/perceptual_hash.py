"""What an image looks like, in 256 bits: its lowest frequencies (pHash, by the ImageHash library).

Hashes of copies differ in few bits, also after JPEG compression or a change of size. Measured on
726 photos of CamVid, COCO and VOC (benchmarks/near_duplicates.py): all 12 kinds of copies differ in
at most 12 bits. So do 5 % of CamVid's frames that are a second apart, those of a car that stands
still, and 12 % of those 1/15 second apart. A hash of 64 bits calls 12 % and 93 % of them copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image

MAX_DISTANCE = 12  # bits in which the hashes of two copies differ at most
SIDE = 16  # frequencies per axis
HASH_BYTES = SIDE * SIDE // 8
NO_HASH = bytes(HASH_BYTES)  # of an image without structure, which is compared with none
MIN_REDUCED = 128  # pixels of the shorter side that are left for the hash
MIN_CONTRAST = 2.0  # standard deviation in grey levels; less is noise around one value

# An image is like a mask when neighbouring pixels are mostly equal and few values fill it. Of 726
# real masks at least 88 % of the pixels equal their neighbours; of the photos, even reduced to 16
# colours, at most 73 %.
MASK_FLATNESS = 0.8
MASK_VALUES = 32
MASK_COVERAGE = 0.95
SAMPLED_ROWS = 100  # pairs of rows that are looked at


@dataclass(frozen=True)
class Looks:
    """What one image looks like."""

    hash: bytes  # 32 bytes; NO_HASH: nothing to compare
    is_like_mask: bool  # few values in large constant regions
    is_blank: bool  # one value everywhere


def describe_looks(pixels: np.ndarray) -> Looks:
    """What decoded pixels look like. Takes about a millisecond.

    Args:
        pixels: u8[H, W, C] or u8[H, W]. The first three channels count.

    Example:
        >>> describe_looks(np.zeros((48, 64, 3), np.uint8)).is_blank
        True
    """
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] < 3 else pixels[..., :3]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = min(image.size) // MIN_REDUCED
    if factor > 1:
        image = image.reduce(factor)  # the mean of blocks, much faster than a filter
    grey = image.convert("L")
    is_blank = bool((pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all())
    is_like_mask = not is_blank and _is_like_mask(pixels)
    if np.asarray(grey).std() < MIN_CONTRAST:
        return Looks(NO_HASH, is_like_mask, is_blank)
    bits = imagehash.phash(grey, SIDE).hash
    return Looks(np.packbits(bits).tobytes(), is_like_mask, is_blank)


def _is_like_mask(pixels: np.ndarray) -> bool:
    step = max(1, (len(pixels) - 1) // SAMPLED_ROWS)
    rows = pixels[:-1:step]
    one_channel = rows if rows.ndim == 2 else rows[..., 0]
    if _share(one_channel[:, 1:] == one_channel[:, :-1]) < MASK_FLATNESS:
        return False  # nearly every photo, at little cost
    values, below = _as_one_number(rows), _as_one_number(pixels[1::step])
    equal = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] == below[:, 1:])
    if _share(equal) < MASK_FLATNESS:
        return False
    counts = np.sort(np.unique(values, return_counts=True)[1])
    return bool(counts[-MASK_VALUES:].sum() >= MASK_COVERAGE * values.size)


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if found.size else 0.0


def _as_one_number(pixels: np.ndarray) -> np.ndarray:
    """[H, W] of u8[H, W] or u8[H, W, 3]: equal numbers are equal colours."""
    if pixels.ndim == 2:
        return pixels
    wide = pixels.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])
