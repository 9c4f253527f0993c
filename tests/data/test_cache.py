"""Law: a cached image has the pixels of the decoded one, and a node decodes each image once.

The reference is `Table.read`. Every test has a temporary folder of its own, so it meets no cache of
another run.
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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cid_ray
from cid_ray.data import cache
from cid_ray.data.cache import CachedReader, SharedCacheFile
from cid_ray.data.table import Table
from cid_ray.data.table_errors import UnreadableImage
from cid_ray.storage import paths
from cid_ray.storage.user_dirs import private_temp_dir
from tests.helpers import object_store
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

MEBIBYTE = 1 << 20
SIZES = [None, (48, 64)]

READ_ALL = """
import hashlib, sys
from cid_ray.data.cache import CachedReader
from cid_ray.data.table import Table

def fail(*_):
    raise AssertionError("decoded again")

if sys.argv[2] == "never":
    Table.read = fail
table = Table(sys.argv[1])
reader = CachedReader(table, None, 8)
for _ in range(int(sys.argv[3])):
    digest = hashlib.sha256()
    for row in range(len(table)):
        image, mask = reader(row, mask=bool(table.labeled[row]))
        digest.update(image.tobytes() + (b"" if mask is None else mask.tobytes()))
    print(digest.hexdigest())
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


