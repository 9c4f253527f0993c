"""Label Studio's PNG export: a grey PNG per brush region, named by task, annotation and label."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.image_codec import open_image
from cid_ray.data.importers.label_studio_file import Task
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.label_names import LabelNames
from cid_ray.data.ingest.listing import list_images
from cid_ray.data.ingest.pixel_arrays import DECODE_ERRORS
from cid_ray.data.ingest.shapes import SMALLER_ON_TOP, Drawing, Patch, paint

# task-5-annotation-7-by-1-tag-cat-0.png: letters of the annotator are letters, digits, @ and dots.
FILE_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-([^-]*)-(?P<tag>[^-]+)-(?P<label>.+)-\d+")

Key = tuple[str, str]  # task, annotation


class BrushFiles:
    """The PNGs of an export by task and annotation.

    Args:
        folder: the PNGs.
        classes: a classes file; it decides where a label begins that follows a tag with a dash.
        findings: gets files that are left out.

    Raises:
        InputError: the folder has no such PNG.
    """

    def __init__(self, folder: Path, classes: Path | None, findings: Findings):
        self._findings = findings
        self._files: dict[Key, list[tuple[str, Path]]] = {}
        known = sorted(read_classes(classes).names, key=len, reverse=True) if classes else []
        for path in list_images(folder, findings):
            match = FILE_NAME.fullmatch(path.stem)
            if match is None:
                findings.add("left out", "files not named as Label Studio's PNG export", path)
                continue
            rest = f"{match['tag']}-{match['label']}"
            label = next((name for name in known if rest.endswith(f"-{name}")), match["label"])
            self._files.setdefault((match[1], match[2]), []).append((label, path))
        if not self._files:
            raise InputError(
                f"{folder} has no file of Label Studio's PNG export, "
                "such as task-1-annotation-1-by-1-tag-cat-0.png"
            )

    def labels_of(self, tasks: Iterable[Task]) -> set[str]:
        """The labels of the annotations that count; the other files are reported as left out."""
        counted = {_key_of(task) for task in tasks}
        for key, files in self._files.items():
            if key not in counted:
                reason = "PNGs of tasks or annotations that do not count"
                self._findings.add("left out", reason, files[0][1], len(files))
        return {label for key in counted for label, _ in self._files.get(key, [])}

    def has(self, task: Task) -> bool:
        """Whether a task's annotation has a PNG."""
        return _key_of(task) in self._files

    def make_draw(self, task: Task, names: LabelNames) -> Callable[[int, int], Drawing]:
        """What draws the mask of a task, smaller regions over larger ones."""
        files = self._files.get(_key_of(task), [])

        def draw(height: int, width: int) -> Drawing:
            if task.regions and not files:
                raise BadFile(f"task {task.number}: its annotation has regions and no PNG")
            size = height, width
            areas = {path: int(np.count_nonzero(_read_brush(path, size))) for _, path in files}
            ordered = sorted(files, key=lambda file: -areas[file[1]])
            return paint(size, layers(ordered, size), SMALLER_ON_TOP)

        def layers(
            ordered: list[tuple[str, Path]], size: tuple[int, int]
        ) -> Iterator[tuple[int, Patch]]:
            for label, path in ordered:
                yield names.id_of(label), Patch(0, 0, _read_brush(path, size))

        return draw


def _key_of(task: Task) -> Key:
    return str(task.number), str(task.annotation)


def _read_brush(path: Path, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W]: where the brush has painted."""
    try:
        with open_image(path) as image:
            mask = np.asarray(image.convert("L")) > 0
    except DECODE_ERRORS as error:
        raise BadFile(f"{path}: unreadable mask ({error})") from None
    if mask.shape != size:
        found = f"{mask.shape[1]} x {mask.shape[0]}"
        raise BadFile(f"{path}: the mask is {found}, its image {size[1]} x {size[0]} pixels")
    return mask
