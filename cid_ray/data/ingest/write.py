"""Reads, audits and writes the files that an importer listed.

Held-out splits come first. A copy of a held-out image in train is then found in train, and is left
out there: the held-out set stays the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.audit import Audit
from cid_ray.data.ingest.band_reader import open_bands
from cid_ray.data.ingest.band_statistics import BandStatistics
from cid_ray.data.ingest.classes import ClassList, shift_ids
from cid_ray.data.ingest.duplicates import Duplicates
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.guess_classes import guess_classes
from cid_ray.data.ingest.image_reader import ImageContent
from cid_ray.data.ingest.items import ImportItem, ImportPlan
from cid_ray.data.ingest.mask_reader import MaskContent, MaskReader
from cid_ray.data.ingest.mask_survey import survey_masks
from cid_ray.data.ingest.names import safe_name, shown_name
from cid_ray.data.ingest.options import ImportOptions
from cid_ray.data.ingest.read import open_images, read_all
from cid_ray.data.ingest.tiles import Content, why_left_out
from cid_ray.data.ingest.window import DepthCount
from cid_ray.data.table import Table
from cid_ray.data.table_writer import TableWriter, check_only_table

WRITE_ORDER = {"test": 0, "val": 1, "train": 2}
MAX_SHOWN_ERRORS = 10


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
    """Whether a table can be written to a folder: called before any file is read.

    Raises:
        InputError: the folder holds something, or this user may not write there.
        OSError: its file system is read-only.
    """
    if (out / "meta.json").exists():
        raise InputError(f"--out {out} already holds a table; choose another folder or remove it")
    if out.is_file():
        raise InputError(f"--out {out} is a file, must be a folder to make")
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if os.statvfs(existing).f_flag & os.ST_RDONLY:  # as a full disk: no other option would help
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(out))
    if not os.access(existing, os.W_OK):
        raise InputError(f"--out {out} cannot be written: {existing} is read-only for this user")
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
    _check_ids(plan.items)
    classes, masks = _open_masks(plan, options)
    images = open_images(plan, options)
    bands = open_bands(plan.items, options, plan.findings)
    judge = _Judge(classes, plan, options)
    writer = TableWriter(out, classes.names, classes.colors, options.ignore_index)
    ordered = sorted(plan.items, key=lambda item: (WRITE_ORDER[item.split], item.mask is None))
    try:
        for item, content in read_all(
            ordered, bands or images, masks, options, plan.findings, judge.wholes
        ):
            row = judge.row_of(item, content)
            if row is not None:
                writer.add(row)
        meta = judge.finish()
        writer.close(
            **meta,
            **judge.depths.meta(images.window),
            **(bands.meta() if bands else {}),
        )
    except BaseException:  # Ctrl-C too
        writer.discard()
        raise
    return ImportResult(Table(out), meta["warnings"], judge.audit.bad_files, plan.findings)


class _Judge:
    """Decides of every image whether it is stored, and reports at the end what was found.

    Attributes:
        audit: of the masks. depths: of 8-bit and deeper images.
        wholes: the images before they are cut; with tiles alone.
    """

    def __init__(self, classes: ClassList, plan: ImportPlan, options: ImportOptions):
        self.audit = Audit(
            classes.names,
            options.ignore_index,
            bad_files=[*plan.bad_files],
            unmatched_rule=options.unmatched,
            blurred_rule=options.blurred,
        )
        self.depths = DepthCount()
        self._options = options
        self._findings = plan.findings
        self.wholes = Duplicates(plan.findings, options.near_duplicates)
        self._duplicates = Duplicates(plan.findings, options.near_duplicates)
        self._statistics = BandStatistics()
        self._without_label: list[str] = []

    def row_of(self, item: ImportItem, content: Content | BadFile) -> dict[str, Any] | None:
        """The row of an image; None if it is left out, which is then counted and named."""
        try:
            if isinstance(content, BadFile):
                raise content
            image, mask = content
            if not self._duplicates.check(item, image):
                return None
            row = audited_row(self.audit, item, image, mask)
            reason = self._options.tile and why_left_out(content, self._options.ignore_index)
            if reason:
                self._findings.add("left out", reason, item.name)
                return None
            self._statistics.add(item, image)
            if mask is not None and not any(row["class_pixels"]):
                self._without_label.append(item.name)
        except BadFile as error:
            self.audit.bad_files.append(shown_name(error))
            return None
        self.depths.add(item.image, image.is_deep)
        for note in image.changes:
            self._findings.add_note(note, item.image)
        for change in mask.changes if mask else ():
            self._findings.add("changed", change, item.image)
        return row

    def finish(self) -> dict[str, Any]:
        """What `meta.json` stores of the import.

        Raises:
            InputError: no table can be written of what was read.
        """
        _check(self.audit, self._options.skip_bad)
        self.audit.add_findings(self._findings)
        # Tiles of one image look alike without being copies, so images are reported.
        alike = (self._duplicates if self._options.tile is None else self.wholes).report()
        depth_warnings = self.depths.finish(self._findings, self._options.window is not None)
        return {
            "imported": dict(self._options.provenance),
            "skipped": self.audit.bad_files,
            "warnings": [*self.audit.warnings(), *self._warn(), *alike.warnings, *depth_warnings],
            "findings": self._findings.to_json(),
            **self._options.tile_meta(),
            **alike.meta,
            **self._statistics.meta(),
        }

    def _warn(self) -> list[str]:
        if not self._without_label:
            return []
        named = shown_name(", ".join(self._without_label[:3]))
        return [
            f"{len(self._without_label)} masks have no labeled pixel ({named}): they teach and "
            "score nothing, and count as labels; leave them out, or put the images in --unlabeled"
        ]


def _check_ids(items: list[ImportItem]) -> None:
    """InputError for two images of one id: such as a.jpg and a.png of one folder."""
    image_of: dict[str, Path] = {}
    for item in items:
        other = image_of.setdefault(item.image_id, item.image)
        if other is not item.image:
            raise InputError(
                f"{other} and {item.image} have the same name {item.image_id}; rename one"
            )


def _open_masks(plan: ImportPlan, options: ImportOptions) -> tuple[ClassList, MaskReader]:
    """The classes, guessed if the data set names none, and the reader of their masks."""
    mappings = [plan.mapping, shift_ids(options.first_id, options.mapping, options.ignore_index)]
    files = [item.mask for item in plan.items if isinstance(item.mask, Path)]
    findings = plan.findings
    for reason, example in plan.classes.notes if plan.classes else ():
        findings.add("guessed", reason, example)
    named = plan.classes or ClassList([], [])
    decision = survey_masks(files, named, options.ignore_index, findings)
    if options.first_id and decision.by_color:
        raise InputError(
            f"--first-id {options.first_id} is for masks that hold ids, and the classes of "
            f"{decision.by_color} are given by colours; leave out --first-id"
        )
    classes = decision.classes
    if plan.classes is None:
        plain = MaskReader(classes, mappings, options.ignore_index, decision.code)
        classes = guess_classes(files, plain, findings, options.blurred == "error")
    return classes, MaskReader(classes, mappings, options.ignore_index, decision.code)


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
        audit.add_content(mask_name, mask)
    return {
        "image_id": item.image_id,
        "split": item.split,
        "group": item.group,
        "height": image.size[0],
        "width": image.size[1],
        "image_path": safe_name(item.image.relative_to(item.root).as_posix()),
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
    relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return safe_name(relative)


def _check(audit: Audit, skip_bad: bool) -> None:
    """InputError if no table can be written of what was read."""
    errors = audit.errors(skip_bad)
    if not errors and not np.any(audit.class_pixels.get("train", 0)):
        reason = "no train image with a labeled pixel is left: nothing could be learned"
        errors = [reason, *audit.bad_files]
    if errors:
        may_skip = bool(audit.bad_files) and not skip_bad
        raise InputError(_describe_errors(errors, may_skip))


def _describe_errors(errors: list[str], may_skip: bool) -> str:
    lines = errors[:MAX_SHOWN_ERRORS]
    if len(errors) > len(lines):
        lines = [*lines, f"... and {len(errors) - len(lines)} more"]
    shown = "\n  ".join(lines)
    hint = "\nBad files can be left out with --skip-bad." if may_skip else ""
    return f"no table was written, {len(errors)} problem(s):\n  {shown}{hint}"
