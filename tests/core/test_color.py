"""Reference: torchvision, image by image. At most one of 255 levels apart, in few pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torchvision.transforms.v2.functional as V
from torch import Tensor

from cid_ray.core import augment, color

COUNT = 6
SIZE = (40, 56)


def sample_images() -> Tensor:
    """Noise, a smooth ramp, gray, black, white, and one flat colour."""
    height, width = SIZE
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, *SIZE), generator=rng, dtype=torch.uint8)
    levels = torch.arange(height * width).view(1, *SIZE)
    ramp = (levels * torch.tensor([1, 2, 3])[:, None, None] // 26 % 256).to(torch.uint8)
    flat = torch.tensor([200, 90, 40], dtype=torch.uint8)[:, None, None].expand(3, *SIZE)
    gray = noise[:1].expand(3, *SIZE)
    black, white = torch.zeros_like(noise), torch.full_like(noise, 255)
    return torch.stack([noise, ramp, gray, black, white, flat])


class Operation(NamedTuple):
    batched: Callable[[Tensor, Tensor], Tensor]  # images and factors of a batch
    reference: Callable[[Tensor, float], Tensor]  # one image, one factor
    factors: tuple[float, float]  # range


def blur_one(image: Tensor, sigma: float) -> Tensor:
    taps = 2 * math.ceil(2 * sigma) + 1
    return V.gaussian_blur(image, [taps, taps], [sigma, sigma])


def blur_batch(images: Tensor, sigma: Tensor) -> Tensor:
    return color.gaussian_blur(images, sigma, max_sigma=2.0)


OPERATIONS = {
    "brightness": Operation(color.adjust_brightness, V.adjust_brightness, (0.5, 1.5)),
    "contrast": Operation(color.adjust_contrast, V.adjust_contrast, (0.5, 1.5)),
    "saturation": Operation(color.adjust_saturation, V.adjust_saturation, (0.5, 1.5)),
    "hue": Operation(color.adjust_hue, V.adjust_hue, (-0.5, 0.5)),
    "blur": Operation(blur_batch, blur_one, (0.1, 2.0)),
}


def assert_near(found: Tensor, expected: Tensor) -> None:
    difference = (found.int() - expected.int()).abs()
    fraction = (difference > 0).float().mean()
    assert found.dtype == expected.dtype == torch.uint8 and found.shape == expected.shape
    assert difference.max() <= 1 and fraction < 0.01, (difference.max(), fraction)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_batched_operation_equals_torchvision_on_each_image(name: str, seed: int) -> None:
    operation = OPERATIONS[name]
    low, high = operation.factors
    factors = torch.rand(COUNT, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    images = sample_images()
    found = operation.batched(images.float(), factors).to(torch.uint8)
    pairs = zip(images, factors, strict=True)
    expected = torch.stack([operation.reference(image, float(factor)) for image, factor in pairs])
    assert_near(found, expected)
    assert not torch.equal(found, images)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_operation_with_neutral_factor_changes_nothing(name: str) -> None:
    images = sample_images()
    neutral = torch.full((COUNT,), 0.0 if name == "hue" else 1.0)
    found = OPERATIONS[name].batched(images.float(), neutral)
    assert (found - images.float()).abs().max() <= 1


def test_grayscale_equals_torchvision() -> None:
    images = sample_images()
    found = color.grayscale(images.float()).to(torch.uint8)
    assert_near(found, V.rgb_to_grayscale(images, num_output_channels=1))


def test_strong_view_of_a_batch_equals_that_of_its_images_one_by_one() -> None:
    images = sample_images()
    for step in range(4):
        params = augment.sample_strong_view(COUNT, SIZE, augment.step_generator(0, step))
        one_by_one = [
            augment.strong_view(images[i : i + 1], params.shard(range(i, i + 1)))
            for i in range(COUNT)
        ]
        assert_near(augment.strong_view(images, params), torch.cat(one_by_one))
