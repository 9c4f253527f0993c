"""labelme: a JSON file per image. Pixels without a shape are background, class 0.

As in labelme's own `labelme2voc.py`: shapes are painted in their order, later ones on top, and
`__ignore__` is "no label". Points, lines and other shapes without an area are left out.
Source: https://github.com/wkentaro/labelme (utils/shape.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.importers.assembly import assemble
from cid_ray.data.importers.labelme_file import LabelmeFile, read_labelme
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.file_kinds import is_listed
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.foreign_json import path_below
from cid_ray.data.ingest.items import DrawnMask, ImportItem, ImportPlan
from cid_ray.data.ingest.label_names import LabelNames
from cid_ray.data.ingest.names import image_name
from cid_ray.data.ingest.shapes import LATER_ON_TOP, Drawing, Patch, paint, reaches_outside


def list_labelme(
    root: Path,
    *,
    images: Path | None = None,
    val: Path | None = None,
    test: Path | None = None,
    unlabeled: Sequence[Path] = (),
    classes: Path | None = None,
    group: str | None = None,
) -> ImportPlan:
    """List the images and shapes of labelme's JSON files.

    Images of `root` without a JSON file were not annotated: they join train as unlabeled images.

    Args:
        root: a folder of JSON files, and those below it.
        images: where images are found by their file names. None: where each JSON file says, which
            must be below `root`.
        val, test: folders of JSON files that select and that are reported. Without val every fifth
            labeled image is val.
        unlabeled: folders of unlabeled images.
        classes: a classes file, also in labelme's form with `__ignore__` and `_background_`.
            None: the labels in alphabetical order.
        group: a regular expression on image names, see `find_groups`.

    Raises:
        InputError: a folder has no file of labelme, an image's path leads out of its folder, or a
            label is not in the classes file.

    Example:
        >>> plan = list_labelme(Path("annotated"))
        >>> plan.classes.names
        ['background', 'cat', 'dog']
    """
    plan = ImportPlan([], None)
    folders = {"train": root, "val": val, "test": test}
    labels: set[str] = set()
    listed: list[tuple[ImportItem, Path]] = []  # without masks, and their JSON files
    for split, folder in folders.items():
        if folder is None:
            continue
        others = {other for other in folders.values() if other} - {folder}
        for file in _read_folder(folder, others, plan):
            item = _locate(file, split, folder, images, plan)
            if item is not None:
                listed.append((item, file.path))
                labels |= {shape.label for shape in file.shapes if not shape.left_out}
                _tell(file, item.image, plan.findings)
    if not listed:
        raise InputError(f"no file of labelme in {root} has an image: {_first_reason(plan)}")
    names = LabelNames(labels, classes, plan.findings)
    for item, path in listed:
        mask = DrawnMask(path, _make_draw(path, item.image, names))
        plan.items.append(replace(item, mask=mask))
    held_out = {folder for folder in (val, test) if folder}
    plan.items += _list_unannotated(images or root, held_out, plan)
    plan.classes = names.classes
    return assemble(plan, unlabeled, group, "--val")


def _first_reason(plan: ImportPlan) -> str:
    return next(iter([*plan.bad_files, *plan.findings.describe()]), "no JSON file is there")


def _read_folder(folder: Path, others: set[Path], plan: ImportPlan) -> Iterator[LabelmeFile]:
    """The files of labelme in a folder and below it, but not in the folders of other splits."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    inner = [other for other in others if other.is_relative_to(folder)]
    for path in sorted(folder.rglob("*.json")):
        if any(path.is_relative_to(other) for other in inner):
            continue
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            plan.findings.add("left out", "hidden files", path)
            continue
        try:
            file = read_labelme(path)
        except BadFile as error:
            plan.bad_files.append(str(error))
            continue
        if file is None:
            plan.findings.add("left out", "JSON files that are not of labelme", path)
        else:
            yield file


