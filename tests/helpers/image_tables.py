"""Small data for tests: random images and masks, folders of them, and tables written row by row."""

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
from cid_ray.data.image_codec import default_colors, encode_png
from cid_ray.data.table import Table
from cid_ray.data.table_errors import UnreadableImage
from cid_ray.data.table_writer import TableWriter

SIZE = (24, 32)  # height, width


def random_image(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """u8[H, W, 3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def random_mask(seed: int, num_classes: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    """u8[H, W] of class ids. Every class is present."""
    mask = np.random.default_rng(seed).integers(0, num_classes, size, dtype=np.uint8)
    mask.flat[:num_classes] = np.arange(num_classes)
    return mask


def by_id(table: Table) -> dict[str, int]:
    """Image id -> row."""
    return {name: row for row, name in enumerate(table.ids(np.arange(len(table))))}


def encode_image(array: np.ndarray, file_format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, file_format)
    return out.getvalue()


def write_folders(root: Path, masks: Sequence[np.ndarray | Image.Image], seed: int = 0) -> Path:
    """Write root/images/NN.jpg and root/masks/NN.png. All images differ."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, mask in enumerate(masks):
        image = Image.fromarray(random_image(1000 * seed + index))
        image.save(root / "images" / f"{index:02d}.jpg")
        mask_image = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
        mask_image.save(root / "masks" / f"{index:02d}.png")
    return root


def write_unlabeled(folder: Path, count: int, seed: int) -> Path:
    """Write a folder of images without masks."""
    folder.mkdir(parents=True)
    for index in range(count):
        encoded = encode_image(random_image(1000 * seed + index))
        (folder / f"{index:02d}.jpg").write_bytes(encoded)
    return folder


def prepare_folder(root: Path, *options: object, classes: str | None = "a\nb\nc\n") -> Table:
    """Run `python -m cid_ray.prepare folder` on root/images and root/masks, into root/table."""
    if classes is not None:
        (root / "classes.txt").write_text(classes)
        options = (*options, "--classes", root / "classes.txt")
    folders = ("--images", root / "images", "--masks", root / "masks")
    arguments = ("folder", *folders, "--out", root / "table", *options)
    assert prepare.main([str(argument) for argument in arguments]) == 0
    return Table(root / "table")


def import_error(root: Path, *options: object, classes: str | None = "a\nb\nc\n") -> str:
    """The message with which `prepare folder` fails. No file of a table may be left."""
    with pytest.raises(InputError) as caught:
        prepare_folder(root, *options, classes=classes)
    assert not [path for path in (root / "table").glob("*") if path.is_file()]
    return str(caught.value)


def table_row(
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


def labeled_row(
    name: str, image: np.ndarray, mask: np.ndarray, num_classes: int = 3, **columns: Any
) -> dict[str, Any]:
    """A lossless row with mask, of arrays."""
    pixels = np.bincount(mask.ravel(), minlength=256)[:num_classes].tolist()
    encoded_image = encode_png(image)
    encoded_mask = encode_png(mask)
    return table_row(name, encoded_image, encoded_mask, pixels=pixels, size=mask.shape, **columns)


def write_table(
    folder: Path,
    rows: Iterable[dict[str, Any]],
    classes: Sequence[str] = ("a", "b", "c"),
    ignore_index: int = 255,
) -> Table:
    writer = TableWriter(folder, list(classes), default_colors(len(classes)), ignore_index)
    for row in rows:
        writer.add(row)
    writer.close()
    return Table(folder)


def make_unreadable(monkeypatch: pytest.MonkeyPatch, table: Table, broken: int) -> None:
    """Let one row of a table fail as an image does whose file is cut short."""
    read = Table.read

    def read_or_fail(self: Table, row: int, mask: bool) -> Any:
        if row == broken:
            raise UnreadableImage(table.ids(np.array([row]))[0], "cut short", table.folder)
        return read(self, row, mask)

    monkeypatch.setattr(Table, "read", read_or_fail)
