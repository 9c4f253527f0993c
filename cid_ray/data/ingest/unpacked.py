"""Images that are inside other files, as files for the time of an import."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class UnpackedImages:
    """A temporary folder, made when the first image is written, removed with this object.

    Example:
        >>> unpacked = UnpackedImages()
        >>> image = unpacked.write("train/a.png", encoded)
    """

    def __init__(self) -> None:
        self.folder: Path | None = None

    def write(self, name: str, encoded: bytes) -> Path:
        """The path of a new file of the relative name. OSError if it cannot be written."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="cid-ray-import-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        return path
