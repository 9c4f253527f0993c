"""An import that cannot be finished: one line, and nothing is left that looks like a table."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cid_ray import prepare
from cid_ray.cli.parser import run_command

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
