"""Law: a mask has the same ids in whichever file type its ids or colours are saved, or is refused
by name. What had to be guessed is reported.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from cid_ray.config import InputError
from cid_ray.data.image_codec import default_colors
from cid_ray.data.ingest.classes import VOC_VOID, ClassList, shift_ids, voc_palette
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.mask_file import SEVERAL_PAGES, read_pixels
from cid_ray.data.ingest.mask_reader import MaskReader
from cid_ray.data.ingest.mask_survey import survey_masks
from tests.helpers.image_tables import random_mask

MASK = random_mask(0, 4)
COLORS = [[0, 0, 0], [128, 64, 128], [70, 70, 70], [107, 142, 35]]
NAMES = ["a", "b", "c", "d"]
COLORED = ClassList(NAMES, COLORS, has_colors=True)
NAMED = ClassList.of_names(NAMES)
SETTINGS = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def saved(folder: Path, *images: Image.Image | np.ndarray, suffix: str = "png") -> list[Path]:
    files = []
    for number, image in enumerate(images):
        files.append(folder / f"{number}.{suffix}")
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(files[-1])
    return files


def read_set(
    files: list[Path], classes: ClassList, ignore_index: int = 255
) -> tuple[list[np.ndarray], list[str], ClassList]:
    """The ids of the masks of a set, what was guessed, and its classes."""
    findings = Findings()
    decision = survey_masks(files, classes, ignore_index, findings)
    reader = MaskReader(decision.classes, [], ignore_index, decision.code)
    ids = [reader.read_file(file).ids for file in files]
    return ids, findings.describe(), decision.classes


def png(depth: int, color_type: int, rows: list[bytes], width: int) -> bytes:
    """A PNG that Pillow itself cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(MASK)
    image.putalpha(255)
    return image.convert(mode)


def in_channel(channel: int) -> np.ndarray:
    pixels = np.zeros((*MASK.shape, 3), np.uint8)
    pixels[..., channel] = MASK
    return pixels


ID_FILES: dict[str, tuple[Callable[[], Image.Image | np.ndarray], str, str | None]] = {
    "8 bit": (lambda: MASK, "png", None),
    "8 bit tiff": (lambda: MASK, "tif", None),
    "bmp": (lambda: MASK, "bmp", None),
    "16 bit": (lambda: MASK.astype(np.uint16), "png", None),
    "16 bit little endian": (lambda: MASK.astype("<u2"), "tif", None),
    "16 bit big endian": (lambda: Image.fromarray(MASK.astype(">u2")), "tif", None),
    "32 bit": (lambda: MASK.astype(np.int32), "tif", None),
    "float": (lambda: MASK.astype(np.float32), "tif", None),
    "LA": (lambda: with_alpha("LA"), "png", None),
    "RGB of grey": (lambda: np.stack([MASK] * 3, -1), "png", "colour masks of grey pixels"),
    "RGBA of grey": (lambda: with_alpha("RGBA"), "png", "colour masks of grey pixels"),
    "red": (lambda: in_channel(0), "png", "ids in their red channel"),
    "green": (lambda: in_channel(1), "png", "ids in their green channel"),
    "blue": (lambda: in_channel(2), "png", "ids in their blue channel"),
    "lossless webp": (lambda: np.stack([MASK] * 3, -1), "webp", "colour masks of grey pixels"),
}


@pytest.mark.parametrize("classes", [NAMED, COLORED], ids=["names", "colours"])
@pytest.mark.parametrize("kind", ID_FILES)
def test_ids_in_any_file(tmp_path: Path, kind: str, classes: ClassList) -> None:
    make, suffix, guess = ID_FILES[kind]
    file = tmp_path / f"0.{suffix}"
    image = make()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, lossless=True)  # other formats than WebP have no such option
    (ids,), told, _ = read_set([file], classes)
    np.testing.assert_array_equal(ids, MASK)
    assert ids.dtype == np.uint8
    assert len(told) == (0 if guess is None else 1)
    assert guess is None or guess in told[0]


@pytest.mark.parametrize(("depth", "row"), [(2, b"\x1b"), (4, b"\x01\x23")])
def test_grey_png_of_few_bits_holds_ids_not_brightness(
    tmp_path: Path, depth: int, row: bytes
) -> None:
    """Pillow would stretch them to 0, 85, 170, 255 or 0, 17, 34, 51."""
    (tmp_path / "0.png").write_bytes(png(depth, 0, [row], 4))
    (ids,), _, _ = read_set([tmp_path / "0.png"], NAMED)
    assert ids.tolist() == [[0, 1, 2, 3]]


