"""How well perceptual hashes separate copies from similar photos, and what a million of them cost.

    CID_RAY_DATA=DIR python -m benchmarks.near_duplicates [--out FILE]

Recall: photos of CamVid, VOC and COCO are re-encoded and resized, and each copy is compared with
its original. False calls: CamVid's frames are compared with the next frame of their drive, and with
all photos that are neither the same nor neighbours. Cost: `find_neighbours` on random hashes with
planted copies, and with clusters of equal and similar ones (blank or constant scenes).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from cid_ray.data.ingest.near_index import NearIndex, distance, find_neighbours
from cid_ray.data.ingest.perceptual_hash import MAX_DISTANCE, MIN_REDUCED, describe_looks

COPIES = [(quality, scale) for scale in (1.0, 0.75, 0.5, 2.0) for quality in (50, 75, 90)]
SAME_SECOND = 15  # frames; CamVid has 30 a second, and its labeled frames are 1 or 2 to 30 apart
Hash = Callable[[Image.Image], np.ndarray]  # RGB image -> u8[B] of bits


def reduced(image: Image.Image) -> Image.Image:
    factor = min(image.size) // MIN_REDUCED
    return image.reduce(factor) if factor > 1 else image


def hash_of_import(image: Image.Image) -> np.ndarray:
    return np.frombuffer(describe_looks(np.asarray(image)).hash, np.uint8)


def other_hash(function: Callable[..., imagehash.ImageHash], side: int) -> Hash:
    return lambda image: np.packbits(function(reduced(image), side).hash)


HASHES: dict[str, tuple[Hash, int]] = {  # the hash, and the distance up to which it calls a copy
    "pHash 256 bits (used)": (hash_of_import, MAX_DISTANCE),
    "pHash 64 bits": (other_hash(imagehash.phash, 8), 4),
    "dHash 256 bits": (other_hash(imagehash.dhash, 16), 21),
    "dHash 64 bits": (other_hash(imagehash.dhash, 8), 5),
}


def copy_of(image: Image.Image, quality: int, scale: float) -> Image.Image:
    size = (round(image.width * scale), round(image.height * scale))
    out = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def next_frames(files: list[Path]) -> Iterator[tuple[int, int, int]]:
    """(index, index of the next frame of the same drive and split, frames between)."""
    for (first, a), (second, b) in pairwise(enumerate(files)):
        if a.parent == b.parent and a.name[:6] == b.name[:6]:
            numbers = [int(re.findall(r"\d+$", file.stem)[0]) for file in (a, b)]
            yield first, second, numbers[1] - numbers[0]


def judge_hash(
    hash_image: Hash, limit: int, frames: list[Path], photos: list[Path]
) -> dict[str, Any]:
    """Recall on copies, and how often other pairs are called copies."""
    files = [*frames, *photos]
    opened = [Image.open(file).convert("RGB") for file in files]
    hashes = np.stack([hash_image(image) for image in opened])
    distances = {}
    for quality, scale in COPIES:
        copies = np.stack([hash_image(copy_of(image, quality, scale)) for image in opened])
        distances[f"q{quality} x{scale:g}"] = distance(hashes, copies)
    neighbours = list(next_frames(frames))
    apart = {
        "a second": [(a, b) for a, b, gap in neighbours if gap >= SAME_SECOND],
        "1/15 second": [(a, b) for a, b, gap in neighbours if gap < SAME_SECOND],
    }
    called = {name: share_called(hashes, pairs, limit) for name, pairs in apart.items()}
    near = {(a, b) for a, b, _ in neighbours}
    others = [
        (a, b) for a in range(len(files)) for b in range(a + 1, len(files)) if (a, b) not in near
    ]
    called["other photos"] = share_called(hashes, others, limit)
    return {
        "limit": limit,
        "recall": {name: round(float((d <= limit).mean()), 4) for name, d in distances.items()},
        "largest_distance": {name: int(d.max()) for name, d in distances.items()},
        "called_copies": called,
    }


def share_called(hashes: np.ndarray, pairs: list[tuple[int, int]], limit: int) -> dict[str, float]:
    first, second = np.array(pairs).T
    called = distance(hashes[first], hashes[second]) <= limit
    return {
        "pairs": len(pairs),
        "called": int(called.sum()),
        "share": round(float(called.mean()), 5),
    }


def planted(count: int, clusters: bool) -> tuple[np.ndarray, int]:
    """Random hashes, and how many of them look like an earlier one."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    copies = count // 10 if clusters else 1000
    start = count // 2
    sources = np.full(copies, 1) if clusters else rng.choice(start, copies, replace=False)
    flips = rng.integers(0, 3 if clusters else MAX_DISTANCE + 1, copies)
    for row, (source, flip) in enumerate(zip(sources, flips, strict=True)):
        bits = np.unpackbits(hashes[source])
        bits[rng.choice(256, flip, replace=False)] ^= 1
        hashes[start + row] = np.packbits(bits)
    equal = count // 5 if clusters else 0
    hashes[count - equal :] = hashes[0]
    return hashes, copies + equal


def measure_cost(count: int, clusters: bool) -> dict[str, Any]:
    """CPU time and memory of all pairs, and of asking an index of 5,000 held-out images."""
    hashes, expected = planted(count, clusters)
    started = time.process_time()
    found = find_neighbours(hashes)
    seconds = time.process_time() - started
    index = NearIndex(hashes[:5000])
    asked = [row.tobytes() for row in hashes[-2000:]]
    started = time.process_time()
    for content in asked:
        index.nearest(content)
    query = (time.process_time() - started) / len(asked)
    tracemalloc.start()
    find_neighbours(hashes)
    memory = tracemalloc.get_traced_memory()[1] / 1e6
    return {
        "hashes": count,
        "clusters": clusters,
        "all_pairs_cpu_seconds": round(seconds, 2),
        "all_pairs_peak_mb": round(memory),
        "planted": expected,
        "found": len(found.rows),
        "query_cpu_microseconds": round(1e6 * query),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cost", nargs=2, metavar=("COUNT", "CLUSTERS"), help="in a new process")
    args = parser.parse_args()
    if args.cost:
        print(json.dumps(measure_cost(int(args.cost[0]), args.cost[1] == "True")))
        return
    data = Path(os.environ["CID_RAY_DATA"])
    frames = sorted((data / "camvid" / "images").rglob("*.jpg"))
    photos = sorted((data / "voc_mini" / "JPEGImages").glob("*.jpg"))
    photos += sorted((data / "cocostuff_mini" / "img").rglob("*.jpg"))
    result: dict[str, Any] = {"frames": len(frames), "photos": len(photos), "hashes": {}}
    for name, (hash_image, limit) in HASHES.items():
        result["hashes"][name] = judge_hash(hash_image, limit, frames, photos)
        print(name, json.dumps(result["hashes"][name]), flush=True)
    result["cost"] = []
    for count, clusters in ((10**4, False), (10**5, False), (10**6, False), (10**6, True)):
        command = [sys.executable, "-m", "benchmarks.near_duplicates", "--cost"]
        done = subprocess.run(
            [*command, str(count), str(clusters)], capture_output=True, text=True, check=True
        )
        result["cost"].append(json.loads(done.stdout))
        print(done.stdout, end="", flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
