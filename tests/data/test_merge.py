"""Law of merging: images by content or name, classes by name, held-out masks stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cid_ray
from cid_ray.config import InputError
from cid_ray.data.merge import annotation_name, merge_labels
from cid_ray.data.table import IGNORED, Table
from cid_ray.prepare import main as prepare
from tests.helpers.image_tables import random_image, random_mask

SIZE = (48, 64)


def write_folder(
    root: Path,
    names: list[str],
    classes: list[str],
    masks: dict[str, np.ndarray],
    seeds: dict[str, int],
) -> list[str]:
    """A folder of images and one of masks; returns the options of `prepare folder`."""
    for part in ("images", "masks", "pool"):
        (root / part).mkdir(parents=True)
    for number, name in enumerate(names):
        folder = "images" if name in masks else "pool"
        pixels = random_image(seeds.get(name, number), SIZE)
        Image.fromarray(pixels).save(root / folder / f"{name}.png")
        if name in masks:
            Image.fromarray(masks[name]).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    options = ["--images", str(root / "images"), "--masks", str(root / "masks")]
    if len(masks) < len(names):
        options += ["--unlabeled", str(root / "pool")]
    return ["folder", *options, "--classes", str(root / "classes.txt")]


def make_table(root: Path, *args: Any, **seeds: int) -> Table:
    names, classes, masks = args
    options = write_folder(root, names, classes, masks, seeds)
    assert prepare([*options, "--out", str(root / "table")]) == 0
    return cid_ray.open_table(str(root / "table"))


CLASSES = ["road", "sky", "tree"]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Five labeled images, of which every fifth is val, and a pool of three."""
    masks = {f"a{n}": random_mask(n, 3, SIZE) for n in range(5)}
    return make_table(tmp_path / "first", [*masks, "b5", "b6", "b7"], CLASSES, masks)


def row_of(table: Table, end: str) -> int:
    ids = table.ids(np.arange(len(table)))
    (row,) = [row for row, name in enumerate(ids) if name.endswith(end)]
    return row


def test_new_and_replaced_masks_by_content_with_classes_in_another_order(
    table: Table, tmp_path: Path
) -> None:
    names = ["tree", "background", "road", "sky"]
    masks = {"b6": random_mask(9, 4, SIZE), "a0": random_mask(8, 4, SIZE)}
    masks["b6"][:5] = IGNORED
    labels = make_table(
        tmp_path / "back", ["x", *masks], names, {**masks, "x": masks["a0"]}, x=77, b6=6, a0=0
    )
    counts = merge_labels(table, labels, tmp_path / "merged", "back")
    assert (counts.new, counts.replaced) == (1, 1)
    (left_out, changed) = sorted(counts.describe()[1:], reverse=True)
    assert "left out: 1 labels of images that the table does not have" in left_out
    assert "images/x.png" in left_out
    assert "'background', which is no class here, taken as not labeled" in changed
    merged = Table(tmp_path / "merged")
    new_id = {0: 2, 1: IGNORED, 2: 0, 3: 1, IGNORED: IGNORED}
    for name, mask in masks.items():
        row = row_of(merged, name)
        expected = np.vectorize(new_id.get)(mask)
        assert np.array_equal(merged.mask(row), expected)
        counted = [int((expected == k).sum()) for k in range(3)]
        assert merged.class_pixels[row].tolist() == counted
    for row in range(len(table)):
        assert merged.encoded(row, False) == table.encoded(row, False)
        if not table.ids(np.array([row]))[0].endswith(tuple(masks)):
            assert merged.labeled[row] == table.labeled[row]
            assert not table.labeled[row] or np.array_equal(merged.mask(row), table.mask(row))
    assert merged.classes == CLASSES and merged.fingerprint != table.fingerprint


def test_images_of_other_bytes_are_found_by_name(table: Table, tmp_path: Path) -> None:
    name = annotation_name(table.ids(np.array([row_of(table, "b7")]))[0])
    labels = make_table(
        tmp_path / "back", [name], CLASSES, {name: random_mask(3, 3, SIZE)}, **{name: 70}
    )
    assert merge_labels(table, labels, tmp_path / "merged", "").new == 1


def test_val_and_test_stay(table: Table, tmp_path: Path) -> None:
    (val,) = table.rows("val")
    end = table.ids(np.array([val]))[0][-2:]
    masks = {end: random_mask(30, 3, SIZE), "b5": random_mask(31, 3, SIZE)}
    labels = make_table(
        tmp_path / "back", list(masks), CLASSES, masks, **{end: int(end[1]), "b5": 5}
    )
    counts = merge_labels(table, labels, tmp_path / "merged", "")
    assert (counts.new, counts.replaced) == (1, 0)
    assert "labels of val or test images" in counts.describe()[1]
    assert np.array_equal(Table(tmp_path / "merged").mask(int(val)), table.mask(int(val)))


@pytest.mark.parametrize(
    ("names", "classes", "size", "seeds", "message"),
    [
        (["q"], CLASSES, SIZE, {"q": 70}, "no labeled image of .* is a train image of"),
        (
            ["b5"],
            ["road", "car", "tree"],
            SIZE,
            {"b5": 5},
            "has the class 'car', which .* does not",
        ),
    ],
)
def test_labels_that_do_not_fit(
    table: Table,
    tmp_path: Path,
    names: list[str],
    classes: list[str],
    size: tuple[int, int],
    seeds: dict[str, int],
    message: str,
) -> None:
    masks = {name: random_mask(3, 3, size) for name in names}
    labels = make_table(tmp_path / "back", names, classes, masks, **seeds)
    with pytest.raises(InputError, match=message):
        merge_labels(table, labels, tmp_path / "merged", "")
    assert not (tmp_path / "merged").exists()


def test_a_mask_of_another_size(table: Table, tmp_path: Path) -> None:
    name = annotation_name(table.ids(np.array([row_of(table, "b7")]))[0])
    back = tmp_path / "back"
    options = write_folder(back, [name], CLASSES, {name: random_mask(3, 3, (24, 32))}, {})
    Image.fromarray(random_image(1, (24, 32))).save(back / "images" / f"{name}.png")
    assert prepare([*options, "--out", str(back / "table")]) == 0
    with pytest.raises(InputError, match="has 32 x 24 pixels, its image 64 x 48"):
        merge_labels(table, Table(back / "table"), tmp_path / "merged", "")


def test_the_command_says_what_it_takes(table: Table, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, what in (
        ("empty", "holds neither a table"),
        ("missing", "is no folder with neither"),
    ):
        options = ["--labels", str(tmp_path / folder), "--out", str(tmp_path / "merged")]
        with pytest.raises(InputError, match=what):
            prepare(["merge", str(table.folder), *options])
    with pytest.raises(InputError, match="already holds a table"):
        prepare(["merge", str(table.folder), "--labels", "x", "--out", str(table.folder)])
