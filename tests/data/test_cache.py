"""Law: whoever decoded an image, its pixels are those of the table; and nobody on the node decodes it again.

Every test has a temporary folder of its own, so that no file of another run is met.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cid_ray
from cid_ray.data import cache
from cid_ray.data.cache import Reader, SharedFile, node_folder
from cid_ray.data.table import Table
from tests.data.made import encoded, ids, masked_row, picture, row, write_table

MEBIBYTE = 1 << 20
SIZES = [None, (48, 64)]

READ_ALL = """
import hashlib, sys
from cid_ray.data.cache import Reader
from cid_ray.data.table import Table

def refuse(*_):
    raise AssertionError("decoded again")

if sys.argv[2] == "never":
    Table.read = refuse
table = Table(sys.argv[1])
reader = Reader(table, None, 8)
for _ in range(int(sys.argv[3])):
    digest = hashlib.sha256()
    for row in range(len(table)):
        image, ids = reader(row, mask=bool(table.labeled[row]))
        digest.update(image.tobytes() + (b"" if ids is None else ids.tobytes()))
    print(digest.hexdigest())
"""


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


def made_table(folder: Path, seed: int = 0) -> Table:
    """Three labeled images of different sizes, one of val, two of a pool (JPEG and PNG), one of test."""
    sizes = [(24, 32), (40, 20), (33, 57), (30, 30), (28, 44)]
    rows = [masked_row(f"{i}", picture(seed + i, sizes[i]), ids(i, 3, sizes[i])) for i in range(3)]
    rows.append(masked_row("v", picture(seed + 7, sizes[3]), ids(7, 3, sizes[3]), split="val"))
    rows += [row(f"u{i}", encoded(picture(seed + i, sizes[4])), size=sizes[4]) for i in (8, 9)]
    rows.append(masked_row("t", picture(seed + 11, sizes[1]), ids(11, 3, sizes[1]), split="test"))
    return write_table(folder, rows)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return made_table(tmp_path / "t")


def direct(table: Table, index: int, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask without any cache."""
    image, mask = table.read(index, mask=bool(table.labeled[index]))
    if size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        masked = None if mask is None else Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
        mask = None if masked is None else np.asarray(masked)
    return np.asarray(image), mask


def assert_reads(reader: Reader, expected: Table | None = None) -> None:
    """Every row is what decoding it gives, with its mask and without."""
    table = expected or reader.table
    for index in range(len(table)):
        pixels, mask = direct(table, index, reader.image_size)
        image, found = reader(index, mask=True)
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.mode == "RGB" and (found is None) == (mask is None)
        if mask is not None and found is not None:
            np.testing.assert_array_equal(found, mask)
            assert found.dtype == np.uint8
        assert reader(index, mask=False)[1] is None


def never(*_: Any) -> Any:
    raise AssertionError("decoded again")


def files() -> list[Path]:
    return sorted(node_folder().glob("decoded-*"))


def shared(reader: Reader) -> SharedFile:
    assert reader.shared is not None
    return reader.shared


@pytest.mark.parametrize("size", SIZES)
def test_cached_pixels_are_the_decoded_ones(table: Table, size: tuple[int, int] | None) -> None:
    reader = Reader(table, size, 8)
    assert_reads(reader)
    reader.decode = never
    assert_reads(reader)
    assert len(files()) == 1


def test_an_image_read_without_its_mask_gets_it_when_it_is_asked_for(table: Table) -> None:
    reader = Reader(table, None, 8)
    assert reader(0, mask=False)[1] is None
    np.testing.assert_array_equal(reader(0, mask=True)[1], table.mask(0))
    reader.decode = never
    np.testing.assert_array_equal(reader(0, mask=True)[1], table.mask(0))


