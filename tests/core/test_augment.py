"""Laws of the strong view: a function of (seed, step) alone, the same for any number of workers, one geometry for all.

References: CutMix's definition (a box of the neighbour's pixels, with the neighbour's labels) and UniMatch's ranges.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import CUTMIX_GROUP, share_of
from cid_ray.core import augment
from cid_ray.core.augment import StrongDraw
from tests.core.pieces import make_batch

SIZE, CPU = (48, 80), torch.device("cpu")
relaxed = settings(deadline=None, max_examples=40)


def drawn(batch: int, step: int = 0, seed: int = 0, size: tuple[int, int] = SIZE) -> StrongDraw:
    return augment.draw_strong(batch, size, augment.generator(seed, step))


def always(draw: StrongDraw, chance: float = 0.0) -> StrongDraw:
    """The same draw with every chance taken (0) or none (1)."""
    return StrongDraw(torch.full_like(draw.chance, chance), draw.jitter, draw.sigma, draw.box)


def same(one: StrongDraw, other: StrongDraw) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(StrongDraw))


def views(draw: StrongDraw, images: torch.Tensor) -> torch.Tensor:
    box = augment.cutmix_mask(draw, (images.shape[-2], images.shape[-1]), CPU)
    return augment.mix(augment.strong_view(images, draw), box)


def test_the_same_seed_and_step_give_the_same_views_whatever_was_drawn_before() -> None:
    images = make_batch(size=SIZE)["image_u"]
    first = views(drawn(4, step=7), images)
    torch.rand(100)
    drawn(4, step=6)
    assert same(drawn(4, step=7), drawn(4, step=7))
    assert torch.equal(views(drawn(4, step=7), images), first)


def test_another_seed_or_step_gives_another_view() -> None:
    assert not same(drawn(4, step=1), drawn(4, step=2))
    assert not same(drawn(4, seed=1), drawn(4, seed=2))


def test_drawing_leaves_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    views(drawn(4), make_batch(size=SIZE)["image_u"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_workers_views_are_its_rows_of_the_global_batchs(world: int, step: int) -> None:
    images = make_batch(count=8, size=SIZE)["image_u"]
    whole = drawn(8, step)
    assert augment.cutmix_mask(whole, SIZE, CPU).any()
    shares = [share_of(8, rank, world, CUTMIX_GROUP) for rank in range(world)]
    parts = [views(drawn(8, step).rows(share), images[share.start : share.stop]) for share in shares]
    assert torch.equal(torch.cat(parts), views(whole, images))


def test_a_batch_of_one_is_never_mixed_with_itself() -> None:
    image = make_batch(count=1, size=SIZE)["image_u"]
    draw = always(drawn(1))
    box = augment.cutmix_mask(draw, SIZE, CPU)
    assert not box.any()
    assert torch.equal(augment.mix(image, box), image)


@pytest.mark.parametrize("batch", [3, 5, 7])
def test_the_last_of_an_odd_batch_is_left_unmixed_and_all_others_are_mixed(batch: int) -> None:
    box = augment.cutmix_mask(always(drawn(batch)), SIZE, CPU)
    assert box.flatten(1).any(1).tolist() == [True] * (batch - 1) + [False]


@given(batch=st.integers(1, 9))
def test_partners_are_neighbours_of_each_other(batch: int) -> None:
    partner = augment.partners(batch)
    assert torch.equal(partner[partner], torch.arange(batch))
    assert (partner == torch.arange(batch)).sum() == batch % 2
    assert (partner // 2).tolist() == [i // 2 for i in range(batch)]


@relaxed
@given(seed=st.integers(0, 10**6), height=st.integers(32, 400), width=st.integers(32, 400))
def test_boxes_lie_inside_the_image_with_areas_in_range(seed: int, height: int, width: int) -> None:
    """A side is rounded to whole pixels, so an area may be off by half a pixel along each side, and by rounding of
    the place as much again."""
    boxes = augment.draw_boxes(16, (height, width), torch.Generator().manual_seed(seed))
    top, left, bottom, right = boxes.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= height).all() and (right <= width).all()
    h, w = bottom - top, right - left
    assert (h > 0).all() and (w > 0).all()
    low, high = (share * height * width for share in augment.CUTMIX_AREA)
    assert ((h + 1) * (w + 1) >= low).all() and ((h - 1) * (w - 1) <= high).all()


def test_boxes_use_the_whole_range_of_areas_aspects_and_places() -> None:
    boxes = augment.draw_boxes(4000, (400, 400), torch.Generator().manual_seed(0)).float()
    h, w = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = h * w / 400**2, h / w
    assert area.min() < 0.03 and area.max() > 0.38 and abs(area.mean() - 0.21) < 0.01
    assert aspect.min() < 0.32 and aspect.max() > 3.1 and abs(aspect.log().mean()) < 0.05
    assert boxes[:, :2].min() == 0 and boxes[:, 2:].max() == 400


def test_a_box_holds_exactly_its_rows_and_columns() -> None:
    draw = always(drawn(2))
    for i, (top, left, bottom, right) in enumerate(draw.box.tolist()):
        expected = torch.zeros(SIZE, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(augment.cutmix_mask(draw, SIZE, CPU)[i], expected)


def test_mixing_moves_images_labels_and_features_with_the_same_box() -> None:
    batch = make_batch(size=SIZE)
    box = augment.cutmix_mask(always(drawn(4)), SIZE, CPU)
    where, feat = torch.arange(4 * 48 * 80).reshape(4, 48, 80), torch.randn(4, 5, *SIZE)
    moved = augment.mix(where, box)
    for values in (batch["image_u"], batch["mask_x"], batch["valid_u"], feat, feat[:, 0]):
        pixels = values.movedim(1, -1).reshape(4 * 48 * 80, -1) if values.dim() == 4 else values.reshape(-1, 1)
        expected = pixels[moved.flatten()].reshape(4, 48, 80, -1)
        found = augment.mix(values, box)
        assert found.dtype == values.dtype and found.shape == values.shape
        assert torch.equal(found.movedim(1, -1) if values.dim() == 4 else found[..., None], expected)


def test_a_box_holds_the_neighbours_pixels_and_the_rest_its_own() -> None:
    images = make_batch(size=SIZE)["image_u"]
    box = augment.cutmix_mask(always(drawn(4)), SIZE, CPU)
    mixed = augment.mix(images, box)
    for i, partner in enumerate([1, 0, 3, 2]):
        assert torch.equal(mixed[i][:, box[i]], images[partner][:, box[i]])
        assert torch.equal(mixed[i][:, ~box[i]], images[i][:, ~box[i]])


@pytest.mark.parametrize("size", [(32, 32), (33, 57)])
def test_the_strong_view_keeps_shape_and_dtype(size: tuple[int, int]) -> None:
    images = make_batch(size=size)["image_u"]
    before = images.clone()
    found = augment.strong_view(images, always(drawn(4)))
    assert found.shape == images.shape and found.dtype == torch.uint8
    assert not torch.equal(found, images) and torch.equal(images, before)


def test_a_strong_view_without_any_chance_taken_is_the_image() -> None:
    images, draw = make_batch(size=SIZE)["image_u"], always(drawn(4), 1.0)
    assert torch.equal(views(draw, images), images)


def test_recoloring_moves_nothing() -> None:
    """A flat image has nothing to blur: every strong view of it is flat again."""
    flat = torch.tensor([200, 90, 40], dtype=torch.uint8)[None, :, None, None].expand(4, 3, *SIZE)
    found = augment.strong_view(flat.contiguous(), always(drawn(4)))
    assert (found == found[..., :1, :1]).all()


def test_chances_are_taken_as_often_as_published() -> None:
    chance = torch.cat([drawn(8, step).chance for step in range(500)])
    published = torch.tensor([0.8, 0.2, 0.5, 0.5])
    limits = torch.tensor([augment.P_JITTER, augment.P_GRAY, augment.P_BLUR, augment.P_CUTMIX])
    assert torch.equal(limits, published)
    assert ((chance < limits).float().mean(0) - published).abs().max() < 0.03
    sigma = torch.cat([drawn(8, step).sigma for step in range(100)])
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0 and sigma.max() - sigma.min() > 1.8
