"""Laws of images of 1 or 4 to 16 bands: stored without loss, and read, cached and cropped band by
band exactly as Pillow treats the channels of an RGB image.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cid_ray.config import DataConfig, InputError, build_config
from cid_ray.data.band_image import BandImage, decode_bands, encode_bands, to_rgb
from cid_ray.data.cache import CachedReader, cache_layout, decoded_sizes
from cid_ray.data.loader import Batch, local_batches
from cid_ray.data.sampling import LABELED, POOL, SampleOrder, SamplingPlan
from cid_ray.data.table import Table, UnreadableImage
from tests.helpers.band_files import write_band_table
from tests.helpers.image_tables import labeled_row, random_image, random_mask, write_table

SIZES = [(24, 32), (40, 20), (33, 57), (30, 30)]
NUM_LABELED = 2
FOUR_BANDS: dict[str, Any] = {"num_channels": 4, "band_mean": [1.0] * 4, "band_std": [1.0] * 4}


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # no cache of another run


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 16),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0),
)
def test_bands_are_decoded_as_they_were_encoded(
    count: int, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 256, (count, height, width), dtype=np.uint8)
    image = decode_bands(encode_bands(planes), count)
    np.testing.assert_array_equal(image.planes, planes)
    np.testing.assert_array_equal(np.asarray(image), planes.transpose(1, 2, 0))
    assert (image.height, image.width, image.size) == (height, width, (width, height))


def test_encoded_bands_are_a_tiff_that_other_programs_read(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (5, 24, 32), dtype=np.uint8)
    path = tmp_path / "bands.tif"
    path.write_bytes(encode_bands(planes))
    np.testing.assert_array_equal(tifffile.imread(path), planes)


def test_smooth_bands_are_compressed() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None, None].repeat(256, 1).repeat(5, 0)
    assert len(encode_bands(ramp)) < ramp.size / 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda encoded: b"",
        lambda encoded: encoded[:100],
        lambda encoded: encoded[:-200],
        lambda encoded: encoded[:400] + bytes(200) + encoded[600:],
        lambda encoded: encode_bands(np.zeros((4, 24, 32), np.uint8)),
        lambda encoded: encode_bands(np.zeros((1, 24, 32), np.uint8)),
    ],
)
def test_damaged_bands_raise_value_error(damage: Any) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (5, 24, 32), dtype=np.uint8)
    with pytest.raises(ValueError, match="no image of 5 bands"):
        decode_bands(damage(encode_bands(planes)), 5)


@pytest.mark.parametrize("shape", [(17, 4, 4), (0, 4, 4), (4, 4)])
def test_other_shapes_are_no_band_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bands must be"):
        BandImage(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("box", [None, (3.4, 2.25, 30.5, 22.0)])
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.NEAREST])
def test_bands_are_resized_as_the_channels_of_an_rgb_image(box: Any, resample: Any) -> None:
    pixels = random_image(0)
    bands = np.concatenate([pixels, pixels], -1).transpose(2, 0, 1)
    found = np.asarray(BandImage(bands).resize((37, 19), resample, box=box))
    expected = np.asarray(Image.fromarray(pixels).resize((37, 19), resample, box=box))
    np.testing.assert_array_equal(found, np.concatenate([expected, expected], -1))


def test_preview_shows_the_first_three_bands_or_the_first_in_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb(image), image[..., :3])
    for count in (1, 2):
        np.testing.assert_array_equal(to_rgb(image[..., :count]), image[..., [0, 0, 0]])


# ---- through the table, the cache and the loader ----


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Table, Table]:
    """Images in RGB, and the same with six bands: red, green, blue, red, green, blue."""
    pictures = [random_image(seed, size) for seed, size in enumerate(SIZES)]
    masks = [random_mask(seed, 3, size) for seed, size in enumerate(SIZES[:NUM_LABELED])]
    bands = [np.concatenate([each, each], -1).transpose(2, 0, 1) for each in pictures]
    rows = [labeled_row(str(i), pictures[i], masks[i]) for i in range(NUM_LABELED)]
    for index in range(NUM_LABELED, len(SIZES)):
        row = labeled_row(str(index), pictures[index], random_mask(0, 3, SIZES[index]))
        rows.append({**row, "mask": None, "mask_path": None, "class_pixels": None})
    return write_table(tmp_path / "rgb", rows), write_band_table(tmp_path / "six", bands, masks)


def make_batches(table: Table, image_size: Any = None, cache_mb: int = 8) -> list[Batch]:
    changes = {
        "data.crop_size": [32, 40],
        "data.batch_size": 2,
        "data.batch_size_u": 2,
        "data.image_size": image_size,
    }
    data: DataConfig = build_config({}, changes).data
    rows = np.arange(len(table))
    labeled = SampleOrder(rows[:NUM_LABELED], 0, LABELED, 2)
    pool = SampleOrder(rows[NUM_LABELED:], 0, POOL, 2)
    reader = CachedReader(table, image_size, cache_mb)
    return list(local_batches(reader, SamplingPlan(labeled, pool), data, 0, 6))


@pytest.mark.parametrize("image_size", [None, (48, 64)])
@pytest.mark.parametrize("cache_mb", [0, 8])
def test_batches_of_bands_are_those_of_the_channels(
    tables: tuple[Table, Table], image_size: Any, cache_mb: int
) -> None:
    in_rgb, in_bands = (make_batches(table, image_size, cache_mb) for table in tables)
    for rgb, bands in zip(in_rgb, in_bands, strict=True):
        assert bands["image_x"].shape == (2, 6, 32, 40)
        for name, values in rgb.items():
            if name.startswith("image"):
                values = np.concatenate([values, values], axis=1)
            np.testing.assert_array_equal(bands[name], values, err_msg=name)


def test_second_reader_takes_bands_from_the_cache(
    tables: tuple[Table, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables[1]
    first = CachedReader(table, None, 8)
    expected = [first(row, mask=True) for row in range(len(table))]
    monkeypatch.setattr(Table, "read", None)
    second = CachedReader(table, None, 8)
    for row, (image, mask) in enumerate(expected):
        found, found_mask = second(row, mask=True)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image))
        assert (mask is None) == (found_mask is None)
        if mask is not None:
            np.testing.assert_array_equal(found_mask, mask)


def test_cache_holds_a_byte_for_every_band(tables: tuple[Table, Table]) -> None:
    table = tables[1]
    offsets, ends = cache_layout(table, *decoded_sizes(table, None))
    areas = np.array([height * width for height, width in SIZES])
    np.testing.assert_array_equal(ends - offsets, areas * np.where(table.labeled, 7, 6))


def test_table_of_bands_says_how_many(tables: tuple[Table, Table]) -> None:
    assert (tables[0].num_channels, tables[0].band_stats) == (3, None)
    assert tables[1].num_channels == 6 and "channels of an image: 6" in tables[1].describe()
    stats = tables[1].band_stats
    assert stats is not None and len(stats[0]) == len(stats[1]) == 6


def test_table_whose_images_have_other_bands_names_the_image(tmp_path: Path) -> None:
    planes = np.zeros((5, 24, 32), np.uint8)
    table = write_band_table(tmp_path / "t", [planes], [random_mask(0)], **FOUR_BANDS)
    with pytest.raises(UnreadableImage, match=r"train/0 .*no image of 4 bands"):
        table.read(0, mask=True)


@pytest.mark.parametrize(
    "meta",
    [
        {"num_channels": 17, "band_mean": [1.0] * 17, "band_std": [1.0] * 17},
        {"num_channels": 0},
        {"band_mean": None},
        {"num_channels": 5, "band_mean": [1.0] * 4, "band_std": [1.0] * 4},
        {"num_channels": 5, "band_mean": [300.0] * 5, "band_std": [1.0] * 5},
    ],
)
def test_meta_that_does_not_describe_its_bands_is_refused(
    tmp_path: Path, meta: dict[str, Any]
) -> None:
    planes = np.zeros((5, 24, 32), np.uint8)
    with pytest.raises(InputError, match=r"num_channels|band_mean|0 bands"):
        write_band_table(tmp_path / "t", [planes], [random_mask(0)], **meta)
