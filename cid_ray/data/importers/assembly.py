"""The last steps of every format that has a folder of images: groups, val, the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportPlan
from cid_ray.data.ingest.names import image_name
from cid_ray.data.ingest.unlabeled import list_unlabeled
from cid_ray.data.ingest.val_split import hold_out_val, without_val_groups


def assemble(
    plan: ImportPlan, unlabeled: Sequence[Path], group: str | None, val_option: str
) -> ImportPlan:
    """The plan with groups, a val split and the pool.

    Args:
        plan: what a format listed.
        unlabeled: folders of unlabeled images.
        group: a regular expression on relative names, see `find_groups`.
        val_option: the option that would have named the val images. Without any, val is chosen by
            `hold_out_val`.

    Raises:
        InputError: a folder of unlabeled images is missing or empty, or `group` cannot be matched.
    """
    names = [image_name(item.image, item.root) for item in plan.items]
    groups = find_groups(group, names)
    items = [
        replace(item, group=own or item.group) for item, own in zip(plan.items, groups, strict=True)
    ]
    return complete(replace(plan, items=items), unlabeled, group, val_option)


def complete(
    plan: ImportPlan,
    unlabeled: Sequence[Path],
    group: str | None,
    val_option: str,
    mask_suffix: str = "",
) -> ImportPlan:
    """The plan, whose images have their groups, with a val split and the pool.

    Args:
        plan: what a format listed.
        unlabeled, group, val_option: as in `assemble`.
        mask_suffix: end of the names of masks, which are no pool images.

    Raises:
        InputError: as `assemble`, or `group` matches no name.
    """
    items, findings = plan.items, plan.findings
    if group and all(item.group is None for item in items):
        raise InputError(f"--group {group!r} matches no name, first {items[0].image}")
    has_val = any(item.split == "val" for item in items)
    if not has_val:
        items = hold_out_val(items, findings, val_option, by_group=bool(group))
    pool = list_unlabeled(unlabeled, group, findings, items, mask_suffix)
    if group and not has_val:
        pool = without_val_groups(pool, items, findings)
    return replace(plan, items=[*items, *pool])
