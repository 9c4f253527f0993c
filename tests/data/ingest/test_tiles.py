"""Law: with --tile an image gives the tiles of its grid, and evaluation over the tiles of a
held-out image equals evaluation over the image. Reference: slices of the whole arrays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from cid_ray.config import InputError
from cid_ray.core import iou
from cid_ray.data.ingest import (
    DrawnMask,
    Findings,
    ImportItem,
    ImportOptions,
    ImportPlan,
    image_reader,
    row_source,
    write_table,
)
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.shapes import Drawing
from cid_ray.data.ingest.tile_grid import cut_axis
from cid_ray.data.table import IGNORED, Table
from tests.helpers.image_tables import (
    import_error,
    labeled_row,
    prepare_folder,
    random_image,
    random_mask,
)
from tests.helpers.image_tables import write_table as write_rows
from tests.helpers.large_images import (
    NUM_TILES,
    OPTIONS,
    OVERLAP,
    SEEDS,
    SIZE,
    TILE,
    image_of,
    mask_of,
    save,
    write_set,
)


@pytest.fixture(params=[(".tif", ".tif"), (".png", ".png"), (".tif", ".png"), (".png", ".tif")])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Five large images with masks, read by windows or decoded whole."""
    return write_set(tmp_path / "set", *request.param)


def grid() -> list[tuple[slice, slice, slice, slice]]:
    """Of each tile: its rows and columns, then its scored rows and columns in the image."""
    return [
        (
            slice(y.start, y.stop),
            slice(x.start, x.stop),
            slice(y.scored_start, y.scored_stop),
            slice(x.scored_start, x.scored_stop),
        )
        for y in cut_axis(SIZE[0], TILE, OVERLAP)
        for x in cut_axis(SIZE[1], TILE, OVERLAP)
    ]


def row_at(table: Table, image_id: str, y: int, x: int) -> int:
    return table.index["image_id"].to_pylist().index(f"{image_id}@y{y}_x{x}")


def findings_of(table: Table) -> dict[str, Any]:
    """Reason -> the finding, of a table's meta.json."""
    meta = json.loads((Path(str(table.folder)) / "meta.json").read_text())
    return {finding["reason"]: finding for finding in meta["findings"]}


def test_tiles_are_slices_of_image_and_mask(root: Path) -> None:
    table = prepare_folder(root, *OPTIONS)
    assert (table.tile, table.overlap) == (TILE, OVERLAP)
    assert len(table.rows("train")) == 4 * NUM_TILES
    assert len(table.rows("val")) == NUM_TILES
    for seed in SEEDS:
        image, mask = image_of(seed), mask_of(seed)
        for y, x, scored_y, scored_x in grid():
            row = row_at(table, f"train/{seed}", y.start, x.start)
            assert table.tile_of(row) == (f"train/{seed}", y.start, x.start)
            assert table.groups(np.array([row])) == [f"train/{seed}"]
            tile, labels = table.read(row, mask=True)
            np.testing.assert_array_equal(np.asarray(tile), image[y, x])
            expected = mask
            if seed == 4:  # val
                expected = np.full_like(mask, IGNORED)
                expected[scored_y, scored_x] = mask[scored_y, scored_x]
            np.testing.assert_array_equal(labels, expected[y, x])
            assert labels is not None
            counts = np.bincount(labels.ravel(), minlength=256)[:3]
            np.testing.assert_array_equal(table.class_pixels[row], counts)


def test_result_is_the_same_by_windows_and_decoded_whole(tmp_path: Path) -> None:
    tables = [
        prepare_folder(write_set(tmp_path / suffix[1:], suffix, suffix), *OPTIONS)
        for suffix in (".tif", ".png")
    ]
    assert tables[0].fingerprint == tables[1].fingerprint


