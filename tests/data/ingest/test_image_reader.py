"""Law: a table shows the pixels that the file means, upright and in 8 bits, and says what changed.

Reference: arrays that each test writes into a file, through `prepare folder` and `Table.read`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from cid_ray.data.ingest.pixel_arrays import read_pixels
from cid_ray.data.table import Table
from tests.helpers.image_files import encode, png_16, save_with_orientation
from tests.helpers.image_tables import (
    SIZE,
    import_error,
    prepare_folder,
    random_image,
    random_mask,
    write_folders,
    write_unlabeled,
)

RGB = random_image(1)
GREY = RGB[..., 0]
WIDE = np.random.default_rng(2).integers(0, 65536, (*SIZE, 3), dtype=np.uint16)
DARK = (WIDE >> 4).astype(np.uint16)  # 12 bits in 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images with masks; the fifth becomes val."""
    return write_folders(tmp_path / "set", [random_mask(i) for i in range(5)])


def replace_first(root: Path, suffix: str, content: bytes = b"") -> Path:
    """Another file as the first train image."""
    (root / "images" / "00.jpg").unlink()
    path = root / "images" / f"00{suffix}"
    path.write_bytes(content)
    return path


def read_first(table: Table) -> np.ndarray:
    """u8[H, W, 3] of the first train image, as training sees it."""
    names = table.index["image_path"].to_pylist()
    row = next(row for row, name in enumerate(names) if Path(name).stem == "00")
    image, mask = table.read(row, mask=True)
    assert mask is not None and mask.shape == (image.height, image.width)
    size = table.index["height"][row].as_py(), table.index["width"][row].as_py()
    assert size == mask.shape
    return np.asarray(image)


def findings_of(root: Path, kind: str = "changed") -> dict[str, dict[str, Any]]:
    """Reason -> finding, of a written table."""
    meta = json.loads((root / "table" / "meta.json").read_text())
    return {one["reason"]: one for one in meta["findings"] if one["kind"] == kind}


