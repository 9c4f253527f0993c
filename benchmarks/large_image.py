"""Peak memory and time of importing a large TIFF file with `--tile`.

    python -m benchmarks.large_image --side 12000 --out benchmarks/results/large-image

Generates an RGB image of SIDE x SIDE pixels and its mask, both stored in deflated chunks: tiles of
512 x 512 or strips of 16 rows. `prepare folder --tile 512 --overlap 64` imports them in a process
of its own, and Linux tells that process's peak (VmHWM). The same import of a file of 600 x 600
pixels is the baseline: what the libraries take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cid_ray.results.provenance import provenance

BASELINE_SIDE = 600
CHUNK_SIDE = 512
STRIP_ROWS = 16
IMPORT = """
import sys
from cid_ray import prepare
prepare.main(sys.argv[1:])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("VmHWM", status["VmHWM"].split()[0])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=12_000)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result: dict[str, Any] = {"provenance": provenance(), "tile": args.tile, "cases": []}
    for side in (BASELINE_SIDE, args.side):
        for layout in ("tiles", "strips"):
            case = measure(side, layout, ("--tile", args.tile, "--overlap", args.overlap))
            print(case, flush=True)
            result["cases"].append(case)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(side: int, layout: str, options: tuple[Any, ...]) -> dict[str, Any]:
    """One import of two images of a side, of which one is val."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "classes.txt").write_text("a\nb\nc\n")
        for folder, seed, size in (("train", 0, side), ("val", 1, BASELINE_SIDE)):
            write_large(root / folder / "images" / "a.tif", size, layout, 3, seed)
            write_large(root / folder / "masks" / "a.tif", size, layout, 1, seed)
        folders = [
            *("--images", root / "train" / "images", "--masks", root / "train" / "masks"),
            *("--val-images", root / "val" / "images", "--val-masks", root / "val" / "masks"),
        ]
        command = ["folder", *folders, "--classes", root / "classes.txt", *options]
        arguments = [str(part) for part in (*command, "--out", root / "table")]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - started
        peak = int(done.stdout.split("VmHWM")[1].split()[0]) / 1024
        stored = (root / "table" / "table.parquet").stat().st_size
    return {
        "side": side,
        "layout": layout,
        "raw_mb": round(side * side * 4 / 1e6),  # RGB and ids
        "peak_mib": round(peak),
        "seconds": round(seconds, 1),
        "table_mb": round(stored / 1e6),
    }


def write_large(file: Path, side: int, layout: str, channels: int, seed: int) -> None:
    """Write a TIFF file of noise, a chunk at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        file,
        _chunks(side, layout, channels, np.random.default_rng(seed)),
        shape=(side, side, 3) if channels == 3 else (side, side),
        dtype="uint8",
        photometric="rgb" if channels == 3 else "minisblack",
        compression="zlib",
        tile=(CHUNK_SIDE, CHUNK_SIDE) if layout == "tiles" else None,
        rowsperstrip=STRIP_ROWS if layout == "strips" else None,
    )


def _chunks(side: int, layout: str, channels: int, rng: np.random.Generator) -> Iterator[bytes]:
    per_side = -(-side // CHUNK_SIDE)
    if layout == "tiles":
        shapes = [(CHUNK_SIDE, CHUNK_SIDE)] * per_side**2
    else:
        shapes = [(min(STRIP_ROWS, side - top), side) for top in range(0, side, STRIP_ROWS)]
    for rows, columns in shapes:
        # Noise of few values deflates as photographs do, to about a half.
        values = 40 if channels == 3 else 3
        chunk = rng.integers(0, values, (rows, columns, channels), dtype=np.uint8)
        yield zlib.compress(chunk.tobytes(), 1)


if __name__ == "__main__":
    main()
