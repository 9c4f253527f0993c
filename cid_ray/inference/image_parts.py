"""Predicts one image of any size, and hands out finished rows.

Up to MAX_WHOLE_PIXELS an image is predicted as evaluation does it. A larger one is predicted by
tiles. A TIFF file that can be read by windows is never decoded as a whole.

    K classes   H,W pixels of an image   h rows that are finished together
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cid_ray.core import iou
from cid_ray.data.band_image import Picture
from cid_ray.data.ingest.tiff_windows import NotWindowed, TiffWindows, is_tiff
from cid_ray.inference.predictor import Predictor
from cid_ray.inference.tiles import TilePixels, predict_by_tiles
from cid_ray.inference.tta import NO_TTA, Tta

MAX_WHOLE_PIXELS = 2048 * 2048  # 350 MB of probabilities of 21 classes
DEFAULT_TILE = 1024
RESIZED_ROWS = 256  # of a large image whose scores are resized to its size


@dataclass(frozen=True)
class Rows:
    """Finished rows of an image, from the top down.

    Attributes:
        classes: u8[h, W].
        confidence: f32[h, W], the probability of the class.
        probabilities: f32[K, h, W] of a whole image if they are kept; else None.
    """

    classes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class PredictOptions:
    """How images are predicted.

    Attributes:
        tta: flips and scales.
        tile: side of the tiles of larger images in pixels; None: `train.sliding_window`, or 1024.
        probabilities: keep those of all classes of images that are predicted whole.
    """

    tta: Tta = NO_TTA
    tile: int | None = None
    probabilities: bool = False

    def tile_of(self, predictor: Predictor) -> int:
        return self.tile or predictor.window or DEFAULT_TILE


class ImageParts:
    """An image that is being predicted.

    Attributes:
        size: (height, width).
        by_windows: its file is read by windows.
        picture: the image; None if it is read by windows.
    """

    def __init__(self, predictor: Predictor, options: PredictOptions, picture: Picture | Path):
        """
        Args:
            predictor: the network.
            options: how to predict.
            picture: the image, or its file.

        Raises:
            InputError: the file cannot be read.
        """
        self._predictor = predictor
        self._options = options
        self._open_files = ExitStack()
        self._windows: TiffWindows | None = None
        if isinstance(picture, Path):
            self._windows = self._open_windows(picture)
        self.picture = None if self._windows is not None else predictor.to_picture(picture)
        if self._windows is not None:
            self.size = self._windows.size
        elif self.picture is not None:
            self.size = (self.picture.height, self.picture.width)

    @property
    def by_windows(self) -> bool:
        return self._windows is not None

    def _open_windows(self, path: Path) -> TiffWindows | None:
        """The windows of a large TIFF file of pictures; None for any other file."""
        data = self._predictor.data
        resized = self._predictor.config.data.image_size is not None
        if data.num_channels != 3 or data.bands or resized or not path.is_file():
            return None
        if not is_tiff(path):
            return None
        try:
            windows = TiffWindows(path)
        except NotWindowed:
            return None
        if windows.size[0] * windows.size[1] <= MAX_WHOLE_PIXELS:
            windows.close()
            return None
        return self._open_files.enter_context(windows)

    def rows(self) -> Iterator[Rows]:
        """Predict; the file is closed at the end.

        Raises:
            BadFile: a part of the file is damaged.
        """
        with self._open_files:
            if self._predictor.config.data.image_size:
                yield from self._resized_rows()
            elif self.size[0] * self.size[1] <= MAX_WHOLE_PIXELS:
                yield self._whole()
            else:
                yield from self._tiled_rows()

    def _whole(self) -> Rows:
        assert self.picture is not None
        scores, are_probs = self._predictor.scores(self.picture, self.size, self._options.tta)
        ids = scores.argmax(0)
        classes = ids.to(torch.uint8).cpu().numpy()
        if self._options.probabilities:
            probs = iou.probabilities(scores[None], are_probs)[0]
            return Rows(classes, probs.amax(0).cpu().numpy(), probs.cpu().numpy())
        highest = scores.gather(0, ids[None])[0]
        # The highest probability without the others.
        confidence = highest if are_probs else 1 / (scores - highest).exp_().sum(0)
        return Rows(classes, confidence.cpu().numpy())

    def _tiled_rows(self) -> Iterator[Rows]:
        tile = self._options.tile_of(self._predictor)
        overlap = tile // 4 // 4 * 4
        width = self.size[1]
        top = 0
        classes, confidence = _empty(0, width)
        for block in predict_by_tiles(self._tile_pixels(), self.size, tile, overlap):
            if block.left == 0:
                if block.top > top:
                    yield Rows(classes, confidence)
                top = block.top
                classes, confidence = _empty(block.probabilities.shape[1], width)
            highest, ids = block.probabilities.max(0)
            columns = slice(block.left, block.left + block.probabilities.shape[2])
            classes[:, columns] = ids.to(torch.uint8).numpy()
            confidence[:, columns] = highest.numpy()
        yield Rows(classes, confidence)

    def _tile_pixels(self) -> TilePixels:
        predictor, tta = self._predictor, self._options.tta
        if self._windows is None:
            pixels = np.asarray(self.picture)
            return lambda top, bottom, left, right: predictor.tile_probabilities(
                pixels[top:bottom, left:right], tta
            )
        windows = self._windows
        kept: dict[tuple[int, int], np.ndarray] = {}  # the rows of the tiles of this row

        def of_file(top: int, bottom: int, left: int, right: int) -> Tensor:
            if (top, bottom) not in kept:
                kept.clear()
                kept[top, bottom] = windows.rgb_rows(top, bottom)
            return predictor.tile_probabilities(kept[top, bottom][:, left:right], tta)

        return of_file

    def _resized_rows(self) -> Iterator[Rows]:
        """Scores at the size of training, resized to the image's own size a few rows at a time."""
        if self.size[0] * self.size[1] <= MAX_WHOLE_PIXELS:
            yield self._whole()
            return
        size = self._predictor.config.data.image_size
        assert self.picture is not None and size is not None
        scores, are_probs = self._predictor.scores(self.picture, size, self._options.tta)
        for part in resize_rows(scores.cpu(), self.size, RESIZED_ROWS):
            probs = iou.probabilities(part[None], are_probs)[0]
            highest, _ = probs.max(0)
            ids = part.argmax(0).to(torch.uint8)
            yield Rows(ids.numpy(), highest.numpy())


def join_rows(parts: Iterable[Rows]) -> Rows:
    """The rows of an image as one."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    classes = np.concatenate([part.classes for part in found])
    return Rows(classes, np.concatenate([part.confidence for part in found]))


def _empty(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((height, width), np.uint8), np.empty((height, width), np.float32)


def resize_rows(scores: Tensor, size: tuple[int, int], num_rows: int) -> Iterator[Tensor]:
    """f32[K, h, w] resized to `size` as evaluation does it, `num_rows` rows at a time.

    Bilinear interpolation goes along columns and rows one after the other, so that a part of the
    rows needs two source rows each.
    """
    source = scores.shape[1]
    for top in range(0, size[0], num_rows):
        bottom = min(top + num_rows, size[0])
        at = (torch.arange(top, bottom) + 0.5) * (source / size[0]) - 0.5
        at = at.clamp(min=0)
        upper = at.floor().long()
        lower = (upper + 1).clamp(max=source - 1)
        fraction = (at - upper)[:, None]
        rows = scores[:, upper] * (1 - fraction) + scores[:, lower] * fraction
        wide = (bottom - top, size[1])
        yield F.interpolate(rows[None], size=wide, mode="bilinear", align_corners=False)[0]
