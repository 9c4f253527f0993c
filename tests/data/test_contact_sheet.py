"""Laws of the audit's pictures: bounded in number and bytes, the same for the same seed, of the
images that they name; what cannot be decoded is named.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray.data import contact_sheet, thumbnails
from cid_ray.data.contact_sheet import make_contact_sheet
from cid_ray.data.image_codec import encode_png
from cid_ray.data.table_meta import PairNote
from cid_ray.data.thumbnails import MAX_BYTES, encode_thumbnail, overlay
from tests.helpers.image_tables import (
    encode_image,
    labeled_row,
    random_image,
    random_mask,
    table_row,
    write_table,
)

RED_AND_BLUE = [[255, 0, 0], [0, 0, 255]]


def decoded(jpeg: bytes | None) -> np.ndarray:
    assert jpeg is not None
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_overlay_shows_class_colours_and_void_as_grey_stripes() -> None:
    image = Image.fromarray(np.full((30, 90, 3), 100, np.uint8))
    mask = np.repeat(np.array([0, 1, 255], np.uint8), 30)[None].repeat(30, 0)
    pixels = np.asarray(overlay(image, mask, RED_AND_BLUE)).astype(int)
    red, blue, void = pixels[:, :30], pixels[:, 30:60], pixels[:, 60:]
    assert (red == [185, 45, 45]).all() and (blue == [45, 45, 185]).all()
    assert (void == void[..., :1]).all(), "void has no colour"
    assert len(np.unique(void)) == 2, "void is striped"


def test_mask_of_a_thumbnail_has_no_mixed_colours() -> None:
    image = Image.fromarray(np.zeros((900, 1200, 3), np.uint8))
    pixels = np.asarray(overlay(image, random_mask(0, 2, (900, 1200)), RED_AND_BLUE))
    assert pixels.shape == (168, 224, 3)
    assert {tuple(color) for color in pixels.reshape(-1, 3).tolist()} == {(140, 0, 0), (0, 0, 140)}


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (224, 224), (600, 800)])
def test_thumbnail_of_noise_is_bounded_in_pixels_and_bytes(size: tuple[int, int]) -> None:
    jpeg = encode_thumbnail(Image.fromarray(random_image(0, size)))
    assert len(jpeg) <= MAX_BYTES and max(decoded(jpeg).shape) <= thumbnails.SIDE


def test_sheet_shows_ten_of_each_split_and_eight_of_the_pool(small_demo: Path) -> None:
    from cid_ray.data.table import Table

    table = Table(small_demo)
    sheet = make_contact_sheet(table)
    assert [(s.split, len(s.pictures)) for s in sheet.sheets] == [
        ("train", 10),
        ("val", 4),
        ("test", 6),
    ]
    assert not sheet.pool and not sheet.unreadable and not sheet.pairs
    assert sheet == make_contact_sheet(table)
    picture = sheet.sheets[0].pictures[0]
    row = table.ids(np.arange(len(table))).index(picture.image_id)
    image, _ = table.read(row, mask=False)
    difference = decoded(picture.photo).astype(int) - np.asarray(image)
    assert picture.split == "train" and np.abs(difference).mean() < 10


def test_pool_is_sampled_and_edges_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "MAX_DECODED", 5)
    masked = [labeled_row(f"l{i}", random_image(i), random_mask(i)) for i in range(12)]
    image = encode_image(random_image(99))
    pool = [table_row(f"u{i}", image, size=(24, 32)) for i in range(40)]
    table = write_table(tmp_path, [*masked, *pool])
    sheet = make_contact_sheet(table, seed=1)
    assert sheet.sheets[0].decoded == 5 and len(sheet.sheets[0].pictures) == 10
    assert len(sheet.pool) == 8 and all(picture.overlay is None for picture in sheet.pool)
    other = make_contact_sheet(table, seed=2)
    assert {p.image_id for p in sheet.pool} != {p.image_id for p in other.pool}


def test_large_images_are_decoded_up_to_a_number_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "MAX_DECODED_PIXELS", 3 * 24 * 32)
    rows = [labeled_row(f"l{i}", random_image(i), random_mask(i)) for i in range(8)]
    assert make_contact_sheet(write_table(tmp_path, rows)).sheets[0].decoded == 3


def test_image_that_cannot_be_decoded_is_named_and_passed_over(tmp_path: Path) -> None:
    good = [labeled_row(f"l{i}", random_image(i), random_mask(i)) for i in range(4)]
    broken = {
        **table_row("broken", b"no image", encode_png(random_mask(0)), pixels=[1, 2, 3]),
        "height": 24,
        "width": 32,
    }
    sheet = make_contact_sheet(write_table(tmp_path, [*good, broken]))
    assert len(sheet.sheets[0].pictures) == 4 and sheet.sheets[0].decoded == 4
    (message,) = sheet.unreadable
    assert "image train/broken" in message and "not a picture" in message


def test_pairs_are_shown_side_by_side_where_they_are_in_the_table(tmp_path: Path) -> None:
    rows = [labeled_row(f"l{i}", random_image(i), random_mask(i)) for i in range(3)]
    table = write_table(tmp_path, rows)
    notes = [
        PairNote(first="train/l0", second=second, distance=2, removed=second != "train/l1")
        for second in ("train/l1", "/pool/left_out.jpg")
    ]
    kept, removed = make_contact_sheet(table, notes).pairs
    assert [picture and picture.image_id for picture in kept[1]] == ["train/l0", "train/l1"]
    assert removed[1][0] is not None and removed[1][1] is None
