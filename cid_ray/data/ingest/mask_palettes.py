"""Whether palette masks (indexed PNGs) hold ids or colours.

As a rule the index is the id, whatever the palette. Image editors save colour masks with palettes
too, and number the colours as they find them. Such a palette contradicts the classes' colours, or
the palettes of the other masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.mask_file import MaskHeader, MaskPixels, pack_colors


@dataclass
class PaletteUse:
    """Which colours the used indices of a set's palettes have."""

    colors_at: dict[int, set[int]] = field(default_factory=dict)  # index -> packed colours
    indices_of: dict[int, set[int]] = field(default_factory=dict)  # colour -> indices in all masks

    def add(self, pixels: MaskPixels) -> None:
        """Add a mask; nothing if it has no palette."""
        if pixels.palette is None:
            return
        used: dict[int, set[int]] = {}
        for index in np.flatnonzero(np.bincount(pixels.values.ravel())).tolist():
            color = int(pixels.palette[index])
            self.colors_at.setdefault(index, set()).add(color)
            used.setdefault(color, set()).add(index)
        for color, indices in used.items():
            self.indices_of[color] = self.indices_of.get(color, indices) & indices

    @property
    def varies(self) -> bool:
        """Whether an index has different colours in different masks."""
        return any(len(colors) > 1 for colors in self.colors_at.values())

    @property
    def is_permuted(self) -> bool:
        """Whether masks also give one colour different indices: the index is no id."""
        return self.varies and not all(self.indices_of.values())


def needs_pixels(headers: Sequence[MaskHeader], classes: ClassList) -> bool:
    """Whether palettes contradict each other or the classes' colours, before it is known where."""
    palettes = {header.palette for header in headers if header.palette}
    if not classes.has_colors:
        return len(palettes) > 1
    expected = bytes(value for color in classes.colors for value in color)
    return any(not palette.startswith(expected) for palette in palettes)


def is_by_color(
    masks: Iterable[MaskPixels],
    files: Sequence[Path],
    classes: ClassList,
    ignore_index: int,
    findings: Findings,
) -> bool:
    """Whether palette masks are to be read by the colours of their palettes.

    Args:
        masks: the pixels of the palette masks.
        files: their files, for messages.
        classes: with colours, or only names.
        ignore_index: its colour need not be of a class.
        findings: gets the decision when the palette contradicts the classes' colours.

    Raises:
        InputError: the indices mean different colours in different masks, and no class has one.
    """
    use = PaletteUse()
    for pixels in masks:
        use.add(pixels)
    if not classes.has_colors:
        if use.is_permuted:
            raise InputError(
                f"{files[0]}: one of {len(files)} masks whose palettes number the same colours "
                "differently, so an index is no class id; give the colours in the classes file "
                "(`name r g b`)"
            )
        return False
    id_of = {int(color): index for index, color in enumerate(pack_colors(classes.colors))}
    pairs = [(index, color) for index, colors in use.colors_at.items() for color in colors]
    if all(id_of.get(color, index) == index for index, color in pairs):
        return False
    all_known = all(color in id_of for index, color in pairs if index != ignore_index)
    by_color = use.varies or all_known
    reason = "palette masks, read by index (their palettes show other colours than the classes)"
    if by_color:
        reason = "palette masks, read by colour (the palettes are not in the classes' order)"
    findings.add("guessed", reason, files[0], len(files))
    return by_color
