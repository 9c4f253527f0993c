"""Folders of unlabeled images, which join train as its pool.

What is no new photo is left out before a byte is read: images and masks of this import, whether
the folder is above them, the same, or links to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import DrawnMask, ImportItem
from cid_ray.data.ingest.listing import FileIdentities, list_images
from cid_ray.data.ingest.name_rule import names_in
from cid_ray.data.ingest.names import safe_name

LISTED_ALREADY = "unlabeled images that are listed already"
MASKS = "masks in folders of unlabeled images"


def list_unlabeled(
    folders: Sequence[Path],
    group: str | None,
    findings: Findings,
    labeled: Iterable[ImportItem] = (),
    mask_suffix: str = "",
) -> list[ImportItem]:
    """The images of folders, without masks. The group of an image is its folder's name by default.

    Args:
        folders: may overlap each other and the labeled folders.
        group: a regular expression, see `find_groups`.
        findings: gets what was left out.
        labeled: the images of this import. They and their masks are no pool images.
        mask_suffix: end of the names of masks, which are left out (`--mask-suffix`).

    Raises:
        InputError: a folder is missing or empty, or holds nothing but files of this import, or
            `group` cannot be matched.

    Example:
        >>> items = list_unlabeled([Path("more_photos")], None, Findings())
        >>> items[0].image_id, items[0].group
        ('pool0/a', 'more_photos')
    """
    known = _KnownFiles(labeled)
    return [
        item
        for number, folder in enumerate(folders)
        for item in _list_folder(folder, number, group, findings, known, mask_suffix)
    ]


class _KnownFiles:
    """The files of this import that are listed already, and why each is no new pool image."""

    def __init__(self, labeled: Iterable[ImportItem]):
        self._identities = FileIdentities()
        self._reasons: dict[str, tuple[str, Path]] = {}  # identity -> (reason, path)
        for item in labeled:
            what = "labeled train" if item.split == "train" else item.split
            reason = f"unlabeled images that are {what} images too"
            self._add(item.image, LISTED_ALREADY if item.mask is None else reason)
            if item.mask is not None and not isinstance(item.mask, DrawnMask):
                self._add(item.mask, MASKS)

    def _add(self, path: Path, reason: str) -> None:
        self._reasons.setdefault(self._identities.of(path), (reason, path))

    def why_known(self, path: Path) -> tuple[str, Path] | None:
        """The reason and the path under which a file is listed already. Else it is added."""
        new = (LISTED_ALREADY, path)
        found = self._reasons.setdefault(self._identities.of(path), new)
        return None if found is new else found


def _list_folder(
    folder: Path,
    number: int,
    group: str | None,
    findings: Findings,
    known: _KnownFiles,
    mask_suffix: str,
) -> list[ImportItem]:
    listed = list_images(folder, findings, unique=False)  # `known` says more
    found = [path for path in listed if not _leave_out(path, known, mask_suffix, findings)]
    if not found:
        raise InputError(
            f"--unlabeled {folder} holds no image besides those of this import: all "
            f"{len(listed)}, first {listed[0]}, are its labeled images, masks, or unlabeled "
            "images of another folder; leave this option out"
        )
    names = names_in(found, folder, findings)
    groups = find_groups(group, list(names.values()))
    count_of = Counter(names.values())
    return [
        # Two folders may hold the same names, so the folder's number is part of the id.
        ImportItem(
            # a.jpg beside a.png: both are images here, so the id keeps the suffix.
            f"pool{number}/{name}" + (path.suffix if count_of[name] > 1 else ""),
            "train",
            path,
            None,
            own or safe_name(folder.name),
            folder,
        )
        for (path, name), own in zip(names.items(), groups, strict=True)
    ]


def _leave_out(path: Path, known: _KnownFiles, mask_suffix: str, findings: Findings) -> bool:
    if found := known.why_known(path):
        reason, first = found
        findings.add("left out", reason, f"{path} = {first}" if first != path else path)
    elif mask_suffix and path.stem.endswith(mask_suffix):
        findings.add("left out", MASKS, path)
    else:
        return False
    return True
