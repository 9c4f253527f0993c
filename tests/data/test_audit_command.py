"""Laws of `audit.html` in a table's folder: every import writes it, `prepare audit` makes it again,
and it is no part of the table.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.synthetic import write_demo
from cid_ray.data.table import Table
from cid_ray.data.table_writer import AUDIT_FILE, TABLE_FILES, TableWriter
from tests.helpers import object_store
from tests.helpers.image_tables import prepare_folder, random_mask, write_folders

FEW = {"test": 1, "val": 2, "train": 4}


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cid_ray.prepare", *map(str, arguments)]


def test_import_ends_with_a_page_that_tells_how_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i) for i in range(5)])
    table = prepare_folder(root, "--map", "7=255")
    page = root / "table" / AUDIT_FILE
    assert capsys.readouterr().out.endswith(f"look at it before you train: {page}\n")
    text = page.read_text()
    for expected in ("5</dd>", "<code>folder</code>", "7=255", str(root / "masks"), "UTC"):
        assert expected in text, expected
    assert "val images (no --val-images: every fifth labeled image)" in text
    assert table.fingerprint in text


def test_audit_makes_the_page_again_and_leaves_the_table(tmp_path: Path) -> None:
    write_demo(tmp_path, FEW)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):
        assert prepare.main(["audit", str(tmp_path)]) == 0
        assert files_of(tmp_path) == TABLE_FILES | {AUDIT_FILE}
    assert {path: path.read_bytes() for path in before} == before


def test_audit_writes_where_it_is_told(tmp_path: Path) -> None:
    write_demo(tmp_path / "table", FEW)
    assert prepare.main(["audit", str(tmp_path / "table"), "--out", f"{tmp_path}/a/b.html"]) == 0
    assert "what is in this table" in (tmp_path / "a" / "b.html").read_text()
    assert files_of(tmp_path / "table") == TABLE_FILES


@pytest.mark.process
def test_audit_of_a_table_in_an_object_store_needs_a_file(tmp_path: Path) -> None:
    write_demo(tmp_path / "table", FEW)
    with object_store.serving():
        name = object_store.upload(tmp_path / "table", "table")
        with pytest.raises(InputError, match="is not on this machine; name a file with --out"):
            prepare.main(["audit", str(name)])
        assert prepare.main(["audit", str(name), "--out", f"{tmp_path}/page.html"]) == 0
    assert (tmp_path / "page.html").read_text().count("<img ") == 14


def test_audit_of_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a table"):
        prepare.main(["audit", str(tmp_path)])
    assert not files_of(tmp_path)


# ---- the page is no part of the table ----


def writer_of(folder: Path) -> TableWriter:
    return TableWriter(folder, ["a"], [[0, 0, 0]], 255)


def test_table_with_a_page_is_replaced_together_with_it(tmp_path: Path) -> None:
    write_demo(tmp_path, FEW)
    (tmp_path / AUDIT_FILE).write_text("the old page")
    writer_of(tmp_path).close()
    assert files_of(tmp_path) == TABLE_FILES


def test_page_stays_when_the_table_is_not_replaced_after_all(tmp_path: Path) -> None:
    write_demo(tmp_path, FEW)
    (tmp_path / AUDIT_FILE).write_text("the old page")
    writer_of(tmp_path).discard()
    assert files_of(tmp_path) == TABLE_FILES | {AUDIT_FILE}


def test_page_alone_in_a_folder_is_of_no_table_and_goes_with_a_discarded_import(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / AUDIT_FILE).write_text("a page")
    writer_of(folder).discard()
    assert not folder.exists()


def test_page_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    write_demo(tmp_path / "table", FEW)
    (tmp_path / "table" / AUDIT_FILE).symlink_to(tmp_path / "mine.html")
    assert prepare.main(["audit", str(tmp_path / "table")]) == 0
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert not (tmp_path / "table" / AUDIT_FILE).is_symlink()


@pytest.mark.process
def test_full_disk_at_the_page_is_one_line_and_leaves_the_table(
    small_disk: Path, tmp_path: Path
) -> None:
    write_demo(tmp_path / "table", FEW)
    shutil.copytree(tmp_path / "table", small_disk / "table")
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096))
    done = subprocess.run(
        command("audit", small_disk / "table"), capture_output=True, text=True, check=False
    )
    page = small_disk / "table" / AUDIT_FILE
    assert done.stderr == f"failed: {page}: No space left on device\n" and done.returncode == 1
    assert files_of(small_disk / "table") == TABLE_FILES
    assert len(Table(small_disk / "table")) == sum(FEW.values())
