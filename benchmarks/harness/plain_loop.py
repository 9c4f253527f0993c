"""The training step that one would write by hand around the same model, losses and batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cid_ray.config import Config
from cid_ray.core.features import pool_features
from cid_ray.core.method import Method
from cid_ray.core.model import Segmenter, dilate_pointwise, make_teacher
from cid_ray.data.loader import Batch
from cid_ray.training.optimizer import make_optimizer

Step = Callable[[Batch, int], object]


def plain_step(config: Config, num_classes: int) -> Step:
    """The step of a hand-written loop: batch and step number -> nothing."""
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if on_cuda else "cpu")
    student = Segmenter(config.model, num_classes).to(device)
    stride = student.stride
    student = student.to(memory_format=torch.channels_last).train()
    if not on_cuda:
        dilate_pointwise(student)
    teacher = make_teacher(student, config.train.ema_decay)
    crop = torch.zeros(2, 3, *config.data.crop, device=device)
    valid = torch.ones(2, *config.data.crop, dtype=torch.bool, device=device)
    channels, height, width = pool_features(student(crop)[1], valid, stride)[0].shape[1:]
    method = Method(config, num_classes, [(channels, height, width)], stride=stride).to(device)
    optimizer = make_optimizer(config, student)
    schedule = torch.optim.lr_scheduler.PolynomialLR(
        optimizer, config.train.steps, config.optim.poly_power
    )

    def to_device(value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(value)
        return tensor.pin_memory().to(device, non_blocking=True) if on_cuda else tensor

    def step(batch: Batch, number: int) -> None:
        tensors = {k: to_device(v) for k, v in batch.items() if k != "unreadable_u"}
        with torch.autocast(device.type, torch.bfloat16, enabled=on_cuda):
            terms = method(student, teacher, tensors, number)
        optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        optimizer.step()
        schedule.step()
        teacher.update(student, step=number)

    return step
