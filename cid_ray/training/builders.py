"""Parts of a trainer: student, losses, positions in the global batch, wrapped networks.

B images of the global batch, K classes; a position is an image's place in the global batch
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cid_ray.config import Config, InputError, error_summary, labeled_shard, unlabeled_shard
from cid_ray.core.dropout import BatchIndex, ComplementaryDropout, convert_dropout
from cid_ray.core.features import pool_features
from cid_ray.core.grad_cache import MicroBatched
from cid_ray.core.method import Method
from cid_ray.core.model import Segmenter, dilate_pointwise, is_dpt
from cid_ray.core.relation import Shape
from cid_ray.core.sync_batchnorm import convert_sync_batchnorm
from cid_ray.data.splits import Split
from cid_ray.data.table import Table
from cid_ray.training.device import Device

MAX_CLASS_WEIGHT = 10.0  # times the mean weight
MIN_PIXEL_FRACTION = 1e-6  # a class with fewer pixels is weighted as if it had so many
DDP_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
# torch 2.13 gave the option another name.
RENAMED = "forward_sync_buffers" in DDP_PARAMETERS
NO_BUFFER_SYNC: dict[str, Any] = {
    "forward_sync_buffers" if RENAMED else "broadcast_buffers": False,
}


def weights_hash(config: Config) -> str:
    """The hash of the weights file; "" when `model.weights` names no file."""
    weights = Path(config.model.weights)
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else ""


def run_identity(config: Config, table: Table, split: Split) -> dict[str, str]:
    """What must be equal for two runs to give the same numbers."""
    fingerprint = config.fingerprint(table.fingerprint, split.split_id, weights_hash(config))
    return {"data": table.fingerprint, "split_id": split.split_id, "fingerprint": fingerprint}


def make_student(
    config: Config, table: Table, world_size: int, device: Device
) -> tuple[nn.Module, BatchIndex]:
    """The student in train mode, and the index by which its dropout layers know their images.

    The weights follow from `train.seed` and `model.weights` alone. The index is empty.
    """
    # Nothing before the first forward may draw from torch's generator.
    torch.manual_seed(config.train.seed)
    segmenter = Segmenter(config.model, table.num_classes, table.band_stats)
    index = BatchIndex(torch.arange(0, device=device.torch), 0, config.train.seed)
    set_encoder_levels(segmenter, config)
    if config.num_strong_views == 2:
        sizes = (config.data.batch_size, config.data.batch_size_u)
        segmenter.channel_dropout = ComplementaryDropout(index, *sizes)
    student: nn.Module = segmenter
    on_cuda = device.torch.type == "cuda"
    if not on_cuda:
        dilate_pointwise(student)
    if world_size > 1:
        student = convert_sync_batchnorm(student, cuda=on_cuda)
    convert_dropout(student, index)
    student = student.to(device.torch).to(memory_format=torch.channels_last)
    return student.train(), index


def set_encoder_levels(net: Segmenter, config: Config) -> None:
    """Let a forward return the encoder's maps that relations compare.

    Raises:
        InputError: the encoder has no such map, or is frozen.
    """
    net.encoder_levels = config.encoder_levels
    if not config.encoder_levels:
        return
    key = f"loss.relation_levels={list(config.loss.relation_levels)}"
    if config.model.freeze == "encoder":
        raise InputError(
            f"{key} compares maps of the encoder, which model.freeze=encoder keeps as they are; "
            "take [decoder], or model.freeze=none"
        )
    channels = list(net.net.encoder.out_channels)
    # The first entry of smp's list is the image, but not for plain ViTs and VGGs.
    has_image = not is_dpt(config.model) and channels[0] == net.in_channels
    widths = channels[1:] if has_image else channels
    for number in config.encoder_levels:
        if number > len(widths) or widths[number - 1] == 0:
            known = [f"encoder_{k}" for k, width in enumerate(widths, 1) if width > 0]
            raise InputError(
                f"{key} has encoder_{number}; {config.model.encoder} has {', '.join(known)}"
            )


def make_method(
    config: Config, table: Table, split: Split, net: Segmenter, device: Device
) -> Method:
    """The losses for the outputs of `net`; InputError when it cannot take a crop of this size."""
    shapes = pooled_shapes(net, config)
    weights = class_weights(config, table, split)
    method = Method(config, table.num_classes, shapes, weights, net.stride)
    return method.to(device.torch)


def class_weights(config: Config, table: Table, split: Split) -> Tensor | None:
    """f32[K] for balanced `loss.class_weights`: 1/sqrt(fraction of labeled pixels), mean 1."""
    if config.loss.class_weights == "none":
        return None
    pixels = table.class_pixels[split.labeled].sum(0).astype(float)
    fraction = pixels / max(1.0, pixels.sum())
    weight = 1 / np.sqrt(np.maximum(fraction, MIN_PIXEL_FRACTION))
    weight = np.where(pixels > 0, weight, 0)
    weight = np.minimum(weight / weight[pixels > 0].mean(), MAX_CLASS_WEIGHT)
    return torch.tensor(weight, dtype=torch.float32)


@torch.no_grad()
def pooled_shapes(net: Segmenter, config: Config) -> list[Shape]:
    """C, h, w of the pooled features of a crop: of `feat`, then of each encoder level.

    Raises:
        InputError: the decoder cannot take a crop of this size.
    """
    # A forward pass may draw random numbers. Training must start from the same state without it.
    rng = torch.get_rng_state()
    try:
        images = torch.zeros(2, net.in_channels, *config.data.crop, device=net.mean.device)
        _, *maps = net(images)
    except RuntimeError as error:
        raise InputError(
            f"{config.model.decoder} on {config.model.encoder} cannot take a crop of "
            f"data.crop_size={config.data.crop_size} ({error_summary(error)[:160]}); "
            "try a larger one, or another decoder"
        ) from None
    torch.set_rng_state(rng)
    valid = torch.ones(2, *config.data.crop, dtype=torch.bool, device=net.mean.device)
    shapes = [pool_features(feat, valid, net.stride)[0].shape[1:] for feat in maps]
    return [(shape[0], shape[1], shape[2]) for shape in shapes]


def memory_bytes(net: Segmenter, config: Config) -> int:
    """Bytes of the labeled features that `loss.labeled_memory` keeps, also in a checkpoint."""
    loss = config.loss
    if config.method != "cid" or loss.relation_kind not in ("cross", "class"):
        return 0
    if loss.labeled_memory == 0 or loss.relation_weight == 0:
        return 0
    shapes = pooled_shapes(net, config)
    if "decoder" not in loss.relation_levels:
        shapes = shapes[1:]
    # float32 features and valid cells, and a byte for the class.
    return sum(loss.labeled_memory * h * w * (4 * (c + 1) + 1) for c, h, w in shapes)


def set_batch(index: BatchIndex, config: Config, rank: int, world_size: int) -> None:
    """Tell dropout which images of the global batch are this worker's."""
    positions = batch_positions(config, rank, world_size)
    index.indices = torch.tensor(positions, device=index.indices.device)
    index.batch_size = config.data.batch_size
    if config.uses_unlabeled:
        index.batch_size += config.num_strong_views * config.data.batch_size_u


