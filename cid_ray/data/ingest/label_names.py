"""The classes of annotation tools, which know labels by name: background first, then the labels.

labelme's conventions: `_background_` is class 0, and `__ignore__` is "no label".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.shapes import IGNORED
from cid_ray.data.table_meta import MAX_CLASSES, check_class_name

BACKGROUND_NAMES = ("_background_", "background")
IGNORE_NAMES = ("__ignore__",)


def background_first(names: Sequence[str], background: str = "background") -> ClassList:
    """Classes after a black background, in our default colours."""
    return ClassList([background, *names], [[0, 0, 0], *default_colors(len(names))])


class LabelNames:
    """The classes of a set of labels, and the id of each label.

    Args:
        labels: the labels that the files use.
        classes: a classes file, see `read_classes`. None: the labels in alphabetical order.
        findings: gets a background class that was added, and of guessed classes.

    Raises:
        InputError: a label is not in the classes file or is no class name, or there is none.

    Example:
        >>> names = LabelNames(["dog", "cat", "__ignore__"], None, Findings())
        >>> names.classes.names, names.id_of("dog"), names.id_of("__ignore__")
        (['background', 'cat', 'dog'], 2, 255)
    """

    def __init__(self, labels: Iterable[str], classes: Path | None, findings: Findings):
        used = set(labels)
        if classes is None:
            names = sorted(used - {*BACKGROUND_NAMES, *IGNORE_NAMES})
            findings.add("guessed", "classes, the labels in use", ", ".join(names), len(names))
            self.classes = background_first(names, _background_of(used))
        else:
            self.classes = _read_with_background(classes, findings)
        for name in self.classes.names:
            try:
                check_class_name(name)
            except ValueError as error:
                raise InputError(f"a label is no class name: {error}") from None
        if not 2 <= len(self.classes.names) <= MAX_CLASSES:
            raise InputError(
                f"{len(self.classes.names)} classes with background, must be 2 to {MAX_CLASSES}"
            )
        self._ids = {name: number for number, name in enumerate(self.classes.names)}
        self._ids |= dict.fromkeys(IGNORE_NAMES, IGNORED)
        self._ids |= dict.fromkeys(BACKGROUND_NAMES, 0)
        unknown = sorted(used - set(self._ids))
        if unknown:
            raise InputError(
                f"labels that classes file {classes} does not name: {', '.join(unknown)[:400]}; "
                f"add them, or `{IGNORE_NAMES[0]}` in their place in the annotations"
            )

    def id_of(self, label: str) -> int:
        """The class id of a label, IGNORED for `__ignore__`."""
        return self._ids[label]


def _background_of(labels: set[str]) -> str:
    """The name of class 0: as the labels call it."""
    return next((name for name in BACKGROUND_NAMES if name in labels), "background")


def _read_with_background(path: Path, findings: Findings) -> ClassList:
    """The classes of a file, without `__ignore__` and with background as class 0."""
    read = read_classes(path)
    kept = [
        (name, color)
        for name, color in zip(read.names, read.colors, strict=True)
        if name not in IGNORE_NAMES
    ]
    names = [name for name, _ in kept]
    colors = [color for _, color in kept]
    if any(name in BACKGROUND_NAMES for name in names[1:]):
        raise InputError(f"classes file {path}: background must be the first class, id 0")
    if names and names[0] in BACKGROUND_NAMES:
        return ClassList(names, colors, read.has_colors)
    findings.add("changed", "classes files without background, added as class 0", path)
    if not read.has_colors:
        return background_first(names)
    return ClassList(["background", *names], [[0, 0, 0], *colors], has_colors=True)
