"""The classes of a data set that names none: by the ids in its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.ingest.blur import BlurCheck, EdgeCounts
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.mask_reader import MaskReader
from cid_ray.data.ingest.mask_survey import in_threads
from cid_ray.data.ingest.row_source import mask_parts

MANY_IDS = 20  # a sample of a set with 182 classes may hold half of them
MAX_SHOWN_IDS = 20


def guess_classes(
    files: Sequence[Path], reader: MaskReader, findings: Findings, check_blur: bool = True
) -> ClassList:
    """class_0, class_1, ... up to the highest id in the masks.

    Every mask is read. A bad file is skipped here: the audit names it.

    Args:
        files: the masks that are image files.
        reader: renumbers their ids.
        findings: gets the guess.
        check_blur: refuse masks that look blurred, of which every id would become a class.

    Raises:
        InputError: the masks are blurred, or their ids do not count on from 0.
    """

    def read(path: Path) -> list[tuple[np.ndarray, EdgeCounts | None]]:
        """Which ids are in each part of a mask, bool[256], and its edges."""
        try:
            return [(_present(part.ids), part.edges) for part in mask_parts(path, reader)]
        except BadFile:
            return []

    present = np.zeros(256, bool)
    blur = BlurCheck()
    for path, parts in zip(files, in_threads(read, files), strict=True):
        for held, edges in parts:
            present |= held
            if edges is not None:
                blur.add(str(path), edges)
    error = blur.error()
    if error is not None and check_blur:
        raise InputError(error)
    present[reader.ignore_index] = False
    ids = np.flatnonzero(present).tolist() or [0]
    _check_count_from_0(ids)
    classes = ClassList.of_names(f"class_{index}" for index in range(ids[-1] + 1))
    names = f"class_0 to {classes.names[-1]}"
    missing = sorted(set(range(ids[-1])) - set(ids))
    if missing:
        names += f", of which no mask holds {_join(missing)}"
    findings.add("guessed", "classes, by the ids in the masks", names, len(classes.names))
    return classes


def _present(ids: np.ndarray) -> np.ndarray:
    """bool[256]: which ids a mask u8[H, W] holds."""
    return np.bincount(ids.ravel(), minlength=256) > 0


def _check_count_from_0(ids: list[int]) -> None:
    """InputError if ids 0, 1, 2, ... would leave most classes without a pixel, or the first."""
    span = ids[-1] - ids[0] + 1
    is_dense = 2 * len(ids) >= span or (len(ids) >= MANY_IDS and 4 * len(ids) >= span)
    if is_dense and ids[0] == 0:
        return
    if is_dense:
        raise InputError(
            f"the masks hold the ids {ids[0]} to {ids[-1]} and no 0: if the first class has id "
            f"{ids[0]}, import with --first-id {ids[0]}; else name the classes in a classes file "
            "(--classes)"
        )
    remedy = " ".join(
        f"--map {old}={new}" for new, old in enumerate(ids[:MAX_SHOWN_IDS]) if old != new
    )
    raise InputError(
        f"the masks hold {len(ids)} ids with gaps ({_join(ids)}), so they do not number classes; "
        f"renumber them: `{remedy}`, or name the classes in a classes file (--classes)"
    )


def _join(ids: list[int]) -> str:
    more = ", ..." if len(ids) > MAX_SHOWN_IDS else ""
    return ", ".join(map(str, ids[:MAX_SHOWN_IDS])) + more
