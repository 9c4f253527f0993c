"""Law: an image and its mask are found by their names, and no choice between two is silent."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.name_hints import hint_of_both, hint_of_suffixes
from cid_ray.data.ingest.name_rule import NameRule
from cid_ray.data.ingest.pairing import Unmasked, pair_masks


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def pair(
    root: Path,
    images: str = "images",
    masks: str = "masks",
    rule: NameRule | None = None,
    unmasked: Unmasked = "error",
) -> tuple[list[ImportItem], dict[str, tuple[int, str]]]:
    """The items, and reason -> (count, first example) of the findings."""
    findings = Findings()
    items = pair_masks(
        root / images,
        root / masks,
        "train",
        None,
        root,
        findings,
        rule or NameRule(),
        unmasked=unmasked,
    )
    return items, {one.reason: (one.count, one.examples[0]) for one in findings}


def pairs(root: Path, items: list[ImportItem]) -> dict[str, str | None]:
    """Image -> mask, relative."""
    return {
        item.image.relative_to(root).as_posix(): None
        if item.mask_path is None
        else item.mask_path.relative_to(root).as_posix()
        for item in items
    }


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        pair(root, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_suffix_and_its_capitals_do_not_matter(tmp_path: Path) -> None:
    touch(tmp_path, "images/A.JPG", "images/b.jfif", "masks/A.png", "masks/b.PNG")
    items, findings = pair(tmp_path)
    assert pairs(tmp_path, items) == {"images/A.JPG": "masks/A.png", "images/b.jfif": "masks/b.PNG"}
    assert [item.image_id for item in items] == ["train/A", "train/b"] and not findings


def test_composed_and_decomposed_names_are_a_pair(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    touch(tmp_path, f"images/{decomposed}.jpg", f"masks/{composed}.png")
    ((image, mask),) = pairs(tmp_path, pair(tmp_path)[0]).items()
    assert (image, mask) == (f"images/{decomposed}.jpg", f"masks/{composed}.png")
    assert pair(tmp_path)[0][0].image_id == f"train/{composed}"


def test_names_that_are_not_utf8_are_a_pair_of_an_escaped_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"stra\xdfe")
    touch(tmp_path, f"images/{name}.jpg", f"masks/{name}.png")
    items, findings = pair(tmp_path)
    assert items[0].image_id == "train/stra\\xdfe"
    assert items[0].image.exists() and items[0].mask_path and items[0].mask_path.exists()
    reason = "names that are not UTF-8 or hold control characters (written with \\x..)"
    count, example = findings[reason]
    assert count == 2
    assert example.isprintable() and "stra" in example


@pytest.mark.parametrize("both", [("a.jpg", "a.png"), ("sub/a.png", "sub/a.tif")])
def test_two_images_of_one_name_are_refused(tmp_path: Path, both: tuple[str, str]) -> None:
    touch(tmp_path, *(f"images/{name}" for name in both), "masks/a.png", "masks/sub/a.png")
    message = refusal(tmp_path)
    first, second = (tmp_path / "images" / name for name in both)
    assert f"two images have one name: {first} and {second}; remove or rename" in message
    assert f"--image-glob '*{first.suffix}'" in message
    rule = NameRule(image_glob=f"*{second.suffix}")
    assert [item.image for item in pair(tmp_path, rule=rule)[0]] == [second]


def test_composed_and_decomposed_files_beside_each_other_are_refused(tmp_path: Path) -> None:
    names = {unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")}
    touch(tmp_path, *(f"images/{name}.jpg" for name in names), "masks/café.png")
    assert "two images have one name" in refusal(tmp_path)


def test_jpeg_mask_beside_png_mask_is_refused_with_the_one_to_remove(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.jpg", "masks/a.png")
    jpeg, png = tmp_path / "masks/a.jpg", tmp_path / "masks/a.png"
    expected = f"two masks have one name: {jpeg} and {png}; remove {jpeg}: JPEG changes the ids"
    assert expected in refusal(tmp_path)


def test_masks_without_an_image_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "masks/b.png", "masks/c.png")
    items, findings = pair(tmp_path)
    assert len(items) == 1
    assert findings == {"masks without an image": (2, str(tmp_path / "masks/b.png"))}


def test_images_without_a_mask_are_refused_or_unlabeled(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/a.png")
    message = refusal(tmp_path)
    assert f"2 images have no mask of the same name in {tmp_path / 'masks'}" in message
    assert f"first {tmp_path / 'images/b.jpg'}" in message
    assert "--unlabeled" in message and "--unmasked pool" in message
    items, findings = pair(tmp_path, unmasked="pool")
    expected = {"images/a.jpg": "masks/a.png", "images/b.jpg": None, "images/c.jpg": None}
    assert pairs(tmp_path, items) == expected
    reason = "images without a mask, taken as unlabeled (--unmasked pool)"
    assert findings == {reason: (2, str(tmp_path / "images/b.jpg"))}


def test_several_images_may_share_a_linked_mask(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "empty.png")
    (tmp_path / "masks").mkdir()
    for name in "ab":
        (tmp_path / "masks" / f"{name}.png").symlink_to(tmp_path / "empty.png")
    expected = {"images/a.jpg": "masks/a.png", "images/b.jpg": "masks/b.png"}
    assert pairs(tmp_path, pair(tmp_path)[0]) == expected


def test_masks_in_a_folder_below_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/masks/a.png")
    items, findings = pair(tmp_path, masks="images/masks")
    assert pairs(tmp_path, items) == {"images/a.jpg": "images/masks/a.png"}
    assert list(findings) == ["folders that another option names"]


# ---- one folder for both ----


BOTH = ("set/a.jpg", "set/a_mask.png", "set/b.jpg", "set/b_mask.png")


def test_mask_suffix_tells_masks_beside_images(tmp_path: Path) -> None:
    touch(tmp_path, *BOTH, "set/c_mask.png")
    items, findings = pair(tmp_path, "set", "set", NameRule(mask_suffix="_mask"))
    assert pairs(tmp_path, items) == {"set/a.jpg": "set/a_mask.png", "set/b.jpg": "set/b_mask.png"}
    assert findings == {"masks without an image": (1, str(tmp_path / "set/c_mask.png"))}


@pytest.mark.parametrize(
    "rule",
    [
        NameRule(image_glob="*.jpg", mask_glob="*.png"),
        NameRule(image_glob="*.JPG"),
        NameRule(mask_glob="*.p?g", image_glob="*.jpg"),
        NameRule(mask_glob="set_of/*.png"),
    ],
)
def test_globs_tell_masks_of_equal_names(tmp_path: Path, rule: NameRule) -> None:
    touch(tmp_path, "set/set_of/a.jpg", "set/set_of/a.png")
    items, findings = pair(tmp_path, "set", "set", rule)
    assert pairs(tmp_path, items) == {"set/set_of/a.jpg": "set/set_of/a.png"} and not findings


def test_cityscapes_names_pair_up_by_both_suffixes(tmp_path: Path) -> None:
    kinds = ("labelIds", "color", "instanceIds")
    touch(tmp_path, "images/jena/a_leftImg8bit.png", "images/jena/a_rightImg8bit.png")
    touch(tmp_path, *(f"masks/jena/a_gtFine_{kind}.png" for kind in kinds))
    rule = NameRule("_leftImg8bit", "_gtFine_labelIds")
    items, findings = pair(tmp_path, rule=rule)
    left, label = "images/jena/a_leftImg8bit.png", "masks/jena/a_gtFine_labelIds.png"
    assert pairs(tmp_path, items) == {left: label}
    assert items[0].image_id == "train/jena/a"
    assert {reason: count for reason, (count, _) in findings.items()} == {
        "files that --image-suffix and --image-glob leave out": 1,
        "files that --mask-suffix and --mask-glob leave out": 2,
    }


@pytest.mark.parametrize("options", [NameRule(mask_suffix="_seg"), NameRule(mask_glob="*.bmp")])
def test_rule_that_no_file_follows_is_refused(tmp_path: Path, options: NameRule) -> None:
    touch(tmp_path, *BOTH)
    message = refusal(tmp_path, images="set", masks="set", rule=options)
    assert "holds no file that fits --mask-suffix and --mask-glob, of 4 images" in message


def test_folder_of_both_is_recognised_and_the_option_named(tmp_path: Path) -> None:
    touch(tmp_path, *BOTH)
    expected = "2 of 4 files end in `_mask`; pass --mask-suffix _mask"
    assert expected in refusal(tmp_path, images="set", masks="set")
    touch(tmp_path, "masks/other.png")
    assert expected in refusal(tmp_path, images="set"), "of a folder given as --images alone too"


def test_folder_of_images_and_masks_of_equal_names_is_recognised(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.jpg", "set/a.png", "set/b.jpg", "set/b.png")
    message = refusal(tmp_path, images="set", masks="set")
    assert "pass --image-glob '*.jpg' --mask-glob '*.png'" in message


def test_same_folder_without_any_rule_names_the_options(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.jpg", "set/b.jpg")
    message = refusal(tmp_path, images="set", masks="set")
    assert "--masks DIR" in message and "--mask-suffix" in message and "--mask-glob" in message


@pytest.mark.parametrize(
    ("image", "mask", "options"),
    [
        ("{}", "{}_mask", "--mask-suffix _mask"),
        ("{}_leftImg8bit", "{}_gtFine_labelIds", None),
        ("{}_rgb", "{}", "--image-suffix _rgb"),
        ("{}", "{}.jpg", "--mask-suffix .jpg"),
        ("{}", "{}-mask", "--mask-suffix=-mask"),
        ("{}", "{} (label)", "--mask-suffix ' (label)'"),
    ],
)
def test_missing_masks_of_other_names_suggest_suffixes(
    tmp_path: Path, image: str, mask: str, options: str | None
) -> None:
    names = ("one", "two_x", "three-y")
    touch(tmp_path, *(f"images/{image.format(name)}.png" for name in names))
    touch(tmp_path, *(f"masks/{mask.format(name)}.png" for name in names))
    if options is None:
        options = "--image-suffix _leftImg8bit --mask-suffix _gtFine_labelIds"
    assert refusal(tmp_path).endswith(f"names differ; pass {options}")


@settings(max_examples=50, deadline=None)
@given(
    stems=st.sets(st.from_regex(r"[a-z0-9]{1,4}(_[a-z]{1,3})?", fullmatch=True), min_size=1),
    suffix=st.from_regex(r"[_.-][A-Za-z]{3,9}", fullmatch=True),
)
def test_suggested_suffix_always_pairs_all(stems: set[str], suffix: str) -> None:
    """What the message suggests works, whatever the names."""
    images, masks = sorted(stems), sorted(f"{stem}{suffix}" for stem in stems)
    options = hint_of_suffixes(images, masks)
    assert options is not None
    found = re.findall(r"--(image|mask)-suffix[ =](\S+)", options)
    ends = {kind: end.strip("'") for kind, end in found}
    keys = {name.removesuffix(ends.get("mask", "")) for name in masks}
    assert keys == {name.removesuffix(ends.get("image", "")) for name in images}
    files = [Path("d", f"{name}.png") for name in (*images, *masks)]
    told = hint_of_both(files, Path("d"))
    assert told is not None and "--mask-suffix" in told


def test_photos_numbered_one_after_the_other_are_no_folder_of_both() -> None:
    files = [Path("d", f"2007_{index:06d}.jpg") for index in range(40)]
    assert hint_of_both(files, Path("d")) is None
