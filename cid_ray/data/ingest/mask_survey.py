"""Decides once for a whole set what its masks' colours and palettes stand for.

One mask alone may be read in two ways: (128, 0, 0) is id 128 in the red channel, or VOC's
aeroplane. So the headers of all masks are read first, and of colour masks and odd palettes as many
pixels as the decision needs. What stays unknown is refused with the line to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.ingest.blur import inner_pixels
from cid_ray.data.ingest.classes import VOC_VOID, ClassList, voc_palette
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.mask_colors import CHANNELS, GREY, NUM_COLORS, common_channels
from cid_ray.data.ingest.mask_file import (
    MaskPixels,
    pack_colors,
    read_header,
    read_pixels,
    unpack_color,
)
from cid_ray.data.ingest.mask_palettes import is_by_color, needs_pixels
from cid_ray.data.ingest.mask_reader import ColorCode

In = TypeVar("In")
Out = TypeVar("Out")

THREADS = 4
BACKGROUND_NAMES = {"background", "bg", "back", "void", "unlabeled", "unlabelled", "none", "other"}
MAX_SHOWN_COLORS = 8
MIN_STRAY_COLORS = 16  # from so many colours on, most of which fill no area, they are blurred edges
MAX_STRAY_FILES = 8  # of which the areas are looked at


@dataclass(frozen=True)
class Decision:
    """What the masks' colours stand for, and the classes with the colours that were found."""

    classes: ClassList
    code: ColorCode
    by_color: Path | None = None  # the first mask whose colours are classes, not ids


def survey_masks(
    files: Sequence[Path], classes: ClassList, ignore_index: int, findings: Findings
) -> Decision:
    """Decide how the masks of a set are read.

    Args:
        files: the masks that are image files.
        classes: with colours, with names only, or empty if the set names none.
        ignore_index: the id of pixels without a label.
        findings: gets what was guessed.

    Raises:
        InputError: all masks were compressed with loss, or nothing says which class a colour is.
    """
    headers = [header for header in in_threads(read_header, files) if header is not None]
    lossy = [header for header in headers if header.lossy_format]
    if lossy and len(lossy) == len(headers):
        raise InputError(
            f"all {len(lossy)} masks are {lossy[0].lossy_format}, whose compression changes ids "
            f"and colours, first {lossy[0].path}; export the masks again as PNG"
        )
    lossless = [header for header in headers if not header.lossy_format]
    by_color = False
    if needs_pixels(lossless, classes):
        indexed = [header.path for header in lossless if header.palette]
        by_color = is_by_color(_read_all(indexed), indexed, classes, ignore_index, findings)
    colored = [header.path for header in lossless if header.is_color]
    decision = Decision(classes, ColorCode())
    if colored:
        decision = _decide(colored, classes, ignore_index, findings)
    first = next(iter(colored if decision.code.channel is None else ()), None)
    if first is None and by_color:
        first = indexed[0]
    code = replace(decision.code, palette_by_color=by_color)
    return replace(decision, code=code, by_color=first)


def in_threads(function: Callable[[In], Out], inputs: Sequence[In]) -> Iterator[Out]:
    """The results in order. Few are held at a time."""
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(inputs), THREADS):
            yield from threads.map(function, inputs[start : start + THREADS])


def _read_all(files: Sequence[Path]) -> Iterator[MaskPixels]:
    """The pixels of the readable masks. The import names the others."""
    yield from (pixels for pixels in in_threads(_read_if_good, files) if pixels is not None)


def _read_if_good(path: Path) -> MaskPixels | None:
    try:
        return read_pixels(path)
    except BadFile:
        return None