class FixedNet(torch.nn.Module):
    """Predicts each pixel by its own colour alone: a brighter red, green or blue is the class."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, None]:
        return image.float(), None


def score(images: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    tensors = (
        (torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(mask.copy()))
        for image, mask in images
    )
    return np.asarray(sum(iou.confusion_matrices(FixedNet(), tensors, 3)))


@pytest.mark.parametrize("overlap", [0, 16, 50])
def test_scores_over_tiles_are_those_over_images(tmp_path: Path, overlap: int) -> None:
    root = write_set(tmp_path / "set")
    table = prepare_folder(root, "--tile", TILE, "--overlap", overlap)
    tiles = []
    for row in table.rows("val"):
        image, mask = table.read(int(row), mask=True)
        assert mask is not None
        tiles.append((np.asarray(image), mask))
    whole = score([(image_of(4), mask_of(4))])
    stitched = score(tiles)
    np.testing.assert_array_equal(stitched, whole)
    assert stitched.sum() == (mask_of(4) != IGNORED).sum()
    assert table.class_pixels[table.rows("val")].sum() == (mask_of(4) != IGNORED).sum()
    classes = ["a", "b", "c"]
    assert iou.iou_scores(stitched, classes) == iou.iou_scores(whole, classes)


def test_small_images_stay_whole_byte_for_byte(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", ".png", ".png")
    small = root / "images" / "small.jpg"
    Image.fromarray(random_image(7, (64, 40))).save(small)
    save(root / "masks" / "small.png", random_mask(7, 3, (64, 40)))
    table = prepare_folder(root, *OPTIONS)
    row = row_at(table, "train/small", 0, 0)
    assert table._read_columns(row, ["image"]) == [small.read_bytes()]
    assert table.groups(np.array([row])) == ["train/small"]
    assert findings_of(table)["images cut into tiles"]["count"] == len(SEEDS)


def test_image_of_one_large_side_gives_tiles_of_its_other_side(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for seed in SEEDS:
        save(root / "images" / f"{seed}.tif", random_image(seed, (40, 100)))
        save(root / "masks" / f"{seed}.tif", random_mask(seed, 3, (40, 100)))
    table = prepare_folder(root, "--tile", 64)
    ids = table.ids(table.rows("val"))
    assert ids == ["train/4@y0_x0", "train/4@y0_x36"]
    assert table.read(int(table.rows("val")[1]), mask=False)[0].size == (64, 40)


def test_groups_of_images_are_kept(tmp_path: Path) -> None:
    table = prepare_folder(write_set(tmp_path / "set"), *OPTIONS, "--group", "([0-9])")
    assert set(table.groups(np.arange(len(table)))) == {"0", "1", "2", "3", "4"}


def test_output_and_meta_say_what_was_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "set")
    table = prepare_folder(root, *OPTIONS)
    shown = " ".join(capsys.readouterr().out.split())
    assert "train: 60 tiles of 4 images, 60 with masks, 0 unlabeled" in shown
    assert "tiles of 64 x 64 pixels, overlap 16; labels are counted in tiles" in shown
    assert "changed: 5 images cut into tiles (e.g. " in shown
    cut = findings_of(table)["images cut into tiles"]
    assert cut["examples"][0] == f"{root / 'images' / '4.tif'}: 3 x 5 tiles"
    assert prepare_folder(write_set(tmp_path / "whole")).tile is None


def test_tiles_of_one_colour_are_no_copies_and_are_left_out_of_the_pool(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    for seed in (0, 4):  # train and val with the same black border
        image = image_of(seed)
        image[:, :64] = 0
        save(root / "images" / f"{seed}.tif", image)
    pool = image_of(9)
    pool[:64] = 255
    save(root / "pool" / "0.tif", pool)
    table = prepare_folder(root, *OPTIONS, "--unlabeled", root / "pool")
    assert int((~table.labeled).sum()) == NUM_TILES - 5
    left_out = findings_of(table)["unlabeled tiles of one colour"]
    assert (left_out["kind"], left_out["count"]) == ("left out", 5)
    assert left_out["examples"][0] == f"{root / 'pool' / '0.tif'}@y0_x0"
    assert len(table.rows("val")) == NUM_TILES


def test_tiles_without_label_are_left_out_and_counted(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    for seed in (0, 4):
        mask = mask_of(seed)
        mask[:64, :64] = IGNORED
        # Of val, this tile is scored up to column 56 = (64 + 48) / 2, and its row 56 alike.
        mask[56:, :56] = IGNORED
        save(root / "masks" / f"{seed}.tif", mask)
    table = prepare_folder(root, *OPTIONS)
    assert "train/0@y0_x0" not in table.index["image_id"].to_pylist()
    assert "train/0@y86_x0" in table.index["image_id"].to_pylist(), "columns 56 to 63 have labels"
    val = [name for name in table.ids(table.rows("val")) if name.endswith("_x0")]
    assert val == []
    left_out = findings_of(table)[
        "tiles of labeled images, without a labeled pixel to learn or to score"
    ]
    assert left_out["count"] == 1 + 3
    assert table.class_pixels[table.rows("val")].sum() == (mask != IGNORED).sum()


def test_set_without_labeled_pixel_in_train_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    for seed in range(4):
        save(root / "masks" / f"{seed}.tif", np.full(SIZE, IGNORED, np.uint8))
    assert "no train image with a labeled pixel is left" in import_error(root, *OPTIONS)


def test_copy_of_held_out_image_is_found_before_it_is_cut(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    held_out = root / "images" / "4.tif"
    save(root / "pool" / "copy.png", image_of(4))
    save(root / "pool" / "new.png", image_of(7))
    table = prepare_folder(root, *OPTIONS, "--unlabeled", root / "pool")
    assert findings_of(table)["unlabeled images that are val images too"]["count"] == 1
    (root / "table").rename(root / "before")
    save(root / "images" / "0.tif", image_of(4))
    message = import_error(root, *OPTIONS)
    first = f"{root / 'images' / '0.tif'} (train) is the same image as {held_out} (val)"
    assert first in message


def test_part_of_held_out_image_is_found_tile_by_tile(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    larger = np.concatenate([image_of(4), random_image(77, image_of(4).shape[:2])])
    save(root / "pool" / "larger.png", larger)
    table = prepare_folder(root, *OPTIONS, "--unlabeled", root / "pool")
    finding = findings_of(table)["unlabeled images that are val images too"]
    whole_rows = 2  # the last row of tiles was moved back to the border of the smaller image
    assert finding["count"] == whole_rows * NUM_TILES // 3
    held_out = root / "images" / "4.tif"
    name = f"{root / 'pool' / 'larger.png'}@y0_x0 = {held_out}@y0_x0"
    assert name in finding["examples"]


def test_damaged_rows_are_left_out_and_named(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    file = root / "images" / "1.tif"
    with tifffile.TiffFile(file) as opened:
        offset = opened.pages.first.dataoffsets[-1]
    content = file.read_bytes()
    file.write_bytes(content[:offset].ljust(len(content), b"\xff"))
    message = import_error(root, *OPTIONS)
    assert f"{file}: rows 86 to 149 are damaged or truncated" in message
    table = prepare_folder(root, *OPTIONS, "--skip-bad")
    assert len(table) == 5 * NUM_TILES - 5
    skipped = json.loads((root / "table" / "meta.json").read_text())["skipped"]
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{file}: rows 86 to 149")


def test_mask_of_other_size_is_named(root: Path) -> None:
    mask = next((root / "masks").glob("2.*"))
    save(mask, random_mask(0, 3, (150, 200)))
    expected = f"{mask}: the mask is 200 x 150, its image 210 x 150 pixels"
    assert expected in import_error(root, *OPTIONS)


def test_classes_are_guessed_from_windows_of_masks(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    mask = mask_of(3)
    mask[-1, -1] = 5
    save(root / "masks" / "3.tif", mask)
    assert prepare_folder(root, *OPTIONS, classes=None).num_classes == 6


def test_colour_masks_are_read_by_windows(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    colors = np.zeros((256, 3), np.uint8)
    colors[:3] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    for seed in SEEDS:
        save(root / "masks" / f"{seed}.tif", colors[mask_of(seed)])
    classes = "a 255 0 0\nb 0 255 0\nc 0 0 255\n"
    table = prepare_folder(root, *OPTIONS, "--unmatched", "ignore", classes=classes)
    row = row_at(table, "train/2", 48, 96)
    np.testing.assert_array_equal(table.mask(row), mask_of(2)[48:112, 96:160])


def draw_mask(mask: np.ndarray, file: Path) -> DrawnMask:
    def draw(height: int, width: int) -> Drawing:
        return Drawing(mask[:height, :width])

    return DrawnMask(file, draw)


def test_drawn_masks_are_cut(tmp_path: Path) -> None:
    items = []
    for seed in SEEDS:
        file = tmp_path / f"{seed}.tif"
        save(file, image_of(seed))
        drawn = draw_mask(mask_of(seed), tmp_path / "polygons.json")
        split = "val" if seed == 4 else "train"
        items.append(ImportItem(f"{split}/{seed}", split, file, drawn, None, tmp_path))
    plan = ImportPlan(items, ClassList.of_names("abc"), Findings())
    options = ImportOptions(tile=TILE, overlap=OVERLAP)
    table = write_table(plan, tmp_path / "table", options).table
    row = row_at(table, "train/1", 86, 146)
    np.testing.assert_array_equal(table.mask(row), mask_of(1)[86:, 146:])
    assert table.class_pixels[table.rows("val")].sum() == (mask_of(4) != IGNORED).sum()


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no image of more than 20,000 pixels might be decoded whole."""
    for module in (image_reader, row_source):
        monkeypatch.setattr(module, "MAX_PIXELS", 20_000)


