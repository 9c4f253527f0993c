"""Reads, audits and writes the files that an importer listed.

Held-out splits come first. A copy of a held-out image in train is then found in train, and is left
out there: the held-out set stays the same.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cid_ray.config import InputError
from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.audit import Audit
from cid_ray.data.ingest.band_reader import BandReader, open_bands
from cid_ray.data.ingest.band_statistics import BandStatistics
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.decode_gate import MAX_PIXELS_IN_FLIGHT, DecodeGate
from cid_ray.data.ingest.duplicates import Duplicates
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.guess_classes import guess_classes
from cid_ray.data.ingest.image_reader import ImageContent, ImageReader, check_mask_orientation
from cid_ray.data.ingest.items import ImportItem, ImportPlan
from cid_ray.data.ingest.mask_reader import MaskContent, MaskReader
from cid_ray.data.ingest.options import ImportOptions
from cid_ray.data.ingest.pixel_arrays import count_pixels
from cid_ray.data.ingest.window import DepthCount, Window
from cid_ray.data.table import Table
from cid_ray.data.table_writer import TableWriter, check_only_table

WRITE_ORDER = {"test": 0, "val": 1, "train": 2}
READ_THREADS = 4  # also the number of masks that are held decoded
MAX_SHOWN_ERRORS = 10

Content = tuple[ImageContent, MaskContent | None]


@dataclass(frozen=True)
class ImportResult:
    """A written table, and what a person should know about it."""

    table: Table
    warnings: list[str]
    skipped: list[str]  # a message per bad file that was left out
    findings: Findings  # what else was left out, changed or guessed

    def describe(self) -> list[str]:
        """Lines for a person: the table's splits and classes, then findings and warnings."""
        return [
            *self.table.describe(),
            *self.findings.describe(),
            *(f"left out: {message}" for message in self.skipped),
            *(f"warning: {message}" for message in self.warnings),
        ]


def check_output(out: Path) -> None:
    """InputError if a table cannot be written to a folder: called before any file is read."""
    if (out / "meta.json").exists():
        raise InputError(f"--out {out} already holds a table; choose another folder or remove it")
    if out.is_file():
        raise InputError(f"--out {out} is a file, must be a folder to make")
    if out.is_dir():
        check_only_table(out)


def write_table(plan: ImportPlan, out: Path, options: ImportOptions | None = None) -> ImportResult:
    """Audit every file and write the table.

    Args:
        plan: what an importer listed. The order of its images within a split is kept.
        out: the folder to make.
        options: what the user chose.

    Returns:
        The opened table with warnings and what was left out, changed or guessed.

    Raises:
        InputError: the message lists up to 10 problems. No table is left in the folder.

    Example:
        >>> write_table(list_camvid(Path("CamVid")), Path("tables/camvid")).table.num_classes
        11
    """
    options = options or ImportOptions()
    check_output(out)
    classes, reader = _open_masks(plan, options)
    findings = plan.findings
    audit = Audit(classes.names, options.ignore_index)
    duplicates = Duplicates(findings)
    images = _open_images(plan, options)
    depths = DepthCount()
    bands = open_bands(plan.items, options, findings)
    statistics = BandStatistics()
    writer = TableWriter(out, classes.names, classes.colors, options.ignore_index)
    ordered = sorted(plan.items, key=lambda item: (WRITE_ORDER[item.split], item.mask is None))
    try:
        read = _read_ahead(ordered, _make_reader(bands or images, reader))
        for item, content in options.progress(read, len(ordered)):
            try:
                if isinstance(content, BadFile):
                    raise content
                image, mask = content
                if not duplicates.check(item, image):
                    continue
                statistics.add(item, image)
                writer.add(audited_row(audit, item, image, mask))
                depths.add(item.image, image.is_deep)
                for change in image.changes:
                    findings.add_note(change, item.image)
            except BadFile as error:
                audit.bad_files.append(str(error))
        errors = audit.errors(options.skip_bad)
        if not errors and "train" not in audit.class_pixels:
            reason = "no train image with a mask is left: nothing could be learned"
            errors = [reason, *audit.bad_files]
        if errors:
            may_skip = bool(audit.bad_files) and not options.skip_bad
            raise InputError(_describe_errors(errors, may_skip))
        told = depths.finish(findings, options.window is not None)
        warnings = [*audit.warnings(), *duplicates.warnings(), *told]
        writer.close(
            skipped=audit.bad_files,
            warnings=warnings,
            findings=findings.to_json(),
            **depths.meta(images.window),
            **statistics.meta(),
            **(bands.meta() if bands else {}),
        )
    except BaseException:  # Ctrl-C too
        writer.discard()
        raise
    return ImportResult(Table(out), warnings, audit.bad_files, findings)


