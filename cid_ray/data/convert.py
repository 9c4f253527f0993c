"""CamVid's layout and plain folders -> a table. A mask is never asked for on an unlabeled image.

`camvid` and `folder` only list `Entry`s; `build` reads, audits and writes them, held-out splits first so that a copy
of a held-out image is found in train and not the other way round.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cid_ray.config import InputError
from cid_ray.data.audit import Audit, BadFile
from cid_ray.data.table import Table, TableWriter, default_colors, png

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ORDER = {"test": 0, "val": 1, "train": 2}
CHUNK = 64


@dataclass(frozen=True)
class Entry:
    image_id: str
    split: str
    image: Path
    mask: Path | None
    group: str | None
    root: Path


@dataclass(frozen=True)
class Classes:
    names: list[str]
    colors: list[list[int]]


def read_classes(path: Path) -> Classes:
    """One class a line: its name, and optionally its colour as `r g b`."""
    if not path.is_file():
        raise InputError(f"classes file {path} does not exist; it holds one class name a line, in the order of the ids")
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    names, colors = [], []
    for line in filter(None, lines):
        found = re.fullmatch(r"(.+?)\s+(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})", line)
        names.append(found[1] if found else line)
        colors.append([int(found[i]) for i in (2, 3, 4)] if found else None)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise InputError(f"classes file {path} {'names ' + twice[0] + ' twice' if twice else 'names no class'}")
    defaults = default_colors(len(names))
    return Classes(names, [color or default for color, default in zip(colors, defaults, strict=True)])


def list_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def pairs(images: Path, masks: Path, split: str, group: str | None, root: Path) -> list[Entry]:
    """Images with the mask of the same relative name; a missing mask is an error that names the way out."""
    if not masks.is_dir():
        raise InputError(f"{masks} is not a folder of masks")
    by_name = {p.relative_to(masks).with_suffix(""): p for p in masks.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES}
    entries, missing = [], []
    for image in list_images(images):
        name = image.relative_to(images).with_suffix("")
        if name not in by_name:
            missing.append(image)
            continue
        entries.append(Entry(f"{split}/{name.as_posix()}", split, image, by_name[name], _group(group, name), root))
    if missing:
        raise InputError(
            f"{len(missing)} images have no mask of the same name in {masks}, first {missing[0]}; "
            f"put unlabeled images in a folder of their own and pass it as --unlabeled"
        )
    return entries


def _group(pattern: str | None, name: Path) -> str | None:
    found = re.search(pattern, name.as_posix()) if pattern else None
    return found[1] if found and found.groups() else None


def camvid(root: Path) -> tuple[list[Entry], Classes]:
    """`images/{train,val,test}`, `masks/{train,val,test}`, `classes.txt`; a drive is the name before the first `_`."""
    classes = read_classes(root / "classes.txt")
    entries = []
    for split in ORDER:
        entries += pairs(root / "images" / split, root / "masks" / split, split, r"^([^_/]+)_", root)
    return entries, classes


def folder(
    images: Path,
    masks: Path,
    unlabeled: list[Path],
    held_out: dict[str, tuple[Path, Path]],
    group: str | None = None,
    val_share: float = 0.2,
) -> list[Entry]:
    """Plain folders. Without val folders every fifth labeled image is held out as val."""
    try:
        re.compile(group or "")
    except re.error as error:
        raise InputError(f"--group {group!r} is not a regular expression ({error})") from None
    entries = pairs(images, masks, "train", group, images.parent)
    for split, (split_images, split_masks) in held_out.items():
        entries += pairs(split_images, split_masks, split, group, split_images.parent)
    if "val" not in held_out:
        every = max(2, round(1 / val_share))
        entries = [
            Entry(e.image_id, "val", e.image, e.mask, e.group, e.root) if i % every == every - 1 else e
            for i, e in enumerate(entries)
        ]
    for number, pool in enumerate(unlabeled):
        for path in list_images(pool):
            name = path.relative_to(pool).with_suffix("")
            entries.append(
                Entry(f"pool{number}/{name.as_posix()}", "train", path, None, _group(group, name) or pool.name, pool)
            )
    return entries


def mask_reader(classes: Classes, mapping: dict[int, int], ignore_index: int) -> Callable[[Path], np.ndarray]:
    """Path -> u8[H, W] ids: single-channel and palette masks as they are, colour masks through the classes' colours."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in mapping.items():
        table[old] = new

    def read(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image if image.mode in ("1", "L", "P", "I;16", "I") else image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path}: unreadable mask ({error})") from None
        if pixels.ndim == 3:
            ids = np.full(pixels.shape[:2], ignore_index, np.uint8)
            for index, color in enumerate(classes.colors):
                ids[(pixels == color).all(-1)] = index
            if (ids == ignore_index).all():
                raise BadFile(
                    f"{path}: a colour mask without one pixel of the classes' colours; "
                    "give the colours in the classes file (`name r g b`)"
                )
            return table[ids]
        if pixels.max(initial=0) > 255:
            raise BadFile(f"{path}: mask ids up to {pixels.max()}, must be below 256")
        return table[pixels.astype(np.uint8)]

    return read