def read_all(table: Table, decoding: str, times: int = 1) -> subprocess.Popen[str]:
    """A process that reads every row and prints a digest of it all, so often."""
    return subprocess.Popen(
        [sys.executable, "-c", READ_ALL, str(table.folder), decoding, str(times)],
        env={**os.environ, "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(process: subprocess.Popen[str]) -> list[str]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out.split()


def test_a_second_process_decodes_nothing(table: Table) -> None:
    first = digests(read_all(table, "when needed"))
    assert digests(read_all(table, "never")) == first


def test_a_process_that_must_not_decode_fails_without_the_cache(table: Table) -> None:
    process = read_all(table, "never")
    assert "decoded again" in process.communicate(timeout=120)[1] and process.returncode == 1


def test_processes_and_threads_that_fill_at_once_leave_right_pixels(tmp_path: Path) -> None:
    size = (96, 96)
    rows = [masked_row(f"{i}", picture(i, size), ids(i, 3, size)) for i in range(60)]
    table = write_table(tmp_path / "t", rows)
    both = [read_all(table, "when needed", 3) for _ in range(2)]
    reader = Reader(table, None, 8)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda index: reader(index % 60, mask=index % 3 > 0), range(240)))
    seen = {digest for process in both for digest in digests(process)}
    assert len(seen) == 1
    assert_reads(reader)
    reader.decode = never
    assert_reads(reader)


SIDE, IMAGES = 128, 40


@pytest.fixture
def squares(tmp_path: Path) -> Table:
    """40 images of 48 KiB with their masks of 16: 2.5 MiB in all; test, val, pool and labels in turn."""
    rows = []
    for i in range(IMAGES):
        image, size = np.full((SIDE, SIDE, 3), i, np.uint8), (SIDE, SIDE)
        split = ("test", "val", "train", "train")[i % 4]
        pool = row(f"{i}", encoded(image, "PNG"), size=size)
        rows.append(pool if i % 4 == 2 else masked_row(f"{i}", image, np.full(size, i % 3, np.uint8), split=split))
    return write_table(tmp_path / "squares", rows)


def test_the_bound_is_kept_and_the_rows_that_come_most_often_have_the_room(squares: Table) -> None:
    reader = Reader(squares, None, 1)
    assert_reads(reader)
    found = files()[0].stat()
    assert MEBIBYTE // 2 < found.st_size <= MEBIBYTE and found.st_blocks * 512 <= MEBIBYTE
    fits = shared(reader).fits.reshape(-1, 4).sum(0).tolist()
    assert fits == [0, 5, 0, 10], "all labels, then as many of val as there is room for"
    reader.decode = never
    assert reader(3, mask=True)[0].getpixel((0, 0)) == (3, 3, 3)
    with pytest.raises(AssertionError, match="decoded again"):
        reader(0, mask=True)


def test_a_bound_that_is_too_small_is_told_with_the_one_that_is_not(squares: Table) -> None:
    told = cache.left_out(squares, None, 1)
    assert told.startswith("data.cache_mb=1 keeps 15 of 30 images decoded") and told.endswith("; 2 would keep all")
    assert cache.left_out(squares, None, 2) == "", "images of test are read once: they may be left out"
    assert cache.left_out(squares, (2 * SIDE, 2 * SIDE), 2).endswith("; 7 would keep all")
    assert cache.left_out(squares, None, 0) == "", "no cache was asked for"


def test_processes_with_different_bounds_share_what_both_have_room_for(squares: Table) -> None:
    assert_reads(Reader(squares, None, 8))
    small = Reader(squares, None, 1)
    assert_reads(small)
    assert len(files()) == 1
    small.decode = never
    small(3, mask=True)


def test_no_cache_makes_no_file(table: Table) -> None:
    reader = Reader(table, None, 0)
    assert_reads(reader)
    assert reader.shared is None and files() == []


@pytest.mark.parametrize("part", [0, 1])
def test_what_a_killed_process_left_half_written_is_decoded_again(table: Table, part: int) -> None:
    """Its pixels are there in part, its flag is not."""
    assert_reads(Reader(table, None, 8))
    reader = Reader(table, None, 8)
    high, wide = table.mask(1).shape
    with files()[0].open("r+b") as file:
        file.seek(2 * 1 + part)
        file.write(b"\0")
        file.seek(int(shared(reader).first[1]) + part * 3 * high * wide)
        file.write(b"\x55" * 50)
    assert_reads(reader)
    reader.decode = never
    assert_reads(reader)


