"""The pixels of the generated demo set: scenes with masks, and the seasons that change their look.

A scene is painted from back to front: sky, hills, water with a boat, houses, trees, poles. Each
class has a texture of its own. At last comes clutter that has no class: spots, shadows, birds.

The ORDER in which random numbers are taken is part of the data set: the demo's fingerprint, and
every score on it, changes with it.
"""

from __future__ import annotations

import numpy as np

from cid_ray.data.table import IGNORED

HEIGHT, WIDTH = 64, 96  # pixels
CLASS_COLORS = {
    "sky": [112, 178, 230],
    "hill": [126, 150, 74],
    "water": [40, 92, 168],
    "tree": [30, 110, 50],
    "house": [190, 90, 60],
    "boat": [240, 240, 240],
    "pole": [90, 90, 90],
}
CLASSES = list(CLASS_COLORS)
SEASONS = {  # colour cast (r, g, b), contrast, haze, standard deviation of noise, passes of blur
    "summer": ((1.00, 1.00, 1.00), 1.0, 0.00, 4, 0),
    "autumn": ((1.20, 0.95, 0.70), 0.9, 0.05, 6, 0),
    "fog": ((0.95, 0.98, 1.05), 0.55, 0.40, 5, 1),
    "night": ((0.50, 0.55, 0.80), 0.7, 0.00, 12, 0),
}
MID_GRAY = 128  # contrast is changed around it
HAZE_GRAY = 210  # haze mixes it in


class Canvas:
    """A scene that is being painted: ys, xs f64[H, W] are the coordinates of its pixels."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.ys, self.xs = np.mgrid[:HEIGHT, :WIDTH]
        self.image = np.empty((HEIGHT, WIDTH, 3))  # f64, about 0..255
        self.mask = np.zeros((HEIGHT, WIDTH), np.uint8)

    def paint(self, where: np.ndarray, class_name: str, texture: np.ndarray) -> None:
        """Cover the pixels bool[H, W] with a class: a tint of its colour plus texture f64[H, W]."""
        tint = np.array(CLASS_COLORS[class_name]) * self.rng.uniform(0.75, 1.25)
        tint = tint + self.rng.normal(0, 14, 3)
        self.image[where] = (tint + texture[..., None])[where]
        self.mask[where] = CLASSES.index(class_name)

    def noise(self, cell: int) -> np.ndarray:
        """f64[H, W] in about [-1, 1]: constant over cells of `cell` pixels, with soft edges."""
        coarse = self.rng.uniform(-1, 1, (HEIGHT // cell + 2, WIDTH // cell + 2))
        fine = np.kron(coarse, np.ones((cell, cell)))[:HEIGHT, :WIDTH]
        return (fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1)) / 3


def render_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scene f64[H, W, 3] in about 0..255, and its mask u8[H, W] with void pixels as 255."""
    canvas = Canvas(rng)
    _paint_landscape(canvas)
    for _ in range(rng.integers(1, 4)):
        _paint_house(canvas)
    for _ in range(rng.integers(2, 6)):
        _paint_tree(canvas)
    for _ in range(rng.integers(0, 3)):
        _paint_pole(canvas)
    _add_clutter(canvas)
    return canvas.image, canvas.mask


def _paint_landscape(canvas: Canvas) -> None:
    """Sky, hills and, in most scenes, water with a boat."""
    rng = canvas.rng
    ys, xs = canvas.ys, canvas.xs
    canvas.paint(ys >= 0, "sky", 30 * (ys / HEIGHT) + 18 * canvas.noise(6))
    ridge = HEIGHT * rng.uniform(0.3, 0.5)
    ridge = ridge + 7 * np.sin(xs / rng.uniform(9, 18) + rng.uniform(0, 6))
    canvas.paint(ys > ridge, "hill", 26 * canvas.noise(3) + 10 * canvas.noise(1))
    if rng.random() < 0.8:
        shore = HEIGHT * rng.uniform(0.6, 0.8) + 3 * np.sin(xs / 11 + rng.uniform(0, 6))
        waves = 16 * np.sin(ys / 1.3 + 2 * canvas.noise(4)) + 6 * canvas.noise(2)
        canvas.paint(ys > shore, "water", waves)
        if rng.random() < 0.7:
            _paint_boat(canvas)


