"""An import that cannot be finished: one line, and nothing is left that looks like a table."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cid_ray import prepare
from cid_ray.cli.parser import run_command
from cid_ray.config import InputError
from cid_ray.data.table import Table
from cid_ray.data.table_writer import AUDIT_FILE, TABLE_FILES
from tests.helpers.services import as_root

pytestmark = pytest.mark.process


def command(root: Path, out: Path) -> list[str]:
    options = ["--images", str(root / "images"), "--masks", str(root / "masks"), "--out", str(out)]
    return [sys.executable, "-m", "cid_ray.prepare", "folder", *options]


def write_images(root: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index}.png", compress_level=0)
        Image.fromarray(pixels[..., 0] % 3).save(root / "masks" / f"{index}.png")


def test_full_disk_is_one_line_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    write_images(tmp_path, 30, 300)  # 8 MB, as much as the whole disk
    out = small_disk / "table"
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free // 2))
    done = subprocess.run(command(tmp_path, out), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()


def test_disk_that_fills_up_with_the_last_file_leaves_nothing(
    small_disk: Path, tmp_path: Path
) -> None:
    """The images fit, and meta.json, which names the classes, does not."""
    write_images(tmp_path, 10, 32)
    names = "\n".join(f"class {index:03d} {'x' * 180}" for index in range(255))
    (tmp_path / "classes.txt").write_text(names)
    out = small_disk / "table"
    options = [*command(tmp_path, out), "--classes", str(tmp_path / "classes.txt")]
    done = subprocess.run(options, capture_output=True, text=True, check=True)
    meta_bytes = (out / "meta.json").stat().st_size
    table_bytes = sum((out / name).stat().st_size for name in TABLE_FILES) - meta_bytes
    shutil.rmtree(out)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - table_bytes - meta_bytes // 2))
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_import_leaves_no_table_and_may_be_started_again(
    number: signal.Signals, tmp_path: Path
) -> None:
    write_images(tmp_path, 40, 400)
    out = tmp_path / "table"
    partial = out / "table.parquet.partial"
    process = subprocess.Popen(
        command(tmp_path, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores SIGINT, and hands that on to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (partial.exists() and partial.stat().st_size > 1_000_000):
        assert process.poll() is None, "ended before anything was written"
        time.sleep(0.005)
    process.send_signal(number)
    _, error = process.communicate()
    if number == signal.SIGKILL:
        assert process.returncode == -number and partial.exists()
        with pytest.raises(InputError, match="is not a table"):
            Table(out)
    else:
        assert (process.returncode, error) == (130, "interrupted\n")
        assert not out.exists()
    again = subprocess.run(command(tmp_path, out), capture_output=True, text=True, check=True)
    assert "wrote" in again.stdout
    assert {path.name for path in out.iterdir()} == TABLE_FILES | {AUDIT_FILE}
    assert len(Table(out)) == 40


@pytest.mark.parametrize("named", [0, 1, 2])
def test_import_killed_while_it_names_its_files_may_be_started_again(
    named: int, tmp_path: Path
) -> None:
    write_images(tmp_path, 10, 32)
    out = tmp_path / "table"
    subprocess.run(command(tmp_path, out), capture_output=True, check=True)
    for name in ("table.parquet", "index.parquet", "meta.json")[named:]:
        (out / name).rename(out / f"{name}.partial")
    (out / ".lock").touch()
    with pytest.raises(InputError, match="is not a table"):
        Table(out)
    subprocess.run(command(tmp_path, out), capture_output=True, check=True)
    assert {path.name for path in out.iterdir()} == TABLE_FILES | {AUDIT_FILE} and len(
        Table(out)
    ) == 10


def test_read_only_disk_is_known_before_a_file_is_read(small_disk: Path, tmp_path: Path) -> None:
    write_images(tmp_path, 2, 32)
    (tmp_path / "images" / "0.png").write_bytes(b"damaged")
    subprocess.run(as_root("mount", "-o", "remount,ro", str(small_disk)), check=True)
    done = subprocess.run(
        command(tmp_path, small_disk / "a" / "table"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"{small_disk / 'a' / 'table'}: Read-only file system" in done.stderr
    assert "damaged" not in done.stderr


def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    write_images(tmp_path, 5, 32)
    done = subprocess.run(
        command(tmp_path, Path("/proc/table")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "/proc/table cannot be written" in done.stderr


def test_interrupted_import_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C after some files were written."""
    write_images(tmp_path, 20, 32)
    out = tmp_path / "table"

    def interrupted(files: Iterable[Any], *_: object, **__: object) -> Iterator[Any]:
        yield from itertools.islice(files, 9)
        assert (out / "table.parquet.partial").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "track", interrupted)
    with pytest.raises(SystemExit) as end:
        run_command(prepare.main, command(tmp_path, out)[3:])
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    assert not out.exists()
