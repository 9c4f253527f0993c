"""What a run is built from: checks where config and data meet, class weights, optimizer, the networks as called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from cid_ray.config import CUTMIX_GROUP, Config, InputError, share_of
from cid_ray.core.dropout import Rows
from cid_ray.core.method import feeds_pool
from cid_ray.core.micro import InParts
from cid_ray.data.splits import Split
from cid_ray.data.table import Table
from cid_ray.run.device import Device


def check(cfg: Config, table: Table, split: Split) -> None:
    """What only shows when config and data meet; every message names the way out."""
    if feeds_pool(cfg.method) and not len(split.pool):
        raise InputError(
            f"method {cfg.method} needs unlabeled images, the pool of {split.name} is empty: "
            "lower data.ratio, import an --unlabeled folder, or use method=supervised"
        )
    if not len(split.val):
        raise InputError(
            f"the table {table.folder} has no val image with a mask: prepare it with --val-images and --val-masks, "
            "or set data.val_from_budget=0.2: a fifth of the labels is then val"
        )
    if cfg.data.batch_size < 2 and cfg.method == "supervised":
        raise InputError("data.batch_size must be at least 2: batch norm needs more than one image")


def weights_hash(cfg: Config) -> str:
    """Of the weights file; "" when there is none."""
    weights = Path(cfg.model.weights)
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else ""


def identity(cfg: Config, table: Table, split: Split) -> dict[str, str]:
    """What must be equal for two runs to give the same numbers."""
    return {
        "data": table.fingerprint,
        "split_id": split.split_id,
        "fingerprint": cfg.fingerprint(table.fingerprint, split.split_id, weights_hash(cfg)),
    }


def class_weights(cfg: Config, table: Table, split: Split) -> Tensor | None:
    """f32[K] for `class_weights: balanced`: 1/sqrt(pixel share) of the labeled images, mean 1, at most 10."""
    if cfg.loss.class_weights == "none":
        return None
    pixels = table.class_pixels[split.labeled].sum(0).astype(float)
    weight = 1 / np.sqrt(np.maximum(pixels / max(1.0, pixels.sum()), 1e-6))
    weight = np.where(pixels > 0, weight, 0)
    weight = np.minimum(weight / weight[pixels > 0].mean(), 10)
    return torch.tensor(weight, dtype=torch.float32)


def make_optimizer(cfg: Config, student: nn.Module) -> torch.optim.Optimizer:
    """Encoder at `lr`, decoder and head at `lr * head_lr_mult`; both are for the global batch."""
    optim = cfg.optim
    encoder = list(student.net.encoder.parameters())  # type: ignore[union-attr]
    own = {id(p) for p in encoder}
    head = [p for p in student.parameters() if id(p) not in own]
    groups = [{"params": encoder, "lr": optim.lr}, {"params": head, "lr": optim.lr * optim.head_lr_mult}]
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, weight_decay=optim.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=optim.weight_decay)


@torch.no_grad()
def feat_channels(net: nn.Module, cfg: Config, device: Device) -> int:
    """Channels of `feat`; InputError when the decoder cannot take a crop. Leaves the RNG as it was."""
    rng = torch.get_rng_state()
    try:
        channels = net(torch.zeros(2, 3, *cfg.data.crop, device=device.torch))[1].shape[1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(
            f"{cfg.model.decoder} on {cfg.model.encoder} cannot take a crop of data.crop_size={cfg.data.crop_size} "
            f"({reason}); try a larger one, or another decoder"
        ) from None
    torch.set_rng_state(rng)
    return int(channels)


def rows_of(cfg: Config, rank: int, world: int, device: Device) -> Rows:
    """A worker's images in the global batch, labeled ones first, as the student sees them."""
    labeled, pool = cfg.data.batch_size, cfg.data.batch_size_u if feeds_pool(cfg.method) else 0
    own = [*share_of(labeled, rank, world), *(labeled + k for k in share_of(pool, rank, world, CUTMIX_GROUP))]
    return Rows(torch.tensor(own, device=device.torch), labeled + pool, cfg.train.seed)


def callable_student(student: nn.Module, cfg: Config, world: int, device: Device, rows: Rows) -> nn.Module | InParts:
    """The student as training calls it: data parallel, compiled and in parts, as the configuration asks."""
    net = student
    if world > 1:
        net = nn.parallel.DistributedDataParallel(student, forward_sync_buffers=False, gradient_as_bucket_view=True)
    net = torch.compile(net) if cfg.train.compile else net  # type: ignore[assignment]
    parts = micro_batches(cfg, world)
    return net if parts == 1 else InParts(net, parts, device.autocast, rows)


def callable_teacher(teacher: ModelEmaV3, cfg: Config, world: int, device: Device, rows: Rows) -> nn.Module | InParts:
    parts = micro_batches(cfg, world)
    return teacher if parts == 1 else InParts(teacher, parts, device.autocast, rows)  # type: ignore[no-any-return]


def micro_batches(cfg: Config, world: int) -> int:
    """In how many parts a worker's share passes: the same on every worker, though their shares may differ."""
    if cfg.train.micro_batch is None:
        return 1
    pool = cfg.data.batch_size_u if feeds_pool(cfg.method) else 0
    shares = [
        len(share_of(cfg.data.batch_size, rank, world)) + len(share_of(pool, rank, world, CUTMIX_GROUP))
        for rank in range(world)
    ]
    return min(-(-max(shares) // cfg.train.micro_batch), min(shares))
