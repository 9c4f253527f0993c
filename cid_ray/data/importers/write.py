"""Reads, audits and writes the files that an importer listed.

Held-out splits come first. A copy of a held-out image in train is then found in train, and is left
out there: the held-out set stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.audit import Audit, BadFile
from cid_ray.data.image_codec import encode_png
from cid_ray.data.importers.classes import ClassList, make_mask_reader
from cid_ray.data.importers.items import ImportItem
from cid_ray.data.table import Table
from cid_ray.data.table_writer import TableWriter, check_only_table

WRITE_ORDER = {"test": 0, "val": 1, "train": 2}
READ_THREADS = 4
CHUNK_SIZE = 64  # files that are read ahead: a bound of the memory
MAX_SHOWN_ERRORS = 10

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # (files, their number) -> the same files
FileContent = tuple[bytes, tuple[int, int], np.ndarray | None]  # encoded image, (H, W), mask


def no_progress(files: Iterable[Any], total: int) -> Iterable[Any]:
    """The default `Progress`: shows nothing."""
    return files


@dataclass(frozen=True)
class ImportResult:
    """A written table, and what a person should know about it."""

    table: Table
    warnings: list[str]
    skipped: list[str]  # a message per file that was left out
    notes: list[str]  # what the importer decided by itself

    def describe(self) -> list[str]:
        """Lines for a person: the table's splits and classes, then files left out and warnings."""
        return [
            *self.notes,
            *self.table.describe(),
            *(f"left out: {message}" for message in self.skipped),
            *(f"warning: {message}" for message in self.warnings),
        ]


def check_output(out: Path, ignore_index: int) -> None:
    """InputError if a table cannot be written to a folder: called before any file is read."""
    if (out / "meta.json").exists():
        raise InputError(f"--out {out} already holds a table; choose another folder or remove it")
    if out.is_file():
        raise InputError(f"--out {out} is a file, must be a folder to make")
    if out.is_dir():
        check_only_table(out)
    if not 0 <= ignore_index <= 255:
        raise InputError(f"--ignore-index is {ignore_index}, must be a mask id from 0 to 255")


def write_table(
    items: Sequence[ImportItem],
    classes: ClassList,
    out: Path,
    *,
    mapping: Mapping[int, int] | None = None,
    ignore_index: int = 255,
    skip_bad: bool = False,
    progress: Progress = no_progress,
    notes: Sequence[str] = (),
) -> ImportResult:
    """Audit every file and write the table.

    Args:
        items: what an importer listed. Their order within a split is kept.
        classes: the K classes; ids from K on are an error, except `ignore_index`.
        out: the folder to make.
        mapping: old mask id -> new mask id.
        ignore_index: the mask id that means "no label", 0..255.
        skip_bad: leave bad files out instead of raising.
        progress: wraps the files that are read, e.g. in a progress bar.
        notes: lines that `ImportResult.describe` starts with.

    Returns:
        The opened table with warnings and the files that were left out.

    Raises:
        InputError: the message lists up to 10 problems. No table is left in the folder.

    Example:
        >>> items, classes = list_camvid(Path("CamVid"))
        >>> write_table(items, classes, Path("tables/camvid")).table.num_classes
        11
    """
    check_output(out, ignore_index)
    audit = Audit(classes.names, ignore_index)
    writer = TableWriter(out, classes.names, classes.colors, ignore_index)
    read_mask = make_mask_reader(classes, mapping or {}, ignore_index)
    ordered = sorted(items, key=lambda item: (WRITE_ORDER[item.split], item.mask is None))
    try:
        for item, content in progress(_read_files(ordered, audit, read_mask), len(ordered)):
            try:
                if isinstance(content, BadFile):
                    raise content
                writer.add(audited_row(audit, item, *content))
            except BadFile as error:
                audit.bad_files.append(str(error))
        errors = audit.errors(skip_bad)
        if not errors and "train" not in audit.class_pixels:
            reason = "no train image with a mask is left: nothing could be learned"
            errors = [reason, *audit.bad_files]
        if errors:
            may_skip = bool(audit.bad_files) and not skip_bad
            raise InputError(_describe_errors(errors, may_skip))
        warnings = audit.warnings()
        writer.close(skipped=audit.bad_files, warnings=warnings)
    except BaseException:  # Ctrl-C too
        writer.discard()
        raise
    return ImportResult(Table(out), warnings, audit.bad_files, list(notes))


def _read_files(
    items: Sequence[ImportItem], audit: Audit, read_mask: Callable[[Path], np.ndarray]
) -> Iterator[tuple[ImportItem, FileContent | BadFile]]:
    """Each item with its content, or with what is wrong with it, in the order of the items."""

    def read(item: ImportItem) -> tuple[ImportItem, FileContent | BadFile]:
        try:
            encoded = item.image.read_bytes()
            size = audit.check_image(str(item.image), encoded)
            mask = None if item.mask is None else read_mask(item.mask)
            return item, (encoded, size, mask)
        except BadFile as error:
            return item, error
        except OSError as error:
            return item, BadFile(str(error))

    with ThreadPoolExecutor(READ_THREADS) as threads:
        for start in range(0, len(items), CHUNK_SIZE):
            yield from threads.map(read, items[start : start + CHUNK_SIZE])


def audited_row(
    audit: Audit,
    item: ImportItem,
    encoded: bytes,
    size: tuple[int, int],
    mask: np.ndarray | None,
) -> dict[str, Any]:
    """The table row of one image; BadFile if it is a held-out copy or its mask does not fit.

    Args:
        audit: counts the row.
        item: the image's id, split, group and paths.
        encoded: the image file's bytes. They are stored as they are.
        size: (height, width) of the image.
        mask: class ids u8[H, W], or None.
    """
    digest = audit.check_unique(str(item.image), item.split, encoded)
    class_pixels = None
    if mask is not None:
        class_pixels = audit.check_mask(str(item.mask), item.split, mask, size).tolist()
    return {
        "image_id": item.image_id,
        "split": item.split,
        "group": item.group,
        "height": size[0],
        "width": size[1],
        "image_path": item.image.relative_to(item.root).as_posix(),
        "mask_path": _relative_path(item.mask, item.root),
        "sha256": digest,
        "class_pixels": class_pixels,
        "image": encoded,
        "mask": None if mask is None else encode_png(mask),
    }


def _relative_path(path: Path | None, root: Path) -> str | None:
    """The path below root; the bare name of a mask that is elsewhere."""
    if path is None:
        return None
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _describe_errors(errors: list[str], may_skip: bool) -> str:
    lines = errors[:MAX_SHOWN_ERRORS]
    if len(errors) > len(lines):
        lines = [*lines, f"... and {len(errors) - len(lines)} more"]
    shown = "\n  ".join(lines)
    hint = "\nBad files can be left out with --skip-bad." if may_skip else ""
    return f"no table was written, {len(errors)} problem(s):\n  {shown}{hint}"