def batch_positions(config: Config, rank: int, world_size: int) -> list[int]:
    """A worker's positions in the global batch, labeled images first, as the student sees them."""
    labeled = [*labeled_shard(config.data.batch_size, rank, world_size)]
    if not config.uses_unlabeled:
        return labeled
    unlabeled = unlabeled_shard(config.data.batch_size_u, rank, world_size)
    sizes = config.data.batch_size, config.data.batch_size_u
    firsts = [sizes[0] + view * sizes[1] for view in range(config.num_strong_views)]
    return labeled + [first + position for first in firsts for position in unlabeled]


def wrap_student(student: nn.Module, config: Config, world_size: int) -> nn.Module:
    """The student as training calls it: data parallel and compiled as configured."""
    net = student
    if world_size > 1:
        # Synchronised batch norm keeps the buffers equal once they are: broadcasting them at every
        # step would only cost.
        for buffer in student.buffers():
            torch.distributed.broadcast(buffer, src=0)
        net = DistributedDataParallel(student, gradient_as_bucket_view=True, **NO_BUFFER_SYNC)
    if config.train.compile:
        net = torch.compile(net)  # type: ignore[assignment]
    return net


def micro_batched(
    net: nn.Module, config: Config, world_size: int, device: Device, index: BatchIndex
) -> nn.Module | MicroBatched:
    """`net` called in micro-batches where `train.micro_batch_size` asks for them."""
    count = num_micro_batches(config, world_size)
    return net if count == 1 else MicroBatched(net, count, device.autocast, index)


def num_micro_batches(config: Config, world_size: int) -> int:
    """Micro-batches per step: equal on all workers, though their shards may differ in size."""
    if config.train.micro_batch_size is None:
        return 1
    # Each forward and backward pass has collectives (batch norm, DDP) that all workers must reach.
    sizes = [len(batch_positions(config, rank, world_size)) for rank in range(world_size)]
    return min(-(-max(sizes) // config.train.micro_batch_size), min(sizes))