def test_colors_of_the_classes_are_read_by_colour(tmp_path: Path) -> None:
    colored = np.array(COLORS, np.uint8)[MASK]
    rgba = np.dstack([colored, np.full(MASK.shape, 255, np.uint8)])
    black = np.zeros_like(colored)  # this mask alone might be grey ids
    ids, told, _ = read_set(saved(tmp_path, black, colored, rgba), COLORED)
    for found, expected in zip(ids, (np.zeros_like(MASK), MASK, MASK), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert told == []


def test_grey_class_colors_stay_colors(tmp_path: Path) -> None:
    classes = ClassList(["a", "b"], [[0, 0, 0], [255, 255, 255]], has_colors=True)
    mask = random_mask(0, 2)
    (ids,), told, _ = read_set(saved(tmp_path, np.stack([mask * 255] * 3, -1)), classes)
    np.testing.assert_array_equal(ids, mask)
    assert told == []


@given(
    colors=st.lists(
        st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=40, unique=True
    ).filter(lambda colors: sum(any(color) for color in colors) > 1),
    seed=st.integers(0, 999),
)
@SETTINGS
def test_any_class_colors_are_read(
    tmp_path: Path, colors: list[tuple[int, int, int]], seed: int
) -> None:
    mask = random_mask(seed, len(colors), (8, 9))
    classes = ClassList([f"c{i}" for i in range(len(colors))], [*map(list, colors)], True)
    (ids,), told, _ = read_set(saved(tmp_path, np.array(colors, np.uint8)[mask]), classes)
    np.testing.assert_array_equal(ids, mask)
    assert told == []


# ---- VOC's palette ----


def voc_colored(mask: np.ndarray) -> np.ndarray:
    pixels = np.array(voc_palette(255), np.uint8)[np.minimum(mask, 254)]
    pixels[mask == 255] = VOC_VOID
    return pixels


def test_voc_palette_has_black_as_background() -> None:
    assert voc_palette(4) == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]


