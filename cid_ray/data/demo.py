"""The embedded default: a generated street-like data set, made in seconds, deterministic, no download.

Seven classes (sky, hill, water, tree, house, boat, pole) on 64 x 96 pixels, each with its own texture, in front of
each other, with unlabeled clutter (birds, noise, shadows). Images come from four "seasons" (the `group`), which differ
in colour cast, contrast, haze, noise and blur: a draw with `label_from: one_group` sees one season, the pool all four,
so there is a true style shift between labeled images and pool. Val and test hold all seasons evenly.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cid_ray.data.audit import Audit
from cid_ray.data.convert import array_row
from cid_ray.data.table import LAYOUT, TableWriter

VERSION = 1
HEIGHT, WIDTH = 64, 96
COUNTS = {"test": 48, "val": 32, "train": 192}
CLASSES = ["sky", "hill", "water", "tree", "house", "boat", "pole"]
COLORS = [[112, 178, 230], [126, 150, 74], [40, 92, 168], [30, 110, 50], [190, 90, 60], [240, 240, 240], [90, 90, 90]]
SEASONS = {  # colour cast (r, g, b), contrast, haze, noise, blur
    "summer": ((1.00, 1.00, 1.00), 1.0, 0.00, 4, 0),
    "autumn": ((1.20, 0.95, 0.70), 0.9, 0.05, 6, 0),
    "fog": ((0.95, 0.98, 1.05), 0.55, 0.40, 5, 1),
    "night": ((0.50, 0.55, 0.80), 0.7, 0.00, 12, 0),
}
IGNORE = 255


def demo_folder() -> Path:
    """The folder of the demo table in the user's cache; made on first use, atomically."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cid_ray"
    folder = cache / f"demo-{VERSION}.{LAYOUT}"
    if not (folder / "meta.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=cache))
        write_demo(making)
        try:
            making.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(making)
    return folder


def write_demo(out: Path, counts: dict[str, int] | None = None) -> None:
    audit = Audit(CLASSES, IGNORE)
    writer = TableWriter(out, CLASSES, COLORS, IGNORE)
    seasons = list(SEASONS)
    for number, (split, count) in enumerate((counts or COUNTS).items()):
        for index in range(count):
            season = seasons[index % len(seasons)]
            rng = np.random.default_rng([VERSION, number, index])
            image, mask = scene(rng)
            shown = weather(image, season, rng)
            writer.add(array_row(audit, f"{split}/{season}_{index:03d}", split, season, shown, mask))
    writer.close(source=f"cid_ray demo set, version {VERSION}")


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture f64[H, W, 3] in 0..255 and its mask u8[H, W], from back to front."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    image = np.empty((HEIGHT, WIDTH, 3))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)

    def paint(where: np.ndarray, kind: str, texture: np.ndarray) -> None:
        index = CLASSES.index(kind)
        tint = np.array(COLORS[index]) * rng.uniform(0.75, 1.25) + rng.normal(0, 14, 3)
        image[where] = (tint + texture[..., None])[where]
        mask[where] = index

    paint(ys >= 0, "sky", 30 * (ys / HEIGHT) + 18 * _smooth(rng, 6))
    ridge = HEIGHT * rng.uniform(0.3, 0.5) + 7 * np.sin(xs / rng.uniform(9, 18) + rng.uniform(0, 6))
    paint(ys > ridge, "hill", 26 * _smooth(rng, 3) + 10 * _smooth(rng, 1))
    if rng.random() < 0.8:
        shore = HEIGHT * rng.uniform(0.6, 0.8) + 3 * np.sin(xs / 11 + rng.uniform(0, 6))
        water = ys > shore
        paint(water, "water", 16 * np.sin(ys / 1.3 + 2 * _smooth(rng, 4)) + 6 * _smooth(rng, 2))
        if rng.random() < 0.7:
            cx, cy = rng.uniform(12, WIDTH - 12), rng.uniform(HEIGHT * 0.78, HEIGHT - 6)
            hull = (np.abs(xs - cx) < 9 - (ys - cy)) & (np.abs(ys - cy) < 3)
            sail = (xs > cx) & (xs - cx < (ys - cy + 14) / 2) & (ys < cy - 2)
            paint(hull | sail, "boat", 8 * _smooth(rng, 1))
    for _ in range(rng.integers(1, 4)):
        cx, base = rng.uniform(0, WIDTH), rng.uniform(HEIGHT * 0.45, HEIGHT * 0.85)
        wide, high = rng.uniform(6, 11), rng.uniform(8, 14)
        walls = (np.abs(xs - cx) < wide) & (ys < base) & (ys > base - high)
        roof = (np.abs(xs - cx) < (ys - (base - high - 7)) * 1.4) & (ys <= base - high) & (ys > base - high - 7)
        paint(walls | roof, "house", 24 * ((xs // 3 + ys // 2) % 2))
    for _ in range(rng.integers(2, 6)):
        cx, cy, r = rng.uniform(0, WIDTH), rng.uniform(HEIGHT * 0.3, HEIGHT * 0.85), rng.uniform(4, 9)
        crown = ((xs - cx) / r) ** 2 + ((ys - cy) / (r * 1.2)) ** 2 < 1 + 0.5 * _smooth(rng, 2)
        paint(crown, "tree", 34 * _smooth(rng, 1))
    for _ in range(rng.integers(0, 3)):
        cx, top = rng.uniform(4, WIDTH - 4), rng.uniform(HEIGHT * 0.15, HEIGHT * 0.4)
        pole = (np.abs(xs - cx) < 1.5) & (ys > top) & (ys < HEIGHT * 0.85)
        paint(pole | ((np.abs(xs - cx) < 5) & (np.abs(ys - top) < 1.5)), "pole", 6 * _smooth(rng, 1))
    _clutter(rng, image, mask, ys, xs)
    return image, mask


def _clutter(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> None:
    """Shadows and lens spots that have no class, and small birds that are void."""
    for _ in range(3):
        cx, cy, r = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT), rng.uniform(5, 16)
        image[(xs - cx) ** 2 + (ys - cy) ** 2 < r**2] *= rng.uniform(0.7, 1.25)
    for _ in range(rng.integers(0, 4)):
        cx, cy = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT * 0.5)
        bird = (np.abs(xs - cx) < 3) & (np.abs(ys - cy - np.abs(xs - cx) / 2) < 1)
        image[bird], mask[bird] = rng.uniform(0, 60), IGNORE


def weather(image: np.ndarray, season: str, rng: np.random.Generator) -> np.ndarray:
    """The picture as its season shows it: u8[H, W, 3]."""
    cast, contrast, haze, noise, blur = SEASONS[season]
    image = (image - 128) * contrast * rng.uniform(0.9, 1.1) + 128
    image = image * cast * (1 - haze) + 210 * haze
    for _ in range(blur):
        image = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1) + np.roll(image, -1, 1)) / 4
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Noise in about [-1, 1] that is constant over cells of some pixels, with softened edges."""
    coarse = rng.uniform(-1, 1, (HEIGHT // cell + 2, WIDTH // cell + 2))
    noise = np.kron(coarse, np.ones((cell, cell)))[:HEIGHT, :WIDTH]
    return (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
