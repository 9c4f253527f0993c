"""Law: files of annotation tools of any content become a table, or are refused in one line.

What is refused leaves nothing that looks like a table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cid_ray import prepare
from cid_ray.data.importers import FORMATS
from cid_ray.data.ingest import ImportOptions, write_table
from cid_ray.data.table import Table
from tests.helpers.dataset_layouts_json import JSON_LAYOUTS, Layout
from tests.helpers.fuzzing import (
    Change,
    Edit,
    as_json,
    as_yaml,
    change,
    changes,
    damage,
    edits,
    fuzz,
    result_or_refusal,
    written,
)

# Format -> the files that are damaged, one in turn.
FILES = {
    "coco": ["annotations/instances_train2017.json", "annotations/instances_val2017.json"],
    "labelme": ["json/a.json", "json/c.json"],
    "label_studio": ["export.json"],
    "yolo": ["data.yaml", "labels/train/a.txt"],
}
CASES = [(name, file) for name, files in FILES.items() for file in files]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Layout, bytes]:
    """A format, the file to damage, its data set, and the file's valid content."""
    name, file = request.param
    root = tmp_path_factory.mktemp("sets") / "set"
    layout = JSON_LAYOUTS[name](root)
    return name, root / file, layout, (root / file).read_bytes()


def check_import(case: tuple[str, Path, Layout, bytes], content: bytes, skip_bad: bool) -> None:
    name, file, layout, valid = case
    root = next(path for path in file.parents if path.name == "set")
    out = root.parent / "table"
    written(file, content)
    args = prepare.parse_arguments([name, *layout.arguments, "--out", str(out)])

    def read() -> Table:
        plan = FORMATS[name].list(args)
        return write_table(plan, out, ImportOptions(skip_bad=skip_bad)).table

    try:
        table = result_or_refusal(read, root, "problem(s)", "classes", "label")
        assert (table is None) == (not out.exists())
        if table is not None:
            assert set(table.index["image_path"].to_pylist()) <= set(layout.rows) | {"images/a.png"}
    finally:
        shutil.rmtree(out, ignore_errors=True)
        written(file, valid)


@fuzz(0.2)
@given(edits=edits, skip_bad=st.booleans())
def test_damaged_file(
    case: tuple[str, Path, Layout, bytes], edits: list[Edit], skip_bad: bool
) -> None:
    check_import(case, damage(case[3], edits), skip_bad)


@fuzz(0.2)
@given(changes=changes, skip_bad=st.booleans())
def test_foreign_content(
    case: tuple[str, Path, Layout, bytes], changes: list[Change], skip_bad: bool
) -> None:
    as_text: Callable[[object], bytes]
    if case[1].suffix == ".json":
        tree, as_text = json.loads(case[3]), as_json
    elif case[1].suffix == ".yaml":
        tree, as_text = yaml.safe_load(case[3]), as_yaml
    else:
        pytest.skip("a label file is lines of numbers")
    check_import(case, as_text(change(tree, changes)), skip_bad)