def test_names_with_background_take_vocs_palette(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[0] = 255
    classes = ClassList.of_names(["_background_", "b", "c", "d"])
    files = saved(tmp_path, voc_colored(mask), voc_colored(MASK % 2))
    ids, told, found = read_set(files, classes)
    np.testing.assert_array_equal(ids[0], mask)
    np.testing.assert_array_equal(ids[1], MASK % 2)
    assert found.colors == voc_palette(4) and found.names == classes.names
    assert told[0].startswith("guessed: 2 colour masks, read by PASCAL VOC's palette with black")


def test_names_without_background_get_it_where_all_other_colours_are_used(tmp_path: Path) -> None:
    (ids,), told, found = read_set(saved(tmp_path, voc_colored(MASK)), ClassList.of_names("bcd"))
    np.testing.assert_array_equal(ids, MASK)
    assert found.names == ["background", "b", "c", "d"]
    assert "a class before those of the classes file" in told[0]


@pytest.mark.parametrize(
    ("names", "mask"),
    [
        (["a", "b", "c", "d"], MASK),  # black may be a, or none of them
        (["b", "c", "d", "e"], MASK),
        (["background", "b", "c"], MASK),  # a colour more than names
        (["bg", "b", "c", "d"], MASK + 1),  # no background in any mask
    ],
)
def test_vocs_palette_that_does_not_fit_the_names_is_refused(
    tmp_path: Path, names: list[str], mask: np.ndarray
) -> None:
    with pytest.raises(InputError, match=r"0\.png: a colour mask, .*\(`name r g b`\)") as caught:
        read_set(saved(tmp_path, voc_colored(mask)), ClassList.of_names(names))
    message = str(caught.value)
    assert "(128, 0, 0)" in message
    assert f"PASCAL VOC's, name its ids 0 to {mask.max()}, `background` first" in message


def test_colors_of_no_known_palette_are_refused(tmp_path: Path) -> None:
    shifted = np.array(default_colors(5), np.uint8)[MASK]  # VOC's without black
    with pytest.raises(InputError, match="nothing says which class has which colour"):
        read_set(saved(tmp_path, shifted), ClassList.of_names(["background", "b", "c", "d", "e"]))


def test_vocs_border_is_no_label_when_the_classes_have_vocs_colors(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[3] = 255
    (ids,), _, _ = read_set(
        saved(tmp_path, voc_colored(mask)), ClassList(NAMES, voc_palette(4), has_colors=True)
    )
    np.testing.assert_array_equal(ids, mask)


# ---- palettes ----


def indexed(values: np.ndarray, palette: list[list[int]]) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette([channel for color in palette for channel in color])
    return image


@pytest.mark.parametrize("classes", [NAMED, COLORED], ids=["names", "colours"])
@pytest.mark.parametrize("palette", [voc_palette(256), [[9, 9, 9]] * 256], ids=["VOC", "one grey"])
def test_index_is_the_id_whatever_the_palette(
    tmp_path: Path, classes: ClassList, palette: list[list[int]]
) -> None:
    (ids,), told, _ = read_set(saved(tmp_path, indexed(MASK, palette)), classes)
    np.testing.assert_array_equal(ids, MASK)
    assert told == []


order = st.permutations(range(4))


@given(first=order, second=order)
@SETTINGS
def test_palette_of_class_colors_in_any_order_is_read_by_colour(
    tmp_path: Path, first: list[int], second: list[int]
) -> None:
    masks = [random_mask(seed, 4) for seed in range(2)]
    images = [
        indexed(np.argsort(order).astype(np.uint8)[mask], [COLORS[i] for i in order])
        for mask, order in zip(masks, (first, second), strict=True)
    ]
    ids, told, _ = read_set(saved(tmp_path, *images), COLORED)
    np.testing.assert_array_equal(ids, masks)
    in_order = sorted(first) == list(first) and sorted(second) == list(second)
    expected = "guessed: 2 palette masks, read by colour (the palettes are not in the classes'"
    assert [line.startswith(expected) for line in told] == ([] if in_order else [True])


def test_palette_with_some_class_colors_is_read_by_index_and_told(tmp_path: Path) -> None:
    palette = [[1, 1, 1], COLORS[2], [5, 5, 5], [9, 9, 9]]
    (ids,), told, _ = read_set(saved(tmp_path, indexed(MASK, palette)), COLORED)
    np.testing.assert_array_equal(ids, MASK)
    assert told[0].startswith("guessed: 1 palette masks, read by index")


def test_palettes_that_number_the_same_colours_differently_are_refused_without_colours(
    tmp_path: Path,
) -> None:
    images = [indexed(MASK, COLORS), indexed(MASK, COLORS[::-1])]
    with pytest.raises(InputError, match=r"number the same colours differently.*\(`name r g b`\)"):
        read_set(saved(tmp_path, *images), NAMED)


# ---- refused by name ----


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(MASK)
    alpha = np.full(MASK.shape, 255, np.uint8)
    alpha[0, :3] = 0
    image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


def refused(file: Path) -> str:
    with pytest.raises(BadFile) as caught:
        MaskReader(NAMED, [], 255).read_file(file)
    assert str(caught.value).startswith(str(file))
    return str(caught.value)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    (file,) = saved(tmp_path, transparent(mode))
    assert f"3 of {MASK.size} pixels are transparent" in refused(file)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (MASK.astype(np.float32) / 2, "the mask holds 0.5, ids are whole numbers"),
        (np.full((4, 4), np.nan, np.float32), "the mask holds nan"),
        (np.full((4, 4), np.inf, np.float32), "mask ids up to inf"),
        (MASK.astype(np.int32) - 1, "mask ids from -1 on, must be 0 or more"),
        (MASK.astype(np.int32) * 1000, "mask ids up to 3000, must be below 256"),
        (MASK.astype(np.float32) * 100, "mask ids up to 300, must be below 256"),
    ],
)
def test_values_that_are_no_ids_are_refused(
    tmp_path: Path, values: np.ndarray, reason: str
) -> None:
    (file,) = saved(tmp_path, values, suffix="tif")
    assert reason in refused(file)


@pytest.mark.parametrize(("color_type", "row"), [(2, bytes(6)), (4, bytes(4)), (6, bytes(8))])
def test_16_bits_in_several_channels_are_refused(
    tmp_path: Path, color_type: int, row: bytes
) -> None:
    """Pillow would drop the low byte, in which the ids are."""
    (tmp_path / "0.png").write_bytes(png(16, color_type, [row], 1))
    assert "several channels with 16 bits" in refused(tmp_path / "0.png")


