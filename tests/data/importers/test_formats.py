"""Contract of every format of `prepare`: what is listed, what the table holds, what is refused.

Reference: the pixels that tests/helpers/dataset_layouts.py wrote. A format without an entry in its
LAYOUTS fails here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.importers import FORMATS
from cid_ray.data.ingest import ImportPlan
from cid_ray.data.ingest.listing import IMAGE_SUFFIXES
from cid_ray.data.table import Table
from tests.helpers.dataset_layouts import LAYOUTS as FOLDER_LAYOUTS
from tests.helpers.dataset_layouts import Layout
from tests.helpers.dataset_layouts_json import JSON_LAYOUTS

LAYOUTS = FOLDER_LAYOUTS | JSON_LAYOUTS
OWN_TESTS = {"datumaro"}  # tests/data/importers/test_datumaro.py: an extra reads and writes it


@pytest.fixture(params=[name for name in FORMATS if name not in OWN_TESTS])
def name(request: pytest.FixtureRequest) -> str:
    """A format."""
    format_name: str = request.param
    assert format_name in LAYOUTS, f"{format_name} has no entry in LAYOUTS"
    return format_name


@pytest.fixture
def layout(name: str, tmp_path: Path) -> Layout:
    return LAYOUTS[name](tmp_path / "set")


def list_plan(name: str, layout: Layout) -> ImportPlan:
    args = prepare.parse_arguments([name, *layout.arguments, "--out", "unused"])
    return FORMATS[name].list(args)


def import_table(name: str, layout: Layout, out: Path) -> Table:
    assert prepare.main([name, *layout.arguments, "--out", str(out)]) == 0
    return Table(out)


def import_error(name: str, layout: Layout, out: Path) -> str:
    with pytest.raises(InputError) as caught:
        prepare.main([name, *layout.arguments, "--out", str(out)])
    assert not out.exists(), "nothing may be left that looks like a table"
    return str(caught.value)


def test_every_layout_is_one_of_a_format() -> None:
    assert list(LAYOUTS) == [name for name in LAYOUTS if name in FORMATS]


def test_table_holds_exactly_the_expected_pixels(name: str, layout: Layout, tmp_path: Path) -> None:
    table = import_table(name, layout, tmp_path / "table")
    assert sorted(table.index["image_path"].to_pylist()) == sorted(layout.rows)
    files = {path.as_posix(): path for path in layout.images}
    for row in range(len(table)):
        image_path = table.index["image_path"][row].as_py()
        expected = layout.rows[image_path]
        assert table.index["split"][row].as_py() == expected.split, image_path
        assert table.index["group"][row].as_py() == expected.group, image_path
        image, mask = table.read(row, mask=True)
        source = next(path for text, path in files.items() if text.endswith(f"/{image_path}"))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(source)))
        if expected.mask is None:
            assert mask is None, image_path
        else:
            assert mask is not None, image_path
            np.testing.assert_array_equal(mask, expected.mask, err_msg=image_path)


def test_classes_and_colours_are_those_of_the_set(
    name: str, layout: Layout, tmp_path: Path
) -> None:
    table = import_table(name, layout, tmp_path / "table")
    assert table.classes == layout.classes
    assert table.colors == layout.colors


def test_every_split_has_its_masks_and_ids_are_unique(name: str, layout: Layout) -> None:
    items = list_plan(name, layout).items
    assert len({item.image_id for item in items}) == len(items)
    assert len({item.image.resolve() for item in items}) == len(items)
    for split in ("train", "val"):
        assert any(item.split == split and item.mask is not None for item in items), split
    for item in items:
        assert item.split in ("train", "val", "test")
        assert item.mask is not None or item.split == "train", "a held-out image has a mask"


def test_plan_opens_no_image(name: str, layout: Layout, tmp_path: Path) -> None:
    before = list_plan(name, layout).items
    for path in (tmp_path / "set").rglob("*"):
        if path.suffix in IMAGE_SUFFIXES:
            path.write_bytes(b"")
    after = list_plan(name, layout).items
    assert [(i.image_id, i.split, i.image) for i in after] == [
        (i.image_id, i.split, i.image) for i in before
    ]


def test_what_is_left_out_or_guessed_is_counted(name: str, layout: Layout, tmp_path: Path) -> None:
    import_table(name, layout, tmp_path / "table")
    found = json.loads((tmp_path / "table" / "meta.json").read_text())["findings"]
    assert {finding["reason"]: finding["count"] for finding in found} == layout.findings


def test_import_again_elsewhere_gives_the_same_fingerprint(
    name: str, layout: Layout, tmp_path: Path
) -> None:
    first = import_table(name, layout, tmp_path / "first")
    moved = LAYOUTS[name](tmp_path / "elsewhere" / "moved set")
    second = import_table(name, moved, tmp_path / "second")
    assert first.fingerprint == second.fingerprint
    assert first.index.equals(second.index)


def test_missing_part_is_one_line_with_its_path(name: str, tmp_path: Path) -> None:
    for number in range(len(LAYOUTS[name](tmp_path / "count").required)):
        layout = LAYOUTS[name](tmp_path / str(number))
        part = layout.required[number]
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        message = import_error(name, layout, tmp_path / "table")
        assert "\n" not in message
        # A list names images without suffix.
        assert str(part.with_suffix("")) in message, message


def test_mask_of_other_size_is_named(name: str, layout: Layout, tmp_path: Path) -> None:
    spoiled = layout.spoil_mask()
    message = import_error(name, layout, tmp_path / "table")
    assert str(spoiled) in message
    assert "1 problem(s)" in message


def test_help_of_the_format_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        prepare.main([name, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for argument in FORMATS[name].arguments:
        assert (argument.metavar or "") in out
        assert argument.name in out or not argument.name.startswith("-")
