"""Laws of the strong view: a function of (seed, step) alone, equal for any number of workers.

References: CutMix's definition (a box of the partner's pixels, with the partner's labels) and the
ranges and probabilities of UniMatch.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import unlabeled_shard
from cid_ray.core import augment
from cid_ray.core.augment import StrongViewParams
from tests.helpers.core_pieces import make_batch

SIZE = (48, 80)
CPU = torch.device("cpu")
relaxed = settings(deadline=None, max_examples=40)


def sample(
    batch_size: int, step: int = 0, seed: int = 0, size: tuple[int, int] = SIZE
) -> StrongViewParams:
    return augment.sample_strong_view(batch_size, size, augment.step_generator(seed, step))


def with_chance(params: StrongViewParams, chance: float) -> StrongViewParams:
    """The same numbers with every change applied (chance 0) or none (1)."""
    chances = torch.full_like(params.chance, chance)
    return StrongViewParams(chances, params.jitter, params.sigma, params.box)


def all_applied(batch_size: int) -> StrongViewParams:
    return with_chance(sample(batch_size), 0.0)


def equal(one: StrongViewParams, other: StrongViewParams) -> bool:
    names = [field.name for field in fields(StrongViewParams)]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def strong_views(params: StrongViewParams, images: torch.Tensor) -> torch.Tensor:
    box = augment.cutmix_mask(params, (images.shape[-2], images.shape[-1]), CPU)
    return augment.apply_cutmix(augment.strong_view(images, params), box)


def test_strong_view_of_same_seed_and_step_is_the_same_after_other_draws() -> None:
    images = make_batch(size=SIZE)["image_u"]
    first = strong_views(sample(4, step=7), images)
    torch.rand(100)
    sample(4, step=6)
    assert equal(sample(4, step=7), sample(4, step=7))
    assert torch.equal(strong_views(sample(4, step=7), images), first)


def test_strong_view_of_another_seed_or_step_differs() -> None:
    assert not equal(sample(4, step=1), sample(4, step=2))
    assert not equal(sample(4, seed=1), sample(4, seed=2))


def test_strong_view_leaves_torchs_generator_unchanged() -> None:
    before = torch.get_rng_state()
    strong_views(sample(4), make_batch(size=SIZE)["image_u"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_strong_views_of_shards_equal_those_of_the_global_batch(world_size: int, step: int) -> None:
    images = make_batch(count=8, size=SIZE)["image_u"]
    whole = sample(8, step)
    assert augment.cutmix_mask(whole, SIZE, CPU).any()
    shards = [unlabeled_shard(8, rank, world_size) for rank in range(world_size)]
    parts = [
        strong_views(sample(8, step).shard(shard), images[shard.start : shard.stop])
        for shard in shards
    ]
    assert torch.equal(torch.cat(parts), strong_views(whole, images))


def test_cutmix_of_a_batch_of_one_leaves_the_image_unmixed() -> None:
    image = make_batch(count=1, size=SIZE)["image_u"]
    box = augment.cutmix_mask(all_applied(1), SIZE, CPU)
    assert not box.any()
    assert torch.equal(augment.apply_cutmix(image, box), image)


@pytest.mark.parametrize("batch_size", [3, 5, 7])
def test_cutmix_of_an_odd_batch_leaves_only_the_last_image_unmixed(batch_size: int) -> None:
    box = augment.cutmix_mask(all_applied(batch_size), SIZE, CPU)
    assert box.flatten(1).any(1).tolist() == [True] * (batch_size - 1) + [False]


@given(batch_size=st.integers(1, 9))
def test_cutmix_partners_are_neighbours_of_each_other(batch_size: int) -> None:
    partner = augment.cutmix_partners(batch_size)
    assert torch.equal(partner[partner], torch.arange(batch_size))
    assert (partner == torch.arange(batch_size)).sum() == batch_size % 2
    assert (partner // 2).tolist() == [i // 2 for i in range(batch_size)]


@relaxed
@given(seed=st.integers(0, 10**6), height=st.integers(32, 400), width=st.integers(32, 400))
def test_cutmix_boxes_are_inside_the_image_with_areas_in_range(
    seed: int, height: int, width: int
) -> None:
    """Sides and positions are rounded to whole pixels: each side may be off by one pixel."""
    boxes = augment.sample_cutmix_boxes(16, (height, width), torch.Generator().manual_seed(seed))
    top, left, bottom, right = boxes.unbind(1)
    assert (top >= 0).all() and (left >= 0).all()
    assert (bottom <= height).all() and (right <= width).all()
    h, w = bottom - top, right - left
    assert (h > 0).all() and (w > 0).all()
    low, high = (fraction * height * width for fraction in augment.CUTMIX_AREA)
    assert ((h + 1) * (w + 1) >= low).all() and ((h - 1) * (w - 1) <= high).all()


def test_cutmix_boxes_use_the_whole_range_of_areas_aspects_and_positions() -> None:
    rng = torch.Generator().manual_seed(0)
    boxes = augment.sample_cutmix_boxes(4000, (400, 400), rng).float()
    h, w = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = h * w / 400**2, h / w
    assert area.min() < 0.03 and area.max() > 0.38 and abs(area.mean() - 0.21) < 0.01
    assert aspect.min() < 0.32 and aspect.max() > 3.1 and abs(aspect.log().mean()) < 0.05
    assert boxes[:, :2].min() == 0 and boxes[:, 2:].max() == 400


def test_cutmix_mask_is_true_exactly_inside_the_box() -> None:
    params = all_applied(2)
    for i, (top, left, bottom, right) in enumerate(params.box.tolist()):
        expected = torch.zeros(SIZE, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(augment.cutmix_mask(params, SIZE, CPU)[i], expected)


def test_apply_cutmix_moves_images_labels_and_features_with_the_same_box() -> None:
    batch = make_batch(size=SIZE)
    box = augment.cutmix_mask(all_applied(4), SIZE, CPU)
    count = 4 * SIZE[0] * SIZE[1]
    origin = torch.arange(count).reshape(4, *SIZE)
    feat = torch.randn(4, 5, *SIZE)
    source = augment.apply_cutmix(origin, box).flatten()
    for values in (batch["image_u"], batch["mask_x"], batch["valid_u"], feat, feat[:, 0]):
        channels_last = values.movedim(1, -1) if values.dim() == 4 else values[..., None]
        expected = channels_last.reshape(count, -1)[source].reshape(4, *SIZE, -1)
        found = augment.apply_cutmix(values, box)
        assert found.dtype == values.dtype and found.shape == values.shape
        found = found.movedim(1, -1) if values.dim() == 4 else found[..., None]
        assert torch.equal(found, expected)


def test_apply_cutmix_takes_the_partners_pixels_inside_the_box_only() -> None:
    images = make_batch(size=SIZE)["image_u"]
    box = augment.cutmix_mask(all_applied(4), SIZE, CPU)
    mixed = augment.apply_cutmix(images, box)
    for i, partner in enumerate([1, 0, 3, 2]):
        assert torch.equal(mixed[i][:, box[i]], images[partner][:, box[i]])
        assert torch.equal(mixed[i][:, ~box[i]], images[i][:, ~box[i]])


@pytest.mark.parametrize("size", [(32, 32), (33, 57)])
def test_strong_view_keeps_shape_dtype_and_its_input(size: tuple[int, int]) -> None:
    images = make_batch(size=size)["image_u"]
    before = images.clone()
    found = augment.strong_view(images, all_applied(4))
    assert found.shape == images.shape and found.dtype == torch.uint8
    assert not torch.equal(found, images) and torch.equal(images, before)


def test_strong_view_with_nothing_applied_is_the_image() -> None:
    images = make_batch(size=SIZE)["image_u"]
    assert torch.equal(strong_views(with_chance(sample(4), 1.0), images), images)


def test_strong_view_of_a_flat_image_is_flat() -> None:
    """A flat image has nothing to blur, and recoloring moves no pixel."""
    flat = torch.tensor([200, 90, 40], dtype=torch.uint8)[None, :, None, None]
    images = flat.expand(4, 3, *SIZE).contiguous()
    found = augment.strong_view(images, all_applied(4))
    assert (found == found[..., :1, :1]).all()


def test_changes_are_applied_with_the_published_probabilities() -> None:
    chance = torch.cat([sample(8, step).chance for step in range(500)])
    published = torch.tensor([0.8, 0.2, 0.5, 0.5])
    limits = torch.tensor([augment.P_JITTER, augment.P_GRAY, augment.P_BLUR, augment.P_CUTMIX])
    assert torch.equal(limits, published)
    assert ((chance < limits).float().mean(0) - published).abs().max() < 0.03
    sigma = torch.cat([sample(8, step).sigma for step in range(100)])
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0 and sigma.max() - sigma.min() > 1.8