LOSSY: dict[str, tuple[dict[str, object], str]] = {
    "jpg": ({"format": "JPEG"}, "is JPEG"),
    "png": ({"format": "JPEG"}, "is JPEG"),  # renamed
    "tif": ({"format": "TIFF", "compression": "jpeg"}, "is TIFF with JPEG compression"),
    "webp": ({"format": "WEBP"}, "is lossy WebP"),
}


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_files_are_refused_whatever_their_name(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    options, reason = LOSSY[suffix]
    file = tmp_path / f"0.{suffix}"
    Image.fromarray(MASK).convert(mode).save(file, **options)  # type: ignore[arg-type]
    assert reason in refused(file)
    with pytest.raises(InputError, match=r"all 1 masks are .*; export the masks again as PNG"):
        read_set([file], NAMED)


def test_lossy_webp_with_metadata_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "0.webp"
    transparent("RGBA").save(file, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    assert file.read_bytes()[12:16] == b"VP8X"
    assert "is lossy WebP" in refused(file)


def test_first_of_several_pages_is_read_and_told(tmp_path: Path) -> None:
    file = tmp_path / "0.tif"
    pages = [Image.fromarray(MASK), Image.fromarray(MASK * 0)]
    pages[0].save(file, save_all=True, append_images=pages[1:])
    assert len(list(ImageSequence.Iterator(Image.open(file)))) == 2
    content = MaskReader(NAMED, [], 255).read_file(file)
    np.testing.assert_array_equal(content.ids, MASK)
    assert content.changes == (SEVERAL_PAGES,)


# ---- renumbering ----


@given(
    first=st.integers(0, 255),
    mapping=st.dictionaries(st.integers(0, 255), st.integers(0, 255), max_size=5),
    ignore=st.integers(0, 255),
)
@SETTINGS
def test_first_id_shifts_what_map_does_not_name(
    tmp_path: Path, first: int, mapping: dict[int, int], ignore: int
) -> None:
    every_id = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (file,) = saved(tmp_path, every_id)
    reader = MaskReader(NAMED, [shift_ids(first, mapping, ignore)], ignore)
    for old, new in enumerate(reader.read_file(file).ids.ravel().tolist()):
        if old in mapping:
            assert new == mapping[old]
        elif first == 0 or old == ignore:
            assert new == old
        else:
            assert new == (old - first if old >= first else ignore)


def test_unmatched_colors_are_counted(tmp_path: Path) -> None:
    pixels = np.array(COLORS, np.uint8)[MASK]
    pixels[:2] = (1, 2, 3)
    pixels[2, :5] = (4, 5, 6)
    content = MaskReader(COLORED, [], 255).read_file(saved(tmp_path, pixels)[0])
    assert content.unmatched.pixels == 2 * MASK.shape[1] + 5
    assert content.unmatched.commonest == {(1, 2, 3): 2 * MASK.shape[1], (4, 5, 6): 5}
    assert (content.ids[:2] == 255).all() and (content.ids[3:] == MASK[3:]).all()


def test_photograph_as_a_mask_takes_bounded_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    noise[0, 0] = COLORS[1]
    content = MaskReader(COLORED, [], 255).read_file(saved(tmp_path, noise)[0])
    assert content.unmatched.num_colors > 100_000
    assert len(content.unmatched.commonest) == 1000
    total = type(content.unmatched)()
    for number in range(5):
        total.add(content.unmatched, str(number))
    assert total.pixels == 5 * (300 * 400 - 1) and total.first == "0"
    assert len(total.commonest) <= 2000


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<u4", ">u2", "i1"])
def test_whole_numbers_of_any_type_are_ids(tmp_path: Path, dtype: str) -> None:
    ids = np.arange(12).reshape(3, 4) % 5
    order: Literal["<", ">"] = ">" if dtype.startswith(">") else "<"
    tifffile.imwrite(tmp_path / "mask.tif", ids.astype(dtype), byteorder=order)
    np.testing.assert_array_equal(read_pixels(tmp_path / "mask.tif").values, ids)


@pytest.mark.parametrize("maxval", [3, 20, 255, 1000])
def test_ids_of_a_pgm_mask_are_not_scaled_by_its_maxval(tmp_path: Path, maxval: int) -> None:
    ids = np.arange(12).reshape(3, 4) % 4
    pixels = ids.astype(">u2" if maxval > 255 else "u1").tobytes()
    (tmp_path / "mask.pgm").write_bytes(f"P5 4 3 {maxval}\n".encode() + pixels)
    np.testing.assert_array_equal(read_pixels(tmp_path / "mask.pgm").values, ids)
