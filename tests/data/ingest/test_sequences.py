"""Law: val frames beside train frames of one video are told; numbered photos are not."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.sequences import describe_sequence_leak
from cid_ray.data.ingest.val_split import hold_out_val


def items_of(names: list[str]) -> list[ImportItem]:
    items = [
        ImportItem(
            f"train/{name}", "train", Path(f"{name}.png"), Path(f"m/{name}.png"), None, Path()
        )
        for name in names
    ]
    return hold_out_val(items, Findings())


def video_hashes(count: int, step_bits: int = 30) -> np.ndarray:
    """u8[N, 32]: each hash differs from the one before in some bits, so far ones differ in all."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, 256, dtype=np.uint8)
    hashes = []
    for _ in range(count):
        hashes.append(np.packbits(bits))
        bits[rng.choice(256, step_bits, replace=False)] ^= 1
    return np.stack(hashes)


NAMES = {
    "CamVid": [
        f"{drive}{30 * index:06d}"
        for drive in ("0001TP_", "0006R0_f", "0016E5_")
        for index in range(20)
    ],
    "one video": [f"frame_{index:05d}" for index in range(60)],
    "in folders": [f"{drive}/img{index:06d}" for drive in ("x", "y", "z") for index in range(20)],
    "two videos": [f"{drive}-{index}" for drive in ("left", "right") for index in range(30)],
}


@pytest.mark.parametrize("kind", NAMES)
def test_frames_are_told_with_a_pattern_that_helps(kind: str) -> None:
    names = NAMES[kind]
    (message,) = describe_sequence_leak(items_of(names), video_hashes(len(names)))
    assert message.startswith("val frames neighbour train frames (")
    assert "12 of 12 val images" in message
    (pattern,) = re.findall(r"--group (.+?) and no --val-images", message)
    groups = find_groups(shlex.split(pattern)[0], names)
    assert None not in groups
    assert 3 <= len(set(groups)) <= 10
    blocks = sum(a != b for a, b in pairwise(groups)) + 1
    assert blocks <= 15, "frames that follow each other share a group"


def test_numbered_photos_of_different_scenes_are_not_told() -> None:
    """VOC's 2007_000032, 2007_000033: no more alike than any two."""
    names = [f"2007_{index:06d}" for index in range(60)]
    hashes = np.random.default_rng(0).integers(0, 256, (60, 32), dtype=np.uint8)
    assert describe_sequence_leak(items_of(names), hashes) == []


def test_alike_images_without_numbers_are_not_told() -> None:
    names = [f"scene_{chr(97 + index)}" for index in range(26)]
    assert describe_sequence_leak(items_of(names), video_hashes(26)) == []


def test_val_of_whole_groups_is_not_told() -> None:
    names = NAMES["one video"]
    groups = find_groups(r"^(.*?)\d$", names)
    items = [
        ImportItem(f"train/{name}", "train", Path(name), Path(name), group, Path())
        for name, group in zip(names, groups, strict=True)
    ]
    held_out = hold_out_val(items, Findings(), by_group=True)
    assert describe_sequence_leak(held_out, video_hashes(len(names))) == []


def test_val_of_later_frames_is_not_told() -> None:
    items = items_of([f"frame_{index:05d}" for index in range(60)])
    later = [
        ImportItem(
            item.image_id, "val" if index > 47 else "train", item.image, item.mask, None, Path()
        )
        for index, item in enumerate(items)
    ]
    assert describe_sequence_leak(later, video_hashes(60)) == []
