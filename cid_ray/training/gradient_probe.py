"""Do the terms of the loss pull the same way? Their gradients against the supervised one.

A cosine below 0 says that a term works against the labels, one near 0 that it changes something
else. The norm says how strongly it pulls, with its weight. Measured at rungs on the step's own
batch, by a forward pass of its own, which leaves no trace: buffers are restored and no weight
changes. It costs about one step and a backward pass for each term.

Source: the cosine between the gradients of losses is how PCGrad (Yu et al. 2020) finds conflicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from cid_ray.core.distributed import world_size
from cid_ray.core.grad_cache import MicroBatched
from cid_ray.core.method import LossTerms
from cid_ray.core.schedules import LossWeights
from cid_ray.data.loader import Batch
from cid_ray.results.record_types import GradientFields

if TYPE_CHECKING:
    from cid_ray.training.trainer import Trainer


def gradient_fields(trainer: Trainer, batch: Batch) -> dict[str, GradientFields]:
    """Cosine and relative norm of each term at work, for the record of a rung.

    Args:
        trainer: after a step.
        batch: of that step.

    Returns:
        Term -> its fields. Empty for `supervised`, and in micro-batches, where the whole batch
        would not fit.
    """
    config = trainer.round.config
    if not config.uses_unlabeled or isinstance(trainer.forward, MicroBatched):
        return {}
    step = trainer.step - 1 - trainer.round.start
    weights = LossWeights.at_progress(config.method, config.loss, step / config.train.steps)
    parameters = [p for p in trainer.student.parameters() if p.requires_grad]
    saved = trainer.copy_buffers()
    try:
        terms = _terms(trainer, batch, step)
        # As in the total: half of the supervised loss and half of the pseudo-labels' loss.
        sup = _gradient(terms.sup / 2, parameters)
        scale = _dot(sup, sup)
        weighted = {
            "pseudo": weights.pseudo * terms.pseudo / 2,
            "relation": weights.relation * terms.relation,
            "style": weights.style * terms.style,
        }
        fields: dict[str, GradientFields] = {}
        for name, term in weighted.items():
            if term.requires_grad:
                gradient = _gradient(term, parameters)
                fields[name] = _compare(gradient, sup, scale)
        return fields
    finally:
        for buffer, value in saved:
            buffer.copy_(value)


def _terms(trainer: Trainer, batch: Batch, step: int) -> LossTerms:
    tensors = {name: trainer.device.tensor(value) for name, value in batch.items()}
    spec = trainer.spec
    with trainer.device.autocast():
        # The student itself, not as DDP or the compiler wraps it: they allow one backward pass.
        terms: LossTerms = trainer.method(
            trainer.student, trainer.predict, tensors, step, spec.rank, spec.world_size
        )
    return terms


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the global batch by parameter: the mean over workers, as DDP has it."""
    found = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    if world_size() > 1:
        for gradient in found:
            dist.all_reduce(gradient)
            gradient /= world_size()
    return list(found)


def _dot(one: list[Tensor], other: list[Tensor]) -> float:
    products = [(a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(products).sum())


def _compare(gradient: list[Tensor], sup: list[Tensor], scale: float) -> GradientFields:
    size, product = _dot(gradient, gradient), _dot(gradient, sup)
    lengths = math.sqrt(size * scale) if math.isfinite(size * scale) else 0.0
    if lengths == 0:
        return {"cosine": None, "norm": None}
    return {"cosine": product / lengths, "norm": math.sqrt(size / scale)}
