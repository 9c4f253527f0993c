"""Predicts many images in one process: the next ones are read while one is predicted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from cid_ray.config import InputError
from cid_ray.data.band_image import Picture
from cid_ray.data.ingest.decode_gate import MAX_PIXELS_IN_FLIGHT, DecodeGate
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.pixel_arrays import count_pixels
from cid_ray.inference.image_parts import ImageParts, PredictOptions
from cid_ray.inference.inputs import InputImage
from cid_ray.inference.mask_files import GeoTags, MaskFiles, geo_tags
from cid_ray.inference.predictor import Predictor

READ_AHEAD = 2  # images

PredictionRecord = dict[str, Any]  # of one image; `event` is "prediction" or "unreadable"


@dataclass
class Opened:
    """An image that was read, or why it was not."""

    item: InputImage
    files: ExitStack  # what stays open until it is predicted
    parts: ImageParts | None = None
    picture: Picture | None = None
    geo: GeoTags | None = None
    problem: str = ""


class BatchPredictor:
    """Predicts images and writes their files.

    Args:
        predictor: the network.
        files: writes.
        options: how images are predicted.

    Example:
        >>> batch = BatchPredictor(predictor, MaskFiles(Path("out"), predictor), PredictOptions())
        >>> for record in batch.predict(list_inputs("photos", Findings())):
        ...     print(record["event"], record["name"])
    """

    def __init__(self, predictor: Predictor, files: MaskFiles, options: PredictOptions):
        self._predictor = predictor
        self._files = files
        self._options = options
        self._gate = DecodeGate(MAX_PIXELS_IN_FLIGHT)

    def predict(self, items: Iterable[InputImage]) -> Iterator[PredictionRecord]:
        """Predict images in order.

        Yields:
            A record of each image, once its files are complete.

        Raises:
            OSError: an output cannot be written.
        """
        waiting: deque[Future[Opened]] = deque()
        with ThreadPoolExecutor(READ_AHEAD) as threads:
            try:
                for item in items:
                    waiting.append(threads.submit(self._open, item))
                    if len(waiting) > READ_AHEAD:
                        yield self._finish(waiting.popleft().result())
                while waiting:
                    yield self._finish(waiting.popleft().result())
            finally:
                for future in waiting:  # stopped by an error or the user
                    if not future.cancel():
                        future.result().files.close()

    def predict_one(self, item: InputImage) -> PredictionRecord:
        """Predict one image."""
        return self._finish(self._open(item))

    def _open(self, item: InputImage) -> Opened:
        opened = Opened(item, ExitStack())
        try:
            if item.row is not None:
                opened.picture = item.read_row()
                opened.parts = ImageParts(self._predictor, self._options, opened.picture)
                return opened
            path = opened.files.enter_context(item.local_file())
            with self._gate.hold(count_pixels(path) or path.stat().st_size):
                opened.parts = ImageParts(self._predictor, self._options, path)
                opened.picture = opened.parts.picture
                opened.geo = geo_tags(path)
        except InputError as error:
            opened.problem = str(error)
        except OSError as error:
            opened.problem = f"{item.label} cannot be read ({error.strerror or error})"
        return opened

    def _finish(self, opened: Opened) -> PredictionRecord:
        """Predict and write an image that was read."""
        item = opened.item
        record: PredictionRecord = {"name": item.name, "source": item.source, "row": item.row}
        started = time.perf_counter()
        with opened.files:
            if opened.parts is None:
                return {"event": "unreadable", **record, "reason": opened.problem}
            try:
                written = self._files.write(
                    item.name, opened.parts, opened.picture, opened.geo or []
                )
            except (BadFile, InputError) as error:  # a damaged part of a file, or a tiny image
                return {"event": "unreadable", **record, "reason": str(error)}
        seconds = round(time.perf_counter() - started, 4)
        return {"event": "prediction", **record, **written, "seconds": seconds}
