"""Guesses how the names of images and masks differ, for the remedy that a message names."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from cid_ray.data.ingest.names import image_name

MIN_SHARE = 0.4  # of a folder's files that are masks, to recognise it as a folder of both
SEPARATORS = "_-. "


def hint_of_both(files: Sequence[Path], folder: Path) -> str | None:
    """What a folder that seems to hold images and their masks shows, with the option to pass.

    Example:
        >>> hint_of_both([Path("d/a.jpg"), Path("d/a_mask.png")], Path("d"))
        'd holds images and masks: 1 of 2 files end in `_mask`; pass --mask-suffix _mask'
    """
    names = [image_name(path, folder) for path in files]
    suffix, count = _shared_ending(names)
    if suffix and count >= MIN_SHARE * len(files):
        found = f"{count} of {len(files)} files end in `{suffix}`"
        option = _as_option("--mask-suffix", suffix)
        return f"{folder} holds images and masks: {found}; pass {option}"
    kinds = Counter(path.suffix.lower() for path in files)
    repeated = len(names) - len(set(names))
    if repeated >= MIN_SHARE * len(files) and len(kinds) == 2:
        masks = ".png" if ".png" in kinds else min(kinds)
        images = next(kind for kind in kinds if kind != masks)
        return (
            f"{folder} holds images and masks: {repeated} names are there as {images} and "
            f"{masks}; pass --image-glob '*{images}' --mask-glob '*{masks}'"
        )
    return None


def hint_of_suffixes(images: Collection[str], masks: Collection[str]) -> str | None:
    """The options with which most images would have a mask; None if no suffix helps.

    Example:
        >>> hint_of_suffixes(["a_leftImg8bit", "b_leftImg8bit"], ["a_labelIds", "b_labelIds"])
        '--image-suffix _leftImg8bit --mask-suffix _labelIds'
    """
    best, best_count = ("", ""), len(set(images) & set(masks))
    for image_suffix in ("", _ending_of_all(images)):
        for mask_suffix in ("", _ending_of_all(masks)):
            keys = {name.removesuffix(image_suffix) for name in images}
            count = len(keys & {name.removesuffix(mask_suffix) for name in masks})
            if count > best_count:
                best, best_count = (image_suffix, mask_suffix), count
    options = zip(("--image-suffix", "--mask-suffix"), best, strict=True)
    return " ".join(_as_option(name, suffix) for name, suffix in options if suffix) or None


def _as_option(name: str, value: str) -> str:
    """`--mask-suffix _mask`; argparse takes a value that starts with a dash after `=` only."""
    quoted = shlex.quote(value)
    return f"{name}={quoted}" if value.startswith("-") else f"{name} {quoted}"


def _shared_ending(names: Collection[str]) -> tuple[str, int]:
    """The commonest text that turns one name of a folder into another one, and how often it does.

    ["a", "a_mask", "b", "b_mask"] -> ("_mask", 2)
    """
    known = set(names)
    endings: Counter[str] = Counter()
    for name in known:
        starts = [index for index in range(1, len(name)) if name[index] in SEPARATORS]
        endings.update(name[start:] for start in starts if name[:start] in known)
    return max(endings.items(), key=lambda found: (found[1], found[0]), default=("", 0))


def _ending_of_all(names: Collection[str]) -> str:
    """The longest text from a separator on with which all names end."""
    first = next(iter(names), "")
    starts = [index for index, character in enumerate(first) if character in SEPARATORS]
    endings = (first[start:] for start in starts)
    return next((end for end in endings if all(name.endswith(end) for name in names)), "")
