"""Reference: torchvision, image by image. One of 255 levels apart at most, and that in few pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.v2.functional as V
from torch import Tensor

from cid_ray.core import augment, color

COUNT = 6


def pictures() -> Tensor:
    """Noise, a smooth ramp, gray, black, white, and one flat colour."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 40, 56), generator=generator, dtype=torch.uint8)
    ramp = (torch.arange(40 * 56).view(40, 56)[None] * torch.tensor([1, 2, 3])[:, None, None] // 26 % 256).to(
        torch.uint8
    )
    flat = torch.tensor([200, 90, 40], dtype=torch.uint8)[:, None, None].expand(3, 40, 56)
    gray = noise[:1].expand(3, 40, 56)
    return torch.stack([noise, ramp, gray, torch.zeros_like(noise), torch.full_like(noise, 255), flat])


OPERATIONS: dict[
    str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, float], Tensor], tuple[float, float]]
] = {
    "brightness": (color.adjust_brightness, V.adjust_brightness, (0.5, 1.5)),
    "contrast": (color.adjust_contrast, V.adjust_contrast, (0.5, 1.5)),
    "saturation": (color.adjust_saturation, V.adjust_saturation, (0.5, 1.5)),
    "hue": (color.adjust_hue, V.adjust_hue, (-0.5, 0.5)),
    "blur": (
        lambda images, sigma: color.gaussian_blur(images, sigma, 2.0),
        lambda image, sigma: V.gaussian_blur(image, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma, sigma]),
        (0.1, 2.0),
    ),
}


def assert_near(found: Tensor, expected: Tensor) -> None:
    apart = (found.int() - expected.int()).abs()
    assert found.dtype == expected.dtype == torch.uint8 and found.shape == expected.shape
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01, (apart.max(), (apart > 0).float().mean())


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_each_image_is_changed_as_torchvision_changes_it_alone(name: str, seed: int) -> None:
    ours, reference, (low, high) = OPERATIONS[name]
    factors = torch.rand(COUNT, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    images = pictures()
    found = ours(images.float(), factors).to(torch.uint8)
    expected = torch.stack([reference(image, float(f)) for image, f in zip(images, factors, strict=True)])
    assert_near(found, expected)
    assert not torch.equal(found, images)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_a_factor_that_changes_nothing_changes_nothing(name: str) -> None:
    ours, _, _ = OPERATIONS[name]
    images = pictures()
    same = ours(images.float(), torch.full((COUNT,), 0.0 if name == "hue" else 1.0))
    assert (same - images.float()).abs().max() <= 1


def test_gray_is_torchvisions() -> None:
    images = pictures()
    found = color.grayscale(images.float()).to(torch.uint8)
    assert_near(found, V.rgb_to_grayscale(images, num_output_channels=1))


def test_a_batch_is_its_images_one_by_one() -> None:
    images = pictures()
    for step in range(4):
        draw = augment.draw_strong(COUNT, (40, 56), augment.generator(0, step))
        alone = [augment.strong_view(images[i : i + 1], draw.rows(range(i, i + 1))) for i in range(COUNT)]
        assert_near(augment.strong_view(images, draw), torch.cat(alone))
