"""Which local file is the image of a Label Studio task.

A task names its image as Label Studio's server reaches it: `/data/upload/3/1a2b3c4d-cat.jpg`,
`/data/local-files/?d=photos/cat.jpg`, `s3://bucket/cat.jpg`, `https://...`. So images are found by
their file names. No reference is opened as a path.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from cid_ray.config import InputError
from cid_ray.data.importers.label_studio_file import Task
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.listing import IMAGE_SUFFIXES, list_images

UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")  # which Label Studio puts before an uploaded file


class ImageFinder:
    """The images below a folder, by file name.

    Args:
        folder: the folder.
        findings: gets images found by a part of their reference.

    Raises:
        InputError: the folder is missing or has no image.
    """

    def __init__(self, folder: Path, findings: Findings):
        self._folder = folder
        self._findings = findings
        self._paths: dict[str, list[Path]] = {}
        for path in list_images(folder, findings):
            self._paths.setdefault(path.name, []).append(path)

    def find(self, reference: str) -> Path | None:
        """The file of a reference; None if there is none, or several are equally near.

        Of several files of one name, the one counts that shares most parent folders.
        """
        parts = PurePosixPath(_path_of(reference)).parts
        if not parts:
            return None
        candidates = self._paths.get(parts[-1], [])
        if not candidates and UPLOAD_PREFIX.match(parts[-1]):
            parts = (*parts[:-1], UPLOAD_PREFIX.sub("", parts[-1], count=1))
            candidates = self._paths.get(parts[-1], [])
            if candidates:
                reason = "images found without the prefix of an upload"
                self._findings.add("guessed", reason, reference)
        shared = [_num_shared(path.relative_to(self._folder).parts, parts) for path in candidates]
        best = [p for p, count in zip(candidates, shared, strict=True) if count == max(shared)]
        return best[0] if len(best) == 1 else None


def _path_of(reference: str) -> str:
    """The path in a reference, without host, query and percent signs."""
    try:
        split = urlsplit(reference)
        local = parse_qs(split.query).get("d")
    except ValueError:
        return reference
    if split.path.rstrip("/").endswith("local-files") and local:
        return local[0].replace("\\", "/")
    return unquote(split.path).replace("\\", "/")


def _num_shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many components two paths share from their end."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def image_reference(task: Task, key: str | None, path: Path) -> str:
    """The text that names a task's image.

    Args:
        task: the task.
        key: the field of its data; None: the only one that names an image.
        path: the export, for messages.

    Raises:
        InputError: the field is missing, or several fields could be meant.
    """
    texts = {name: value for name, value in task.data.items() if isinstance(value, str)}
    if key is not None:
        if key not in texts:
            raise InputError(
                f"{path}, task {task.number}: no field {key!r} in its data, only {sorted(texts)}"
            )
        return texts[key]
    found = {
        name: value
        for name, value in texts.items()
        if PurePosixPath(_path_of(value)).suffix.lower() in IMAGE_SUFFIXES
    }
    if len(found) != 1:
        what = "several fields name" if found else "no field names"
        raise InputError(
            f"{path}, task {task.number}: {what} an image among {sorted(found or texts)}; "
            "choose one by --image-key"
        )
    return next(iter(found.values()))