def _locate(
    file: LabelmeFile, split: str, root: Path, images: Path | None, plan: ImportPlan
) -> ImportItem | None:
    """The item of a file's image, still without its mask; None if the image is missing."""
    name = file.image_name.replace("\\", "/")
    if images is not None:
        path, image_root = images / name.rpartition("/")[2], images
    else:
        inside = path_below(root, file.path.parent, name)
        if inside is None:
            raise InputError(
                f"{file.path}: imagePath {file.image_name[:200]!r} leads out of {root}; give the "
                "folder above both, or the folder of images as --images"
            )
        path, image_root = inside, root
    relative = file.path.relative_to(root)
    if not path.is_file():
        if not file.image_data:
            reason = "JSON files whose image is missing"
            plan.findings.add("left out", reason, f"{file.path} ({path})")
            return None
        try:
            encoded = file.decode_image()
        except BadFile as error:
            plan.bad_files.append(str(error))
            return None
        suffix = Path(name).suffix or ".image"
        unpacked = plan.unpacked.write(f"{split}/{relative.with_suffix(suffix)}", encoded)
        plan.findings.add("changed", "missing images, taken from imageData", file.path)
        path, image_root = unpacked, unpacked.parents[len(relative.parts) - 1]
    image_id = f"{split}/{relative.with_suffix('').as_posix()}"
    return ImportItem(image_id, split, path, None, None, image_root)


def _tell(file: LabelmeFile, image: Path, findings: Findings) -> None:
    """Tell what is left out, changed or guessed of the shapes of one image."""
    for shape in file.shapes:
        if shape.left_out:
            findings.add("left out", shape.left_out, file.path)
        elif file.size and reaches_outside(shape.points, file.size):
            findings.add("changed", "shapes cut at the image's border", file.path)
    if not file.shapes:
        findings.add("guessed", "images without a shape, all background", image)
    if file.num_flags:
        findings.add("left out", "flags of images", file.path, file.num_flags)


def _make_draw(path: Path, image: Path, names: LabelNames) -> Callable[[int, int], Drawing]:
    """What draws the mask of one image. The file is read again: none is held in memory."""

    def draw(height: int, width: int) -> Drawing:
        file = read_labelme(path)
        if file is None:
            raise BadFile(f"{path} was changed during the import")
        if file.size not in (None, (height, width)):
            said = f"{file.size[1]} x {file.size[0]}" if file.size else ""
            raise BadFile(f"{image}: {width} x {height} pixels, {path} says {said}")
        return paint((height, width), _layers(file, names, (height, width)), LATER_ON_TOP)

    return draw


def _layers(
    file: LabelmeFile, names: LabelNames, size: tuple[int, int]
) -> Iterator[tuple[int, Patch]]:
    for index, shape in enumerate(file.shapes):
        if shape.left_out:
            continue
        try:
            yield names.id_of(shape.label), shape.draw(size)
        except (ValueError, KeyError) as error:
            raise BadFile(f"{file.path}: shape {index} ({shape.label[:40]!r}): {error}") from None


def _list_unannotated(folder: Path, held_out: set[Path], plan: ImportPlan) -> list[ImportItem]:
    """The images of a folder that no JSON file names, as unlabeled images."""
    annotated = {item.image for item in plan.items}
    items = []
    for path in sorted(folder.rglob("*")):
        if not is_listed(path, folder) or path in annotated or not path.is_file():
            continue
        if any(path.is_relative_to(other) for other in held_out):
            plan.findings.add("left out", "images of val or test without a JSON file", path)
            continue
        if path.with_suffix(".json").is_file():
            reason = "images whose JSON file is damaged or names another image"
            plan.findings.add("left out", reason, path)
            continue
        reason = "images without a JSON file, taken as unlabeled"
        plan.findings.add("guessed", reason, path)
        name = image_name(path, folder)
        items.append(ImportItem(f"unannotated/{name}", "train", path, None, None, folder))
    return items