def guess_classes(entries: Iterable[Entry], mapping: dict[int, int], ignore_index: int) -> Classes:
    """No classes file: as many classes as the highest id asks for, named class_0, class_1, ..."""
    read, highest = mask_reader(Classes([], []), mapping, ignore_index), 0
    for entry in entries:
        if entry.mask is not None:
            try:
                ids = np.unique(read(entry.mask))
            except BadFile:
                continue  # named by the audit
            highest = max(highest, int(ids[ids != ignore_index].max(initial=0)))
    return Classes([f"class_{i}" for i in range(highest + 1)], default_colors(highest + 1))


@dataclass(frozen=True)
class Built:
    table: Table
    warnings: list[str]
    skipped: list[str]


def build(
    entries: list[Entry],
    classes: Classes,
    out: Path,
    *,
    mapping: dict[int, int] | None = None,
    ignore_index: int = 255,
    skip_bad: bool = False,
    track: Callable[[Iterable[Any], int], Iterable[Any]] = lambda rows, total: rows,
) -> Built:
    """Audit every file and write the table; InputError lists what is wrong, and then no table is left behind."""
    audit = Audit(classes.names, ignore_index)
    writer = TableWriter(out, classes.names, classes.colors, ignore_index)
    read_mask = mask_reader(classes, mapping or {}, ignore_index)
    entries = sorted(entries, key=lambda e: (ORDER[e.split], e.mask is None))

    def load(entry: Entry) -> tuple[Entry, Any]:
        try:
            encoded = entry.image.read_bytes()
            size = audit.image(str(entry.image), encoded)
            return entry, (encoded, size, None if entry.mask is None else read_mask(entry.mask))
        except (BadFile, OSError) as error:
            return entry, str(error)

    def loaded() -> Iterable[tuple[Entry, Any]]:
        with ThreadPoolExecutor(4) as threads:
            for start in range(0, len(entries), CHUNK):
                yield from threads.map(load, entries[start : start + CHUNK])

    for entry, result in track(loaded(), len(entries)):
        try:
            if isinstance(result, str):
                raise BadFile(result)
            writer.add(_row(audit, entry, *result))
        except BadFile as error:
            audit.bad.append(str(error))
    errors = audit.errors(skip_bad)
    if not errors and "train" not in audit.pixels:
        errors = ["no train image with a mask is left: nothing could be learned", *audit.bad]
    if errors:
        writer.file.close()
        (out / "table.parquet").unlink()
        shown = "\n  ".join(errors[:10]) + (f"\n  ... and {len(errors) - 10} more" if len(errors) > 10 else "")
        hint = "\nBad files can be left out with --skip-bad." if audit.bad and not skip_bad else ""
        raise InputError(f"no table was made, {len(errors)} problem(s):\n  {shown}{hint}")
    writer.close(skipped=audit.bad, warnings=audit.warnings())
    return Built(Table(out), audit.warnings(), audit.bad)


def _row(audit: Audit, entry: Entry, encoded: bytes, size: tuple[int, int], mask: np.ndarray | None) -> dict[str, Any]:
    digest = audit.unique(str(entry.image), entry.split, encoded)
    pixels = None if mask is None else audit.mask(str(entry.mask), entry.split, mask, size).tolist()
    return {
        "image_id": entry.image_id,
        "split": entry.split,
        "group": entry.group,
        "height": size[0],
        "width": size[1],
        "image_path": entry.image.relative_to(entry.root).as_posix(),
        "mask_path": _relative(entry.mask, entry.root),
        "sha256": digest,
        "class_pixels": pixels,
        "image": encoded,
        "mask": None if mask is None else png(mask),
    }


def _relative(path: Path | None, root: Path) -> str | None:
    if path is None:
        return None
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def array_row(
    audit: Audit, image_id: str, split: str, group: str, image: np.ndarray, mask: np.ndarray
) -> dict[str, Any]:
    """A generated image u8[H, W, 3] and mask u8[H, W] as a table row."""
    entry = Entry(image_id, split, Path(f"{image_id}.png"), Path(f"{image_id}_mask.png"), group, Path())
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return _row(audit, entry, out.getvalue(), mask.shape[:2], mask)