@pytest.mark.usefixtures("small_limit")
def test_windows_have_no_limit_of_pixels(tmp_path: Path) -> None:
    assert len(prepare_folder(write_set(tmp_path / "set"), *OPTIONS)) == 5 * NUM_TILES


@pytest.mark.usefixtures("small_limit")
def test_too_large_images_name_the_format_that_is_read_by_windows(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", ".png", ".tif")
    limit = "more than 20,000 pixels, and not to be read by windows"
    remedy = "convert it to TIFF, the format that can"
    assert f"{root / 'images' / '4.png'}: {limit}: {remedy}" in import_error(root, *OPTIONS)
    root = write_set(tmp_path / "masks", ".tif", ".png")
    assert f"{root / 'masks' / '4.png'}: {limit}: {remedy}" in import_error(root, *OPTIONS)
    root = write_set(tmp_path / "turned")
    tifffile.imwrite(
        root / "images" / "4.tif",
        image_of(4),
        photometric="rgb",
        extratags=[("Orientation", "H", 1, 6, True)],
    )
    reason = "its Orientation tag turns it"
    assert f"{root / 'images' / '4.tif'}: {limit}: {reason}" in import_error(root, *OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", 31), "--tile is 31, must be at least 32 pixels"),
        (("--tile", 64, "--overlap", 64), "--overlap is 64, must be from 0 to 63"),
        (("--tile", 64, "--overlap", -1), "--overlap is -1, must be from 0 to 63"),
        (("--overlap", 8), "--overlap 8 needs --tile SIZE"),
    ],
)
def test_impossible_tiles_are_rejected(
    tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    assert message in import_error(write_set(tmp_path / "set"), *options)


def test_table_whose_ids_are_no_tiles_is_rejected(tmp_path: Path) -> None:
    row = labeled_row("0", random_image(0), random_mask(0))
    table = write_rows(tmp_path / "table", [row])
    file = tmp_path / "table" / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tile": 64}))
    with pytest.raises(InputError, match=r"'train/0' is not the id of a tile"):
        Table(table.folder)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_copy_of_another_size_of_a_val_image_is_left_out_before_it_is_cut(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    photos = [
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((256, 192))
        for _ in range(3)
    ]
    roots = {}
    for name, photo in zip(("train", "val", "pool"), photos, strict=True):
        roots[name] = tmp_path / name
        for kind in ("images", "masks"):
            (roots[name] / kind).mkdir(parents=True)
        photo.save(roots[name] / "images" / f"{name}.png")
        Image.fromarray(random_mask(0, 3, (192, 256))).save(roots[name] / "masks" / f"{name}.png")
    copy = photos[1].resize((192, 144), Image.Resampling.LANCZOS)
    copy.save(roots["pool"] / "images" / f"copy.{suffix}")
    options = ("--val-images", roots["val"] / "images", "--val-masks", roots["val"] / "masks")
    pool = ("--unlabeled", roots["pool"] / "images")
    table = prepare_folder(roots["train"], *options, *pool, "--tile", "64")
    assert {name.rpartition("/")[2] for name in table.image_ids(np.arange(len(table)))} == {
        *("train", "val", "pool"),
    }
    assert "unlabeled images that look like val images" in capsys.readouterr().out


def test_labeled_copy_of_another_size_of_a_val_image_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(6)
    photo = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((256, 192))
    for name, size in (("train", (192, 144)), ("val", (256, 192))):
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        photo.resize(size).save(tmp_path / name / "images" / f"{name}.png")
        mask = Image.fromarray(random_mask(0, 3, size[::-1]))
        mask.save(tmp_path / name / "masks" / f"{name}.png")
    val = tmp_path / "val"
    options = ("--val-images", val / "images", "--val-masks", val / "masks", "--tile", "64")
    prepare_folder(tmp_path / "train", *options)
    assert "LEAK? 1 labeled train images look like val images" in capsys.readouterr().out