def make_table(folder: Path, seed: int = 0) -> Table:
    """Three labeled images of different sizes, one of val, two of the pool and one of test."""

    def labeled(name: str, number: int, size: tuple[int, int], split: str) -> dict[str, Any]:
        image = random_image(seed + number, size)
        return labeled_row(name, image, random_mask(number, 3, size), split=split)

    def unlabeled(number: int, size: tuple[int, int]) -> dict[str, Any]:
        image = random_image(seed + number, size)
        return table_row(f"u{number}", encode_image(image), size=size)

    return write_table(
        folder,
        [
            labeled("0", 0, (24, 32), "train"),
            labeled("1", 1, (40, 20), "train"),
            labeled("2", 2, (33, 57), "train"),
            labeled("v", 7, (30, 30), "val"),
            unlabeled(8, (28, 44)),
            unlabeled(9, (28, 44)),
            labeled("t", 11, (40, 20), "test"),
        ],
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return make_table(tmp_path / "t")


def read_uncached(
    table: Table, row: int, image_size: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image u8[H, W, 3] and mask u8[H, W] without any cache."""
    image, mask = table.read(row, mask=bool(table.labeled[row]))
    if image_size:
        height, width = image_size
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        if mask is not None:
            nearest = Image.Resampling.NEAREST
            mask = np.asarray(Image.fromarray(mask).resize((width, height), nearest))
    return np.asarray(image), mask


def assert_reads(reader: CachedReader) -> None:
    """Every row equals the decoded one, with its mask and without."""
    table = reader.table
    for row in range(len(table)):
        pixels, expected_mask = read_uncached(table, row, reader.image_size)
        image, mask = reader(row, mask=True)
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert isinstance(image, Image.Image) and image.mode == "RGB"
        assert (mask is None) == (expected_mask is None)
        if mask is not None and expected_mask is not None:
            np.testing.assert_array_equal(mask, expected_mask)
            assert mask.dtype == np.uint8
        assert reader(row, mask=False)[1] is None


def fail_to_decode(*_: Any) -> Any:
    raise AssertionError("decoded again")


def cache_files() -> list[Path]:
    return sorted(private_temp_dir().glob("decoded-*"))


def shared_file(reader: CachedReader) -> SharedCacheFile:
    assert reader.shared_file is not None
    return reader.shared_file


@pytest.mark.parametrize("size", SIZES)
def test_cached_reader_reads_decoded_pixels(table: Table, size: tuple[int, int] | None) -> None:
    reader = CachedReader(table, size, 8)
    assert_reads(reader)
    reader.decode = fail_to_decode
    assert_reads(reader)
    assert len(cache_files()) == 1


def test_cached_reader_after_read_without_mask_adds_mask(table: Table) -> None:
    reader = CachedReader(table, None, 8)
    assert reader(0, mask=False)[1] is None
    np.testing.assert_array_equal(reader(0, mask=True)[1], table.mask(0))
    reader.decode = fail_to_decode
    np.testing.assert_array_equal(reader(0, mask=True)[1], table.mask(0))


def read_all(table: Table, decoding: str, times: int = 1) -> subprocess.Popen[str]:
    """A process that reads all rows `times` times and prints a digest each time."""
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


@pytest.mark.process
def test_second_process_reads_cache_without_decoding(table: Table) -> None:
    first = digests(read_all(table, "when needed"))
    assert digests(read_all(table, "never")) == first


@pytest.mark.process
def test_first_process_without_cache_decodes(table: Table) -> None:
    process = read_all(table, "never")
    error = process.communicate(timeout=120)[1]
    assert "decoded again" in error
    assert process.returncode == 1


@pytest.mark.process
def test_concurrent_processes_and_threads_cache_correct_pixels(tmp_path: Path) -> None:
    size = (96, 96)
    rows = [labeled_row(f"{i}", random_image(i, size), random_mask(i, 3, size)) for i in range(60)]
    table = write_table(tmp_path / "t", rows)
    processes = [read_all(table, "when needed", 3) for _ in range(2)]
    reader = CachedReader(table, None, 8)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda index: reader(index % 60, mask=index % 3 > 0), range(240)))
    assert len({digest for process in processes for digest in digests(process)}) == 1
    assert_reads(reader)
    reader.decode = fail_to_decode
    assert_reads(reader)


SIDE, IMAGES = 128, 40


@pytest.fixture
def squares(tmp_path: Path) -> Table:
    """40 images of 48 KiB, masks of 16 KiB: 2.5 MiB. Rows repeat test, val, pool, labeled."""
    size = (SIDE, SIDE)
    rows = []
    for i in range(IMAGES):
        image = np.full((*size, 3), i, np.uint8)
        split = ("test", "val", "train", "train")[i % 4]
        if i % 4 == 2:
            rows.append(table_row(f"{i}", encode_image(image, "PNG"), size=size))
        else:
            rows.append(labeled_row(f"{i}", image, np.full(size, i % 3, np.uint8), split=split))
    return write_table(tmp_path / "squares", rows)


def test_cache_bound_holds_labels_first_then_val(squares: Table) -> None:
    reader = CachedReader(squares, None, 1)
    assert_reads(reader)
    file = cache_files()[0].stat()
    assert MEBIBYTE // 2 < file.st_size <= MEBIBYTE
    assert file.st_blocks * 512 <= MEBIBYTE
    test, val, pool, labeled = shared_file(reader).fits.reshape(-1, 4).sum(0).tolist()
    assert labeled == IMAGES // 4, "all labeled images"
    assert val == 5, "then as many of val as fit"
    assert test == pool == 0
    reader.decode = fail_to_decode
    assert np.asarray(reader(3, mask=True)[0])[0, 0].tolist() == [3, 3, 3]
    with pytest.raises(AssertionError, match="decoded again"):
        reader(0, mask=True)


def test_describe_uncached_names_sufficient_bound(squares: Table) -> None:
    hint = cache.describe_uncached(squares, None, 1)
    assert hint.startswith("data.cache_mb=1 holds 15 of 30 decoded images")
    assert hint.endswith("; data.cache_mb=2 would hold all")
    assert cache.describe_uncached(squares, None, 2) == "", "test images are read once only"
    larger = cache.describe_uncached(squares, (2 * SIDE, 2 * SIDE), 2)
    assert larger.endswith("; data.cache_mb=7 would hold all")
    assert cache.describe_uncached(squares, None, 0) == "", "the cache is off"


def test_readers_with_different_bounds_share_one_file(squares: Table) -> None:
    assert_reads(CachedReader(squares, None, 8))
    small = CachedReader(squares, None, 1)
    assert_reads(small)
    assert len(cache_files()) == 1
    small.decode = fail_to_decode
    small(3, mask=True)


def test_cache_turned_off_makes_no_file(table: Table) -> None:
    reader = CachedReader(table, None, 0)
    assert_reads(reader)
    assert reader.shared_file is None
    assert cache_files() == []


@pytest.mark.parametrize("part", [0, 1])
def test_half_written_row_is_decoded_again(table: Table, part: int) -> None:
    """A killed process left a part of the pixels, without the ready flag."""
    assert_reads(CachedReader(table, None, 8))
    reader = CachedReader(table, None, 8)
    row = 1
    height, width = table.mask(row).shape
    with cache_files()[0].open("r+b") as file:
        file.seek(2 * row + part)
        file.write(b"\0")
        file.seek(int(shared_file(reader).offsets[row]) + part * 3 * height * width)
        file.write(b"\x55" * 50)
    assert_reads(reader)
    reader.decode = fail_to_decode
    assert_reads(reader)


def test_changed_table_or_size_gets_another_file(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t")
    assert_reads(CachedReader(table, None, 8))
    shutil.rmtree(tmp_path / "t")
    changed = make_table(tmp_path / "t", seed=100)
    assert table.index["image_id"] == changed.index["image_id"]
    assert_reads(CachedReader(changed, None, 8))
    assert_reads(CachedReader(changed, (20, 20), 8))
    assert len(cache_files()) == 3


@pytest.mark.parametrize("in_store", [False, pytest.param(True, marks=pytest.mark.process)])
def test_replaced_table_file_never_gives_cached_pixels_of_the_old_one(
    tmp_path: Path, in_store: bool
) -> None:
    """Also when its last write has the time of the old one, as after `cp -p`."""
    old = make_table(tmp_path / "t")
    make_table(tmp_path / "new", seed=100)
    with object_store.serving() if in_store else nullcontext():
        name = object_store.upload(tmp_path / "t", "t") if in_store else tmp_path / "t"
        before = Table(name)
        assert_reads(CachedReader(before, None, 8))
        replacement = (tmp_path / "new" / "table.parquet").read_bytes()
        if in_store:
            with paths.atomic_write(f"{name}/table.parquet") as out:
                out.write(replacement)
        else:
            replace_keeping_time(tmp_path / "t" / "table.parquet", replacement)
        after = Table(name)
        assert after.fingerprint == before.fingerprint == old.fingerprint
        reader = CachedReader(after, None, 8)
        for row in range(len(old)):
            with pytest.raises(UnreadableImage, match="not the one that was imported"):
                reader(row, mask=False)


def replace_keeping_time(file: Path, content: bytes) -> None:
    stat_before = file.stat()
    partial = file.with_name("partial")
    partial.write_bytes(content)
    os.utime(partial, ns=(stat_before.st_atime_ns, stat_before.st_mtime_ns))
    partial.replace(file)


def test_cache_file_name_changes_with_version_pillow_and_boot(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {cache.cache_file_name(table, None)}
    monkeypatch.setattr(cache, "CACHE_VERSION", 99)
    names.add(cache.cache_file_name(table, None))
    monkeypatch.setattr("PIL.__version__", "0.0")
    names.add(cache.cache_file_name(table, None))
    assert len(names) == 3
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    if boot_id.exists():
        assert cache.cache_file_name(table, None).endswith(boot_id.read_text()[:8])


def test_image_of_unexpected_size_is_not_cached(tmp_path: Path) -> None:
    wrong = table_row("wrong", encode_image(random_image(0, (50, 60))), size=(16, 16))
    rows = [wrong, labeled_row("right", random_image(1), random_mask(1))]
    reader = CachedReader(write_table(tmp_path / "t", rows), None, 8)
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
def test_unsafe_cache_dir_is_not_used(table: Table, kind: str) -> None:
    folder = Path(tempfile.gettempdir()) / f"cid_ray-{os.getuid()}"
    UNUSABLE[kind](folder)
    before = sorted(folder.parent.iterdir())
    with pytest.warns(UserWarning, match="not shared between processes"):
        reader = CachedReader(table, None, 8)
    assert reader.shared_file is None
    assert_reads(reader)
    assert reader(0, mask=True)[0] is reader(0, mask=True)[0], (
        "a process keeps some images for itself"
    )
    assert sorted(folder.parent.iterdir()) == before


def test_other_users_cache_dir_is_not_used(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.warns(UserWarning, match="belongs to this user"):
        assert_reads(CachedReader(table, None, 8))


def test_nearly_full_disk_gets_no_cache_file(
    squares: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4 * MEBIBYTE))
    with pytest.warns(UserWarning, match="4 MiB free"):
        reader = CachedReader(squares, None, 8)
    assert_reads(reader)
    assert CachedReader(squares, None, 1).shared_file is not None, "a smaller bound has room"


def test_disk_full_while_caching_changes_no_pixel(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    reader = CachedReader(table, None, 8)
    monkeypatch.setattr(os, "pwrite", full)
    assert_reads(reader)
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: len(content) // 2)  # cut short
    assert_reads(reader)


def test_process_fallback_keeps_its_bound(squares: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "private_temp_dir", lambda: Path("/proc/nowhere"))
    with pytest.warns(UserWarning, match="not shared"):
        reader = CachedReader(squares, None, 1)
    assert_reads(reader)
    decode: Any = reader.decode
    assert decode.cache_info().maxsize * SIDE * SIDE * 4 == MEBIBYTE


def test_cache_dir_and_file_are_private(table: Table) -> None:
    CachedReader(table, None, 8)
    assert stat.S_IMODE(private_temp_dir().stat().st_mode) == 0o700
    assert stat.S_IMODE(cache_files()[0].stat().st_mode) == 0o600


def test_old_cache_files_are_removed(table: Table) -> None:
    for age in range(cache.MAX_OTHER_FILES + 3):
        old = private_temp_dir() / f"decoded-old-{age}"
        old.write_bytes(b"")
        os.utime(old, (1e9 - age, 1e9 - age))
    unrelated = private_temp_dir() / "something else"
    unrelated.write_bytes(b"")
    reader = CachedReader(table, None, 8)
    newest = [private_temp_dir() / f"decoded-old-{age}" for age in range(cache.MAX_OTHER_FILES)]
    in_use = private_temp_dir() / cache.cache_file_name(table, None)
    assert cache_files() == sorted([*newest, in_use])
    assert unrelated.exists()
    for path in cache_files():
        path.unlink()
    assert_reads(reader)
