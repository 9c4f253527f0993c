"""Folders of unlabeled images, which join train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.listing import list_images


def list_unlabeled(
    folders: Sequence[Path], group: str | None, findings: Findings
) -> list[ImportItem]:
    """The images of folders, without masks. The group of an image is its folder's name by default.

    Raises:
        InputError: a folder is missing or empty, or `group` cannot be matched.
    """
    return [
        item
        for number, folder in enumerate(folders)
        for item in _list_folder(folder, number, group, findings)
    ]


def _list_folder(
    folder: Path, number: int, group: str | None, findings: Findings
) -> list[ImportItem]:
    found = list_images(folder, findings)
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    groups = find_groups(group, names)
    return [
        # Two folders may hold the same names, so the folder's number is part of the id.
        ImportItem(f"pool{number}/{name}", "train", path, None, own or folder.name, folder)
        for path, name, own in zip(found, names, groups, strict=True)
    ]
