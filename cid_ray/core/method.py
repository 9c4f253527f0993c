"""The losses of one batch: the method on one page, in the order of the paper.

    L = 1/2 (L_x + lam_u(t) L_u) + lam_r(t) L_rel + lam_s(t) L_sty

The student sees labeled and strong unlabeled images in ONE forward, so that its batch norm mixes
them. The teacher (EMA, eval mode, no gradient) sees the weak ones in one forward. Five methods are
five sets of weights on this one path: `supervised` uses no unlabeled images, `pool_bn` passes them
through the student with all weights 0, `mean_teacher` adds pseudo-labels, `cid` adds relations and
style. `self_training` takes its pseudo-labels from the teacher of a first round, which was
`supervised` (config/rounds.py). A term of weight 0 is not computed and changes no other number.

    B images   I channels of an image   K classes   C channels of `feat`
    H,W pixels   h,w cells of about 16 pixels
    _x labeled   _u unlabeled   _w weak view   _s strong view   _t teacher
Source: CID (only its abstract is public) on FixMatch's and UniMatch's weak-to-strong consistency;
`self_training` is ST++'s (Yang et al. 2022) without its choice of reliable images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from cid_ray.config import Config, ema_decay, unlabeled_shard
from cid_ray.core import augment, losses
from cid_ray.core.distributed import BatchShard
from cid_ray.core.features import Features, labels_to_grid, pool_both, pool_mixed, tracked_stats
from cid_ray.core.losses import IGNORE_INDEX, ChannelStats
from cid_ray.core.precision import no_autocast
from cid_ray.core.schedules import LossWeights
from cid_ray.core.vit import STRIDE

Outputs = tuple[Tensor, Tensor]  # logits f[B,K,H,W], feat f[B,C,h,w] on the padded canvas
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
    """The losses of one configuration. Its buffers are the EMAs of the teacher's statistics.

    Args:
        config: of this round; `loss`, `method`, `train.steps` and batch sizes are read.
        num_classes: K.
        channels: C, the channels of `feat`.
        class_weights: f32[K] for the supervised loss, or None.
        stride: pixels; the networks' (`Segmenter.stride`).
    """

    class_weights: Tensor | None
    updates: Tensor
    gram_x: Tensor

    def __init__(
        self,
        config: Config,
        num_classes: int,
        channels: int,
        class_weights: Tensor | None = None,
        stride: int = STRIDE,
    ):
        super().__init__()
        self.config = config
        self.loss = config.loss
        self.stats_decay = ema_decay(config.loss.stats_span, config.train.steps)
        self.num_classes = num_classes
        self.stride = stride
        self.register_buffer("class_weights", class_weights)
        # Buffers, so that checkpoints hold the EMAs and a resumed run continues them.
        self.register_buffer("updates", torch.zeros(()))
        self.tracked = sorted(tracked_stats(self.loss))
        for name in self.tracked:
            shape = (channels, channels) if name.startswith("gram") else (channels,)
            self.register_buffer(name, torch.zeros(shape))
        # Without this the teacher's forward would be twice as large where nothing reads its half.
        pairs = self.loss.relation_kind in ("cross", "class") and self.loss.relation_weight > 0
        self.needs_labeled_teacher = pairs or any(name.endswith("_x") for name in self.tracked)

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
            student: images -> (logits, feat), with gradients.
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
        shard_u = self._shard_u(len(image_u_w), rank, world_size)
        with no_autocast(image_x):
            image_u_s, cutmix_box = self._strong_view(image_u_w, shard_u, step)
        student_out = student(torch.cat([image_x, image_u_s]))
        teacher_out = None
        if weights.pseudo > 0 or weights.distills:
            sees_labeled = weights.distills and self.needs_labeled_teacher
            images_t = torch.cat([image_x, image_u_w]) if sees_labeled else image_u_w
            with torch.no_grad():
                teacher_out = teacher(images_t)
        with no_autocast(image_x):
            return self.terms(
                weights, student_out, teacher_out, mask_x, batch["valid_u"], cutmix_box, shard_u
            )

    def _shard_u(self, count: int, rank: int, world_size: int) -> BatchShard:
        """Which images of the global unlabeled batch this worker's `count` images are."""
        if world_size == 1:
            return BatchShard(range(count), count)
        batch_size_u = self.config.data.batch_size_u
        return BatchShard(unlabeled_shard(batch_size_u, rank, world_size), batch_size_u)

    def _strong_view(
        self, image_u_w: Tensor, shard_u: BatchShard, step: int
    ) -> tuple[Tensor, Tensor]:
        """The strong view u8[B,I,H,W] of a weak one, and its cutmix_box bool[B,H,W]."""
        size = (image_u_w.shape[-2], image_u_w.shape[-1])
        # Drawn for the global batch: else views would depend on the number of workers.
        rng = augment.step_generator(self.config.train.seed, step)
        view = augment.sample_strong_view(shard_u.batch_size, size, rng).shard(shard_u.indices)
        cutmix_box = augment.cutmix_mask(view, size, image_u_w.device)
        return augment.apply_cutmix(augment.strong_view(image_u_w, view), cutmix_box), cutmix_box

    def terms(
        self,
        weights: LossWeights,
        student_out: Outputs,
        teacher_out: Outputs | None,
        mask_x: Tensor,
        valid_u: Tensor,
        cutmix_box: Tensor,
        shard_u: BatchShard | None = None,
    ) -> LossTerms:
        """All losses from both networks' outputs, in float32 whatever the networks computed in.

        Args:
            student_out: of labeled, then strong unlabeled images.
            teacher_out: of weak unlabeled images, after labeled ones where a loss compares them.
            mask_x: i64[B,H,W], 255 where there is no label.
            valid_u: bool[B,H,W] of the weak view.
            cutmix_box: bool[B,H,W].
        """
        logits, feat = student_out
        num_u = len(valid_u)
        valid_s = augment.apply_cutmix(valid_u, cutmix_box)
        logits_x, logits_u = logits.split([len(mask_x), num_u])
        sup = losses.supervised_loss(logits_x, mask_x, self.class_weights)
        pseudo = relation = style = mask_ratio = torch.zeros((), device=logits.device)
        if teacher_out is not None:
            logits_t, feat_t = teacher_out
            # The teacher saw the weak view. CutMix gives its answer the geometry of the strong one.
            probs = augment.apply_cutmix(logits_t[-num_u:].float().softmax(1), cutmix_box)
        if weights.pseudo > 0:
            pseudo, mask_ratio = losses.pseudo_label_loss(
                logits_u,
                probs,
                valid_s,
                conf_thresh=self.loss.conf_thresh,
                kind=self.loss.pseudo,
                temperature=self.loss.temperature,
            )
        if weights.distills:
            labeled = mask_x != IGNORE_INDEX
            student = pool_both(feat, len(mask_x), labeled, valid_s, self.stride)
            # Statistics are those of the unmixed weak view: CutMix would count some pixels twice.
            teacher = pool_both(feat_t, len(feat_t) - num_u, labeled, valid_u, self.stride)
            self.update_ema_stats(teacher)
            if weights.relation > 0:
                # A relation compares one geometry: here the weak view is mixed like the strong.
                mixed, cells = pool_mixed(feat_t[-num_u:], cutmix_box, valid_s, self.stride)
                teacher = Features(teacher.x, mixed, teacher.valid_x, cells)
                relation = self.relation(student, teacher, mask_x, probs, valid_s, shard_u)
            if weights.style > 0:
                style = self.style(student)
        consistency = (sup + weights.pseudo * pseudo) / 2
        total = consistency + weights.relation * relation + weights.style * style
        return LossTerms(total, sup, pseudo, relation, style, mask_ratio)

    def relation(
        self,
        student: Features,
        teacher: Features,
        mask_x: Tensor,
        probs: Tensor,
        valid_s: Tensor,
        shard_u: BatchShard | None = None,
    ) -> Tensor:
        """L_rel of the configured kind, a scalar; core/losses.py has the formulas.

        The teacher's unlabeled features and `probs` f32[B,K,H,W] are mixed with the same boxes as
        the student's: a relation compares one geometry.
        """
        kind = self.loss.relation_kind
        temperature = self.loss.relation_temperature
        features = (student.x, student.u, teacher.x, teacher.u)
        if kind == "self":
            return losses.self_relation_loss(
                student.u, teacher.u, student.valid_u, self.loss.relation_grid
            )
        if kind == "transfer":
            return losses.transfer_relation_loss(student.u, student.valid_u, self.gram_x)
        if kind == "cross":
            return losses.cross_relation_loss(
                *features, student.valid_x, student.valid_u, temperature, shard_u
            )
        conf_u_w, pseudo_label = probs.max(1)
        ignore_mask = (conf_u_w < self.loss.conf_thresh) | ~valid_s
        pseudo_label = pseudo_label.masked_fill(ignore_mask, IGNORE_INDEX)
        cells = student.u.shape[-2:]
        classes_x = labels_to_grid(mask_x, cells, self.stride)
        classes_u = labels_to_grid(pseudo_label, cells, self.stride)
        return losses.class_relation_loss(
            *features, classes_x, classes_u, self.num_classes, temperature
        )

    def style(self, student: Features) -> Tensor:
        """L_sty, a scalar: the student's statistics of one side against the EMA of the other side.

        By default labeled statistics move to the pool's, because few labels are the biased side.
        """
        target = self.loss.style_target
        distances = []
        if target in ("unlabeled", "symmetric"):
            distances.append(self._style_distance(student.x, student.valid_x, "u"))
        if target in ("labeled", "symmetric"):
            distances.append(self._style_distance(student.u, student.valid_u, "x"))
        return torch.stack(distances).mean()

    def _style_distance(self, feat: Tensor, valid: Tensor, target_side: str) -> Tensor:
        if self.loss.style_stat == "gram":
            gram = losses.batch_gram(feat, valid)
            return losses.gram_style_loss(gram, getattr(self, f"gram_{target_side}"))
        ema = ChannelStats(*(getattr(self, f"{stat}_{target_side}") for stat in ("mean", "std")))
        return losses.style_loss(losses.channel_stats(feat, valid), ema)

    @torch.no_grad()
    def update_ema_stats(self, teacher: Features) -> None:
        """Update the EMAs of the teacher's statistics: decay min(1 - 1/(t+1), stats_decay).

        The first batch sets them, and early ones are averaged: no start from zero to unlearn.
        """
        decay = torch.clamp(1 - 1 / (self.updates + 1), max=self.stats_decay)
        current: dict[str, Tensor] = {}
        sides = (("x", teacher.x, teacher.valid_x), ("u", teacher.u, teacher.valid_u))
        for side, feat, valid in sides:
            if f"gram_{side}" in self.tracked:
                current[f"gram_{side}"] = losses.batch_gram(feat, valid)
            if f"mean_{side}" in self.tracked:
                stats = losses.channel_stats(feat, valid)
                current |= {f"mean_{side}": stats.mean, f"std_{side}": stats.std}
        for name, value in current.items():
            getattr(self, name).lerp_(value, 1 - decay)
        self.updates += 1
