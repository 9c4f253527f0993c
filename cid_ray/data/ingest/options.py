"""What a user may choose for any import, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cid_ray.config import InputError
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
        window: the values (LOW, HIGH) that become black and white in images of more than 8 bits,
            in the files' own units. None: percentiles of the train images.
        progress: wraps the files that are read, e.g. in a progress bar.

    Raises:
        InputError: `ignore_index` is not from 0 to 255, or LOW of `window` is not below HIGH.
    """

    mapping: Mapping[int, int] = field(default_factory=dict)
    ignore_index: int = 255
    skip_bad: bool = False
    unmatched: Literal["error", "ignore"] = "error"
    near_duplicates: Literal["remove", "keep"] = "remove"
    window: tuple[float, float] | None = None
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        if not 0 <= self.ignore_index <= 255:
            raise InputError(
                f"--ignore-index is {self.ignore_index}, must be a mask id from 0 to 255"
            )
        if self.window is not None:
            Window.parse(*self.window)
