"""Law: what datumaro reads becomes the masks that were written by its own exporters.

Reference: masks of this test, exported by datumaro to a format and imported from it. Without
datumaro only the refusal is tested.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cid_ray.data.importers.datumaro_import import list_datumaro
from cid_ray.data.ingest import write_table
from tests.helpers.dataset_layouts_json import SIZE, boxes_to_mask
from tests.helpers.format_imports import findings_of, import_set, refusal
from tests.helpers.image_tables import random_image

# Each stores images and masks without loss of labels. The VOC formats keep no overlap.
FORMATS = ["datumaro", "voc_segmentation", "camvid", "cvat", "coco_instances", "label_me"]
MASKS = {name: boxes_to_mask((1, 3 + n, 2, 8, 6), (2, 14, 4 + n, 20, 9)) for n, name in
         enumerate("abcd")}  # fmt: skip


def export(root: Path, format: str, labels: list[str], shapes: Any = None) -> Path:
    """A data set of a, b, c (train) and d (val) in a format of datumaro."""
    datumaro = pytest.importorskip("datumaro", reason="the datumaro extra is not installed")
    items = []
    for number, (name, mask) in enumerate(MASKS.items()):
        first = labels.index("cat")
        made = [
            datumaro.Mask(image=mask == class_id, label=first + class_id - 1, id=class_id,
                          group=class_id)
            for class_id in (1, 2)
        ]  # fmt: skip
        items.append(
            datumaro.DatasetItem(
                id=name,
                subset="train" if number < 3 else "val",
                media=datumaro.Image.from_numpy(data=random_image(number, SIZE)),
                annotations=shapes(datumaro) if shapes and name == "a" else made,
            )
        )
    dataset = datumaro.Dataset.from_iterable(items, categories=labels)
    dataset.export(str(root), format, save_media=True)
    return root


def mask_named(table: Any, name: str) -> np.ndarray:
    paths = table.index["image_path"].to_pylist()
    row = next(index for index, path in enumerate(paths) if Path(path).stem.endswith(name))
    mask = table.mask(row)
    assert mask is not None
    return np.asarray(mask)


@pytest.mark.parametrize("format", FORMATS)
def test_exported_masks_come_back(tmp_path: Path, format: str) -> None:
    root = export(tmp_path / "set", format, ["background", "cat", "dog"])
    table = import_set(tmp_path / "t", "datumaro", root, "--format", format)
    assert table.classes == ["background", "cat", "dog"]
    for name, mask in MASKS.items():
        np.testing.assert_array_equal(mask_named(table, name), mask)
    if format != "cvat":  # CVAT's subset is one for all
        assert [len(table.rows(split)) for split in ("train", "val")] == [3, 1]


def test_background_is_added_where_no_label_is_it(tmp_path: Path) -> None:
    root = export(tmp_path / "set", "datumaro", ["cat", "dog"])
    table = import_set(tmp_path / "t", "datumaro", root, "--format", "datumaro")
    assert table.classes == ["background", "cat", "dog"]
    np.testing.assert_array_equal(mask_named(table, "a"), MASKS["a"])


def test_polygons_order_and_what_has_no_area(tmp_path: Path) -> None:
    def shapes(datumaro: Any) -> list[Any]:
        return [
            datumaro.Polygon([5, 5, 9, 5, 9, 9, 5, 9], label=0, z_order=2),
            datumaro.Polygon([2, 3, 20, 3, 20, 18, 2, 18], label=1, z_order=1),
            datumaro.Bbox(1, 1, 5, 5, label=0),
            datumaro.Label(0),
            datumaro.Mask(image=np.ones(SIZE, bool), label=None),
        ]

    root = export(tmp_path / "set", "datumaro", ["cat", "dog"], shapes)
    table = import_set(tmp_path / "t", "datumaro", root, "--format", "datumaro")
    expected = boxes_to_mask((2, 2, 3, 20, 18), (1, 5, 5, 9, 9))
    np.testing.assert_array_equal(mask_named(table, "a"), expected)
    assert findings_of(table) == {
        "annotations of type bbox": 1,
        "annotations of type label": 1,
        "annotations of type mask without a label": 1,
        "masks with pixels of two classes (the later shape is on top)": 1,
    }


def test_ignored_label_has_no_class(tmp_path: Path) -> None:
    root = export(tmp_path / "set", "datumaro", ["cat", "ignored"])
    table = write_table(list_datumaro(root, "datumaro"), tmp_path / "t").table
    assert table.classes == ["background", "cat"]
    expected = np.where(MASKS["b"] == 2, 255, MASKS["b"])
    np.testing.assert_array_equal(mask_named(table, "b"), expected)


def test_what_datumaro_cannot_read_is_one_line(tmp_path: Path) -> None:
    root = export(tmp_path / "set", "datumaro", ["cat", "dog"])
    message = refusal(tmp_path / "t", "datumaro", root, "--format", "coco_panoptic")
    assert f"datumaro cannot read {root} as coco_panoptic" in message
    message = refusal(tmp_path / "t", "datumaro", root, "--format", "no_such_format")
    assert "is none of datumaro's: " in message and "cvat" in message
    (root / "annotations" / "train.json").write_text("{")
    message = refusal(tmp_path / "t", "datumaro", root, "--format", "datumaro")
    assert f"datumaro cannot read {root}" in message


def test_image_outside_the_folder_or_absent_is_told(tmp_path: Path) -> None:
    root = export(tmp_path / "set", "datumaro", ["cat", "dog"])
    next((root / "images" / "train").iterdir()).unlink()
    table = import_set(tmp_path / "t", "datumaro", root, "--format", "datumaro")
    assert findings_of(table) == {"items whose image is missing": 1}
    message = refusal(tmp_path / "u", "datumaro", tmp_path / "none", "--format", "datumaro")
    assert "is not a folder" in message


def test_missing_datumaro_is_told_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datumaro", None)  # as Python marks a failed import
    message = refusal(tmp_path / "t", "datumaro", tmp_path, "--format", "cvat")
    assert "pip install 'cid_ray[datumaro]'" in message
