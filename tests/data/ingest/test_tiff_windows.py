"""Law: rows of a TIFF file are those of the whole image, and only their chunks are decoded.

Reference: the array that was written, or what Pillow decodes of the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cid_ray.data.ingest import tiff_windows
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.tiff_windows import NotWindowed, TiffWindows, is_tiff
from tests.helpers.image_tables import random_image

SIZE = (150, 130)
COLORS = random_image(1, SIZE)
GREY = COLORS[..., 0]

# How a file is stored -> the array and tifffile's options.
STORAGES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "uncompressed strip": (COLORS, {}),
    "uncompressed strips": (COLORS, {"rowsperstrip": 7}),
    "uncompressed tiles": (COLORS, {"tile": (32, 48)}),
    "deflated strips": (COLORS, {"compression": "zlib", "rowsperstrip": 16}),
    "deflated tiles": (COLORS, {"compression": "zlib", "tile": (64, 32)}),
    "predictor": (COLORS, {"compression": "zlib", "predictor": True, "tile": (32, 32)}),
    "big endian": (COLORS, {"compression": "zlib", "byteorder": ">", "rowsperstrip": 32}),
    "BigTIFF": (COLORS, {"compression": "zlib", "bigtiff": True, "tile": (32, 32)}),
    "grey": (GREY, {"compression": "zlib", "tile": (32, 32)}),
    "white is zero": (255 - GREY, {"photometric": "miniswhite", "rowsperstrip": 9}),
    "bits": (GREY > 127, {"rowsperstrip": 10}),
    "planes": (
        np.moveaxis(COLORS, -1, 0),
        {"planarconfig": "separate", "photometric": "rgb", "compression": "zlib", "tile": (32, 32)},
    ),
    "alpha": (
        np.dstack([COLORS, GREY]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"], "rowsperstrip": 11},
    ),
}


def expected_rgb(name: str) -> np.ndarray:
    if name in ("grey", "white is zero"):
        return np.dstack([GREY] * 3)
    if name == "bits":
        return np.dstack([np.where(GREY > 127, 255, 0)] * 3)
    return COLORS


def read_in_parts(windows: TiffWindows, step: int) -> np.ndarray:
    tops = range(0, windows.size[0], step)
    return np.concatenate([windows.rgb_rows(top, min(top + step, windows.size[0])) for top in tops])


@pytest.mark.parametrize("step", [1, 37, 64, 150])
@pytest.mark.parametrize("name", STORAGES)
def test_rows_are_those_of_the_image(tmp_path: Path, name: str, step: int) -> None:
    pixels, options = STORAGES[name]
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, pixels, **{"photometric": photometric(pixels), **options})
    assert is_tiff(file)
    with TiffWindows(file) as windows:
        assert windows.size == SIZE
        assert not windows.has_more_pages
        np.testing.assert_array_equal(read_in_parts(windows, step), expected_rgb(name))


def photometric(pixels: np.ndarray) -> str:
    return "rgb" if pixels.ndim == 3 else "minisblack"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_files_of_pillow_are_read_as_pillow_reads_them(
    tmp_path: Path, mode: str, compression: str
) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(COLORS).convert(mode).save(file, compression=compression)
    with Image.open(file) as image, TiffWindows(file) as windows:
        np.testing.assert_array_equal(read_in_parts(windows, 40), image.convert("RGB"))
        assert windows.is_plain_mask == (mode in ("1", "L", "RGB"))


def test_rows_in_any_order_and_overlapping(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, COLORS, compression="zlib", tile=(32, 32))
    with TiffWindows(file) as windows:
        for top, bottom in ((100, 150), (0, 10), (5, 90), (80, 120), (149, 150)):
            np.testing.assert_array_equal(windows.rgb_rows(top, bottom), COLORS[top:bottom])


def test_chunks_without_data_hold_the_nodata_value(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    full = zlib.compress(np.full((64, 64), 7, np.uint8).tobytes())
    tiles = iter([b"", full, b"", full])
    shape = (128, 128)
    tifffile.imwrite(file, tiles, shape=shape, dtype="uint8", tile=(64, 64), compression="zlib")
    with TiffWindows(file) as windows:
        rows = windows.rows(0, 128)
    assert set(np.unique(rows[:, :64])) == {0}
    assert set(np.unique(rows[:, 64:])) == {7}


@pytest.mark.parametrize("options", [{"rowsperstrip": 10}, {"tile": (16, 16)}])
def test_damaged_chunk_spoils_only_rows_that_it_holds(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, COLORS, compression="zlib", **options)
    with tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        index = len(page.dataoffsets) * 2 // 3
        offset, length = page.dataoffsets[index], page.databytecounts[index]
    content = bytearray(file.read_bytes())
    content[offset : offset + length] = b"\xff" * length
    file.write_bytes(bytes(content))
    with TiffWindows(file) as windows:
        np.testing.assert_array_equal(windows.rgb_rows(0, 80), COLORS[:80])
        with pytest.raises(BadFile, match=rf"{file}: rows 80 to 149 are damaged or truncated"):
            windows.rgb_rows(80, 150)
        np.testing.assert_array_equal(windows.rgb_rows(0, 40), COLORS[:40])


def test_truncated_file_is_named_with_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(COLORS).save(file, compression="tiff_adobe_deflate")
    whole = file.read_bytes()
    with tifffile.TiffFile(file) as opened:
        last = opened.pages.first.dataoffsets[-1]
    file.write_bytes(whole[: last + 100].ljust(len(whole), b"\0"))
    # Pillow stores the tags in front or behind: either there are rows to miss, or no tags to read.
    with pytest.raises((BadFile, NotWindowed)), TiffWindows(file) as windows:
        windows.rgb_rows(0, SIZE[0])


def deep(file: Path) -> None:
    tifffile.imwrite(file, GREY.astype(np.uint16))


def four_bits(file: Path) -> None:
    # Pillow writes no TIFF of four bits: the tags of one of eight are changed.
    tifffile.imwrite(file, GREY, rowsperstrip=SIZE[0])
    with tifffile.TiffFile(file, mode="r+") as opened:
        opened.pages.first.tags["BitsPerSample"].overwrite(4)


def turned(file: Path) -> None:
    tifffile.imwrite(file, COLORS, extratags=[("Orientation", "H", 1, 6, True)])


def many_channels(file: Path) -> None:
    tifffile.imwrite(file, np.dstack([COLORS, COLORS]), photometric="rgb")


def cmyk(file: Path) -> None:
    Image.fromarray(COLORS).convert("CMYK").save(file)


def garbage(file: Path) -> None:
    file.write_bytes(b"II*\0" + b"\x08\0\0\0" + b"\xff" * 100)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (deep, "samples are uint16 of 16 bits"),
        (four_bits, "of 4 bits"),
        (turned, "Orientation tag"),
        (many_channels, "6 channels"),
        (cmyk, "SEPARATED, not RGB"),
        (garbage, "tags cannot be read"),
    ],
)
def test_what_has_to_be_decoded_whole_says_why(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    file = tmp_path / "a.tif"
    write(file)
    with pytest.raises(NotWindowed, match=reason):
        TiffWindows(file)


def test_lzw_is_read_with_imagecodecs_or_names_it(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(COLORS).save(file, compression="tiff_lzw")
    if tifffile.COMPRESSION.LZW in tifffile.TIFF.DECOMPRESSORS:
        with TiffWindows(file) as windows:
            np.testing.assert_array_equal(read_in_parts(windows, 40), COLORS)
    else:
        with pytest.raises(NotWindowed, match=r"LZW needs imagecodecs \(pip install 'cid_ray\["):
            TiffWindows(file)


def test_strip_of_too_many_pixels_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, COLORS, compression="zlib", rowsperstrip=SIZE[0])
    monkeypatch.setattr(tiff_windows, "MAX_PIXELS", 10_000)
    with pytest.raises(NotWindowed, match="one strip or tile of it holds too many pixels"):
        TiffWindows(file)


def test_other_pages_are_told_unless_they_accompany_the_first(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    transparency = GREY > 127
    for other, subfiletype, expected in (
        (COLORS[::2, ::2], 1, False),
        (transparency, 4, False),
        (COLORS[::2, ::2], 0, True),
    ):
        with tifffile.TiffWriter(file) as writer:
            writer.write(COLORS)
            writer.write(other, subfiletype=subfiletype)
        with TiffWindows(file) as windows:
            assert windows.has_more_pages == expected
            np.testing.assert_array_equal(windows.rgb_rows(0, 5), COLORS[:5])
