"""What a user may choose for any import, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cid_ray.config import InputError
from cid_ray.data.band_image import MAX_CHANNELS
from cid_ray.data.ingest.window import Window

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # (files, their number) -> the same files


def no_progress(files: Iterable[Any], total: int) -> Iterable[Any]:
    """The default `Progress`: shows nothing."""
    return files


@dataclass(frozen=True)
class ImportOptions:
    """The options that all formats share.

    Attributes:
        mapping: old mask id -> new mask id (`--map`).
        ignore_index: the mask id that means "no label", 0..255.
        skip_bad: leave bad files out instead of raising.
        unmatched: whether pixels of a colour mask whose colour is of no class are an "error" (from
            0.1 % on) or are told and ignored ("ignore").
        near_duplicates: whether pool images that look like a held-out image are left out
            ("remove") or kept and told ("keep").
        bands: which bands of each image are kept, counted from 1, in this order (`--bands`). None:
            images are pictures, or all bands of TIFF files with more than four.
        window: the values (LOW, HIGH) that become black and white in images of more than 8 bits,
            and in chosen bands, in the files' own units. None: percentiles of the train images.
        progress: wraps the files that are read, e.g. in a progress bar.

    Raises:
        InputError: `ignore_index` is not from 0 to 255, `bands` are no numbers of bands, or LOW of
            `window` is not below HIGH.

    Example:
        >>> options = ImportOptions(bands=(4, 3, 2), window=(0, 3000))
    """

    mapping: Mapping[int, int] = field(default_factory=dict)
    ignore_index: int = 255
    skip_bad: bool = False
    unmatched: Literal["error", "ignore"] = "error"
    near_duplicates: Literal["remove", "keep"] = "remove"
    bands: tuple[int, ...] | None = None
    window: tuple[float, float] | None = None
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        if not 0 <= self.ignore_index <= 255:
            raise InputError(
                f"--ignore-index is {self.ignore_index}, must be a mask id from 0 to 255"
            )
        if self.bands is not None:
            check_bands(self.bands)
        if self.window is not None:
            Window.parse(*self.window)


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """The numbers in "4,3,2"; None for None.

    Raises:
        InputError: a part is no number.

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
