"""What a user may choose for any import, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cid_ray.config import InputError
from cid_ray.data.band_image import MAX_CHANNELS
from cid_ray.data.ingest.window import Window

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # (files, their number) -> the same files

MIN_TILE = 32  # the smallest input of the usual encoders, which halve it five times


def no_progress(files: Iterable[Any], total: int) -> Iterable[Any]:
    """The default `Progress`: shows nothing."""
    return files


TILES_OF_BANDS = (
    "--tile cuts pictures, not images of bands; cut these before the import, for example with "
    "`gdal_retile.py -ps 512 512 -targetDir tiles FILE`"
)


@dataclass(frozen=True)
class ImportOptions:
    """The options that all formats share.

    Attributes:
        mapping: old mask id -> new mask id (`--map`).
        first_id: the mask id of the first class (`--first-id`). Lower ids become `ignore_index`.
        ignore_index: the mask id that means "no label", 0..255.
        skip_bad: leave bad files out instead of raising.
        unmatched: whether pixels of a colour mask whose colour is of no class are an "error" (from
            0.1 % on) or are reported and ignored ("ignore").
        blurred: whether masks that look blurred are an "error" or are imported ("keep").
        near_duplicates: whether pool images that look like a labeled image are left out
            ("remove") or kept and reported ("keep").
        tile: side of the tiles into which larger images are cut, in pixels; None: images stay
            whole.
        overlap: pixels that neighbouring tiles share at least.
        bands: which bands of each image are kept, counted from 1, in this order (`--bands`). None:
            images are pictures, or all bands of TIFF files with more than four.
        window: the values (LOW, HIGH) that become black and white in images of more than 8 bits,
            and in chosen bands, in the files' own units. None: percentiles of the train images.
        provenance: what `meta.json` keeps of how the table was made: format, options, date.
        progress: wraps the files that are read, e.g. in a progress bar.

    Raises:
        InputError: `ignore_index` or `first_id` is not from 0 to 255, `tile` is less than MIN_TILE,
            `overlap` is not from 0 to `tile` - 1, `bands` are not valid band numbers or given with
            `tile`, or LOW of `window` is not below HIGH.

    Example:
        >>> options = ImportOptions(tile=512, overlap=64)
        >>> options = ImportOptions(bands=(4, 3, 2), window=(0, 3000))
    """

    mapping: Mapping[int, int] = field(default_factory=dict)
    first_id: int = 0
    ignore_index: int = 255
    skip_bad: bool = False
    unmatched: Literal["error", "ignore"] = "error"
    blurred: Literal["error", "keep"] = "error"
    near_duplicates: Literal["remove", "keep"] = "remove"
    tile: int | None = None
    overlap: int = 0
    bands: tuple[int, ...] | None = None
    window: tuple[float, float] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        for option, value in (
            ("--ignore-index", self.ignore_index),
            ("--first-id", self.first_id),
        ):
            if not 0 <= value <= 255:
                raise InputError(f"{option} is {value}, must be a mask id from 0 to 255")
        if self.tile is not None and self.tile < MIN_TILE:
            raise InputError(f"--tile is {self.tile}, must be at least {MIN_TILE} pixels")
        if self.tile is None and self.overlap:
            raise InputError(
                f"--overlap {self.overlap} needs --tile SIZE: images stay whole without"
            )
        if self.tile is not None and not 0 <= self.overlap < self.tile:
            raise InputError(
                f"--overlap is {self.overlap}, must be from 0 to {self.tile - 1}: less than --tile"
            )
        if self.bands is not None:
            check_bands(self.bands)
            if self.tile is not None:
                raise InputError(TILES_OF_BANDS)
        if self.window is not None:
            Window.parse(*self.window)

    def tile_meta(self) -> dict[str, int]:
        """What `meta.json` stores of the tiles; nothing where images stay whole."""
        return {} if self.tile is None else {"tile": self.tile, "overlap": self.overlap}


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """The numbers in "4,3,2"; None for None.

    Raises:
        InputError: a part is not a whole number.

    Example:
        >>> parse_bands("4,3,2")
        (4, 3, 2)
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--bands is {text!r}, must be numbers of bands such as 4,3,2, counted from 1"
        ) from None


def check_bands(bands: tuple[int, ...]) -> None:
    """Raise InputError for numbers that name no bands, one twice, or too many."""
    shown = f"--bands is {','.join(map(str, bands))}"
    if not 1 <= len(bands) <= MAX_CHANNELS:
        raise InputError(f"{shown}, must be 1 to {MAX_CHANNELS} bands")
    if min(bands) < 1:
        raise InputError(f"{shown}: bands are counted from 1")
    if len(set(bands)) < len(bands):
        raise InputError(f"{shown}: a band is named twice")
