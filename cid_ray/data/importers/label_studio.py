"""Label Studio: its JSON export, and its PNG export of brush masks.

The JSON export names the images; a PNG export names tasks by number only. Regions are painted in
their order, later ones on top; of PNGs, which have no order, the smaller one is on top. Pixels
without a region are background, class 0. A brush counts where its alpha is above 0, as in Label
Studio's own COCO export.
Format: https://labelstud.io/guide/export
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.assembly import assemble
from cid_ray.data.importers.label_studio_file import Task, read_tasks
from cid_ray.data.importers.label_studio_images import ImageFinder, image_reference
from cid_ray.data.importers.label_studio_png import BrushFiles
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.items import DrawnMask, ImportItem, ImportPlan
from cid_ray.data.ingest.label_names import LabelNames
from cid_ray.data.ingest.shapes import LATER_ON_TOP, Drawing, Patch, paint


def list_label_studio(
    tasks: Path,
    images: Path,
    *,
    masks: Path | None = None,
    image_key: str | None = None,
    unlabeled: Sequence[Path] = (),
    classes: Path | None = None,
    group: str | None = None,
) -> ImportPlan:
    """List the images and regions of a Label Studio export.

    Tasks without an annotation join train as unlabeled images.

    Args:
        tasks: the JSON export.
        images: the folder below which images are found by their file names.
        masks: the PNG export ("brush labels to PNG"). None: regions are taken from `tasks`.
        image_key: which field of a task's `data` names the image. None: the one that does.
        unlabeled: folders of unlabeled images.
        classes: a classes file. None: the labels in alphabetical order.
        group: a regular expression on image names, see `find_groups`.

    Raises:
        InputError: `tasks` is no such export, no image is found, or a label is not in the classes
            file.

    Example:
        >>> plan = list_label_studio(Path("project-1.json"), Path("photos"))
        >>> plan.classes.names
        ['background', 'cat', 'dog']
    """
    plan = ImportPlan([], None)
    finder = ImageFinder(images, plan.findings)
    found: list[tuple[Task, Path]] = []
    for task in read_tasks(tasks, plan.findings, plan.bad_files):
        reference = image_reference(task, image_key, tasks)
        path = finder.find(reference)
        if path is None:
            reason = f"tasks whose image is not below {images}"
            plan.findings.add("left out", reason, f"task {task.number} ({reference[:200]})")
        else:
            found.append((task, path))
    annotated = [task for task, _ in found if task.annotation is not None]
    if not annotated:
        reasons = [*plan.bad_files, *plan.findings.describe(), "it has no annotation"]
        raise InputError(f"no annotated task of {tasks} has an image: {reasons[0]}")
    brushes = BrushFiles(masks, classes, plan.findings) if masks else None
    if brushes:
        labels = brushes.labels_of(annotated)
    else:
        labels = {region.label for task in annotated for region in task.regions}
    names = LabelNames(labels, classes, plan.findings)
    for task, path in found:
        item = ImportItem(f"train/task-{task.number}", "train", path, None, None, images)
        if task.annotation is None:
            plan.findings.add("guessed", "tasks without an annotation, taken as unlabeled", path)
        else:
            draw = brushes.make_draw(task, names) if brushes else _make_draw(task, tasks, names)
            if not task.regions and not (brushes and brushes.has(task)):
                reason = "annotations without a region, all background"
                plan.findings.add("guessed", reason, path)
            item = replace(item, mask=DrawnMask(masks or tasks, draw))
        plan.items.append(item)
    plan.classes = names.classes
    return assemble(plan, unlabeled, group, "way to name them in Label Studio")


def _make_draw(task: Task, tasks: Path, names: LabelNames) -> Callable[[int, int], Drawing]:
    def draw(height: int, width: int) -> Drawing:
        return paint((height, width), layers((height, width)), LATER_ON_TOP)

    def layers(size: tuple[int, int]) -> Iterator[tuple[int, Patch]]:
        for region in task.regions:
            try:
                yield names.id_of(region.label), region.draw(size)
            except ValueError as error:
                raise BadFile(f"{tasks}, task {task.number}: {error}") from None

    return draw
