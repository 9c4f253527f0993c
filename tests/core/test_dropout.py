"""Law: what is dropped of an image depends on seed, step and layer, not on worker or micro-batch.

Reference for rate and scale: the layers of torch and timm that are replaced.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from cid_ray.config import ModelConfig, shard_range
from cid_ray.core.dropout import (
    MASK_DIMS,
    BatchIndex,
    GlobalDropout,
    convert_dropout,
    drop_probability,
)
from cid_ray.core.model import Segmenter

BATCH_SIZE = 7
LAYERS: list[nn.Module] = [
    nn.Dropout(0.5),
    nn.Dropout2d(0.4),
    DropPath(0.5),
    DropPath(0.5, scale_by_keep=False),
]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=repr)


def global_dropout(
    layer: nn.Module,
    indices: range = range(BATCH_SIZE),
    seed: int = 0,
    step: int = 3,
    layer_index: int = 0,
) -> GlobalDropout:
    batch = BatchIndex(torch.tensor(indices), BATCH_SIZE, seed, step)
    return GlobalDropout(layer, layer_index, batch)


def images() -> Tensor:
    return 1 + torch.rand(BATCH_SIZE, 6, 5, 4, generator=torch.Generator().manual_seed(0))


@each_layer
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_dropout_of_shards_and_micro_batches_equals_that_of_the_global_batch(
    layer: nn.Module, world_size: int
) -> None:
    x = images()
    whole = global_dropout(layer)(x)
    shards = [shard_range(BATCH_SIZE, rank, world_size) for rank in range(world_size)]
    of_shards = [global_dropout(layer, shard)(x[shard.start : shard.stop]) for shard in shards]
    assert torch.equal(torch.cat(of_shards), whole)
    dropout = global_dropout(layer)
    for index in (torch.tensor([0, 3, 5]), torch.tensor([6])):
        with dropout.batch.subset(index):
            assert torch.equal(dropout(x[index]), whole[index])
    assert torch.equal(dropout(x), whole)


@each_layer
def test_dropout_of_other_image_step_seed_or_layer_differs(layer: nn.Module) -> None:
    """And torch's own generator stays unchanged."""
    before, x = torch.get_rng_state(), torch.ones(BATCH_SIZE, 40, 8, 8)
    first = global_dropout(layer)(x)
    others = [
        global_dropout(layer, seed=1)(x),
        global_dropout(layer, step=1)(x),
        global_dropout(layer, layer_index=1)(x),
    ]
    assert not any(torch.equal(first, other) for other in others)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1
    assert torch.equal(torch.get_rng_state(), before)


@each_layer
def test_dropout_has_rate_and_scale_of_the_layer_it_replaces(layer: nn.Module) -> None:
    x = torch.ones(BATCH_SIZE, 50, 6, 6)
    dropout = global_dropout(layer)
    found, expected = [], []
    for step in range(200):
        dropout.batch.step = step
        found.append(dropout(x))
        expected.append(layer(x))
    assert abs(torch.stack(found).mean() - torch.stack(expected).mean()) < 0.06
    found_values = set(torch.stack(found).unique().tolist())
    assert found_values == set(torch.stack(expected).unique().tolist())
    if not isinstance(layer, nn.Dropout):
        mask_dims = {nn.Dropout2d: 2, DropPath: 1}[type(layer)]
        spread = found[0].flatten(mask_dims).std(-1)
        assert not spread.any(), "a channel, or an image, is dropped whole"
    assert torch.equal(dropout.eval()(x), x)


def segmenter(decoder: str) -> Segmenter:
    return Segmenter(ModelConfig(encoder="test_efficientnet", decoder=decoder), 4)


def swin() -> nn.Module:
    """Stochastic depth in all but the first block, whose rate is 0."""
    model: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1))
    return model


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: segmenter("deeplabv3plus"), 1),
        (lambda: segmenter("fpn"), 1),
        (swin, 6),
    ],
    ids=["deeplabv3plus", "fpn", "swin"],
)
def test_convert_dropout_replaces_every_dropout_layer(
    make: Callable[[], nn.Module], expected: int
) -> None:
    net = make()
    convert_dropout(net, BatchIndex(torch.arange(2), 2, 0))
    assert sum(isinstance(m, GlobalDropout) for m in net.modules()) == expected
    assert not [m for m in net.modules() if type(m) in MASK_DIMS and drop_probability(m) > 0]
