"""Multi-band TIFF files for tests, and a data set of which one class shows in one band alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from cid_ray.data.band_image import encode_bands
from cid_ray.data.image_codec import default_colors, encode_png
from cid_ray.data.table import Table
from cid_ray.data.table_writer import TableWriter
from tests.helpers.image_tables import table_row

NUM_BANDS = 5
HIDDEN_BAND = 4  # of the class `crop`, counted from 1
CLASS_NAMES = ("soil", "water", "crop")


def write_tiff(path: Path, planes: np.ndarray, layout: str = "planar", **options: Any) -> Path:
    """Write planes [C, H, W] as a planar, a contiguous, or a TIFF file of a page for each band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "minisblack", "metadata": None, **options}
    if layout == "planar":
        tifffile.imwrite(path, planes, planarconfig="separate", **options)
    elif layout == "contiguous":
        pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
        tifffile.imwrite(path, pixels, planarconfig="contig", **options)
    else:
        with tifffile.TiffWriter(path) as writer:
            for band in planes:
                writer.write(band, **options)
    return path


def field_scene(seed: int, size: tuple[int, int] = (64, 64)) -> tuple[np.ndarray, np.ndarray]:
    """A field: 12-bit bands u16[5, H, W] and class ids u8[H, W].

    Water is dark in all bands. Crop differs from soil in band 4 alone.
    """
    rng = np.random.default_rng(seed)
    ids = np.zeros(size, np.uint8)
    for class_id in (1, 2):
        for _ in range(2):
            height, width = rng.integers(size[0] // 4, size[0] // 2, 2)
            top = rng.integers(0, size[0] - height)
            left = rng.integers(0, size[1] - width)
            ids[top : top + height, left : left + width] = class_id
    levels = np.array([600, 800, 1000, 1400, 1200])  # of soil
    bands = np.repeat(levels[:, None, None], size[0], 1).repeat(size[1], 2).astype(float)
    bands[:, ids == 1] *= 0.4
    bands[HIDDEN_BAND - 1, ids == 2] *= 2
    # Fields differ in their light, so no level of one band names a class by itself.
    bands *= rng.uniform(0.9, 1.1)
    bands += rng.normal(0, 40, bands.shape)
    return bands.clip(0, 4095).astype(np.uint16), ids


def write_fields(root: Path, count: int, seed: int = 0, layout: str = "planar") -> Path:
    """Write root/images/NN.tif, root/masks/NN.png and root/classes.txt."""
    (root / "masks").mkdir(parents=True)
    for index in range(count):
        planes, ids = field_scene(1000 * seed + index)
        write_tiff(root / "images" / f"{index:02d}.tif", planes, layout)
        Image.fromarray(ids).save(root / "masks" / f"{index:02d}.png")
    (root / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    return root


def write_band_table(
    folder: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], **meta: Any
) -> Table:
    """Write a table of images u8[C, H, W]. The first ones have masks, the others are the pool."""
    writer = TableWriter(folder, ["a", "b", "c"], default_colors(3), 255)
    for index, planes in enumerate(images):
        row = table_row(str(index), encode_bands(planes), size=planes.shape[1:])
        if index < len(masks):
            mask = masks[index]
            pixels = np.bincount(mask.ravel(), minlength=256)[:3].tolist()
            row |= {"mask": encode_png(mask), "mask_path": "m.png", "class_pixels": pixels}
        writer.add(row)
    num_channels = len(images[0])
    values = np.concatenate([planes.reshape(num_channels, -1) for planes in images], 1)
    stats = {"band_mean": values.mean(1).tolist(), "band_std": values.std(1).tolist()}
    writer.close(**{"num_channels": num_channels, **stats, **meta})
    return Table(folder)
