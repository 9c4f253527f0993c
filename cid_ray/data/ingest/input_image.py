"""One image file for a trained network, with the very values that an import would store of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cid_ray.config import InputError
from cid_ray.data.band_image import BandImage, Picture
from cid_ray.data.ingest.band_scaling import BYTES_WINDOW, scale_to_bytes
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.image_reader import ImageReader
from cid_ray.data.ingest.pixel_arrays import is_deep
from cid_ray.data.ingest.tiff_bands import read_bands
from cid_ray.data.ingest.window import Window
from cid_ray.data.input_spec import InputSpec


def read_input(path: Path, spec: InputSpec) -> Picture:
    """Read an image file as the import of the training data read its files.

    Args:
        path: the file.
        spec: bands and window of that import.

    Returns:
        A PIL image in RGB, or a `BandImage` where `num_channels` is not 3.

    Raises:
        InputError: the file cannot be read, or is of another kind than the training data.
    """
    try:
        if spec.bands is not None:
            return _read_bands(path, spec)
        if spec.window is None and is_deep(path):
            raise BadFile(
                f"{path}: more than 8 bits a pixel, and the network was trained on 8-bit images; "
                "convert it first"
            )
        window = None
        if spec.window is not None:
            window = Window(spec.window.low, spec.window.high, spec.window.source)
        return ImageReader(window).read_picture(path)
    except BadFile as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None


def _read_bands(path: Path, spec: InputSpec) -> Picture:
    windows = np.array(spec.band_windows or [list(BYTES_WINDOW)] * spec.num_channels)
    planes, _ = scale_to_bytes(read_bands(path, path.read_bytes(), spec.bands or []), windows)
    if spec.num_channels == 3:
        return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    return BandImage(planes)
