"""Laws of `--bands`: the chosen bands in the chosen order, from every layout and type of number,
scaled by one stated window for each band, with exact statistics. What does not fit is refused.

Reference: numpy on the planes that were written.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cid_ray.config import InputError
from cid_ray.data.importers import list_folders
from cid_ray.data.ingest import ImportOptions, write_table
from cid_ray.data.ingest.band_scaling import measure_windows, scale_to_bytes
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.options import parse_bands
from cid_ray.data.ingest.tiff_bands import RawBands, read_bands
from cid_ray.data.table import Table
from tests.helpers.band_files import field_scene, write_fields, write_tiff
from tests.helpers.image_tables import import_error, prepare_folder, random_mask

DTYPES = ["uint8", "uint16", "int16", "float32", ">u2"]
LAYOUTS = ["planar", "contiguous", "pages"]


def raw_planes(dtype: str, count: int = 5, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, (count, *size))
    return (values - 50 if dtype in ("int16", "float32") else values).astype(dtype)


def read(path: Path, *numbers: int) -> np.ndarray:
    return read_bands(path, path.read_bytes(), numbers).planes


def meta_of(table: Table) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((Path(table.folder) / "meta.json").read_text())
    return meta


# ---- reading ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bands_come_in_the_chosen_order_from_every_layout(
    tmp_path: Path, layout: str, dtype: str
) -> None:
    planes = raw_planes(dtype)
    path = write_tiff(tmp_path / "a.tif", planes, layout)
    np.testing.assert_array_equal(read(path, 4, 3, 2), planes[[3, 2, 1]])
    np.testing.assert_array_equal(read(path, 1, 2, 3, 4, 5), planes)
    np.testing.assert_array_equal(read(path, 5), planes[4:])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzma"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"extratags": [(42113, "s", 0, "-9999", True)]},
    ],
)
def test_bands_come_from_every_way_of_storing(tmp_path: Path, options: dict[str, Any]) -> None:
    planes = raw_planes("uint16")
    if "byteorder" in options:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, planes, planarconfig="separate", photometric="minisblack", **options)
    else:
        path = write_tiff(tmp_path / "a.tif", planes, "planar", **options)
    np.testing.assert_array_equal(read(path, 2, 5), planes[[1, 4]])


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bands_are_turned_by_their_orientation(
    tmp_path: Path, layout: str, orientation: int, turns: int
) -> None:
    planes = raw_planes("uint16")
    tag = [(274, "H", 1, orientation, True)]
    path = write_tiff(tmp_path / "a.tif", planes, layout, extratags=tag)
    np.testing.assert_array_equal(read(path, 5, 1), np.rot90(planes[[4, 0]], turns, (1, 2)))


def test_photos_are_turned_by_their_orientation_and_told(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 3
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        Image.fromarray(pixels + ord(name)).save(tmp_path / f"images/{name}.png", exif=exif)
        Image.fromarray(random_mask(0, 3, (24, 24))).save(tmp_path / f"masks/{name}.png")
    table = prepare_folder(tmp_path, "--bands", "3,2,1")
    image, _ = table.read(int(table.rows("train")[0]), mask=True)
    np.testing.assert_array_equal(np.asarray(image), (pixels + ord("a"))[::-1, ::-1, ::-1])
    findings = meta_of(table)["findings"]
    assert [one["count"] for one in findings if "orientation" in one["reason"]] == [3]


@pytest.mark.parametrize("bands", ["3,2,1", "1,2"])
def test_resized_copies_of_val_leave_the_pool(tmp_path: Path, bands: str) -> None:
    coarse = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
    photos = [Image.fromarray(one).resize((96, 96), Image.Resampling.BICUBIC) for one in coarse]
    for folder in ("images", "masks", "val", "val_masks", "pool"):
        (tmp_path / folder).mkdir()
    for folder, photo in (("images", photos[0]), ("val", photos[1])):
        photo.save(tmp_path / folder / "a.png")
    for folder in ("masks", "val_masks"):
        Image.fromarray(random_mask(0, 3, (96, 96))).save(tmp_path / folder / "a.png")
    photos[1].resize((72, 72)).save(tmp_path / "pool/copy.png")
    photos[2].save(tmp_path / "pool/new.png")
    folders = ("val", "val_masks", "pool")
    options = zip(("--val-images", "--val-masks", "--unlabeled"), folders, strict=True)
    arguments = [part for name, folder in options for part in (name, tmp_path / folder)]
    table = prepare_folder(tmp_path, "--bands", bands, *arguments)
    assert table.ids(table.rows("train")) == ["train/a", "pool0/new"]
    assert meta_of(table)["near_duplicate_pairs"] == 1


def test_overviews_of_a_file_are_no_bands(tmp_path: Path) -> None:
    planes = raw_planes("uint16")
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"planarconfig": "separate", "photometric": "minisblack"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(planes, **options)
        writer.write(planes[:, ::2, ::2].copy(), subfiletype=1, **options)
    np.testing.assert_array_equal(read(path, 1, 2, 3, 4, 5), planes)
    with pytest.raises(BadFile, match=r"has 5 band\(s\), so no band 6; --bands"):
        read(path, 6)


@pytest.mark.parametrize(("mode", "count"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_bands_of_a_png_are_its_channels(tmp_path: Path, mode: str, count: int) -> None:
    planes = raw_planes("uint8", count)
    path = tmp_path / "a.png"
    Image.fromarray(planes[0] if count == 1 else planes.transpose(1, 2, 0).copy(), mode).save(path)
    np.testing.assert_array_equal(read(path, count, 1)[0], planes[count - 1])


@pytest.mark.parametrize(
    ("planes", "options", "reason"),
    [
        (np.zeros((5, 8, 8), np.complex64), {}, "values are complex64, must be plain numbers"),
        (np.zeros((5, 8, 8), np.uint16), {"truncate": 300}, "unreadable or truncated"),
        (np.zeros((3, 8, 8), np.uint16), {}, r"has 3 band\(s\), so no band 4; --bands"),
    ],
)
def test_file_that_has_not_the_bands_is_bad(
    tmp_path: Path, planes: np.ndarray, options: dict[str, int], reason: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", planes)
    if options:
        path.write_bytes(path.read_bytes()[: options["truncate"]])
    with pytest.raises(BadFile, match=rf"a\.tif: .*{reason}"):
        read(path, 4)


def test_pages_of_several_bands_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 24, 32, 3), np.uint8), photometric="rgb")
    with pytest.raises(BadFile, match=r"axes \w+ of \[4, 24, 32, 3\], must have one of bands"):
        read(tmp_path / "a.tif", 1)


@pytest.mark.skipif(bool(importlib.util.find_spec("imagecodecs")), reason="imagecodecs is here")
def test_compression_of_another_package_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, compression="tiff_lzw")
    with pytest.raises(BadFile, match=r"a\.tif: .*imagecodecs.*pip install 'cid_ray\[tiff\]'"):
        read(path, 1)


# ---- scaling ----


def test_window_is_the_percentiles_of_each_band() -> None:
    rng = np.random.default_rng(0)
    planes = np.stack([rng.uniform(low, high, (300, 300)) for low, high in ((0, 10), (500, 900))])
    planes[:, 0, 0] = 1e6  # one hot pixel decides nothing
    windows = measure_windows([RawBands(planes), RawBands(planes[:, ::-1])])
    expected = np.array([[0.05, 9.95], [502, 898]])
    np.testing.assert_allclose(windows, expected, rtol=0.01, atol=0.1)


def test_window_leaves_out_what_is_no_data() -> None:
    planes = np.random.default_rng(0).uniform(100, 200, (2, 64, 64)).astype(np.float32)
    planes[0, :30] = -9999
    planes[1, :30] = np.nan
    windows = measure_windows([RawBands(planes, nodata=-9999)])
    assert windows.min() > 99 and windows.max() < 201


def test_band_of_one_value_or_none_has_a_window() -> None:
    planes = np.stack([np.full((8, 8), 7.0), np.full((8, 8), np.nan)])
    windows = measure_windows([RawBands(planes)])
    assert windows.tolist() == [[7, 8], [0, 255]]
    scaled, has_missing = scale_to_bytes(RawBands(planes), windows)
    assert not scaled.any() and has_missing


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_scaled_bytes_are_numpys(dtype: str) -> None:
    planes = np.random.default_rng(0).integers(0, 5000, (2, 40, 50)).astype(dtype)
    windows = np.array([[100.0, 4000.0], [0.0, 5000.0]])
    scaled, has_missing = scale_to_bytes(RawBands(planes), windows)
    low, high = windows.T[:, :, None, None]
    exact = ((planes.astype(float) - low) / (high - low) * 255).clip(0, 255)
    assert np.abs(scaled - exact).max() <= 0.501 and not has_missing
    assert scaled.min() == 0 and scaled.max() == 255


# ---- the whole import ----


def test_import_keeps_all_bands_and_says_so(tmp_path: Path) -> None:
    write_fields(tmp_path, 10)
    result = write_table(
        list_folders(tmp_path / "images", tmp_path / "masks", classes=tmp_path / "classes.txt"),
        tmp_path / "table",
    )
    table = result.table
    meta = meta_of(table)
    told = "\n".join(result.describe())
    assert table.num_channels == meta["num_channels"] == 5
    assert meta["bands"] == [1, 2, 3, 4, 5]
    assert "guessed: 5 bands that are kept: all (no --bands)" in told
    assert "5 windows from uint16 to 0..255, percentiles 0.5 to 99.5 (no --window)" in told
    windows = np.array(meta["band_windows"])
    for row in range(len(table)):
        image, mask = table.read(row, mask=True)
        number = int(table.index["image_path"][row].as_py()[7:9])
        planes, ids = field_scene(number)
        scaled, _ = scale_to_bytes(RawBands(planes), windows)
        np.testing.assert_array_equal(np.asarray(image), scaled.transpose(1, 2, 0))
        np.testing.assert_array_equal(mask, ids)


def test_statistics_are_those_of_the_stored_train_images(tmp_path: Path) -> None:
    table = prepare_folder(write_fields(tmp_path, 10), classes=None)
    stored = [np.asarray(table.read(int(row), mask=False)[0]) for row in table.rows("train")]
    values = np.stack(stored).reshape(-1, 5).astype(float)
    stats = table.band_stats
    assert stats is not None
    np.testing.assert_allclose(stats[0], values.mean(0), atol=1e-3)
    np.testing.assert_allclose(stats[1], values.std(0), atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_chosen_bands_are_a_picture_in_false_colour(tmp_path: Path, layout: str) -> None:
    write_fields(tmp_path, 5, layout=layout)
    table = prepare_folder(tmp_path, "--bands", "4,3,2", "--window", 0, 4080, classes=None)
    meta = meta_of(table)
    assert (meta["num_channels"], meta["bands"]) == (3, [4, 3, 2])
    assert meta["band_windows"] == [[0, 4080]] * 3 and len(meta["band_mean"]) == 3
    assert table.band_stats is None, "an encoder knows three channels"
    image, _ = table.read(0, mask=False)
    assert isinstance(image, Image.Image) and image.mode == "RGB"
    planes, _ = field_scene(int(table.index["image_path"][0].as_py()[7:9]))
    exact = planes[[3, 2, 1]].transpose(1, 2, 0) / 16
    assert np.abs(np.asarray(image) - exact).max() <= 0.5


def test_one_chosen_band_is_one_channel(tmp_path: Path) -> None:
    table = prepare_folder(write_fields(tmp_path, 5), "--bands", "4", classes=None)
    assert table.num_channels == 1
    assert np.asarray(table.read(0, mask=False)[0]).shape == (64, 64, 1)


def test_bands_of_bytes_are_stored_as_they_are(tmp_path: Path) -> None:
    planes = raw_planes("uint8")
    write_masks(tmp_path, 2)
    for index in range(2):
        write_tiff(tmp_path / "images" / f"{index}.tif", planes + index)
    table = prepare_folder(tmp_path)
    np.testing.assert_array_equal(
        np.asarray(table.read(0, mask=False)[0]), planes.transpose(1, 2, 0)
    )
    assert meta_of(table)["band_windows"] == [[0, 255]] * 5


def test_missing_values_are_told_and_stored_as_0(tmp_path: Path) -> None:
    write_masks(tmp_path, 2)
    planes = np.random.default_rng(0).uniform(10, 90, (5, 24, 32)).astype(np.float32)
    write_tiff(tmp_path / "images/0.tif", planes)
    planes[2, 3, 4] = np.nan
    planes[3, 5, 6] = -9999
    tag = [(42113, "s", 0, "-9999", True)]
    write_tiff(tmp_path / "images/1.tif", planes, extratags=tag)
    table = prepare_folder(tmp_path)
    pixels = np.asarray(table.read(1, mask=False)[0])
    assert pixels[3, 4, 2] == pixels[5, 6, 3] == 0
    changed = [each for each in meta_of(table)["findings"] if each["kind"] == "changed"]
    assert [each["count"] for each in changed] == [1]
    assert "NaN" in changed[0]["reason"] and changed[0]["examples"][0].endswith("1.tif")
    assert meta_of(table)["band_windows"][3][0] > 0, "no data is no value"


def test_images_of_another_number_of_bands_are_refused_by_name(tmp_path: Path) -> None:
    write_fields(tmp_path, 3)
    write_tiff(tmp_path / "images/01.tif", field_scene(1)[0][:4])
    message = import_error(tmp_path, classes=None)
    assert "01.tif: has 4 band(s), so no band 5" in message
    table = prepare_folder(tmp_path, "--skip-bad", classes=None)
    assert len(table) == 2


def test_pictures_do_not_mix_with_bands(tmp_path: Path) -> None:
    write_fields(tmp_path, 3)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images/01.tif")
    assert "01.tif: has 3 band(s)" in import_error(tmp_path, classes=None)


def test_files_of_another_type_of_numbers_are_refused_by_name(tmp_path: Path) -> None:
    write_fields(tmp_path, 3)
    write_tiff(tmp_path / "images/01.tif", field_scene(1)[0].astype(np.uint8))
    message = import_error(tmp_path, classes=None)
    assert "01.tif: its values are uint8, those of" in message and "00.tif uint16" in message


def test_more_than_sixteen_bands_are_refused_with_the_option(tmp_path: Path) -> None:
    write_masks(tmp_path, 1)
    write_tiff(tmp_path / "images/0.tif", np.zeros((17, 24, 32), np.uint16))
    assert "0.tif has 17 bands, a table has at most 16" in import_error(tmp_path)
    assert prepare_folder(tmp_path, "--bands", "17,1").num_channels == 2


def test_set_without_a_readable_file_is_refused(tmp_path: Path) -> None:
    write_masks(tmp_path, 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.tif").write_bytes(b"II*\0broken")
    message = import_error(tmp_path, "--bands", "1,2")
    assert "no image could be read for its bands' values" in message and "0.tif" in message


def test_same_pixels_give_the_same_table(tmp_path: Path) -> None:
    fingerprints = set()
    for layout in LAYOUTS:
        root = write_fields(tmp_path / layout, 4, layout=layout)
        options = ("--bands", "1,2,3,4,5")
        fingerprints.add(prepare_folder(root, *options, classes=None).fingerprint)
    assert len(fingerprints) == 1


# ---- options ----


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4;3", "must be numbers of bands such as 4,3,2"),
        ("", "must be numbers of bands"),
        ("red", "must be numbers of bands"),
        ("0,1,2", "bands are counted from 1"),
        ("-1", "bands are counted from 1"),
        ("1,2,1", "a band is named twice"),
        (",".join(map(str, range(1, 18))), "must be 1 to 16 bands"),
    ],
)
def test_bands_that_are_none_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        ImportOptions(bands=parse_bands(text))
    assert str(caught.value).startswith("--bands is ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("window", [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0, float("inf"))])
def test_window_that_is_none_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="--window is"):
        ImportOptions(window=window)


def write_masks(root: Path, count: int) -> None:
    (root / "masks").mkdir(parents=True)
    for index in range(count):
        Image.fromarray(random_mask(index)).save(root / "masks" / f"{index}.png")


def test_tiff_of_bands_with_missing_strips_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "short.tif"
    bands = np.full((5, 8, 8), 7, np.uint8)
    tifffile.imwrite(file, bands, planarconfig="separate", photometric="minisblack", rowsperstrip=1)
    with tifffile.TiffFile(file) as opened:
        tags = opened.pages.first.tags
        counts = [(tags[name].offset, tags[name].dtype) for name in (273, 279)]
    content = bytearray(file.read_bytes())
    for offset, _ in counts:  # StripOffsets and StripByteCounts name 4 of the 40 strips
        content[offset + 4 : offset + 8] = (4).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(BadFile, match="it has 4 of 40 parts"):
        read(file, 1, 2, 3, 4, 5)


def test_low_values_of_a_tiff_may_be_white(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", 1), 255 - values[None])
    tifffile.imwrite(tmp_path / "b.tif", values.astype(np.uint16), photometric="miniswhite")
    with pytest.raises(BadFile, match="its lowest uint16 is white"):
        read(tmp_path / "b.tif", 1)


def test_palette_of_a_tiff_is_no_band(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((4, 4), 3, np.uint8))
    image.putpalette([channel for index in range(256) for channel in (index, 0, 0)])
    image.save(tmp_path / "p.tif")
    with pytest.raises(BadFile, match="indices into a palette"):
        read(tmp_path / "p.tif", 1)


def test_orientation_that_does_not_exist_turns_nothing(tmp_path: Path) -> None:
    bands = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    tag = (274, 3, 1, 9, True)
    tifffile.imwrite(tmp_path / "o.tif", bands, photometric="minisblack", extratags=[tag])
    raw = read_bands(tmp_path / "o.tif", (tmp_path / "o.tif").read_bytes(), [1, 2, 3])
    assert raw.orientation == 1
    np.testing.assert_array_equal(raw.planes, bands)
