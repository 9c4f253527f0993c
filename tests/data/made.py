"""Small data made on the spot: pictures, folders of images and masks, and tables written row by row."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.table import Table, TableWriter, default_colors, png

SIZE = (24, 32)


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def ids(seed: int, classes: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask that holds every one of its classes."""
    mask = np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)
    mask.flat[:classes] = np.arange(classes)
    return mask


def encoded(array: np.ndarray, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def write_folders(root: Path, masks: Sequence[np.ndarray | Image.Image], seed: int = 0) -> Path:
    """root/images/NN.jpg and root/masks/NN.png, every image different."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, mask in enumerate(masks):
        picture_of = Image.fromarray(picture(1000 * seed + index))
        picture_of.save(root / "images" / f"{index:02d}.jpg")
        (Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask).save(root / "masks" / f"{index:02d}.png")
    return root


def write_pool(folder: Path, count: int, seed: int) -> Path:
    """A folder of images without masks."""
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:02d}.jpg").write_bytes(encoded(picture(1000 * seed + index)))
    return folder


def prepare_folder(root: Path, *options: object, classes: str | None = "a\nb\nc\n") -> Table:
    """`python -m cid_ray.prepare folder` on root/images and root/masks; the table is root/table."""
    if classes is not None:
        (root / "classes.txt").write_text(classes)
        options = (*options, "--classes", root / "classes.txt")
    given = ("folder", "--images", root / "images", "--masks", root / "masks", "--out", root / "table", *options)
    assert prepare.main([str(option) for option in given]) == 0
    return Table(root / "table")


def refusal(root: Path, *options: object, classes: str | None = "a\nb\nc\n") -> str:
    """The message with which `prepare folder` refuses; nothing of a table may be left behind."""
    with pytest.raises(InputError) as caught:
        prepare_folder(root, *options, classes=classes)
    assert not [path for path in (root / "table").glob("*") if path.is_file()]
    return str(caught.value)


def row(
    name: str,
    image: bytes,
    mask: bytes | None = None,
    *,
    pixels: Sequence[int] | None = None,
    split: str = "train",
    group: str | None = None,
    size: tuple[int, int] = (16, 16),
) -> dict[str, Any]:
    """A row as the importers write it: image `img/NAME.jpg`, mask `seg/NAME.png`."""
    return {
        "image_id": f"{split}/{name}",
        "split": split,
        "group": group,
        "height": size[0],
        "width": size[1],
        "image_path": f"img/{name}.jpg",
        "mask_path": None if mask is None else f"seg/{name}.png",
        "sha256": hashlib.sha256(image).hexdigest(),
        "class_pixels": None if pixels is None else list(pixels),
        "image": image,
        "mask": mask,
    }


def masked_row(name: str, image: np.ndarray, mask: np.ndarray, classes: int = 3, **more: Any) -> dict[str, Any]:
    """A lossless labeled row from arrays."""
    pixels = np.bincount(mask.ravel(), minlength=256)[:classes].tolist()
    return row(name, png(image), png(mask), pixels=pixels, size=mask.shape, **more)


def write_table(
    folder: Path, rows: Iterable[dict[str, Any]], classes: Sequence[str] = ("a", "b", "c"), ignore_index: int = 255
) -> Table:
    writer = TableWriter(folder, list(classes), default_colors(len(classes)), ignore_index)
    for each in rows:
        writer.add(each)
    writer.close()
    return Table(folder)
