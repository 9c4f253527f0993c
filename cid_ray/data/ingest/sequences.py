r"""Frames of one video, of which some are val and their neighbours train.

A model that has seen the frame before is not asked for anything new, so such a val score is too
good. Frames are recognised by their names (one beginning, rising numbers) and their looks: photos
numbered one after the other (VOC, COCO) are no more alike than any two.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.names import shown_name
from cid_ray.data.ingest.near_index import distance
from cid_ray.data.ingest.perceptual_hash import HASH_BYTES

NUMBERED = re.compile(r"(.*?)(\d+)$", re.DOTALL)  # "0001TP_006690" -> "0001TP_", "006690"
MIN_VAL_FRAMES = 3  # fewer say nothing about the others
MIN_SHARE = 0.5  # of the val images that have a train image as a neighbour
# Neighbours differ in fewer bits than other images: by 30 % in CamVid, by nothing in VOC and COCO.
MAX_RATIO = 0.85
MIN_SEQUENCES = 3  # so that val can be one of them
MIN_BLOCKS = 5  # of one or two videos


@dataclass(frozen=True)
class Frame:
    """A numbered image."""

    number: int
    digits: str
    row: int  # of the items


def describe_sequence_leak(items: Sequence[ImportItem], hashes: np.ndarray) -> list[str]:
    """A warning if val frames neighbour train frames; else nothing.

    Args:
        items: images of an import; unlabeled ones do not count.
        hashes: u8[N, 32], their perceptual hashes.
    """
    sequences = sequences_of(items)
    neighbours = [
        (frame.row, next_frame.row)
        for frames in sequences.values()
        for frame, next_frame in pairwise(frames)
    ]
    mixed = [(a, b) for a, b in neighbours if {items[a].split, items[b].split} == {"train", "val"}]
    val_frames = {row for pair in mixed for row in pair if items[row].split == "val"}
    num_val = sum(item.split == "val" for item in items)
    if len(val_frames) < max(MIN_VAL_FRAMES, MIN_SHARE * num_val):
        return []
    if not _are_alike(mixed, sequences, hashes):
        return []
    first, second = (shown_name(items[row].name) for row in mixed[0])
    return [
        f"val frames neighbour train frames ({first} and {second}, {len(val_frames)} of "
        f"{num_val} val images), so val says little about new scenes: pass --group "
        f"{shlex.quote(suggest_group(sequences))} and no --val-images, or val images of other "
        "scenes"
    ]


def sequences_of(items: Sequence[ImportItem]) -> dict[str, list[Frame]]:
    """The numbered train and val images by the beginning of their names, in rising order."""
    sequences = defaultdict(list)
    for row, item in enumerate(items):
        if item.mask is None or item.split == "test":
            continue
        name = item.image_id.partition("/")[2]  # without its split
        if found := NUMBERED.fullmatch(name):
            sequences[found[1]].append(Frame(int(found[2]), found[2], row))
    return {key: sorted(frames, key=lambda one: one.number) for key, frames in sequences.items()}


def _are_alike(
    pairs: Sequence[tuple[int, int]], sequences: Mapping[str, Sequence[Frame]], hashes: np.ndarray
) -> bool:
    """Whether neighbours look more alike than the first of them and any other frame."""
    rows = np.array([frame.row for frames in sequences.values() for frame in frames])
    first, second = np.array(pairs).T
    others = np.random.default_rng(0).permutation(rows)
    near = distance(hashes[first], hashes[second]).mean()
    far = distance(hashes[first], np.resize(hashes[others], (len(first), HASH_BYTES))).mean()
    return bool(near < MAX_RATIO * far)


def suggest_group(sequences: Mapping[str, Sequence[Frame]]) -> str:
    r"""A pattern for `--group` by which val can be whole groups.

    Several videos: one group each. One or two: blocks of frames that follow each other.

    Args:
        sequences: beginning of the names -> frames.

    Example:
        >>> suggest_group({"a_": [...], "b_": [...], "c_": [...]})
        '^(.*?)\\d+$'
    """
    if len(sequences) >= MIN_SEQUENCES:
        return r"^(.*?)\d+$"
    digits = max(len(frame.digits) for frames in sequences.values() for frame in frames)
    for dropped in range(digits, 0, -1):
        blocks = {
            (name, frame.number // 10**dropped)
            for name, frames in sequences.items()
            for frame in frames
        }
        if len(blocks) >= MIN_BLOCKS:
            break
    return rf"^(.*?)\d{{1,{dropped}}}$"
