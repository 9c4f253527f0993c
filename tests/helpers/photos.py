"""Pictures that look like photos: smooth, all different, and copies of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.image_tables import random_mask

SIZE = (96, 128)  # height, width


def photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An RGB image of random structure at several scales."""
    rng = np.random.default_rng([77, seed])
    total = np.zeros((*size, 3), np.float32)
    for cells, weight in ((3, 90), (7, 60), (17, 30), (41, 10)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC)) * (weight / 190)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def recoded(image: Image.Image, quality: int = 75, scale: float = 1.0) -> Image.Image:
    """A copy after a change of size and JPEG compression."""
    size = (round(image.width * scale), round(image.height * scale))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    with Image.open(io.BytesIO(out.getvalue())) as copy:
        return copy.convert("RGB")


def blob_mask(seed: int, num_classes: int = 3, size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask of class ids in large regions."""
    coarse = Image.fromarray(random_mask(seed, num_classes, (4, 5)))
    return coarse.resize(size[::-1], Image.Resampling.NEAREST)


def write_photo_set(root: Path, count: int, seed: int = 0) -> Path:
    """Write root/images/NN.png and root/masks/NN.png: photos and masks of three classes."""
    for index in range(count):
        save(photo(1000 * seed + index), root / "images" / f"{index:02d}.png")
        save(blob_mask(1000 * seed + index), root / "masks" / f"{index:02d}.png")
    return root


def save(image: Image.Image, path: Path) -> Path:
    """Save an image, in folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=1)
    return path
