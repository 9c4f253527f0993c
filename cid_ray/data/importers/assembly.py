"""The last steps of every format that has a folder of images: groups, val, the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportPlan
from cid_ray.data.ingest.unlabeled import list_unlabeled
from cid_ray.data.ingest.val_split import hold_out_val


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
    names = [item.image.relative_to(item.root).with_suffix("").as_posix() for item in plan.items]
    groups = find_groups(group, names)
    items = [
        replace(item, group=own or item.group) for item, own in zip(plan.items, groups, strict=True)
    ]
    if not any(item.split == "val" for item in items):
        items = hold_out_val(items, plan.findings, val_option, by_group=group is not None)
    pool = list_unlabeled(unlabeled, group, plan.findings, items)
    return replace(plan, items=[*items, *pool])
