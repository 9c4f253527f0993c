"""One batch -> LossTerms: the method on one page, in the paper's order.

    L = 1/2 (L_x + lam_u(t) L_u) + lam_r(t) L_rel + lam_s(t) L_sty

The student sees labeled and strong unlabeled images in ONE forward; the teacher (EMA, eval mode, no gradient) sees the
weak ones in one forward. Four methods are four sets of weights on this one path: `supervised` feeds no pool,
`pool_bn` feeds it through the student's batch norm with all weights 0, `mean_teacher` has pseudo-labels, `cid` has
relations and style too. A term of weight 0 is not computed and changes no other number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cid_ray.config import CUTMIX_GROUP, Config, share_of
from cid_ray.config import Loss as LossConfig
from cid_ray.core import augment, losses, model
from cid_ray.core.losses import IGNORE, Style
from cid_ray.core.world import Share

Network = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> logits, feat


@dataclass(frozen=True)
class LossTerms:
    """Scalars; `total` carries the gradient. mask_ratio: share of valid unlabeled pixels above the threshold."""

    total: Tensor
    sup: Tensor
    pseudo: Tensor
    relation: Tensor
    style: Tensor
    mask_ratio: Tensor

    def floats(self) -> dict[str, float]:
        names = ("total", "sup", "pseudo", "relation", "style", "mask_ratio")
        return dict(zip(names, torch.stack([getattr(self, n).detach().float() for n in names]).tolist(), strict=True))


@dataclass(frozen=True)
class Weights:
    """lam_u, lam_r and lam_s at one moment of training."""

    pseudo: float
    relation: float
    style: float

    @classmethod
    def at(cls, method: str, loss: LossConfig, progress: float) -> Weights:
        pseudo = loss.pseudo_weight * losses.pseudo_ramp(progress, loss.pseudo_burn_in, loss.pseudo_ramp)
        relation = loss.relation_weight * losses.ramp_up(progress, loss.relation_ramp)
        style = loss.style_weight * losses.ramp_up(progress, loss.style_ramp)
        teaches, distills = method in ("mean_teacher", "cid"), method == "cid"
        return cls(pseudo * teaches, relation * distills, style * distills)

    @property
    def distills(self) -> bool:
        return self.relation > 0 or self.style > 0


def exact(like: Tensor) -> torch.autocast:
    """No autocast: it rounds even float32 products to bf16, and views, statistics and losses must not be rounded."""
    return torch.autocast(like.device.type, enabled=False)


def feeds_pool(method: str) -> bool:
    return method != "supervised"


@dataclass(frozen=True)
class Features:
    """Pooled features of one network on both halves of the batch, with the cells that count.

    The teacher's labeled half is empty where nothing is held against it.
    """

    x: Tensor  # f32[B,C,h,w]
    u: Tensor
    valid_x: Tensor  # f32[B,1,h,w]
    valid_u: Tensor


def followed(loss: LossConfig) -> frozenset[str]:
    """The teacher's statistics of which an EMA is kept: those that a term is held against."""
    sides = {"unlabeled": "u", "labeled": "x", "symmetric": "xu"}[loss.style_target] if loss.style_weight > 0 else ""
    names = ("gram",) if loss.style_stat == "gram" else ("mean", "std")
    transfer = loss.relation_kind == "transfer" and loss.relation_weight > 0
    return frozenset({f"{name}_{side}" for name in names for side in sides} | ({"gram_x"} if transfer else set()))


