"""Law: the memory of an import with --tile does not grow with the height of a TIFF file.

Measured: the peak of a process that imports, Linux's VmHWM, which starts afresh in a new program.
Of a tall image a row of tiles is small, so what grows would be what is decoded beyond it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import cid_ray
from cid_ray.data.table import Table

pytestmark = pytest.mark.process

TILE = 512
LOW, TALL = (
    1024,
    60_416,
)  # rows: 2 and 118 tiles. Decoded, image and mask of the tall one are 118 MiB
BOUND_MIB = 40

IMPORT = """
import sys
from cid_ray import prepare
prepare.main(sys.argv[1:])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("VmHWM", int(status["VmHWM"].split()[0]) / 1024)
"""


def write_tall(file: Path, rows: int, channels: int, seed: int) -> None:
    """Write a file whose chunks all differ, holding one of them: an image in tiles, or a mask in
    strips.
    """
    file.parent.mkdir(parents=True, exist_ok=True)

    def chunks() -> Iterator[bytes]:
        for top in range(0, rows, TILE):
            chunk = np.zeros((TILE, TILE, channels), np.uint8)
            rng = np.random.default_rng([seed, top])
            chunk[0] = rng.integers(0, 3, (TILE, channels))
            yield zlib.compress(chunk.tobytes(), 1)

    is_image = channels == 3
    tifffile.imwrite(
        file,
        chunks(),
        shape=(rows, TILE, 3) if is_image else (rows, TILE),
        dtype="uint8",
        photometric="rgb" if is_image else "minisblack",
        compression="zlib",
        tile=(TILE, TILE) if is_image else None,
        rowsperstrip=None if is_image else TILE,
    )


def peak_mib(root: Path, rows: int) -> float:
    """The peak memory of importing an image of so many rows; val is small."""
    root.mkdir()
    (root / "classes.txt").write_text("a\nb\nc\n")
    options: list[object] = ["--classes", root / "classes.txt", "--tile", TILE]
    for seed, (split, height) in enumerate((("", rows), ("val-", TILE))):
        for kind, channels in (("images", 3), ("masks", 1)):
            folder = root / f"{split}{kind}"
            write_tall(folder / "a.tif", height, channels, seed)
            options += [f"--{split}{kind}", folder]
    package_root = str(Path(cid_ray.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, "folder", *map(str, options), "--out", str(root / "table")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": package_root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(Table(root / "table").rows("train")) == rows // TILE
    return float(done.stdout.split("VmHWM")[1])


def test_peak_memory_does_not_grow_with_height(tmp_path: Path) -> None:
    low = peak_mib(tmp_path / "low", LOW)
    tall = peak_mib(tmp_path / "tall", TALL)
    assert tall - low < BOUND_MIB
