"""Law: what is dropped of an image depends on seed, step and layer, not on who passes it with which others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from cid_ray.config import Model, share_of
from cid_ray.core.dropout import DROPS, GlobalDropout, Rows, of_global_batch, probability
from cid_ray.core.model import Segmenter

TOTAL = 7
KINDS: list[nn.Module] = [nn.Dropout(0.5), nn.Dropout2d(0.4), DropPath(0.5), DropPath(0.5, scale_by_keep=False)]


def layer(former: nn.Module, own: range = range(TOTAL), seed: int = 0, step: int = 3, number: int = 0) -> GlobalDropout:
    return GlobalDropout(former, number, Rows(torch.tensor(own), TOTAL, seed, step))


def images() -> Tensor:
    return 1 + torch.rand(TOTAL, 6, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("former", KINDS, ids=repr)
@pytest.mark.parametrize("world", [2, 3, 7])
def test_shares_and_parts_lose_what_the_whole_batch_loses(former: nn.Module, world: int) -> None:
    whole, x = layer(former)(images()), images()
    shares = [share_of(TOTAL, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat([layer(former, own)(x[own.start : own.stop]) for own in shares]), whole)
    in_parts = layer(former)
    for index in (torch.tensor([0, 3, 5]), torch.tensor([6])):
        with in_parts.rows.part(index):
            assert torch.equal(in_parts(x[index]), whole[index])
    assert torch.equal(in_parts(x), whole)


@pytest.mark.parametrize("former", KINDS, ids=repr)
def test_images_steps_seeds_and_layers_differ_and_torchs_generator_is_left_alone(former: nn.Module) -> None:
    before, x = torch.get_rng_state(), torch.ones(TOTAL, 40, 8, 8)
    first = layer(former)(x)
    others = [layer(former, **{key: 1})(x) for key in ("seed", "step", "number")]
    assert not any(torch.equal(first, other) for other in others)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("former", KINDS, ids=repr)
def test_it_drops_as_much_and_scales_as_the_layer_that_it_replaces(former: nn.Module) -> None:
    x, seen, theirs = torch.ones(TOTAL, 50, 6, 6), [], []
    mine = layer(former)
    for step in range(200):
        mine.rows.step = step
        seen.append(mine(x))
        theirs.append(former(x))
    mean, expected = torch.stack(seen).mean(), torch.stack(theirs).mean()
    assert abs(mean - expected) < 0.06
    assert set(torch.stack(seen).unique().tolist()) == set(torch.stack(theirs).unique().tolist())
    per = {nn.Dropout: (0, 1, 2, 3), nn.Dropout2d: (0, 1), DropPath: (0,)}[type(former)]
    same = seen[0].flatten(len(per)).std(-1) if len(per) < 4 else torch.zeros(1)
    assert not same.any(), "a channel, or an image, is dropped whole"
    assert torch.equal(mine.eval()(x), x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Segmenter(Model(encoder="test_efficientnet", decoder="deeplabv3plus"), 4), 1),
        (lambda: Segmenter(Model(encoder="test_efficientnet", decoder="fpn"), 4), 1),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)), 6),  # none in the first block
    ],
    ids=["deeplabv3plus", "fpn", "swin"],
)
def test_every_layer_of_a_network_that_drops_is_replaced(make: Callable[[], nn.Module], expected: int) -> None:
    net = make()
    of_global_batch(net, Rows(torch.arange(2), 2, 0))
    assert sum(isinstance(m, GlobalDropout) for m in net.modules()) == expected
    assert not [m for m in net.modules() if type(m) in DROPS and probability(m) > 0]