class Method(nn.Module):
    """The losses of one configuration, with the EMA statistics that relations and style are held against."""

    class_weights: Tensor | None
    updates: Tensor
    gram_x: Tensor

    def __init__(self, config: Config, num_classes: int, channels: int, class_weights: Tensor | None = None):
        super().__init__()
        self.config, self.loss, self.num_classes = config, config.loss, num_classes
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("updates", torch.zeros(()))
        self.followed = sorted(followed(self.loss))
        for name in self.followed:
            self.register_buffer(name, torch.zeros((channels, channels) if "gram" in name else channels))
        pairs = self.loss.relation_kind in ("cross", "class") and self.loss.relation_weight > 0
        self.compares_labeled = pairs or any(name.endswith("_x") for name in self.followed)

    def forward(
        self, student: Network, teacher: Network, batch: dict[str, Tensor], step: int, rank: int = 0, world: int = 1
    ) -> LossTerms:
        """Batch as in data/batches.py, on the device; `step` counts from 0."""
        cfg = self.config
        image_x, mask_x = batch["image_x"], batch["mask_x"].long()
        zero = torch.zeros((), device=image_x.device)
        if not feeds_pool(cfg.method):
            logits = student(image_x)[0]
            with exact(image_x):
                sup = losses.supervised_loss(logits, mask_x, self.class_weights)
            return LossTerms(sup / 2, sup, zero, zero, zero, zero)

        weights = Weights.at(cfg.method, self.loss, step / cfg.train.steps)
        image_u_w, valid_u = batch["image_u"], batch["valid_u"]
        share = Share(range(len(image_u_w)), len(image_u_w))
        if world > 1:
            share = Share(share_of(cfg.data.batch_size_u, rank, world, CUTMIX_GROUP), cfg.data.batch_size_u)
        with exact(image_x):
            size = (image_u_w.shape[-2], image_u_w.shape[-1])
            draw = augment.draw_strong(share.total, size, augment.generator(cfg.train.seed, step))
            draw = draw.rows(share.own)
            box = augment.cutmix_mask(draw, size, image_x.device)
            image_u_s = augment.mix(augment.strong_view(image_u_w, draw), box)
        logits, feat = student(torch.cat([image_x, image_u_s]))
        logits_t = feat_t = None
        if weights.pseudo > 0 or weights.distills:
            both = weights.distills and self.compares_labeled
            with torch.no_grad():
                logits_t, feat_t = teacher(torch.cat([image_x, image_u_w]) if both else image_u_w)
        with exact(image_x):
            return self.terms(weights, logits, feat, logits_t, feat_t, mask_x, valid_u, box, share)

    def terms(
        self, weights: Weights, logits: Tensor, feat: Tensor, logits_t: Tensor | None, feat_t: Tensor | None,
        mask_x: Tensor, valid_u: Tensor, box: Tensor, share_u: Share | None = None,
    ) -> LossTerms:  # fmt: skip
        """The losses of what student and teacher said, labeled images first; float32, whatever the networks ran in."""
        n_x, n_u, labeled = len(mask_x), len(valid_u), mask_x != IGNORE
        valid_s = augment.mix(valid_u, box)
        logits_x, logits_u = logits.split([n_x, n_u])
        sup = losses.supervised_loss(logits_x, mask_x, self.class_weights)
        pseudo = relation = style = mask_ratio = torch.zeros((), device=logits.device)
        if logits_t is not None:
            probs = augment.mix(logits_t[-n_u:].float().softmax(1), box)
        if weights.pseudo > 0:
            pseudo, mask_ratio = losses.pseudo_label_loss(
                logits_u, probs, valid_s,
                conf_thresh=self.loss.conf_thresh, kind=self.loss.pseudo, temperature=self.loss.temperature,
            )  # fmt: skip
        if weights.distills:
            assert feat_t is not None
            own = _features(feat, n_x, labeled, valid_s)
            theirs = _features(feat_t, len(feat_t) - n_u, labeled, valid_u)
            self.follow(theirs)
            if weights.relation > 0:
                mixed, cells = model.pool_feat(_mix_feat(feat_t[-n_u:], box), valid_s)
                theirs = Features(theirs.x, mixed, theirs.valid_x, cells)
                relation = self.relation(own, theirs, mask_x, probs, valid_s, share_u)
            if weights.style > 0:
                style = self.style(own)
        total = (sup + weights.pseudo * pseudo) / 2 + weights.relation * relation + weights.style * style
        return LossTerms(total, sup, pseudo, relation, style, mask_ratio)

    def relation(
        self,
        own: Features,
        theirs: Features,
        mask_x: Tensor,
        probs: Tensor,
        valid_s: Tensor,
        share_u: Share | None = None,
    ) -> Tensor:
        """The chosen reading of relation distillation; `theirs` is mixed with the same boxes as `own`."""
        kind, temperature = self.loss.relation_kind, self.loss.relation_temperature
        if kind == "self":
            return losses.self_relation_loss(own.u, theirs.u, own.valid_u, self.loss.relation_grid)
        if kind == "transfer":
            return losses.transfer_relation_loss(own.u, own.valid_u, self.gram_x)
        if kind == "cross":
            return losses.cross_relation_loss(
                own.x, own.u, theirs.x, theirs.u, own.valid_x, own.valid_u, temperature, share_u
            )  # fmt: skip
        confidence, pseudo_label = probs.max(1)
        pseudo_label = pseudo_label.masked_fill((confidence < self.loss.conf_thresh) | ~valid_s, IGNORE)
        cells = own.u.shape[-2:]
        return losses.class_relation_loss(
            own.x, own.u, theirs.x, theirs.u, to_cells(mask_x, cells), to_cells(pseudo_label, cells),
            self.num_classes, temperature,
        )  # fmt: skip

    def style(self, own: Features) -> Tensor:
        """The student's labeled statistics drawn to the pool's (the labels are the biased side), or as configured."""
        target = self.loss.style_target
        pulls = []
        if target in ("unlabeled", "symmetric"):
            pulls.append(self._style_pull(own.x, own.valid_x, "u"))
        if target in ("labeled", "symmetric"):
            pulls.append(self._style_pull(own.u, own.valid_u, "x"))
        return torch.stack(pulls).mean()

    def _style_pull(self, feat: Tensor, valid: Tensor, to: str) -> Tensor:
        if self.loss.style_stat == "gram":
            return losses.gram_style_loss(losses.batch_gram(feat, valid), getattr(self, f"gram_{to}"))
        anchor = Style(getattr(self, f"mean_{to}"), getattr(self, f"std_{to}"))
        return losses.style_loss(losses.channel_statistics(feat, valid), anchor)

    @torch.no_grad()
    def follow(self, theirs: Features) -> None:
        """Move the EMA of the teacher's statistics: decay min(1 - 1/(t+1), stats_decay), so the first batch sets it."""
        keep = torch.clamp(1 - 1 / (self.updates + 1), max=self.loss.stats_decay)
        fresh: dict[str, Tensor] = {}
        for side, feat, valid in (("x", theirs.x, theirs.valid_x), ("u", theirs.u, theirs.valid_u)):
            if f"gram_{side}" in self.followed:
                fresh[f"gram_{side}"] = losses.batch_gram(feat, valid)
            if f"mean_{side}" in self.followed:
                style = losses.channel_statistics(feat, valid)
                fresh |= {f"mean_{side}": style.mean, f"std_{side}": style.std}
        for name, value in fresh.items():
            getattr(self, name).lerp_(value, 1 - keep)
        self.updates += 1