def _paint_boat(canvas: Canvas) -> None:
    rng = canvas.rng
    ys, xs = canvas.ys, canvas.xs
    center_x = rng.uniform(12, WIDTH - 12)
    center_y = rng.uniform(HEIGHT * 0.78, HEIGHT - 6)
    dx, dy = xs - center_x, ys - center_y
    hull = (np.abs(dx) < 9 - dy) & (np.abs(dy) < 3)
    sail = (dx > 0) & (dx < (dy + 14) / 2) & (ys < center_y - 2)
    canvas.paint(hull | sail, "boat", 8 * canvas.noise(1))


def _paint_house(canvas: Canvas) -> None:
    rng = canvas.rng
    ys, xs = canvas.ys, canvas.xs
    center_x = rng.uniform(0, WIDTH)
    base_y = rng.uniform(HEIGHT * 0.45, HEIGHT * 0.85)
    half_width = rng.uniform(6, 11)
    height = rng.uniform(8, 14)
    eaves_y = base_y - height
    ridge_y = base_y - height - 7
    walls = (np.abs(xs - center_x) < half_width) & (ys < base_y) & (ys > eaves_y)
    roof = (np.abs(xs - center_x) < (ys - ridge_y) * 1.4) & (ys <= eaves_y) & (ys > ridge_y)
    canvas.paint(walls | roof, "house", 24 * ((xs // 3 + ys // 2) % 2))


def _paint_tree(canvas: Canvas) -> None:
    rng = canvas.rng
    ys, xs = canvas.ys, canvas.xs
    center_x = rng.uniform(0, WIDTH)
    center_y = rng.uniform(HEIGHT * 0.3, HEIGHT * 0.85)
    radius = rng.uniform(4, 9)
    distance = ((xs - center_x) / radius) ** 2 + ((ys - center_y) / (radius * 1.2)) ** 2
    crown = distance < 1 + 0.5 * canvas.noise(2)
    canvas.paint(crown, "tree", 34 * canvas.noise(1))


def _paint_pole(canvas: Canvas) -> None:
    """A pole with a sign on top."""
    rng = canvas.rng
    ys, xs = canvas.ys, canvas.xs
    center_x = rng.uniform(4, WIDTH - 4)
    top_y = rng.uniform(HEIGHT * 0.15, HEIGHT * 0.4)
    pole = (np.abs(xs - center_x) < 1.5) & (ys > top_y) & (ys < HEIGHT * 0.85)
    sign = (np.abs(xs - center_x) < 5) & (np.abs(ys - top_y) < 1.5)
    canvas.paint(pole | sign, "pole", 6 * canvas.noise(1))


def _add_clutter(canvas: Canvas) -> None:
    """Shadows and lens spots, which keep the class below them, and small birds, which are void."""
    rng = canvas.rng
    ys, xs = canvas.ys, canvas.xs
    for _ in range(3):
        center_x = rng.uniform(0, WIDTH)
        center_y = rng.uniform(0, HEIGHT)
        radius = rng.uniform(5, 16)
        spot = (xs - center_x) ** 2 + (ys - center_y) ** 2 < radius**2
        canvas.image[spot] *= rng.uniform(0.7, 1.25)
    for _ in range(rng.integers(0, 4)):
        center_x = rng.uniform(0, WIDTH)
        center_y = rng.uniform(0, HEIGHT * 0.5)
        dx = np.abs(xs - center_x)
        bird = (dx < 3) & (np.abs(ys - center_y - dx / 2) < 1)
        canvas.image[bird] = rng.uniform(0, 60)
        canvas.mask[bird] = IGNORED


def apply_season(scene: np.ndarray, season: str, rng: np.random.Generator) -> np.ndarray:
    """A scene f64[H, W, 3] as its season shows it: u8[H, W, 3]."""
    cast, contrast, haze, noise, blur_passes = SEASONS[season]
    image = (scene - MID_GRAY) * contrast * rng.uniform(0.9, 1.1) + MID_GRAY
    image = image * cast * (1 - haze) + HAZE_GRAY * haze
    for _ in range(blur_passes):
        down = np.roll(image, 1, 0)
        right = np.roll(image, 1, 1)
        left = np.roll(image, -1, 1)
        image = (image + down + right + left) / 4
    noisy = image + rng.normal(0, noise, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
