"""Law: copies have near hashes and other pictures have not; masks are told from photos."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cid_ray.data.ingest.near_index import as_hashes, distance
from cid_ray.data.ingest.perceptual_hash import (
    HASH_BYTES,
    MAX_DISTANCE,
    NO_HASH,
    Looks,
    describe_looks,
)
from tests.helpers.photos import SIZE, blob_mask, photo, recoded
from tests.helpers.tiny_run import real_data


def looks_of(image: Image.Image) -> Looks:
    return describe_looks(np.asarray(image))


def apart(first: Image.Image, second: Image.Image) -> int:
    """The bits in which the hashes of two images differ."""
    one, other = (as_hashes(looks_of(image).hash) for image in (first, second))
    return int(distance(one, other)[0])


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 2.0])
def test_reencoded_and_resized_copy_looks_the_same(quality: int, scale: float) -> None:
    distances = [
        apart(photo(seed, (240, 320)), recoded(photo(seed, (240, 320)), quality, scale))
        for seed in range(5)
    ]
    assert max(distances) <= MAX_DISTANCE


def test_other_pictures_look_different() -> None:
    photos = [photo(seed) for seed in range(12)]
    assert min(apart(a, b) for a, b in pairwise(photos)) > 5 * MAX_DISTANCE


def test_grey_photo_of_one_channel_is_as_its_grey_copy_of_three() -> None:
    grey = photo(1).convert("L")
    assert apart(grey, grey.convert("RGB")) == 0
    assert looks_of(grey).hash == describe_looks(np.asarray(grey)[..., None]).hash


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 5), (2, 3000)])
def test_tiny_and_thin_images_have_looks(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    looks = describe_looks(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    assert len(looks.hash) == HASH_BYTES and not looks.is_like_mask


def test_blank_image_has_no_hash() -> None:
    assert describe_looks(np.full((*SIZE, 3), 200, np.uint8)) == Looks(NO_HASH, False, True)


def test_faint_noise_has_no_hash() -> None:
    noise = np.random.default_rng(0).integers(100, 103, (*SIZE, 3), dtype=np.uint8)
    assert looks_of(Image.fromarray(noise)) == Looks(NO_HASH, False, False)


# ---- masks ----


def colored(mask: Image.Image) -> Image.Image:
    colors = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
    return Image.fromarray(colors[np.asarray(mask)])


@pytest.mark.parametrize("num_classes", [2, 3, 20])
def test_masks_of_ids_and_of_colours_look_like_masks(num_classes: int) -> None:
    for seed in range(5):
        mask = blob_mask(seed, num_classes)
        assert looks_of(mask).is_like_mask
        assert looks_of(colored(mask)).is_like_mask
        assert looks_of(Image.fromarray(np.asarray(mask) * 12)).is_like_mask


def test_photos_do_not_look_like_masks() -> None:
    for seed in range(5):
        for image in (photo(seed), photo(seed).convert("L"), recoded(photo(seed), 50)):
            assert not looks_of(image).is_like_mask
        few_colours = photo(seed).quantize(64).convert("RGB")
        assert not looks_of(few_colours).is_like_mask


def test_photo_with_a_black_border_does_not_look_like_a_mask() -> None:
    """An X-ray, a fundus photo: most pixels are zero, the others are not a few values."""
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[40:160, 40:220] = np.asarray(photo(1, (120, 180)))
    assert not looks_of(Image.fromarray(picture)).is_like_mask


@pytest.mark.data
@pytest.mark.parametrize(
    ("photos", "masks"),
    [
        ("camvid/images", "camvid/masks"),
        ("voc_mini/JPEGImages", "voc_mini/SegmentationClass"),
        ("cocostuff_mini/img", "cocostuff_mini/label"),
    ],
)
def test_real_masks_are_recognised_and_no_real_photo_is(photos: str, masks: str) -> None:
    def opened(folder: str, suffix: str) -> list[Image.Image]:
        files: list[Path] = sorted(real_data(folder).rglob(f"*{suffix}"))
        return [Image.open(file) for file in files[:: max(1, len(files) // 60)]]

    for mask in opened(masks, ".png"):
        assert looks_of(mask.convert("RGB")).is_like_mask
    for picture in opened(photos, ".jpg"):
        assert not looks_of(picture.convert("RGB")).is_like_mask
        assert not looks_of(picture.convert("L")).is_like_mask
