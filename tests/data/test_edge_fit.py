"""Law: the edge fit tells a mask that belongs to its image from one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cid_ray.data.contact_sheet import make_contact_sheet
from cid_ray.data.edge_fit import edge_fit
from cid_ray.data.synthetic_scenes import apply_season, render_scene
from cid_ray.data.table import Table
from tests.helpers.image_tables import labeled_row, write_table

WRONG = {
    "left to right": lambda mask: mask[:, ::-1],
    "upside down": lambda mask: mask[::-1],
    "by half a turn": lambda mask: mask[::-1, ::-1],
    "moved by a tenth": lambda mask: np.roll(mask, mask.shape[1] // 10, axis=1),
}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image, mask = render_scene(rng)
    return apply_season(image, "summer", rng), mask


def square(side: int, first: int) -> tuple[Image.Image, np.ndarray]:
    """A white square on black, and the mask of it."""
    mask = np.zeros((side, side), np.uint8)
    mask[first : first + side // 4, first : first + side // 4] = 1
    return Image.fromarray(np.stack([255 * mask] * 3, axis=-1)), mask


@pytest.mark.parametrize("side", [32, 200, 1000])
def test_own_mask_fits_and_mirrored_mask_is_named(side: int) -> None:
    image, mask = square(side, side // 8)
    own = edge_fit(image, mask)
    assert own is not None and own.fit > 1.5 and own.mirrored is None
    for name, turned in list(WRONG.items())[:3]:
        other = edge_fit(image, turned(mask))
        assert other is None or other.mirrored == name


def test_mask_of_a_patternless_image_has_a_fit_of_about_one() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    fit = edge_fit(Image.fromarray(noise), square(320, 100)[1][:240])
    assert fit is not None and fit.fit == pytest.approx(1, abs=0.1) and fit.mirrored is None


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((8, 8, 3)), np.eye(8)),  # an image of one colour
        (np.random.default_rng(0).integers(0, 256, (8, 8, 3)), np.zeros((8, 8))),  # no border
        (np.zeros((1, 1, 3)), np.zeros((1, 1))),
        (np.full((1, 40, 3), 7), np.arange(40)[None] // 20),
    ],
)
def test_nothing_to_compare_is_none(image: np.ndarray, mask: np.ndarray) -> None:
    assert edge_fit(Image.fromarray(image.astype(np.uint8)), mask.astype(np.uint8)) is None


@pytest.fixture(scope="module")
def table_with_wrong_masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, set[str]]:
    """60 scenes, of which four have a mask that is mirrored or moved."""
    rows = []
    wrong = dict(zip((7, 21, 38, 52), WRONG.values(), strict=True))
    for index in range(60):
        image, mask = scene(index)
        mask = np.ascontiguousarray(wrong.get(index, lambda own: own)(mask))
        rows.append(labeled_row(str(index), image, mask, num_classes=7))
    names = [f"class{index}" for index in range(7)]
    table = write_table(tmp_path_factory.mktemp("wrong"), rows, classes=names)
    return table, {f"train/{index}" for index in wrong}


def test_wrong_masks_are_among_the_ten_of_the_contact_sheet(
    table_with_wrong_masks: tuple[Table, set[str]],
) -> None:
    table, wrong = table_with_wrong_masks
    (sheet,) = make_contact_sheet(table).sheets
    shown = {picture.image_id: picture.reason for picture in sheet.pictures}
    assert wrong <= shown.keys() and len(shown) == 10
    assert sheet.decoded == 60 and sheet.edge_fit is not None and sheet.edge_fit > 1.2
    assert shown["train/7"].endswith("; fits better mirrored left to right")
    assert all("mask edges fit the image by" in shown[name] for name in wrong)
    assert sheet.mirrored >= 2


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_camvid_masks_turned_or_moved_get_the_lowest_fits(camvid: Table, split: str) -> None:
    """Of 80 masks five are changed: they are among the six lowest, as many as a page shows for
    their edges, and no other fits better mirrored.
    """
    rows = np.random.default_rng(1).choice(camvid.rows(split), 80, replace=False).tolist()
    changes = [*WRONG.values(), lambda mask: np.roll(mask, -24, axis=1)]
    fits = {}
    for number, row in enumerate(rows):
        image, mask = camvid.read(row, mask=True)
        assert mask is not None and isinstance(image, Image.Image)
        fits[number] = edge_fit(image, changes[number](mask) if number < 5 else mask)
    found = {number: fit for number, fit in fits.items() if fit is not None}
    assert set(sorted(found, key=lambda number: found[number].fit)[:6]) >= set(range(5))
    assert not [number for number, fit in found.items() if fit.mirrored and number >= 5]