def to_cells(classes: Tensor, size: torch.Size) -> Tensor:
    """i64[B,H,W] -> i64[B,h,w] on the padded canvas: the class at each cell's centre."""
    padded = model.pad_to_stride(classes[:, None].float(), value=float(IGNORE))
    height, width = padded.shape[-2:]
    rows = ((torch.arange(size[0], device=padded.device) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1], device=padded.device) + 0.5) * width / size[1]).long()
    return padded[:, 0][:, rows][:, :, columns].long()


def _features(feat: Tensor, n_x: int, valid_x: Tensor, valid_u: Tensor) -> Features:
    """`n_x` of `feat` are of labeled images, or none is. Parted when small: the gradient of a part is full-sized."""
    parts = [n_x, len(valid_u)]
    pooled, cells = model.pool_feat(feat, torch.cat([valid_x[:n_x], valid_u]))
    return Features(*pooled.split(parts), *cells.split(parts))


def _mix_feat(feat_u: Tensor, box: Tensor) -> Tensor:
    """The teacher's unlabeled features with the student's boxes, at the features' own resolution."""
    small = model.pad_to_stride(box.float()[:, None])
    small = torch.nn.functional.interpolate(small, size=feat_u.shape[-2:], mode="nearest")[:, 0] > 0.5
    return augment.mix(feat_u, small)
