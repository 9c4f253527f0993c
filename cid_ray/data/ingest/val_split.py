"""Val for a data set that has none: about a fifth of the labeled images.

Images of one group look alike (a drive, a patient, a site). With `--group` val is therefore made of
whole groups, and no image of such a group stays in train.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem

HELD_OUT = "val images (no "  # how the reason of a finding starts
VAL_EVERY = 5  # the fifth, tenth, ... labeled image is val, or a fifth of them by whole groups
MAX_NAMED_GROUPS = 10
POOL_OF_VAL_GROUPS = "unlabeled images of the val groups"


def hold_out_val(
    items: Iterable[ImportItem],
    findings: Findings,
    option: str = "--val-images",
    by_group: bool = False,
) -> list[ImportItem]:
    """The items with about a fifth of the labeled train images as val.

    Args:
        items: listed images. Those of other splits are left as they are.
        findings: gets each val image, or of each val group.
        option: what would have named the val images.
        by_group: take whole groups. Unlabeled images of these groups are left out. An image without
            a group is a group of its own.

    Raises:
        InputError: all labeled images are of one group.

    Example:
        >>> plan = list_folders(Path("photos"), Path("masks"), group="^(site[0-9]+)_")
        >>> sorted({item.group for item in plan.items if item.split == "val"})
        ['site3']
    """
    items = list(items)
    return (_hold_out_groups if by_group else _hold_out_every_fifth)(items, findings, option)


def _hold_out_every_fifth(
    items: list[ImportItem], findings: Findings, option: str
) -> list[ImportItem]:
    chosen = []
    seen = 0
    for item in items:
        if _is_labeled(item):
            seen += 1
            if seen % VAL_EVERY == 0:
                item = replace(item, split="val")
                reason = f"{HELD_OUT}{option}: every fifth labeled image)"
                findings.add("guessed", reason, item.image)
        chosen.append(item)
    return chosen


def _hold_out_groups(items: list[ImportItem], findings: Findings, option: str) -> list[ImportItem]:
    sizes = Counter(_group_of(item) for item in items if _is_labeled(item))
    if len(sizes) == 1:
        raise InputError(
            f"--group puts all {sizes.total()} labeled images into one group, "
            f"{next(iter(sizes))!r}, so val cannot be whole groups; pass {option}, or a --group "
            "whose first group, in (), differs between images"
        )
    val_groups = choose_groups(sizes)
    chosen = []
    for item in items:
        if item.split == "train" and _group_of(item) in val_groups:
            if item.mask is None:
                findings.add("left out", POOL_OF_VAL_GROUPS, item.image)
                continue
            item = replace(item, split="val")
        chosen.append(item)
    named = sorted(val_groups)
    more = f" and {len(named) - MAX_NAMED_GROUPS} more" if len(named) > MAX_NAMED_GROUPS else ""
    count = sum(sizes[name] for name in named)
    reason = f"val images (no {option}: {len(named)} of {len(sizes)} groups, whole)"
    findings.add("guessed", reason, ", ".join(named[:MAX_NAMED_GROUPS]) + more, count)
    return chosen


def choose_groups(sizes: Mapping[str, int]) -> set[str]:
    """Groups that hold about a fifth of the images: at least one, and never all of several.

    The order in which groups are tried is drawn from their names, so it is the same on every
    machine, and no rule of the names (by date, by site) makes val special.

    Args:
        sizes: group -> number of images.

    Example:
        >>> sorted(choose_groups({"a": 40, "b": 10, "c": 50}))
        ['b']
    """
    target = sum(sizes.values()) / VAL_EVERY
    drawn = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen: set[str] = set()
    total = 0
    for name in drawn:
        if abs(total + sizes[name] - target) < abs(total - target):
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(drawn, key=lambda name: sizes[name])}


def without_val_groups(
    pool: Iterable[ImportItem], items: Iterable[ImportItem], findings: Findings
) -> list[ImportItem]:
    """Unlabeled images without those of the groups that `hold_out_val` took.

    Args:
        pool: unlabeled images.
        items: the labeled images, of which some are val.
        findings: gets what is left out.
    """
    val_groups = {item.group for item in items if item.split == "val"}
    kept = []
    for item in pool:
        if item.group in val_groups:
            findings.add("left out", POOL_OF_VAL_GROUPS, item.image)
        else:
            kept.append(item)
    return kept


def _is_labeled(item: ImportItem) -> bool:
    return item.split == "train" and item.mask is not None


def _group_of(item: ImportItem) -> str:
    return item.image_id if item.group is None else item.group