def _decide(
    files: Sequence[Path], classes: ClassList, ignore_index: int, findings: Findings
) -> Decision:
    """What the colours of colour masks stand for."""
    seen = np.zeros(NUM_COLORS, bool)
    for pixels in _read_all(files):
        seen[pixels.values] = True
        if classes.has_colors and _are_class_colors(np.flatnonzero(seen), classes):
            break  # as in most sets, after the first mask
    colors = np.flatnonzero(seen).astype(np.uint32)
    unit = _find_channel(colors, classes, ignore_index)
    if unit is not None:
        reason = f"colour masks, read as ids in their {CHANNELS[unit]} channel"
        if unit == GREY:
            reason = "colour masks of grey pixels, read as ids"
        findings.add("guessed", reason, files[0], len(files))
        return Decision(classes, ColorCode(channel=unit))
    if not classes.has_colors:
        found = _voc_classes(colors, classes)
        if found is None:
            raise InputError(_describe_unknown(files, colors))
        reason = "colour masks, read by PASCAL VOC's palette with black as background"
        if len(found.names) > len(classes.names):
            reason += ", a class before those of the classes file"
        findings.add("guessed", reason, files[0], len(files))
        classes = found
    void = (VOC_VOID,) if classes.colors == voc_palette(len(classes.colors)) else ()
    return Decision(classes, ColorCode(void=void))


def _are_class_colors(colors: np.ndarray, classes: ClassList) -> bool:
    """Whether colours seen so far can be nothing but the classes' own."""
    num_known = np.isin(colors, pack_colors(classes.colors)).sum()
    return bool(num_known > 1 or not common_channels(colors))


def _find_channel(colors: np.ndarray, classes: ClassList, ignore_index: int) -> int | None:
    """The channel that holds ids, or None if the colours are no ids."""
    channels = common_channels(colors)
    if not channels:
        return None
    unit = channels[0]
    ids = colors // np.uint32(unit)
    fit = bool((ids[ids != ignore_index] < len(classes.names)).all())
    if classes.has_colors:
        known = np.isin(colors, pack_colors(classes.colors))
        return unit if fit and known.sum() < 2 and not known.all() else None
    # Without a class file, and where VOC's palette does not explain them, ids are judged as ids.
    return unit if fit or unit == GREY or _voc_classes(colors, classes) is None else None


def _voc_classes(colors: np.ndarray, classes: ClassList) -> ClassList | None:
    """The classes with VOC's colours, if all colours of the masks are of its palette and the
    number of names fits: the first is the background, or none is and all others are in the masks.
    """
    names = classes.names
    palette = voc_palette(len(names) + 1)
    ids = np.flatnonzero(np.isin(pack_colors(palette), colors))
    voids = np.isin(colors, pack_colors([VOC_VOID])).sum()
    if not names or len(ids) + voids < len(colors) or 0 not in ids:
        return None
    is_background = [_plain(name) in BACKGROUND_NAMES for name in names]
    if is_background[0] and ids.max() < len(names):
        return ClassList(names, palette[:-1], has_colors=True)
    if not any(is_background) and ids.max() == len(names):
        return ClassList(["background", *names], palette, has_colors=True)
    return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalpha())


def _describe_unknown(files: Sequence[Path], colors: np.ndarray) -> str:
    """The message about colour masks whose colours are of no known class."""
    if len(colors) >= MIN_STRAY_COLORS:
        filling = set()
        for pixels in _read_all(files[:MAX_STRAY_FILES]):
            inner = pixels.values[1:-1, 1:-1][inner_pixels(pixels.values)]
            filling |= set(np.unique(inner).tolist())
        if len(filling) < len(colors) / 2:
            return (
                f"{files[0]}: a colour mask, and most of the {len(colors):,} colours of the "
                f"{len(files)} colour masks fill no area: they are blurred (resized with "
                "interpolation, or once stored as JPEG) or no masks; export them again as PNG, "
                "resize with nearest neighbour, and give the colours in the classes file "
                "(`name r g b`)"
            )
    shown = ", ".join(str(unpack_color(int(color))) for color in colors[:MAX_SHOWN_COLORS])
    more = ", ..." if len(colors) > MAX_SHOWN_COLORS else ""
    message = (
        f"{files[0]}: a colour mask, one of {len(files)}, and nothing says which class has which "
        f"colour; give the colours in the classes file (`name r g b`). "
        f"The masks hold {len(colors):,} colours: {shown}{more}"
    )
    palette = pack_colors(voc_palette(256))
    if np.isin(colors, [*palette, *pack_colors([VOC_VOID])]).all():
        highest = np.flatnonzero(np.isin(palette, colors)).max(initial=0)
        message += f". If they are PASCAL VOC's, name its ids 0 to {highest}, `background` first"
    return message