def _open_masks(plan: ImportPlan, options: ImportOptions) -> tuple[ClassList, MaskReader]:
    """The classes, guessed if the data set names none, and the reader of their masks."""
    mappings = [plan.mapping, options.mapping]
    classes = plan.classes
    if classes is None:
        plain = MaskReader(ClassList([], []), mappings, options.ignore_index)
        classes = guess_classes(plan.items, plain)
        names = f"class_0 to {classes.names[-1]}"
        plan.findings.add("guessed", "classes, by the ids in the masks", names, len(classes.names))
    return classes, MaskReader(classes, mappings, options.ignore_index)


def _open_images(plan: ImportPlan, options: ImportOptions) -> ImageReader:
    """The reader of the images, with the window that the user gave or the images to find one."""
    window = Window.parse(*options.window) if options.window else None
    return ImageReader(window, [item.image for item in plan.items if item.split == "train"])


def _make_reader(
    image_reader: ImageReader | BandReader, mask_reader: MaskReader
) -> Callable[[ImportItem], Content | BadFile]:
    gate = DecodeGate(MAX_PIXELS_IN_FLIGHT)

    def read(item: ImportItem) -> Content | BadFile:
        """An item's content, or what is wrong with it."""
        try:
            with gate.hold(count_pixels(item.image)):
                image = image_reader.read(item.image)
                if item.mask is None:
                    return image, None
                mask = mask_reader.read(item.mask, image.size)
                check_mask_orientation(item.image, image, mask.ids.shape)
                return image, mask
        except BadFile as error:
            return error
        except OSError as error:
            return BadFile(str(error))

    return read


def _read_ahead(
    items: Sequence[ImportItem], read: Callable[[ImportItem], Content | BadFile]
) -> Iterator[tuple[ImportItem, Content | BadFile]]:
    """Each item with its content in the order of the items; READ_THREADS are read ahead."""
    waiting: deque[tuple[ImportItem, Future[Content | BadFile]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(READ_THREADS) as threads:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them is told here
        for item in items:
            waiting.append((item, threads.submit(read, item)))
            if len(waiting) == READ_THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def audited_row(
    audit: Audit, item: ImportItem, image: ImageContent, mask: MaskContent | None
) -> dict[str, Any]:
    """The table row of one image; BadFile if its mask does not fit.

    Args:
        audit: counts the row.
        item: the image's id, split, group and paths.
        image: what was read of it.
        mask: what was read of its mask, or None.
    """
    class_pixels = None
    if mask is not None:
        mask_name = str(item.mask_path)
        class_pixels = audit.check_mask(mask_name, item.split, mask.ids, image.size).tolist()
    return {
        "image_id": item.image_id,
        "split": item.split,
        "group": item.group,
        "height": image.size[0],
        "width": image.size[1],
        "image_path": item.image.relative_to(item.root).as_posix(),
        "mask_path": _relative_path(item.mask_path, item.root),
        "sha256": hashlib.sha256(image.encoded).hexdigest(),
        "class_pixels": class_pixels,
        "image": image.encoded,
        "mask": None if mask is None else encode_png(mask.ids),
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