def test_another_content_of_the_table_has_another_file(tmp_path: Path) -> None:
    table = made_table(tmp_path / "t")
    assert_reads(Reader(table, None, 8))
    shutil.rmtree(tmp_path / "t")
    changed = made_table(tmp_path / "t", seed=100)
    assert table.index["image_id"] == changed.index["image_id"]
    assert_reads(Reader(changed, None, 8))
    assert_reads(Reader(changed, (20, 20), 8))
    assert len(files()) == 3


def test_another_layout_pillow_or_boot_has_another_file(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {cache.name_of(table, None)}
    monkeypatch.setattr(cache, "VERSION", 99)
    names.add(cache.name_of(table, None))
    monkeypatch.setattr("PIL.__version__", "0.0")
    names.add(cache.name_of(table, None))
    assert len(names) == 3
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        assert cache.name_of(table, None).endswith(boot.read_text()[:8])


def test_an_image_of_another_size_than_the_table_says_is_not_kept(tmp_path: Path) -> None:
    rows = [row("wrong", encoded(picture(0, (50, 60))), size=(16, 16)), masked_row("right", picture(1), ids(1))]
    reader = Reader(write_table(tmp_path / "t", rows), None, 8)
    for _ in range(2):
        assert_reads(reader)


def open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


UNUSABLE: dict[str, Callable[[Path], Any]] = {
    "a file": Path.touch,
    "a link": lambda folder: folder.symlink_to(folder.parent),
    "open to others": open_to_others,
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_folder_that_is_not_safe_is_not_used(table: Table, kind: str) -> None:
    folder = Path(tempfile.gettempdir()) / f"cid_ray-{os.getuid()}"
    UNUSABLE[kind](folder)
    before = sorted(folder.parent.iterdir())
    with pytest.warns(UserWarning, match="not shared between processes"):
        reader = Reader(table, None, 8)
    assert reader.shared is None
    assert_reads(reader)
    assert reader(0, mask=True)[0] is reader(0, mask=True)[0], "a process keeps a few for itself"
    assert sorted(folder.parent.iterdir()) == before


def test_another_users_folder_is_not_used(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.warns(UserWarning, match="belongs to this user"):
        assert_reads(Reader(table, None, 8))


def test_a_disk_without_room_is_not_filled(squares: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4 * MEBIBYTE))
    with pytest.warns(UserWarning, match="4 MiB free"):
        reader = Reader(squares, None, 8)
    assert_reads(reader)
    assert Reader(squares, None, 1).shared is not None, "a smaller bound has room"


def test_a_disk_that_fills_up_later_costs_only_time(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    reader = Reader(table, None, 8)
    monkeypatch.setattr(os, "pwrite", full)
    assert_reads(reader)
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: len(content) // 2)  # cut short
    assert_reads(reader)


def test_the_fallback_keeps_no_more_than_its_bound(squares: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "node_folder", lambda: Path("/proc/nowhere"))
    with pytest.warns(UserWarning, match="not shared"):
        reader = Reader(squares, None, 1)
    assert_reads(reader)
    room: Any = reader.decode
    assert room.cache_info().maxsize * SIDE * SIDE * 4 == MEBIBYTE


def test_the_folder_is_its_users_alone(table: Table) -> None:
    Reader(table, None, 8)
    assert stat.S_IMODE(node_folder().stat().st_mode) == 0o700
    assert stat.S_IMODE(files()[0].stat().st_mode) == 0o600


def test_only_the_last_opened_files_stay(table: Table) -> None:
    for age in range(cache.KEPT + 3):
        old = node_folder() / f"decoded-old-{age}"
        old.write_bytes(b"")
        os.utime(old, (1e9 - age, 1e9 - age))
    other = node_folder() / "something else"
    other.write_bytes(b"")
    reader = Reader(table, None, 8)
    kept = [node_folder() / f"decoded-old-{age}" for age in range(cache.KEPT)]
    assert files() == sorted([*kept, node_folder() / cache.name_of(table, None)]) and other.exists()
    for path in files():
        path.unlink()
    assert_reads(reader)
