"""How the numbers of bands become bytes: a window for each band, of the user or of the set itself.

Satellites store 12 bits in 16, and each band has its own range: one window for all would leave some
bands dark. The set's own windows go from the 0.5th to the 99.5th percentile of each band over the
train images. So a few saturated pixels do not decide the contrast of all others.

    C bands   H, W pixels   windows f64[C, 2]: the values that become 0 and 255
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cid_ray.data.ingest.tiff_bands import RawBands
from cid_ray.data.ingest.window import PERCENTILES, Window, is_valid

SAMPLED_PIXELS = 4096  # of an image
BYTES_WINDOW = (0.0, 255.0)


def measure_windows(images: Iterable[RawBands]) -> np.ndarray:
    """f64[C, 2]: PERCENTILES of each band over some pixels of some images.

    The same images give the same windows. A band of one value gets a window of width 1.

    Args:
        images: at least one, all of C bands. One is held at a time.
    """
    parts: list[np.ndarray] = []  # [C, n], NaN where there is no data
    for image in images:
        num_pixels = image.planes[0].size
        # Not every n-th pixel, which may be one column.
        chosen = np.random.default_rng(0).integers(0, num_pixels, SAMPLED_PIXELS)
        values = image.planes.reshape(len(image.planes), -1)[:, chosen]
        part = values.astype(np.float64)
        part[~is_valid(values, image.nodata)] = np.nan
        parts.append(part)
    windows = []
    for band in np.concatenate(parts, axis=1):
        known = band[~np.isnan(band)]
        low, high = np.percentile(known, PERCENTILES) if len(known) else BYTES_WINDOW
        windows.append((low, high if high > low else low + 1))
    return np.array(windows)


def scale_to_bytes(image: RawBands, windows: np.ndarray) -> tuple[np.ndarray, bool]:
    """The bands as bytes u8[C, H, W], and whether values were missing: those become 0."""
    scaled = [
        Window(low, high, "").scale(band, image.nodata)
        for band, (low, high) in zip(image.planes, windows, strict=True)
    ]
    return np.stack(scaled), not is_valid(image.planes, image.nodata).all()
