"""Val for a data set that has none: every fifth labeled image."""

from __future__ import annotations

from dataclasses import replace

from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem

VAL_EVERY = 5  # the fifth, tenth, ... labeled image is val


def hold_out_val(
    items: list[ImportItem], findings: Findings, option: str = "--val-images"
) -> list[ImportItem]:
    """Every fifth labeled image as val.

    Args:
        items: of train, labeled or not; those of other splits are left as they are.
        findings: is told of each val image.
        option: what would have named the val images.
    """
    chosen = []
    seen = 0
    for item in items:
        if item.split == "train" and item.mask is not None:
            seen += 1
            if seen % VAL_EVERY == 0:
                item = replace(item, split="val")
                reason = f"val images (no {option}: every fifth labeled image)"
                findings.add("guessed", reason, item.image)
        chosen.append(item)
    return chosen