def window_of(root: Path) -> dict[str, Any]:
    window: dict[str, Any] = json.loads((root / "table" / "meta.json").read_text())["window"]
    return window


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The rule, in one line of numpy."""
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


# ---- orientation ----


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_image_is_turned_by_its_orientation(root: Path, suffix: str, orientation: int) -> None:
    path = replace_first(root, suffix)
    save_with_orientation(Image.fromarray(RGB), path, orientation)
    pixels = np.asarray(Image.open(path)) if suffix == ".jpg" else RGB
    exif = Image.Exif()
    exif[274] = orientation
    tagged = Image.fromarray(pixels)
    tagged.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    mask = np.zeros(expected.shape[:2], np.uint8)
    Image.fromarray(mask).save(root / "masks" / "00.png")
    table = prepare_folder(root)
    np.testing.assert_array_equal(read_first(table), expected)
    turned = "images turned by their EXIF orientation"
    if orientation == 1:
        assert not findings_of(root)
    else:
        finding = findings_of(root)[turned]
        assert finding["count"] == 1
        assert finding["examples"] == [f"{path} (orientation {orientation})"]


def test_deep_tiff_is_turned_too(root: Path) -> None:
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, WIDE, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    Image.fromarray(random_mask(0, size=SIZE[::-1])).save(root / "masks" / "00.png")
    table = prepare_folder(root, "--window", 0, 65535)
    np.testing.assert_array_equal(read_first(table), scaled(np.rot90(WIDE, -1), 0, 65535))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_image_whose_mask_fits_it_unturned_is_refused_with_remedy(root: Path, suffix: str) -> None:
    path = replace_first(root, suffix)
    save_with_orientation(Image.fromarray(RGB), path, 6)
    message = import_error(root)
    height, width = SIZE
    assert f"{path}: image and mask disagree about EXIF" in message
    assert f"from {width} x {height} to {height} x {width} pixels" in message
    assert "exiftool" in message and "--skip-bad" in message
    assert len(prepare_folder(root, "--skip-bad")) == 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_mask_is_turned_by_its_own_orientation(root: Path, suffix: str) -> None:
    save_with_orientation(Image.fromarray(RGB), replace_first(root, ".png"), 8)
    (root / "masks" / "00.png").unlink()
    ids = random_mask(7)
    save_with_orientation(Image.fromarray(ids), root / "masks" / f"00{suffix}", 8)
    table = prepare_folder(root)
    np.testing.assert_array_equal(read_first(table), np.rot90(RGB))
    names = table.index["image_path"].to_pylist()
    np.testing.assert_array_equal(table.mask(names.index("images/00.png")), np.rot90(ids))


def test_damaged_exif_leaves_the_image_upright(root: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"
    path = replace_first(root, ".png", encode(Image.fromarray(RGB), "PNG", exif=exif))
    np.testing.assert_array_equal(read_first(prepare_folder(root)), RGB)
    assert not findings_of(root), path


# ---- more than 8 bits ----


def tiff(values: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    byteorder = options.pop("byteorder", None)
    return lambda path: tifffile.imwrite(path, values, byteorder=byteorder, **options)


def pillow(image: Image.Image, **options: Any) -> Callable[[Path], Any]:
    return lambda path: image.save(path, **options)


def pnm(head: bytes, values: np.ndarray) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(head + values.astype(">u2").tobytes())


W, H = SIZE[1], SIZE[0]
SIGNED = WIDE.astype(np.int32) - 30_000
FLOATS = (WIDE / 7).astype(np.float32)
DOUBLES = WIDE / 7
SIZE_TEXT = f"{W} {H}".encode()
DEEP: dict[str, tuple[str, np.ndarray, Callable[[Path], Any]]] = {
    "png grey": (".png", WIDE[..., 0], lambda path: path.write_bytes(png_16(WIDE[..., 0]))),
    "png rgb": (".png", WIDE, lambda path: path.write_bytes(png_16(WIDE))),
    "tiff I;16": (".tif", WIDE[..., 0], tiff(WIDE[..., 0])),
    "tiff I;16B": (".tif", WIDE[..., 0], tiff(WIDE[..., 0], byteorder=">")),
    "tiff rgb": (".tif", WIDE, tiff(WIDE, photometric="rgb")),
    "tiff rgb big endian": (".tif", WIDE, tiff(WIDE, photometric="rgb", byteorder=">")),
    "tiff rgb planes": (
        ".tif",
        WIDE,
        tiff(WIDE.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    ),
    "tiff rgb tiles": (".tif", WIDE, tiff(WIDE, photometric="rgb", tile=(16, 16))),
    "bigtiff rgb": (".tif", WIDE, tiff(WIDE, photometric="rgb", bigtiff=True)),
    "tiff rgb deflate": (
        ".tif",
        WIDE,
        tiff(WIDE, photometric="rgb", compression="zlib", predictor=True),
    ),
    "tiff 12 bits in 16": (".tif", DARK, tiff(DARK, photometric="rgb")),
    "tiff int32": (".tif", SIGNED[..., 1], tiff(SIGNED[..., 1])),
    "tiff int16": (
        ".tif",
        SIGNED[..., 1].astype(np.int16),
        tiff(SIGNED[..., 1].astype(np.int16)),
    ),
    "tiff uint32": (
        ".tif",
        WIDE[..., 0].astype(np.uint32) * 60_000,
        tiff(WIDE[..., 0].astype(np.uint32) * 60_000),
    ),
    "tiff int8": (".tif", (GREY // 2).astype(np.int8), tiff((GREY // 2).astype(np.int8))),
    "tiff float": (".tif", FLOATS[..., 0], tiff(FLOATS[..., 0])),
    "tiff float rgb": (".tif", FLOATS, tiff(FLOATS, photometric="rgb")),
    "tiff float16": (
        ".tif",
        (FLOATS / 9)[..., 0].astype(np.float16),
        tiff((FLOATS / 9)[..., 0].astype(np.float16)),
    ),
    "tiff double": (
        ".tif",
        FLOATS.astype(np.float64),
        tiff(FLOATS.astype(np.float64), photometric="rgb"),
    ),
    "tiff grey lzw": (
        ".tif",
        WIDE[..., 0],
        pillow(Image.fromarray(WIDE[..., 0]), compression="tiff_lzw"),
    ),
    "tiff int32 lzw": (
        ".tif",
        SIGNED[..., 1],
        pillow(Image.fromarray(SIGNED[..., 1]), compression="tiff_lzw"),
    ),
    "tiff float lzw": (
        ".tif",
        FLOATS[..., 0],
        pillow(Image.fromarray(FLOATS[..., 0]), compression="tiff_lzw"),
    ),
    "pgm": (".pgm", WIDE[..., 0], pnm(b"P5 " + SIZE_TEXT + b" 65535\n", WIDE[..., 0])),
    "pgm of 12 bits": (
        ".pgm",
        DARK[..., 0],
        pnm(b"P5\n# by a camera\n" + SIZE_TEXT + b"\n4095\n", DARK[..., 0]),
    ),
    "ppm": (".ppm", WIDE, pnm(b"P6 " + SIZE_TEXT + b" 65535\n", WIDE)),
    "ppm as text": (
        ".ppm",
        DARK,
        lambda path: path.write_bytes(
            b"P3 " + SIZE_TEXT + b" 4095\n" + " ".join(map(str, DARK.ravel())).encode()
        ),
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_values_are_read_exactly(kind: str, tmp_path: Path) -> None:
    suffix, values, write = DEEP[kind]
    path = tmp_path / f"deep{suffix}"
    write(path)
    found = read_pixels(path)
    assert found.values.dtype == values.dtype and found.is_deep and not found.is_plain
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("kind", DEEP)
def test_deep_image_is_scaled_by_percentiles_of_train(
    kind: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix, values, write = DEEP[kind]
    write(replace_first(root, suffix))
    image = read_first(prepare_folder(root))
    # 24 x 32 pixels: all of them are in the sample.
    low, high = np.percentile(values.astype(np.float64), (0.5, 99.5))
    expected = scaled(values, low, high)
    np.testing.assert_array_equal(image, expected if expected.ndim == 3 else as_rgb(expected))
    assert window_of(root) == {
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "source": "percentiles 0.5 and 99.5 of 1 images",
    }
    out = capsys.readouterr()
    assert f"scaled from [{low:.6g}, {high:.6g}] to 0..255" in out.out
    assert "changed: 1 images of " in out.out and not out.err
    mixed = findings_of(root, "guessed")
    assert mixed["8-bit images in a set with deeper images, stored as they are"]["count"] == 4


@pytest.mark.parametrize("low_high", [(0, 65535), (1000, 3000), (-5.5, 70000)])
def test_window_option_gives_the_scale_in_the_files_own_units(
    root: Path, low_high: tuple[float, float]
) -> None:
    replace_first(root, ".png", png_16(WIDE))
    table = prepare_folder(root, "--window", *low_high)
    np.testing.assert_array_equal(read_first(table), scaled(WIDE, *low_high))
    assert window_of(root) == {"low": low_high[0], "high": low_high[1], "source": "--window"}
    clipped = "images with more than 10 % of their values outside the window, set to its ends"
    assert (clipped in findings_of(root)) == (low_high == (1000, 3000))


def test_window_is_one_for_the_set_and_of_train_alone(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i) for i in range(5)])
    levels = [100, 200, 300, 400, 60_000]  # the last is val, and must not matter
    for index, level in enumerate(levels):
        (root / "images" / f"{index:02d}.jpg").unlink()
        values = np.full(SIZE, level, np.uint16) + np.arange(SIZE[1], dtype=np.uint16)
        tifffile.imwrite(root / "images" / f"{index:02d}.tif", values)
    pool = tmp_path / "pool"
    pool.mkdir()
    tifffile.imwrite(pool / "a.tif", np.full(SIZE, 1000, np.uint16))
    table = prepare_folder(root, "--unlabeled", pool)
    sample = [np.full(SIZE, level) + np.arange(SIZE[1]) for level in levels[:4]]
    low, high = np.percentile([*sample, np.full(SIZE, 1000)], (0.5, 99.5))
    window = window_of(root)
    assert (window["low"], window["high"]) == (low, high)
    assert window["source"] == "percentiles 0.5 and 99.5 of 5 images"
    names = table.index["image_path"].to_pylist()
    for index, level in enumerate(levels):
        image = np.asarray(table.read(names.index(f"images/{index:02d}.tif"), mask=False)[0])
        values = np.full(SIZE, level) + np.arange(SIZE[1])
        np.testing.assert_array_equal(image[..., 0], scaled(values, low, high))


def test_sample_of_the_window_has_at_most_256_images(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "set", [random_mask(i) for i in range(5)])
    pool = tmp_path / "pool"
    pool.mkdir()
    rng = np.random.default_rng(0)
    for index in range(300):
        tifffile.imwrite(pool / f"{index}.tif", rng.integers(0, 9999, (8, 8), dtype=np.uint16))
    prepare_folder(root, "--unlabeled", pool)
    assert window_of(root)["source"] == "percentiles 0.5 and 99.5 of 256 images"


def test_held_out_deep_image_without_deep_train_image_names_the_option(root: Path) -> None:
    (root / "images" / "04.jpg").unlink()
    path = root / "images" / "04.png"
    path.write_bytes(png_16(WIDE))
    message = import_error(root)
    assert f"{path} has more than 8 bits a pixel, and no train image" in message
    assert "--window LOW HIGH" in message
    assert len(prepare_folder(root, "--window", 0, 65535)) == 5


def test_set_of_one_value_names_the_option(root: Path) -> None:
    replace_first(root, ".png", png_16(np.full(SIZE, 77, np.uint16)))
    message = import_error(root)
    assert "is 77" in message and "--window LOW HIGH" in message


def test_rare_values_alone_are_scaled_by_lowest_and_highest(root: Path) -> None:
    values = np.zeros((100, 100), np.float32)
    values[3, 4] = 0.5
    tifffile.imwrite(replace_first(root, ".tif"), values)
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(root / "masks" / "00.png")
    image = read_first(prepare_folder(root))
    assert image[3, 4].tolist() == [255] * 3 and image.sum() == 3 * 255
    assert window_of(root)["source"] == "lowest and highest of 1 images"


def test_nan_infinity_and_no_data_are_counted_and_not_in_the_window(root: Path) -> None:
    values = FLOATS[..., 0].copy()
    values[0, :5] = [np.nan, np.inf, -np.inf, -9999, -9999]
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, values, extratags=[(42113, "s", 0, "-9999", True)])
    image = read_first(prepare_folder(root))
    valid = np.delete(values.ravel(), range(5))
    expected = scaled(values, *np.percentile(valid.astype(np.float64), (0.5, 99.5)))
    expected[0, :5] = 0
    np.testing.assert_array_equal(image, as_rgb(expected))
    reason = "images with pixels that are NaN, infinite or `no data`, set to the low end"
    assert findings_of(root)[reason]["examples"] == [f"{path} (5 values)"]


def test_white_is_low_in_a_tiff_that_says_so(root: Path) -> None:
    tifffile.imwrite(replace_first(root, ".tif"), WIDE[..., 0], photometric="miniswhite")
    image = read_first(prepare_folder(root, "--window", 0, 65535))
    np.testing.assert_array_equal(image, as_rgb(255 - scaled(WIDE[..., 0], 0, 65535)))


def test_blank_image_of_a_window_is_told(root: Path) -> None:
    path = replace_first(root, ".png", png_16(DARK))
    prepare_folder(root, "--window", 60_000, 65_535)
    found = findings_of(root)
    assert found["images with more than 10 % of their values outside the window, set to its ends"]
    reason = "images that are a single grey in this window; --window LOW HIGH gives another"
    assert found[reason]["examples"] == [str(path)]


@pytest.mark.parametrize("values", [("5", "5"), ("9", "2"), ("nan", "2"), ("0", "inf")])
def test_window_that_is_none_is_refused(root: Path, values: tuple[str, str]) -> None:
    assert "must be LOW HIGH with LOW below HIGH" in import_error(root, "--window", *values)


def test_window_without_deep_image_is_a_warning(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_folder(root, "--window", 0, 4095)
    assert "--window changed nothing: no image has more than 8 bits" in capsys.readouterr().out
    assert "window" not in json.loads((root / "table" / "meta.json").read_text())


def test_three_channels_without_meaning_are_told_as_guess(root: Path) -> None:
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, WIDE, photometric="minisblack", planarconfig="contig")
    table = prepare_folder(root, "--window", 0, 65535)
    np.testing.assert_array_equal(read_first(table), scaled(WIDE, 0, 65535))
    assert any("read as red, green, blue" in reason for reason in findings_of(root, "guessed"))


# ---- modes of 8 bits ----

ALPHA = random_image(3)[..., :1]
TRANSPARENT = "images with transparency, of which the colours alone are used"
PALETTE = Image.fromarray(GREY % 16)
PALETTE.putpalette(random_image(4, (1, 16)).ravel().tolist())
CMYK = np.random.default_rng(5).integers(0, 256, (*SIZE, 4), dtype=np.uint8)
_INK = CMYK.astype(np.float64) / 255


def stored_modes() -> dict[str, tuple[str, bytes, np.ndarray, str | None]]:
    """Name -> suffix, encoded, expected RGB, reason of the finding."""
    rgba, la = np.concatenate([RGB, ALPHA], -1), np.stack([GREY, ALPHA[..., 0]], -1)
    opaque = np.concatenate([RGB, np.full_like(ALPHA, 255)], -1)
    bits = GREY > 100
    palette = np.asarray(PALETTE.convert("RGB"))
    rgba_16 = np.concatenate([WIDE, WIDE[..., :1]], -1)
    return {
        "L": (".png", encode(Image.fromarray(GREY), "PNG"), as_rgb(GREY), None),
        "RGBA": (".png", encode(Image.fromarray(rgba), "PNG"), RGB, TRANSPARENT),
        "RGBA opaque": (".png", encode(Image.fromarray(opaque), "PNG"), RGB, None),
        "RGBA tiff": (".tif", encode(Image.fromarray(rgba), "TIFF"), RGB, TRANSPARENT),
        "LA": (".png", encode(Image.fromarray(la), "PNG"), as_rgb(GREY), TRANSPARENT),
        "1": (".png", encode(Image.fromarray(bits), "PNG"), as_rgb(bits * 255), None),
        "1 tiff": (".tif", encode(Image.fromarray(bits), "TIFF"), as_rgb(bits * 255), None),
        "P": (".png", encode(PALETTE, "PNG"), palette, None),
        "P one transparent": (".png", encode(PALETTE, "PNG", transparency=3), palette, TRANSPARENT),
        "P transparencies": (
            ".png",
            encode(PALETTE, "PNG", transparency=bytes(range(16))),
            palette,
            TRANSPARENT,
        ),
        "RGB one transparent": (
            ".png",
            encode(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[0, 0].tolist())),
            RGB,
            TRANSPARENT,
        ),
        "CMYK": (
            ".tif",
            encode(Image.fromarray(CMYK, "CMYK"), "TIFF"),
            255 * (1 - _INK[..., :3]) * (1 - _INK[..., 3:]),
            "CMYK images, converted to RGB without a colour profile",
        ),
        "ppm": (".ppm", encode(Image.fromarray(RGB), "PPM"), RGB, None),
        "pgm of 100 levels": (
            ".pgm",
            b"P5 " + SIZE_TEXT + b" 100\n" + (GREY % 101).tobytes(),
            as_rgb(np.rint((GREY % 101) / 100 * 255)),
            None,
        ),
        "RGBA 16 bits": (".png", png_16(rgba_16), scaled(WIDE, 0, 65535), TRANSPARENT),
        "LA 16 bits": (
            ".png",
            png_16(WIDE[..., :2]),
            as_rgb(scaled(WIDE[..., 0], 0, 65535)),
            TRANSPARENT,
        ),
    }


@pytest.mark.parametrize("name", stored_modes())
def test_image_of_any_mode_has_right_colours(
    name: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    suffix, encoded, expected, reason = stored_modes()[name]
    path = replace_first(root, suffix, encoded)
    image = read_first(prepare_folder(root, "--window", 0, 65535))
    tolerance = 1 if name == "CMYK" else 0  # Pillow rounds each product
    np.testing.assert_allclose(image, expected, atol=tolerance)
    told = findings_of(root)
    assert (reason is None and not told) or told[reason or ""]["examples"] == [str(path)]
    assert not capfd.readouterr().err


def test_fourth_channel_that_is_no_alpha_is_told(root: Path) -> None:
    path = replace_first(root, ".tif")
    infrared = np.concatenate([RGB, ALPHA], -1)
    tifffile.imwrite(path, infrared, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_first(prepare_folder(root)), RGB)
    reason = "images with a fourth channel that is no alpha, of which the first three are used"
    assert findings_of(root)[reason]["examples"] == [str(path)]


def test_image_of_five_channels_is_refused(root: Path) -> None:
    """Among pictures. A set whose first image has five channels is one of bands."""
    values = np.concatenate([RGB, RGB[..., :2]], -1)
    path = root / "images" / "01.tif"
    (root / "images" / "01.jpg").unlink()
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    assert f"{path}: 5 channels, must be 1 (grey) or 3 (RGB)" in import_error(root)


def test_plain_images_are_stored_byte_for_byte(root: Path) -> None:
    path = replace_first(root, ".webp", encode(Image.fromarray(RGB), "WEBP", lossless=True))
    table = prepare_folder(root)
    for row, name in enumerate(table.index["image_path"].to_pylist()):
        assert table._read_columns(row, ["image"])[0] == (root / name).read_bytes(), path


# ---- several pages ----


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_first_of_several_pages_is_used_and_told(root: Path, suffix: str) -> None:
    path = replace_first(root, suffix)
    pages = [Image.fromarray(random_image(50 + index)) for index in range(3)]
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    table = prepare_folder(root)
    np.testing.assert_array_equal(read_first(table), np.asarray(pages[0]))
    finding = findings_of(root)["files of several pages, of which the first is used"]
    assert finding["count"] == 1 and finding["examples"] == [f"{path} (3 pages)"]


def test_pages_of_deep_and_of_imagej_stacks_are_told(root: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 4096, (4, *SIZE), dtype=np.uint16)
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, stack, imagej=True)
    image = read_first(prepare_folder(root, "--window", 0, 4095))
    np.testing.assert_array_equal(image, as_rgb(scaled(stack[0], 0, 4095)))
    finding = findings_of(root)["files of several pages, of which the first is used"]
    assert finding["examples"] == [f"{path} (4 pages)"]


def test_smaller_copies_in_a_tiff_are_no_pages(root: Path) -> None:
    path = replace_first(root, ".tif")
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::2, ::2].copy(), photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_first(prepare_folder(root)), RGB)
    assert not findings_of(root)


# ---- damaged files ----


@pytest.mark.parametrize("kind", DEEP)
def test_truncated_deep_file_is_named(kind: str, root: Path) -> None:
    suffix, _, write = DEEP[kind]
    path = replace_first(root, suffix)
    write(path)
    content = path.read_bytes()
    for length in (len(content) * 2 // 3, len(content) // 3, 12):
        path.write_bytes(content[:length])
        assert f"{path}: unreadable or truncated image" in import_error(root)


def test_tiff_without_pixels_is_named(root: Path) -> None:
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, FLOATS, photometric="rgb")
    content = bytearray(path.read_bytes())
    at = content.index(b"\x00\x01\x04\x00\x01\x00\x00\x00")  # tag 256, the width
    content[at + 8] = 0
    path.write_bytes(bytes(content))
    assert f"{path}: 0 x {SIZE[0]} pixels" in import_error(root)


def test_tiff_with_fewer_strips_than_rows_is_named(root: Path) -> None:
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, FLOATS, photometric="rgb", rowsperstrip=4)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x01\x01\x04\x00\x01\x00\x00\x00")  # tag 257, the height
    content[at + 8] = 2 * SIZE[0]
    path.write_bytes(bytes(content))
    assert f"{path}: unreadable or truncated image (damaged TIFF" in import_error(root)


def test_compression_that_nothing_reads_names_the_package(root: Path) -> None:
    path = replace_first(root, ".tif")
    tifffile.imwrite(path, FLOATS, photometric="rgb")
    content = bytearray(path.read_bytes())
    at = content.index(b"\x03\x01\x03\x00\x01\x00\x00\x00")  # tag 259, a short, once
    content[at + 8] = 5  # LZW
    path.write_bytes(bytes(content))
    message = import_error(root)
    assert f"{path}: a TIFF of float32 compressed by LZW" in message
    assert "pip install 'cid_ray[tiff]'" in message


def test_pool_images_are_read_by_the_same_rules(root: Path, tmp_path: Path) -> None:
    pool = write_unlabeled(tmp_path / "pool", 2, seed=3)
    save_with_orientation(Image.fromarray(RGB), pool / "turned.png", 6)
    table = prepare_folder(root, "--unlabeled", pool)
    names = table.index["image_path"].to_pylist()
    image, _ = table.read(names.index("turned.png"), mask=False)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(RGB, -1))
