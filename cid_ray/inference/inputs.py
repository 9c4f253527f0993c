"""What `predict` reads: the images of a folder, of one file, of a table, or of an object store."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.band_image import Picture
from cid_ray.data.ingest.file_kinds import is_listed
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.listing import list_images
from cid_ray.data.sources import open_table
from cid_ray.data.table import Table
from cid_ray.storage import paths

META_FILE = "meta.json"  # of a table


@dataclass(frozen=True)
class InputImage:
    """One image to predict.

    Attributes:
        name: what its outputs are called, a relative path without a suffix.
        source: its file or object, or the table that it is a row of.
        row: its row; None: `source` is a file.
    """

    name: str
    source: str
    row: int | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.source if self.row is None else f"{self.name} of {self.source}"

    def read_row(self) -> Picture:
        """The image of a table's row."""
        return _table(self.source).read(self.row or 0, mask=False)[0]

    @contextmanager
    def local_file(self) -> Iterator[Path]:
        """The file on this machine; an object is copied for as long as the block takes."""
        if not paths.is_remote(self.source):
            yield Path(self.source)
            return
        with tempfile.TemporaryDirectory(prefix="cid_ray-") as folder:
            copy = Path(folder) / PurePosixPath(self.source).name
            with paths.open_read(self.source) as file:
                copy.write_bytes(file.read())
            yield copy


@lru_cache(maxsize=2)
def _table(name: str) -> Table:
    return open_table(name)


def list_inputs(source: str, findings: Findings) -> list[InputImage]:
    """The images that a name means, in order.

    Args:
        source: an image file, a folder of images, `s3://...` with images below it, a table, or
            "demo". Of a table the rows without a mask come; if all have one, all rows.
        findings: gets the files that are left out.

    Raises:
        InputError: there is no image.
    """
    if source == "demo" or _is_table(source):
        return _rows_of(source)
    if paths.is_remote(source):
        return _named(_objects_below(source, findings))
    path = Path(os.path.abspath(source))  # workers of Ray have another working folder
    if path.is_file():
        return _named([(PurePosixPath(path.name), str(path))])
    if not path.exists():
        raise InputError(f"{source} does not exist: give an image, a folder of images or a table")
    files = list_images(path, findings)
    return _named([(PurePosixPath(file.relative_to(path).as_posix()), str(file)) for file in files])


def _is_table(source: str) -> bool:
    return paths.exists(paths.join(source, META_FILE)) and paths.exists(
        paths.join(source, "table.parquet")
    )


def _rows_of(source: str) -> list[InputImage]:
    table = open_table(source)
    rows = np.flatnonzero(~table.labeled)
    if not len(rows):
        rows = np.arange(len(table))
    names = [_checked(name, source) for name in table.ids(rows)]
    return [InputImage(name, source, row) for name, row in zip(names, rows.tolist(), strict=True)]


def _objects_below(source: str, findings: Findings) -> list[tuple[PurePosixPath, str]]:
    found = []
    for name in paths.list_files(source):
        if is_listed(PurePosixPath(name), PurePosixPath()):
            file = PurePosixPath(_checked(name, source))
            found.append((file, str(paths.join(source, name))))
        else:
            findings.add("left out", "objects that are no images", name)
    if not found:
        raise InputError(f"{source} holds no image")
    return found


def _named(files: list[tuple[PurePosixPath, str]]) -> list[InputImage]:
    """Outputs are called like their images; a.jpg and a.png of one folder keep their suffixes."""
    names = [str(name.with_suffix("")) for name, _ in files]
    while len(set(names)) < len(names):  # whole names may meet another's stem: a.png and a.png.jpg
        counts = Counter(names)
        names = [
            str(whole) if counts[name] > 1 else name
            for name, (whole, _) in zip(names, files, strict=True)
        ]
    return [InputImage(name, source) for name, (_, source) in zip(names, files, strict=True)]


def _checked(name: str, source: str) -> str:
    """A name from a table or a store, which becomes the path of an output."""
    if not all(paths.is_component(part) for part in name.split("/")):
        raise InputError(
            f"{source} names an image {name!r}, which is no plain relative path: its outputs would "
            "leave --out"
        )
    return name
