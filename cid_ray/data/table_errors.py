"""What reading a table's rows raises: the error of one image, and the errors of decoders."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from cid_ray.config import InputError, error_summary
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

TABLE_FILES = ("meta.json", "index.parquet", "table.parquet")
# What decoding damaged bytes raises, in pyarrow and Pillow.
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    pa.ArrowException,
    Image.DecompressionBombError,
)


class UnreadableImage(InputError):
    """The bytes of one image cannot be decoded. Carries the image's id and the reason."""

    def __init__(self, image_id: str, reason: str, folder: PathOrUri):
        super().__init__(
            f"image {image_id} of {folder} cannot be read ({reason}); import again with --skip-bad"
        )
        self.image_id = image_id
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is unpickled by its class and message, and this class takes three arguments.
        # Another process needs the message alone, so it gets an InputError.
        return InputError, (str(self),)


def is_of_the_store(error: BaseException) -> bool:
    """Whether a disk or an object store failed. Arrow's errors of damaged bytes have no errno."""
    is_error = isinstance(error, OSError) and not isinstance(error, UnidentifiedImageError)
    return is_error and (getattr(error, "errno", None) is not None or "AWS Error" in str(error))


def why_no_table(error: Exception, folder: PathOrUri) -> str:
    """Why a folder is no table, by the error of opening it."""
    if isinstance(error, FileNotFoundError):
        missing = [name for name in TABLE_FILES if not paths.exists(paths.join(folder, name))]
        if missing:
            return f"it has no {missing[0]}"
    return error_summary(error, with_type=True)
