"""Finds pictures that a data set holds twice, within a split and across splits.

Exact copies have equal decoded pixels. Near copies (re-encoded, resized) have perceptual hashes
that differ in few bits. The rule:

- An unlabeled image that is a copy of a labeled one is left out: of val or test, it would leak; of
  train, it adds nothing. `--near-duplicates keep` keeps near copies, and says so.
- A labeled image that is an exact copy of one in another split is a bad file.
- A labeled image that looks like one in another split is kept, with a warning: labels are precious,
  and a person can distinguish a copy from a similar scene.
- Copies within a split are kept and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.image_reader import ImageContent
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.near_duplicates import (
    LabeledLooks,
    NearPairs,
    kind_of,
    pairs_within_splits,
)
from cid_ray.data.ingest.near_index import as_hashes
from cid_ray.data.ingest.perceptual_hash import NO_HASH, Looks
from cid_ray.data.ingest.sequences import describe_sequence_leak

DIGEST_BYTES = 16  # of the pixels' sha256: no two of 10^9 images share it by chance
NOT_LOOKED_AT = Looks(NO_HASH, is_like_mask=False, is_blank=False)


@dataclass(frozen=True)
class DuplicateReport:
    """What is known after all images were seen."""

    warnings: list[str]  # what is unusual and allowed
    meta: dict[str, Any]  # for meta.json


class Duplicates:
    """The images of one import so far, in the order test, val, labeled train, unlabeled.

    An image takes about 200 bytes: 16 of its pixels' hash and 32 of its perceptual hash among them.

    Args:
        findings: gets what was left out.
        near: what happens to unlabeled images that look like a labeled one.
    """

    def __init__(self, findings: Findings, near: Literal["remove", "keep"] = "remove"):
        self._findings = findings
        self._near = near
        self._items: list[ImportItem] = []  # those that are stored
        self._hashes = bytearray()  # the perceptual hash of each
        self._first: dict[bytes, int] = {}  # digest of the pixels -> index of the first such item
        self._num_copies = 0  # of another image of their own split
        self._pairs = NearPairs()
        self._labels_like_masks = False
        self._labels_blank = False
        self._labeled: LabeledLooks | None = None  # complete when the first unlabeled image comes

    def check(self, item: ImportItem, content: ImageContent) -> bool:
        """Whether the image may be stored. False: it is unlabeled, and a copy or no photo.

        Raises:
            BadFile: a labeled image is in two splits.
        """
        if content.pixel_hash is None:  # a tile of one colour
            return True
        looks = content.looks or NOT_LOOKED_AT
        digest = bytes.fromhex(content.pixel_hash)[:DIGEST_BYTES]
        first = self._first.get(digest)
        known = None if first is None else self._items[first]
        if item.mask is None:
            if self._is_left_out(item, looks, known):
                return False
        else:
            self._labels_like_masks |= looks.is_like_mask
            self._labels_blank |= looks.is_blank
            if known is not None and known.split != item.split:
                raise BadFile(
                    f"{item.name} ({item.split}) is the same image as {known.name} "
                    f"({known.split}): it is in two splits"
                )
        if known is None:
            self._first[digest] = len(self._items)
            self._hashes += looks.hash
        else:
            self._num_copies += 1
            self._pairs.add(known, item, 0, is_counted=True)
            self._hashes += NO_HASH  # not a second time as a near copy
        self._items.append(item)
        return True

    def _is_left_out(self, item: ImportItem, looks: Looks, known: ImportItem | None) -> bool:
        """Whether an unlabeled image is a copy of a labeled one, or no photo. It is then named."""
        if known is not None and known.mask is not None:
            self._leave_out(item, f"unlabeled images that are {kind_of(known)} images too", known)
            self._pairs.add(known, item, 0, removed=True)
            return True
        if looks.is_blank and not self._labels_blank:
            self._leave_out(item, "unlabeled images of one colour (blank, or masks of one class)")
            return True
        # Where labeled photos look like masks too (drawings, scans), looks say nothing.
        if looks.is_like_mask and not self._labels_like_masks:
            self._leave_out(item, "unlabeled images that look like masks, not like photos")
            return True
        near = self._labeled_looks().nearest(looks.hash)
        if near is None:
            return False
        similar, distance = near
        removed = self._near == "remove"
        if removed:
            reason = f"unlabeled images that look like {kind_of(similar)} images"
            self._leave_out(item, f"{reason} (re-encoded, resized, or the next frame)", similar)
        self._pairs.add(similar, item, distance, removed=removed)
        return removed

    def _leave_out(self, item: ImportItem, reason: str, known: ImportItem | None = None) -> None:
        example = item.name if known is None else f"{item.name} = {known.name}"
        self._findings.add("left out", reason, example)

    def _labeled_looks(self) -> LabeledLooks:
        if self._labeled is None:
            labeled = [item for item in self._items if item.mask is not None]
            hashes = as_hashes(bytes(self._hashes))[: len(labeled)]
            self._labeled = LabeledLooks(labeled, hashes)
        return self._labeled

    def report(self) -> DuplicateReport:
        """Compare all stored images with each other. Called once, after the last `check`."""
        hashes = as_hashes(self._hashes)
        for earlier, later, distance in self._labeled_looks().across_splits():
            self._pairs.add(earlier, later, distance)
        for earlier, later, distance in pairs_within_splits(self._items, hashes):
            self._pairs.add(earlier, later, distance)
        warnings = self._pairs.warnings()
        if self._num_copies:
            copies = f"{self._num_copies} images are copies of another image of their own split"
            warnings.append(copies)
        warnings += describe_sequence_leak(self._items, hashes)
        return DuplicateReport(warnings, self._pairs.meta())
