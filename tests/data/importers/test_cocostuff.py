"""Law: the form of COCO-Stuff's label maps decides what their values mean."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray.data.importers.cocostuff_names import NAMES, UNUSED
from tests.helpers.dataset_layouts_json import SIZE, write_image
from tests.helpers.format_imports import findings_of, import_set, mask_of, refusal
from tests.helpers.tiny_run import real_data


def write_set(
    root: Path, images: str, masks: str, values: dict[str, np.ndarray], end: str = ""
) -> None:
    """Images and label maps of train and val by folder patterns with {short} and {long}."""
    for name, mask in values.items():
        short = "val" if name == "v" else "train"
        folders = {"short": short, "long": f"{short}2017"}
        write_image(root / images.format(**folders) / f"{name}.png")
        path = root / masks.format(**folders) / f"{name}{end}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


def filled(*values: int) -> np.ndarray:
    """A mask whose first pixels are these values and the rest the last of them."""
    mask = np.full(SIZE, values[-1], np.uint8)
    mask.flat[: len(values)] = values
    return mask


def test_names_are_182_in_the_order_of_ids() -> None:
    assert len(set(NAMES)) == len(NAMES) == 182
    assert (NAMES[0], NAMES[91], NAMES[181]) == ("person", "banner", "wood")
    assert [NAMES[number - 1] for number in UNUSED[:2]] == ["street sign", "hat"]


def test_things_and_stuff_maps_are_ids_less_one(tmp_path: Path) -> None:
    values = {"a": filled(0, 181, 255, 16), "v": filled(0, 16)}
    write_set(tmp_path / "set", "images/{long}", "stuffthingmaps/{long}", values)
    table = import_set(tmp_path / "t", "cocostuff", tmp_path / "set")
    assert table.classes == list(NAMES)
    np.testing.assert_array_equal(mask_of(table, "images/train2017/a.png"), values["a"])


def test_train_ids_have_171_classes(tmp_path: Path) -> None:
    values = {"a": filled(0, 11, 170, 255), "v": filled(0, 11)}
    root = tmp_path / "set"
    write_set(root, "images/{long}", "annotations/{long}", values, "_labelTrainIds")
    Image.fromarray(filled(181)).save(root / "annotations" / "train2017" / "a.png")
    Image.fromarray(filled(9)).save(root / "annotations" / "train2017" / "a_instanceTrainIds.png")
    table = import_set(tmp_path / "t", "cocostuff", root)
    assert len(table.classes) == 171
    assert (table.classes[11], table.classes[170]) == ("stop sign", "wood")
    np.testing.assert_array_equal(mask_of(table, "images/train2017/a.png"), values["a"])
    assert findings_of(table) == {
        "files that end with _instanceTrainIds": 1,
        "label maps next to those of _labelTrainIds": 1,
    }


def test_pixelmaps_are_ids_of_stuff(tmp_path: Path) -> None:
    values = {"a": filled(0, 92, 183, 182), "v": filled(92, 183)}
    write_set(tmp_path / "set", "{long}", "annotations/stuff_{long}_pixelmaps", values)
    table = import_set(tmp_path / "t", "cocostuff", tmp_path / "set")
    assert (table.classes[0], table.classes[-1], table.num_classes) == ("banner", "other", 92)
    mask = mask_of(table, "train2017/a.png")
    assert mask.flat[:4].tolist() == [255, 0, 91, 90]


def test_things_in_pixelmaps_are_refused(tmp_path: Path) -> None:
    values = {"a": filled(1, 92), "v": filled(92)}
    write_set(tmp_path / "set", "{long}", "stuff_{long}_pixelmaps", values)
    assert "mask ids outside the 92 classes" in refusal(
        tmp_path / "t", "cocostuff", tmp_path / "set"
    )


def test_forms_that_differ_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_set(root, "{long}", "stuffthingmaps/{long}", {"a": filled(1)})
    write_set(root, "{long}", "stuff_{long}_pixelmaps", {"v": filled(92)})
    assert "different forms" in refusal(tmp_path / "t", "cocostuff", root)


def test_image_without_label_map_is_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_set(root, "img/{short}", "label/{short}", {"a": filled(1), "v": filled(2)})
    write_image(root / "img" / "train" / "b.png")
    message = refusal(tmp_path / "t", "cocostuff", root)
    assert "1 of 2 label maps of train are missing, first " in message
    assert str(root / "label" / "train" / "b.png") in message and "--unlabeled" in message


def test_two_label_maps_of_one_name_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_set(root, "img/{short}", "label/{short}", {"a": filled(1), "v": filled(2)})
    (root / "label" / "train" / "a.tif").write_bytes(b"")
    assert "have the same name; remove one" in refusal(tmp_path / "t", "cocostuff", root)


def test_label_map_without_image_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_set(
        root, "img/{short}", "label/{short}", {"a": filled(1), "b": filled(1), "v": filled(2)}
    )
    (root / "img" / "train" / "b.png").unlink()
    assert findings_of(import_set(tmp_path / "t", "cocostuff", root)) == {
        "label maps without an image": 1
    }


@pytest.mark.data
def test_real_sample_has_its_published_counts(tmp_path: Path) -> None:
    root = real_data("cocostuff_mini")
    table = import_set(tmp_path / "t", "cocostuff", root)
    counts = re.search(r"(\d+) train \+ (\d+) val", (root / "README.md").read_text())
    assert counts is not None
    assert [len(table.rows(s)) for s in ("train", "val")] == [int(counts[1]), int(counts[2])]
    for row in range(0, len(table), 4):
        path = table.index["mask_path"][row].as_py()
        np.testing.assert_array_equal(table.mask(row), np.asarray(Image.open(root / path)))
