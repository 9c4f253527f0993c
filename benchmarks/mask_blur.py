"""How well blurred masks are recognised, and how fast a large mask is read.

    python -m benchmarks.mask_blur FOLDER_OF_MASKS [FOLDER_OF_MASKS ...]

Prints a Markdown row per change: how many masks look blurred by themselves, and the set's ramps per
edge. Then the CPU time of reading a 2048 x 1024 mask of 19 classes, by ids and by colours.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest.blur import EdgeCounts, count_edges
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.mask_reader import MaskReader

LARGE = (1024, 2048)
NUM_CLASSES = 19
REPEATS = 10


def as_jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(mask: Image.Image) -> Image.Image:
        out = io.BytesIO()
        mask.save(out, "JPEG", quality=quality)
        return Image.open(out)

    return change


def resized(scale: float, how: Image.Resampling) -> Callable[[Image.Image], Image.Image]:
    return lambda mask: mask.resize((int(mask.width * scale), int(mask.height * scale)), how)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda mask: mask,
    **{f"nearest {scale}": resized(scale, Image.Resampling.NEAREST) for scale in (0.25, 0.5, 2)},
    **{f"JPEG {quality}": as_jpeg(quality) for quality in (75, 92, 95)},
    **{f"bilinear {scale}": resized(scale, Image.Resampling.BILINEAR) for scale in (0.25, 0.9, 2)},
    **{f"bicubic {scale}": resized(scale, Image.Resampling.BICUBIC) for scale in (0.5, 2)},
}


def main(folders: list[Path]) -> None:
    for folder in folders:
        masks = [Image.fromarray(np.asarray(Image.open(f))) for f in sorted(folder.rglob("*.png"))]
        for name, change in CHANGES.items():
            counts = [count_edges(np.asarray(change(mask))) for mask in masks]
            total = EdgeCounts()
            for one in counts:
                total.add(one)
            alone = sum(one.looks_blurred() for one in counts)
            ramps = int(total.ramps.sum()) / max(total.edges, 1)
            whole = "yes" if total.looks_blurred() else "no"
            print(f"| {folder.name} | {name} | {ramps:.3f} | {alone} of {len(masks)} | {whole} |")
    print_reading_times()


def print_reading_times() -> None:
    blocks = np.random.default_rng(0).integers(0, NUM_CLASSES, (16, 32), dtype=np.uint8)
    mask = np.kron(blocks, np.ones((LARGE[0] // 16, LARGE[1] // 32), np.uint8))
    colors = default_colors(NUM_CLASSES)
    classes = ClassList([f"c{index}" for index in range(NUM_CLASSES)], colors, has_colors=True)
    reader = MaskReader(classes, [], 255)
    with tempfile.TemporaryDirectory() as folder:
        for name, pixels in (("ids", mask), ("colours", np.array(colors, np.uint8)[mask])):
            path = Path(folder, f"{name}.png")
            Image.fromarray(pixels).save(path)
            times = []
            for _ in range(REPEATS):
                start = time.process_time()
                found = reader.read_file(path)
                times.append(time.process_time() - start)
            assert (found.ids == mask).all()
            print(f"{name}: {1000 * min(times):.0f} ms of CPU (the least of {REPEATS})")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
