"""An import that cannot be finished: one line, and nothing is left that looks like a table."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.ports import wait_until

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


def test_read_only_folder_is_one_line(tmp_path: Path) -> None:
    write_images(tmp_path, 5, 32)
    done = subprocess.run(
        command(tmp_path, Path("/proc/table")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "/proc/table cannot be written" in done.stderr


def test_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    write_images(tmp_path, 400, 200)
    out = tmp_path / "table"
    process = subprocess.Popen(command(tmp_path, out), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: out.exists() or process.poll() is not None, timeout_s=60)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert not out.exists()
