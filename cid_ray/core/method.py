"""The losses of one batch: the method on one page, in the order of the paper.

    L = 1/2 (L_x + lam_u(t) L_u) + lam_r(t) L_rel + lam_s(t) L_sty

The student sees labeled and strong unlabeled images in ONE forward, so that its batch norm mixes
them. The teacher (EMA, eval mode, no gradient) sees the weak ones in one forward. Methods are sets
of weights on this one path. `supervised` uses no unlabeled images. `pool_bn` passes them through
the student with all weights 0. `mean_teacher` adds pseudo-labels. `unimatch_v2` does so for two
strong views, from which complementary channels are dropped (core/dropout.py). `cid` adds relations
and style to one of these two (`loss.base`). `self_training` takes its pseudo-labels from the
teacher of a first round, which was `supervised` (config/rounds.py). A term of weight 0 is not
computed and changes no other number.

    B images   I channels of an image   K classes   C channels of `feat`
    H,W pixels   h,w cells of about 16 pixels
    _x labeled   _u unlabeled   _w weak view   _s strong view   _t teacher
Source: CID (only its abstract is public) on FixMatch's and UniMatch's weak-to-strong consistency;
UniMatch V2 (Yang et al. 2025); ST++ (Yang et al. 2022) without its choice of reliable images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from cid_ray.config import Config, LossConfig, ema_decay, labeled_shard, unlabeled_shard
from cid_ray.core import augment, losses, pseudo_labels
from cid_ray.core.distributed import BatchShard
from cid_ray.core.features import Features, pool_features, pool_mixed, pool_parts
from cid_ray.core.losses import IGNORE_INDEX
from cid_ray.core.precision import no_autocast
from cid_ray.core.pseudo_labels import PseudoLabels
from cid_ray.core.relation import Relation, Shape
from cid_ray.core.schedules import LossWeights
from cid_ray.core.style import Style
from cid_ray.core.views import BatchViews, strong_views
from cid_ray.core.vit import STRIDE

# logits f[B,K,H,W], feat f[B,C,h,w] on the padded canvas, then maps of `Config.encoder_levels`
Outputs = Sequence[Tensor]
Network = Callable[[Tensor], Outputs]  # of images u8[B,I,H,W]


@dataclass(frozen=True)
class LossTerms:
    """The losses of one step as scalar tensors. Only `total` is for `backward`.

    mask_ratio: fraction of the valid unlabeled pixels whose confidence reaches the threshold.
    """

    total: Tensor
    sup: Tensor
    pseudo: Tensor
    relation: Tensor
    style: Tensor
    mask_ratio: Tensor

    def to_floats(self) -> dict[str, float]:
        """The same as plain numbers. One transfer for all, since each one waits for the device."""
        names = [field.name for field in fields(self)]
        values = torch.stack([getattr(self, name).detach().float() for name in names])
        return dict(zip(names, values.tolist(), strict=True))


class Method(nn.Module):
    """The losses of one configuration. Its buffers are EMAs and a memory, kept between steps.

    Args:
        config: of this round; `loss`, `method`, `train.steps` and batch sizes are read.
        num_classes: K.
        shapes: C, h, w of the pooled features of a training crop: of `feat`, then of each of
            `Config.encoder_levels`.
        class_weights: f32[K] for the supervised loss, or None.
        stride: pixels; the networks' (`Segmenter.stride`).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        config: Config,
        num_classes: int,
        shapes: Sequence[Shape],
        class_weights: Tensor | None = None,
        stride: int = STRIDE,
    ):
        super().__init__()
        self.config = config
        loss = self.loss = config.loss
        self.stride = stride
        self.register_buffer("class_weights", class_weights)
        decay = ema_decay(loss.stats_span, config.train.steps)
        self.pseudo_labels = PseudoLabels(loss, num_classes, decay)
        self.style: Style | None = None
        self.relations = nn.ModuleList()
        self.relation_levels: tuple[int, ...] = ()  # of `shapes`
        if config.method == "cid" and loss.style_weight > 0:
            self.style = Style(loss, shapes[0][0], decay)
        if config.method == "cid" and loss.relation_weight > 0:
            first = 0 if "decoder" in loss.relation_levels else 1
            self.relation_levels = tuple(range(first, 1 + len(config.encoder_levels)))
            for level in self.relation_levels:
                self.relations.append(Relation(loss, num_classes, shapes[level], decay, stride))
        # Without this the teacher's forward would be twice as large where nothing reads its half.
        self.needs_labeled_teacher = compares_labeled_teacher(loss)

    def forward(
        self,
        student: Network,
        teacher: Network,
        batch: dict[str, Tensor],
        step: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> LossTerms:
        """The losses of this worker's part of one batch.

        Args:
            student: images -> (logits, feat, ...), with gradients.
            teacher: the same function of the EMA weights; in `self_training` of those of the first
                round, which stay as they are.
            batch: as in data/loader.py, on the device: image_x u8[B,I,H,W], mask_x u8[B,H,W],
                image_u u8[B,I,H,W] (weak view), valid_u bool[B,H,W] (False on padding).
            step: of this round, from 0; with the seed it determines the strong views.
        """
        image_x = batch["image_x"]
        mask_x = batch["mask_x"].long()  # bytes until here: an eighth of the transfer
        if not self.config.uses_unlabeled:
            logits_x = student(image_x)[0]
            with no_autocast(image_x):
                sup = losses.supervised_loss(logits_x, mask_x, self.class_weights)
            zero = torch.zeros((), device=image_x.device)
            # Halved as in L above, so that `lr` means the same for all methods.
            return LossTerms(sup / 2, sup, zero, zero, zero, zero)

        progress = step / self.config.train.steps
        weights = LossWeights.at_progress(self.config.method, self.loss, progress)
        image_u_w = batch["image_u"]
        shard_x, shard_u = self._shards(batch, rank, world_size)
        with no_autocast(image_x):
            count, seed = self.config.num_strong_views, self.config.train.seed
            images_u_s, boxes = strong_views(image_u_w, count, seed, step, shard_u)
        student_out = student(torch.cat([image_x, *images_u_s]))
        teacher_out = None
        if weights.pseudo > 0 or weights.distills:
            sees_labeled = weights.distills and self.needs_labeled_teacher
            images_t = torch.cat([image_x, image_u_w]) if sees_labeled else image_u_w
            with torch.no_grad():
                teacher_out = teacher(images_t)
        views = BatchViews(mask_x, batch["valid_u"], boxes, shard_x, shard_u)
        with no_autocast(image_x):
            return self.terms(weights, student_out, teacher_out, views)

    def _shards(
        self, batch: dict[str, Tensor], rank: int, world_size: int
    ) -> tuple[BatchShard, BatchShard]:
        """Which labeled and unlabeled images of the global batch this worker has."""
        count_x, count_u = len(batch["image_x"]), len(batch["image_u"])
        if world_size == 1:
            return BatchShard(range(count_x), count_x), BatchShard(range(count_u), count_u)
        size_x, size_u = self.config.data.batch_size, self.config.data.batch_size_u
        return (
            BatchShard(labeled_shard(size_x, rank, world_size), size_x),
            BatchShard(unlabeled_shard(size_u, rank, world_size), size_u),
        )

    def terms(
        self,
        weights: LossWeights,
        student_out: Outputs,
        teacher_out: Outputs | None,
        views: BatchViews,
    ) -> LossTerms:
        """All losses from both networks' outputs, in float32 whatever the networks computed in.

        Args:
            student_out: of labeled images, then of each strong view.
            teacher_out: of weak unlabeled images, after labeled ones where a loss compares them.
        """
        num_x, num_u = len(views.mask_x), len(views.valid_u)
        logits_x, *logits_s = student_out[0].split([num_x, *[num_u] * len(views.cutmix_boxes)])
        sup = losses.supervised_loss(logits_x, views.mask_x, self.class_weights)
        pseudo = relation = style = mask_ratio = torch.zeros((), device=logits_x.device)
        if teacher_out is not None:
            probs_w = teacher_out[0][-num_u:].float().softmax(1)
            probs_w, conf_thresh = self.pseudo_labels(probs_w, views.valid_u, views.mask_x)
            # The teacher saw the weak view. CutMix gives its answer the strong view's geometry.
            probs = [augment.apply_cutmix(probs_w, box) for box in views.cutmix_boxes]
        if weights.pseudo > 0:
            pairs = [
                pseudo_labels.pseudo_label_loss(
                    logits_u,
                    probs_s,
                    valid_s,
                    conf_thresh=conf_thresh,
                    kind=self.loss.pseudo,
                    temperature=self.loss.temperature,
                )
                for logits_u, probs_s, valid_s in zip(logits_s, probs, views.valid_s, strict=True)
            ]
            pseudo = torch.stack([loss for loss, _ in pairs]).mean()
            mask_ratio = torch.stack([ratio for _, ratio in pairs]).mean()
        if weights.distills:
            assert teacher_out is not None
            pseudo_label = None
            if self.loss.relation_kind == "class":
                pseudo_label = self._pseudo_label(probs[0], conf_thresh, views.valid_s[0])
            relation, style = self.distill(
                weights, student_out[1:], teacher_out[1:], views, pseudo_label
            )
        consistency = (sup + weights.pseudo * pseudo) / 2
        total = consistency + weights.relation * relation + weights.style * style
        return LossTerms(total, sup, pseudo, relation, style, mask_ratio)

    def _pseudo_label(self, probs: Tensor, conf_thresh: Tensor, valid_s: Tensor) -> Tensor:
        """i64[B,H,W] of the first strong view, 255 where the teacher is not confident."""
        confident, pseudo_label = pseudo_labels.confident_pixels(probs, conf_thresh)
        return pseudo_label.masked_fill(~(confident & valid_s), IGNORE_INDEX)

    def distill(
        self,
        weights: LossWeights,
        student_maps: Outputs,
        teacher_maps: Outputs,
        views: BatchViews,
        pseudo_label: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """L_rel, the mean over its levels, and L_sty, which compares `feat`.

        Both take the first strong view: a second one would double their time.

        Args:
            student_maps, teacher_maps: `feat` and the encoder's maps, of the same images as logits.
            pseudo_label: i64[B,H,W] in the geometry of the strong view; only `class` needs it.
        """
        relations, style = [], torch.zeros((), device=views.mask_x.device)
        for level, (feat_s, feat_t) in enumerate(zip(student_maps, teacher_maps, strict=True)):
            needs_relation = weights.relation > 0 and level in self.relation_levels
            needs_style = weights.style > 0 and level == 0
            if not needs_relation and not needs_style:
                continue
            student = self._pool_student(feat_s, views)
            labeled = self._labeled_side(feat_t, student, views)
            feat_w = feat_t[-len(views.valid_u) :]
            if needs_relation:
                # A relation compares one geometry: the weak view is mixed like the strong one.
                box, valid_s = views.cutmix_boxes[0], views.valid_s[0]
                mixed, cells = pool_mixed(feat_w, box, valid_s, self.stride)
                teacher = Features(labeled[0], mixed, labeled[1], cells)
                relate = self.relations[self.relation_levels.index(level)]
                relations.append(relate(student, teacher, views, pseudo_label))
            if needs_style:
                # Statistics are those of the unmixed view: CutMix counts some pixels twice.
                weak, cells = pool_features(feat_w, views.valid_u, self.stride)
                assert self.style is not None
                style = self.style(student, Features(labeled[0], weak, labeled[1], cells))
        relation = torch.stack(relations).mean() if relations else torch.zeros_like(style)
        return relation, style

    def _pool_student(self, feat: Tensor, views: BatchViews) -> Features:
        """Of labeled images and of the first strong view."""
        pooled, cells = pool_parts(feat, [views.labeled, *views.valid_s], self.stride)
        return Features(pooled[0], pooled[1], cells[0], cells[1])

    def _labeled_side(
        self, feat: Tensor, student: Features, views: BatchViews
    ) -> tuple[Tensor, Tensor]:
        """The teacher's pooled features of labeled images, and their valid cells.

        With `loss.labeled_memory` the student's, detached. Empty where no loss compares them.
        """
        if self.loss.labeled_memory > 0:
            return student.x.detach(), student.valid_x
        num_x = len(feat) - len(views.valid_u)
        return pool_features(feat[:num_x], views.labeled[:num_x], self.stride)


def compares_labeled_teacher(loss: LossConfig) -> bool:
    """Whether relation or style distillation reads the teacher's features of labeled images."""
    if loss.labeled_memory > 0:
        return False
    relation = loss.relation_weight > 0 and loss.relation_kind != "self"
    return relation or (loss.style_weight > 0 and loss.style_target != "unlabeled")
