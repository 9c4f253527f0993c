"""The classes of a data set, and `--map`, which renumbers the ids of its masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cid_ray.config import InputError
from cid_ray.data.image_codec import default_colors

MAPPED = re.compile(r"\d{1,3}=\d{1,3}")  # OLD=NEW
VOC_VOID = (224, 224, 192)  # the colour of VOC's "no label", index 255


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


def voc_palette(count: int) -> list[list[int]]:
    """[r, g, b] of PASCAL VOC's first `count` ids. Id 0, the background, is black."""
    return [[0, 0, 0], *default_colors(count - 1)]


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


def shift_ids(first_id: int, mapping: Mapping[int, int], ignore_index: int) -> dict[int, int]:
    """Old id -> new id for masks whose first class has the id `first_id` (`--first-id`).

    Ids below it become `ignore_index`, which itself stays. `mapping` (`--map`) wins.

    Example:
        >>> shift_ids(1, {}, 255)[0], shift_ids(1, {}, 255)[150], shift_ids(1, {7: 3}, 255)[7]
        (255, 149, 3)
    """
    if not first_id:
        return dict(mapping)
    shifted = {
        old: old - first_id if old >= first_id else ignore_index
        for old in range(256)
        if old != ignore_index
    }
    return {**shifted, **mapping}
