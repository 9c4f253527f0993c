"""What a table says of its images' channels: how many there are, and mean and std of each band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.image_reader import ImageContent
from cid_ray.data.ingest.items import ImportItem


@dataclass
class BandStatistics:
    """The channels of the stored images, and their values over train. Exact, and streaming."""

    num_channels: int | None = None
    first_image: str = ""
    histogram: np.ndarray | None = None  # i64[C, 256] over train

    def add(self, item: ImportItem, image: ImageContent) -> None:
        """Count an image.

        Raises:
            BadFile: it has another number of channels than the first one.
        """
        if self.num_channels is None:
            self.num_channels, self.first_image = image.num_channels, str(item.image)
        if image.num_channels != self.num_channels:
            raise BadFile(
                f"{item.image}: {image.num_channels} channels, {self.first_image} has "
                f"{self.num_channels}; all images of a table have the same number"
            )
        if image.histogram is not None and item.split == "train":
            before = 0 if self.histogram is None else self.histogram
            self.histogram = before + image.histogram

    def meta(self) -> dict[str, Any]:
        """What `meta.json` stores: `num_channels`, and where bands were read mean and std."""
        meta: dict[str, Any] = {"num_channels": self.num_channels or 3}
        if self.histogram is not None:
            values = np.arange(256.0)
            mean = self.histogram @ values / self.histogram.sum(1)
            square = self.histogram @ values**2 / self.histogram.sum(1)
            std = np.sqrt(np.maximum(square - mean**2, 0))
            meta |= {"band_mean": mean.round(4).tolist(), "band_std": std.round(4).tolist()}
        return meta
