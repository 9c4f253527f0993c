"""The classes of a data set, and `--map`, which renumbers the ids of its masks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cid_ray.config import InputError
from cid_ray.data.image_codec import default_colors

MAPPED = re.compile(r"\d{1,3}=\d{1,3}")  # OLD=NEW


@dataclass(frozen=True)
class ClassList:
    """K class names in the order of their ids, and [r, g, b] of each."""

    names: list[str]
    colors: list[list[int]]
    has_colors: bool = False  # whether the data set gives the colours; else they are our defaults
    notes: tuple[tuple[str, str], ...] = ()  # what was guessed: reason and example, for `Findings`

    @classmethod
    def of_names(cls, names: Iterable[str]) -> ClassList:
        """Classes whose colours nobody has given."""
        names = list(names)
        return cls(names, default_colors(len(names)))


def parse_mapping(texts: Iterable[str]) -> dict[int, int]:
    """Old id -> new id, of texts such as "11=255" (`--map`).

    Raises:
        InputError: a text is not OLD=NEW with ids from 0 to 255.
    """
    mapping = {}
    for text in texts:
        ids = [int(found) for found in re.findall(r"\d+", text)] if MAPPED.fullmatch(text) else []
        if not ids or max(ids) > 255:
            raise InputError(
                f"--map {text[:20]!r} must look like OLD=NEW with ids from 0 to 255, "
                "e.g. --map 11=255"
            )
        mapping[ids[0]] = ids[1]
    return mapping
