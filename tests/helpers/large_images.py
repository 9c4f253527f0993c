"""A data set of images that are larger than a tile, as TIFF or PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from cid_ray.data.table import IGNORED
from tests.helpers.image_tables import random_image, random_mask

SIZE = (150, 210)
TILE, OVERLAP = 64, 16
OPTIONS = ("--tile", TILE, "--overlap", OVERLAP)
NUM_TILES = 3 * 5
SEEDS = range(5)  # of the images; the fifth becomes val


def image_of(seed: int) -> np.ndarray:
    return random_image(seed, SIZE)


def mask_of(seed: int) -> np.ndarray:
    """Three classes, with a stripe that has no label."""
    mask = random_mask(seed, 3, SIZE)
    mask[70:75] = IGNORED
    return mask


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".tif":
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(file, pixels, compression="zlib", tile=(32, 32), photometric=photometric)
    else:
        Image.fromarray(pixels).save(file)


def write_set(
    root: Path, image_suffix: str = ".tif", mask_suffix: str = ".tif", folder: str = "."
) -> Path:
    for seed in SEEDS:
        save(root / "images" / folder / f"{seed}{image_suffix}", image_of(seed))
        save(root / "masks" / folder / f"{seed}{mask_suffix}", mask_of(seed))
    return root
