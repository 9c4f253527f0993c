"""Images that look alike: which pairs, and what a person should know about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.names import shown_name
from cid_ray.data.ingest.near_index import NearIndex, find_neighbours

MAX_PAIRS = 1000  # that meta.json names
MAX_EXAMPLES = 3


def kind_of(item: ImportItem) -> str:
    """What an image is in this import: test, val, labeled train or unlabeled."""
    if item.mask is None:
        return "unlabeled"
    return "labeled train" if item.split == "train" else item.split


class LabeledLooks:
    """The labeled images, with which the others are compared.

    Args:
        items: labeled images.
        hashes: u8[N, 32], their perceptual hashes.
    """

    def __init__(self, items: Sequence[ImportItem], hashes: np.ndarray):
        self._items = items
        self._hashes = hashes
        splits = np.array([item.split for item in items])
        self._rows = {
            "test": np.flatnonzero(splits == "test"),
            "held out": np.flatnonzero(splits != "train"),
            "train": np.flatnonzero(splits == "train"),
        }
        self._indices = {name: NearIndex(hashes[rows]) for name, rows in self._rows.items()}

    def nearest(self, content: bytes) -> tuple[ImportItem, int] | None:
        """The labeled image that looks the same, a held-out one first, and the distance."""
        return self._nearest("held out", content) or self._nearest("train", content)

    def across_splits(self) -> Iterator[tuple[ImportItem, ImportItem, int]]:
        """(held-out image, labeled image of another split, distance) of those that look alike."""
        for item, content in zip(self._items, self._hashes, strict=True):
            if item.split != "test":
                known = "test" if item.split == "val" else "held out"
                if found := self._nearest(known, content.tobytes()):
                    yield found[0], item, found[1]

    def _nearest(self, name: str, content: bytes) -> tuple[ImportItem, int] | None:
        found = self._indices[name].nearest(content)
        if found is None:
            return None
        row, distance = found
        return self._items[self._rows[name][row]], distance


def pairs_within_splits(
    items: Sequence[ImportItem], hashes: np.ndarray
) -> Iterator[tuple[ImportItem, ImportItem, int]]:
    """(earlier image, image, distance) of each image that looks like one of its own kind.

    Args:
        items: images; those of one kind follow each other.
        hashes: u8[N, 32], their perceptual hashes.
    """
    start = 0
    for _, same_kind in groupby(items, kind_of):
        stop = start + len(list(same_kind))
        found = find_neighbours(hashes[start:stop])
        for row, earlier, distance in zip(
            found.rows.tolist(), found.earlier.tolist(), found.distances.tolist(), strict=True
        ):
            yield items[start + earlier], items[start + row], distance
        start = stop


@dataclass
class NearPairs:
    """The pairs of one import: the first of them by name, and their number by kind."""

    _named: list[dict[str, Any]] = field(default_factory=list)
    _total: int = 0
    _told: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # kinds -> examples
    _counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(
        self,
        first: ImportItem,
        second: ImportItem,
        distance: int,
        *,
        removed: bool = False,
        is_counted: bool = False,
    ) -> None:
        """Note a pair.

        Args:
            first: the image that was there first.
            second: the one that looks like it.
            distance: the bits in which their hashes differ.
            removed: the second is left out of the table.
            is_counted: the pair is counted elsewhere, so no warning is about it.
        """
        self._total += 1
        if len(self._named) < MAX_PAIRS:
            names = {"first": first.image_id, "second": second.image_id}
            self._named.append({**names, "distance": distance, "removed": removed})
        if removed or is_counted:
            return
        kinds = (kind_of(first), kind_of(second))
        self._counts[kinds] = self._counts.get(kinds, 0) + 1
        examples = self._told.setdefault(kinds, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(shown_name(f"{second.name} = {first.name}"))

    def warnings(self) -> list[str]:
        """A message for each two kinds that have pairs; leaks come first."""
        kinds = sorted(self._counts, key=lambda kinds: kinds[0] == kinds[1])
        return [self._describe(*pair) for pair in kinds]

    def _describe(self, first: str, second: str) -> str:
        count = self._counts[first, second]
        examples = self._told[first, second]
        if first == second:
            return (
                f"{count} {first} images look like another {first} image (copies, or frames that "
                f"follow each other), e.g. {examples[0]}"
            )
        named = ", ".join(examples) + (", ..." if count > len(examples) else "")
        if second == "unlabeled":
            return (
                f"{count} unlabeled images look like {first} images and are kept "
                f"(--near-duplicates keep): {named}"
            )
        return (
            f"LEAK? {count} {second} images look like {first} images, so scores on {first} may be "
            f"too good: {named}. Labeled images are kept: remove those that are copies"
        )

    def meta(self) -> dict[str, Any]:
        """What meta.json stores: the first pairs by image id, and the number of all."""
        return {"near_duplicates": self._named, "near_duplicate_pairs": self._total}
