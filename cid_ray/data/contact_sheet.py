"""The pictures of an audit: ten images of each split with their masks, the worst cases first.

A million images are not decoded: edges are measured on a seeded sample of each split, and the page
says how many were looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cid_ray.data.band_image import as_rgb
from cid_ray.data.edge_fit import EdgeFit, edge_fit
from cid_ray.data.near_pairs import find_pairs
from cid_ray.data.table import Table, UnreadableImage
from cid_ray.data.table_format import SPLITS
from cid_ray.data.table_meta import PairNote
from cid_ray.data.table_summary import image_sizes
from cid_ray.data.thumbnails import encode_thumbnail, overlay
from cid_ray.data.worst_cases import median_fit, worst_cases

PICTURES_PER_SPLIT = 10
POOL_PICTURES = 8
SHOWN_PAIRS = 20
MAX_DECODED = 400  # images of a split whose edges are measured
MAX_DECODED_PIXELS = 400_000_000  # of them together
THREADS = 4  # also the number of images that are held decoded


@dataclass(frozen=True)
class Picture:
    """One image of the page."""

    image_id: str
    split: str
    size: tuple[int, int]  # width, height
    reason: str  # why it is shown
    photo: bytes  # JPEG
    overlay: bytes | None  # JPEG with the mask on top; None: unlabeled


@dataclass(frozen=True)
class SplitSheet:
    """The pictures of one split that has masks."""

    split: str
    pictures: list[Picture]
    decoded: int  # images whose edges were measured
    edge_fit: float | None  # median over them; near 1: masks and images do not belong together
    mirrored: int  # of them: the mask fits much better when it is mirrored


@dataclass(frozen=True)
class ContactSheet:
    """All pictures of an audit."""

    sheets: list[SplitSheet]
    pool: list[Picture]  # random unlabeled images
    pairs: list[tuple[PairNote, list[Picture | None]]]  # first and second; None: not in the table
    unreadable: list[str]  # a message per chosen image that cannot be decoded


def make_contact_sheet(
    table: Table, near_duplicates: Iterable[PairNote] = (), seed: int = 0
) -> ContactSheet:
    """Choose and draw the pictures of an audit.

    Args:
        table: an opened table, of any age.
        near_duplicates: pairs of images to show side by side, as `read_notes` returns them.
        seed: of the samples.

    Example:
        >>> sheet = make_contact_sheet(open_table("demo"))
        >>> len(sheet.sheets), len(sheet.sheets[0].pictures)
        (3, 10)
    """
    artist = _Artist(table)
    rng = np.random.default_rng(seed)
    sheets = []
    for split in SPLITS:
        rows = table.rows(split)
        masked = rows[table.labeled[rows]]
        if len(masked):
            fits, decoded = artist.measure_edges(_sample(table, masked, rng))
            cases = worst_cases(table, masked, fits, PICTURES_PER_SPLIT)
            pictures = [artist.draw(row, reason) for row, reason in cases.items()]
            shown = [picture for picture in pictures if picture is not None]
            mirrored = sum(fit.mirrored is not None for fit in fits.values())
            sheets.append(SplitSheet(split, shown, decoded, median_fit(fits), mirrored))
    unlabeled = np.flatnonzero(~table.labeled)
    pool = np.sort(rng.choice(unlabeled, min(POOL_PICTURES, len(unlabeled)), replace=False))
    drawn = [artist.draw(int(row)) for row in pool]
    pairs = [
        (pair.note, [None if row is None else artist.draw(row) for row in pair.rows])
        for pair in find_pairs(table, near_duplicates, SHOWN_PAIRS)
    ]
    pool_pictures = [picture for picture in drawn if picture is not None]
    return ContactSheet(sheets, pool_pictures, pairs, list(artist.unreadable.values()))


def _sample(table: Table, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """i64[m]: some of the rows i64[n], in table order, within both bounds."""
    chosen = rng.permutation(rows)[:MAX_DECODED]
    pixels = image_sizes(table, chosen).prod(1).cumsum()
    return np.sort(chosen[: max(1, int((pixels <= MAX_DECODED_PIXELS).sum()))])


class _Artist:
    """Reads images of one table. An image that cannot be decoded is named and passed over."""

    def __init__(self, table: Table):
        self.table = table
        self.unreadable: dict[int, str] = {}  # row -> message

    def _read(self, row: int) -> tuple[Image.Image, np.ndarray | None]:
        """An image in RGB and its mask."""
        image, mask = self.table.read(row, mask=True)
        return as_rgb(image), mask

    def measure_edges(self, rows: np.ndarray) -> tuple[dict[int, EdgeFit], int]:
        """How the edges of labeled rows fit, where a mask has any; and how many were decoded."""

        def measure(row: int) -> EdgeFit | UnreadableImage | None:
            try:
                image, mask = self._read(row)
            except UnreadableImage as error:
                return error
            return None if mask is None else edge_fit(image, mask)

        with ThreadPoolExecutor(THREADS) as threads:
            found = list(zip(rows.tolist(), threads.map(measure, rows.tolist()), strict=True))
        wrong = {row: str(fit) for row, fit in found if isinstance(fit, UnreadableImage)}
        self.unreadable |= wrong
        fits = {row: fit for row, fit in found if isinstance(fit, EdgeFit)}
        return fits, len(rows) - len(wrong)

    def draw(self, row: int, reason: str = "") -> Picture | None:
        """The thumbnails of a row; None if it cannot be decoded."""
        index = self.table.index
        try:
            image, mask = self._read(row)
        except UnreadableImage as error:
            self.unreadable[row] = str(error)
            return None
        masked = None if mask is None else overlay(image, mask, self.table.colors)
        return Picture(
            image_id=index["image_id"][row].as_py(),
            split=index["split"][row].as_py(),
            size=image.size,
            reason=reason,
            photo=encode_thumbnail(image),
            overlay=None if masked is None else encode_thumbnail(masked),
        )
