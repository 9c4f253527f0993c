"""Parts of a trainer: class weights, optimizer, positions in the global batch, wrapped networks.

B images of the global batch, K classes; a position is an image's place in the global batch
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cid_ray.config import Config, InputError, error_summary, labeled_shard, unlabeled_shard
from cid_ray.core.dropout import BatchIndex
from cid_ray.core.grad_cache import MicroBatched
from cid_ray.core.model import Segmenter
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


def make_optimizer(config: Config, student: nn.Module) -> torch.optim.Optimizer:
    """Encoder at `optim.lr`, decoder and head at `lr * head_lr_mult`, for the global batch."""
    optim = config.optim
    encoder = list(student.net.encoder.parameters())  # type: ignore[union-attr]
    encoder_ids = {id(parameter) for parameter in encoder}
    head = [parameter for parameter in student.parameters() if id(parameter) not in encoder_ids]
    groups = [
        {"params": encoder, "lr": optim.lr},
        {"params": head, "lr": optim.lr * optim.head_lr_mult},
    ]
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, weight_decay=optim.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=optim.weight_decay)


@torch.no_grad()
def feat_channels(net: Segmenter, config: Config, device: Device) -> int:
    """Channels of `feat`; InputError when the decoder cannot take a crop of this size."""
    # A forward pass may draw random numbers. Training must start from the same state without it.
    rng = torch.get_rng_state()
    try:
        images = torch.zeros(2, net.in_channels, *config.data.crop, device=device.torch)
        channels = net(images)[1].shape[1]
    except RuntimeError as error:
        raise InputError(
            f"{config.model.decoder} on {config.model.encoder} cannot take a crop of "
            f"data.crop_size={config.data.crop_size} ({error_summary(error)[:160]}); "
            "try a larger one, or another decoder"
        ) from None
    torch.set_rng_state(rng)
    return int(channels)


def batch_index(config: Config, rank: int, world_size: int, device: Device) -> BatchIndex:
    """A worker's images in the global batch, for dropout."""
    positions = torch.tensor(batch_positions(config, rank, world_size), device=device.torch)
    return BatchIndex(positions, config.images_per_step, config.train.seed)


def batch_positions(config: Config, rank: int, world_size: int) -> list[int]:
    """A worker's positions in the global batch, labeled images first, as the student sees them."""
    labeled = [*labeled_shard(config.data.batch_size, rank, world_size)]
    if not config.uses_unlabeled:
        return labeled
    unlabeled = unlabeled_shard(config.data.batch_size_u, rank, world_size)
    return labeled + [config.data.batch_size + position for position in unlabeled]


def wrap_student(
    student: nn.Module, config: Config, world_size: int, device: Device, index: BatchIndex
) -> nn.Module | MicroBatched:
    """The student as training calls it: data parallel, compiled, micro-batched as configured."""
    net = student
    if world_size > 1:
        # Synchronised batch norm keeps the buffers equal once they are: broadcasting them at every
        # step would only cost.
        for buffer in student.buffers():
            torch.distributed.broadcast(buffer, src=0)
        net = DistributedDataParallel(student, gradient_as_bucket_view=True, **NO_BUFFER_SYNC)
    if config.train.compile:
        net = torch.compile(net)  # type: ignore[assignment]
    count = num_micro_batches(config, world_size)
    return net if count == 1 else MicroBatched(net, count, device.autocast, index)


def wrap_teacher(
    teacher: ModelEmaV3, config: Config, world_size: int, device: Device, index: BatchIndex
) -> nn.Module | MicroBatched:
    count = num_micro_batches(config, world_size)
    if count == 1:
        return teacher
    return MicroBatched(teacher, count, device.autocast, index)


def num_micro_batches(config: Config, world_size: int) -> int:
    """Micro-batches per step: equal on all workers, though their shards may differ in size."""
    if config.train.micro_batch_size is None:
        return 1
    # Each forward and backward pass has collectives (batch norm, DDP) that all workers must reach.
    sizes = [len(batch_positions(config, rank, world_size)) for rank in range(world_size)]
    return min(-(-max(sizes) // config.train.micro_batch_size), min(sizes))
