"""Finds the mask of each image by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from cid_ray.config import InputError
from cid_ray.data.ingest.file_kinds import LOSSY_SUFFIXES
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.listing import leave_out_repeated, list_images
from cid_ray.data.ingest.name_hints import hint_of_both, hint_of_suffixes
from cid_ray.data.ingest.name_rule import NameRule, names_in

Unmasked = Literal["error", "pool"]


def pair_masks(
    images: Path,
    masks: Path,
    split: str,
    group: str | None,
    root: Path,
    findings: Findings,
    rule: NameRule = NameRule(),  # noqa: B008 - it is frozen
    *,
    without: Collection[Path] = (),
    unmasked: Unmasked = "error",
) -> list[ImportItem]:
    """Each image of a folder with the mask of the same relative name, whatever its suffix.

    Args:
        images: the folder of images.
        masks: the folder of masks. The same folder holds both when `rule` distinguishes them.
        split: train, val or test.
        group: a regular expression, see `find_groups`.
        root: the table stores paths relative to it.
        findings: gets what was left out.
        rule: how the names of images and masks differ.
        without: folders below that other options name.
        unmasked: whether an image without a mask is an error, or is unlabeled and in the pool.

    Raises:
        InputError: a folder is missing, an image has no mask, two images or two masks have one
            name, or `group` cannot be matched.

    Example:
        >>> rule = NameRule(mask_suffix="_mask")
        >>> pair_masks(Path("set"), Path("set"), "train", None, Path("."), Findings(), rule)[0].mask
        PosixPath('set/a_mask.png')
    """
    image_files, mask_files = _list_both(images, masks, findings, rule, without)
    image_names = names_in(image_files, images, findings)
    mask_names = names_in(mask_files, masks, findings)
    image_of = _by_key({path: rule.image_key(name) for path, name in image_names.items()}, "images")
    mask_of = _by_key({path: rule.mask_key(name) for path, name in mask_names.items()}, "masks")
    missing = [path for key, path in image_of.items() if key not in mask_of]
    if missing and unmasked == "error":
        hint = hint_of_both(image_files, images)
        if suffixes := hint_of_suffixes(image_names.values(), mask_names.values()):
            hint = f"names differ; pass {suffixes}"
        raise InputError(_describe_missing(missing, masks, split, hint))
    for key, path in mask_of.items():
        if key not in image_of:
            findings.add("left out", "masks without an image", path)
    for path in missing:
        reason = "images without a mask, taken as unlabeled (--unmasked pool)"
        findings.add("changed", reason, path)
    groups = find_groups(group, list(image_of))
    return [
        ImportItem(f"{split}/{key}", split, image, mask_of.get(key), image_group, root)
        for (key, image), image_group in zip(image_of.items(), groups, strict=True)
    ]


def _list_both(
    images: Path, masks: Path, findings: Findings, rule: NameRule, without: Collection[Path]
) -> tuple[list[Path], list[Path]]:
    """The image files and the mask files, by `rule`."""
    if not masks.is_dir():
        raise InputError(f"{masks} is not a folder of masks")
    if not images.is_dir() or not images.samefile(masks):
        listed = list_images(images, findings, [*without, masks])
        image_files = [path for path in listed if rule.is_image(path, images)]
        all_masks = list_images(masks, findings, [*without, images], unique=False)
        mask_files = [path for path in all_masks if rule.is_mask(path, masks)]
        _tell_others(set(listed).difference(image_files), "--image", findings)
        _tell_others(set(all_masks).difference(mask_files), "--mask", findings)
    else:
        listed = list_images(images, findings, without, unique=False)
        if not rule:
            hint = hint_of_both(listed, images) or (
                f"{images} is the folder of the images and of the masks; pass --masks DIR, or "
                "--mask-suffix _mask, or --image-glob '*.jpg' --mask-glob '*.png'"
            )
            raise InputError(hint)
        image_files, mask_files = rule.split_folder(listed, images)
        _tell_others(set(listed).difference(image_files, mask_files), "--image", findings)
        image_files = leave_out_repeated(image_files, findings)
    for files, folder, option in ((image_files, images, "--image"), (mask_files, masks, "--mask")):
        if not files:
            raise InputError(
                f"{folder} holds no file that fits {option}-suffix and {option}-glob, "
                f"of {len(listed)} images; first {listed[0].name}"
            )
    return image_files, mask_files


def _tell_others(files: Collection[Path], option: str, findings: Findings) -> None:
    for path in sorted(files):
        reason = f"files that {option}-suffix and {option}-glob leave out"
        findings.add("left out", reason, path)


def _by_key(key_of: Mapping[Path, str], what: str) -> dict[str, Path]:
    """Key -> file, in the order of the files; InputError for two files of one key."""
    files: dict[str, Path] = {}
    for path, key in key_of.items():
        first = files.setdefault(key, path)
        if first is not path:
            raise InputError(_describe_two(first, path, what))
    return files


def _describe_two(first: Path, second: Path, what: str) -> str:
    """The refusal of two images, or two masks, of one name."""
    lossy = [path for path in (first, second) if path.suffix.lower() in LOSSY_SUFFIXES]
    remedy = "remove or rename one of them"
    if what == "masks" and len(lossy) == 1:
        remedy = f"remove {lossy[0]}: JPEG changes the ids of a mask"
    elif first.suffix.lower() != second.suffix.lower():
        option = what.removesuffix("s")
        remedy += f", or choose by --{option}-glob '*{first.suffix}'"
    return f"two {what} have one name: {first} and {second}; {remedy}"


def _describe_missing(missing: list[Path], masks: Path, split: str, hint: str | None) -> str:
    remedy = hint or "put unlabeled images in a folder of their own and pass it as --unlabeled"
    if not hint and split == "train":
        remedy += ", or take them as unlabeled by --unmasked pool"
    return (
        f"{len(missing)} images have no mask of the same name in {masks}, "
        f"first {missing[0]}; {remedy}"
    )
