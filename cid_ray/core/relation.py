"""Relation distillation at one level of features; core/losses.py has the formulas.

The labeled side of a relation is the teacher's features of the step's labeled images. With
`loss.labeled_memory=N` it is the student's own features of the newest N labeled images, without
gradient (`FeatureMemory`): the teacher then never sees labeled images.

    N remembered images   B images   C channels   h,w cells
Source of the memory: CIRKD (Yang et al. 2022), whose memory holds the teacher's embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cid_ray.config import LossConfig
from cid_ray.core import losses
from cid_ray.core.cross_relation import cross_relation_loss
from cid_ray.core.distributed import BatchShard, gather_shards
from cid_ray.core.features import Features, labels_to_grid
from cid_ray.core.losses import IGNORE_INDEX
from cid_ray.core.running_mean import RunningMean
from cid_ray.core.views import BatchViews

Shape = tuple[int, int, int]  # C, h, w


@dataclass(frozen=True)
class LabeledSide:
    """Features of labeled images as a relation takes them.

    Attributes:
        student, teacher: f32[N,C,h,w]; one tensor for both when it comes from the memory.
        valid: f32[N,1,h,w].
        classes: i64[N,h,w], 255 where there is none.
        shard_u: of the unlabeled images that each is paired with over all workers; None: each
            worker pairs all N with its own.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor
    classes: Tensor
    shard_u: BatchShard | None


class FeatureMemory(nn.Module):
    """The newest N labeled images of the global batches: features, valid cells and classes.

    Buffers, so that a resumed run and every worker have the same ones.

    Args:
        size: N.
        shape: C, h, w.
    """

    feat: Tensor
    valid: Tensor
    classes: Tensor
    count: Tensor

    def __init__(self, size: int, shape: Shape):
        super().__init__()
        channels, height, width = shape
        self.register_buffer("feat", torch.zeros(size, channels, height, width))
        # Nothing is valid yet. A relation with no valid cell is 0 for both networks.
        self.register_buffer("valid", torch.zeros(size, 1, height, width))
        none = torch.full((size, height, width), IGNORE_INDEX, dtype=torch.uint8)
        self.register_buffer("classes", none)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, feat: Tensor, valid: Tensor, classes: Tensor, shard: BatchShard) -> None:
        """Remember f32[B,C,h,w], f32[B,1,h,w] and i64[B,h,w] in place of the oldest images."""
        size = len(self.feat)
        newest = [gather_shards(v.float(), shard)[-size:] for v in (feat, valid, classes)]
        taken = len(newest[0])
        index = (self.count + torch.arange(taken, device=feat.device)) % size
        self.feat[index], self.valid[index] = newest[0], newest[1]
        self.classes[index] = newest[2].to(torch.uint8)
        self.count += taken


class Relation(nn.Module):
    """L_rel of one configuration at one level.

    Args:
        loss: the `relation_` options and `labeled_memory` are read.
        num_classes: K.
        shape: C, h, w of the pooled features of a training crop.
        decay: per step, of the EMA of `transfer`.
        stride: pixels; the networks' (`Segmenter.stride`).
    """

    def __init__(self, loss: LossConfig, num_classes: int, shape: Shape, decay: float, stride: int):
        super().__init__()
        self.loss = loss
        self.num_classes = num_classes
        self.stride = stride
        self.ema: RunningMean | None = None
        self.memory: FeatureMemory | None = None
        if loss.relation_kind == "transfer":
            self.ema = RunningMean(decay, {"gram_x": (shape[0], shape[0])})
        elif loss.relation_kind != "self" and loss.labeled_memory > 0:
            self.memory = FeatureMemory(loss.labeled_memory, shape)

    def forward(
        self, student: Features, teacher: Features, batch: BatchViews, pseudo_label: Tensor | None
    ) -> Tensor:
        """L_rel, a scalar.

        Args:
            student: of labeled and strong unlabeled images.
            teacher: its unlabeled half has the geometry of the strong view: a relation compares
                one geometry. With `labeled_memory` its labeled half is the student's, detached.
            pseudo_label: i64[B,H,W] in the same geometry, 255 where there is none; for `class`.
        """
        kind = self.loss.relation_kind
        if kind == "self":
            return losses.self_relation_loss(
                student.u, teacher.u, student.valid_u, self.loss.relation_grid
            )
        if self.ema is not None:
            self.update(teacher)
            gram_x = self.ema["gram_x"]
            return losses.transfer_relation_loss(student.u, student.valid_u, gram_x)
        side = self._labeled_side(student, teacher, batch)
        features = (side.student, student.u, side.teacher, teacher.u)
        temperature = self.loss.relation_temperature
        if kind == "cross":
            return cross_relation_loss(
                *features, side.valid, student.valid_u, temperature, side.shard_u
            )
        assert pseudo_label is not None
        classes_u = labels_to_grid(pseudo_label, student.u.shape[-2:], self.stride)
        return losses.class_relation_loss(
            *features, side.classes, classes_u, self.num_classes, temperature
        )

    @torch.no_grad()
    def update(self, teacher: Features) -> None:
        """Move the EMA of the labeled Gram of `transfer` towards that of this batch."""
        assert self.ema is not None
        self.ema.update({"gram_x": losses.batch_gram(teacher.x, teacher.valid_x)})

    def _labeled_side(self, student: Features, teacher: Features, batch: BatchViews) -> LabeledSide:
        classes = labels_to_grid(batch.mask_x, student.x.shape[-2:], self.stride)
        memory = self.memory
        if memory is None:
            return LabeledSide(student.x, teacher.x, student.valid_x, classes, batch.shard_u)
        memory.push(teacher.x, teacher.valid_x, classes, batch.shard_x)
        # Copies: the next step writes into the buffers, and this step's graph must not see it.
        feat, valid = memory.feat.clone(), memory.valid.clone()
        return LabeledSide(feat, feat, valid, memory.classes.long(), None)
