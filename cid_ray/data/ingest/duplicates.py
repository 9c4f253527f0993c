"""Finds pictures that a data set holds twice, within a split and across splits."""

from __future__ import annotations

from dataclasses import dataclass, field

from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.image_reader import ImageContent
from cid_ray.data.ingest.items import ImportItem


@dataclass
class Duplicates:
    """The pictures seen so far. Held-out splits come first, so a copy is found in train."""

    findings: Findings
    first_seen: dict[str, tuple[str, str]] = field(default_factory=dict)  # hash -> (split, path)
    num_copies: int = 0  # of another image of their own split

    def check(self, item: ImportItem, content: ImageContent) -> bool:
        """Whether the image may be stored. False: it is a pool image that a held-out split has.

        Raises:
            BadFile: a labeled image is in two splits.
        """
        if content.pixel_hash is None:
            return True
        path = item.name
        seen = self.first_seen.setdefault(content.pixel_hash, (item.split, path))
        first_split, first_path = seen
        if first_split == item.split:
            self.num_copies += first_path != path
            return True
        if item.mask is None:
            reason = f"unlabeled images that are {first_split} images too"
            self.findings.add("left out", reason, f"{path} = {first_path}")
            return False
        raise BadFile(
            f"{path} ({item.split}) is the same image as {first_path} ({first_split}): "
            "it is in two splits"
        )

    def warnings(self) -> list[str]:
        """What is unusual and allowed, a message each."""
        if not self.num_copies:
            return []
        return [f"{self.num_copies} images are copies of another image of their own split"]
