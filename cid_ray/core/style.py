"""Style distillation: the student's channel statistics against an EMA of the teacher's.

B images   C channels of `feat`   h,w cells
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cid_ray.config import LossConfig
from cid_ray.core import losses
from cid_ray.core.features import Features
from cid_ray.core.losses import ChannelStats
from cid_ray.core.running_mean import RunningMean

SIDES = {"unlabeled": "u", "labeled": "x", "symmetric": "xu"}  # whose statistics are the target


class Style(nn.Module):
    """L_sty of one configuration, and the EMAs that it compares with.

    By default labeled statistics move to the pool's, because few labels are the biased side.

    Args:
        loss: the `style_` options are read.
        channels: C.
        decay: per step, of the EMAs.
    """

    def __init__(self, loss: LossConfig, channels: int, decay: float):
        super().__init__()
        self.sides = SIDES[loss.style_target]
        self.uses_gram = loss.style_stat == "gram"
        shapes: dict[str, tuple[int, ...]] = {}
        for side in self.sides:
            if self.uses_gram:
                shapes[f"gram_{side}"] = (channels, channels)
            else:
                shapes |= {f"mean_{side}": (channels,), f"std_{side}": (channels,)}
        self.ema = RunningMean(decay, shapes)

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """L_sty, a scalar.

        Args:
            student: of labeled and strong unlabeled images.
            teacher: of the unmixed weak view: CutMix would count some pixels twice. Its labeled
                half may be empty where `sides` has no "x", and is the student's, detached, with
                `loss.labeled_memory`.
        """
        self.update(teacher)
        distances = []
        if "u" in self.sides:
            distances.append(self._distance(student.x, student.valid_x, "u"))
        if "x" in self.sides:
            distances.append(self._distance(student.u, student.valid_u, "x"))
        return torch.stack(distances).mean()

    @torch.no_grad()
    def update(self, teacher: Features) -> None:
        """Move the EMAs towards the statistics of the teacher's features."""
        current: dict[str, Tensor] = {}
        halves = {"x": (teacher.x, teacher.valid_x), "u": (teacher.u, teacher.valid_u)}
        for side in self.sides:
            if self.uses_gram:
                current[f"gram_{side}"] = losses.batch_gram(*halves[side])
            else:
                stats = losses.channel_stats(*halves[side])
                current |= {f"mean_{side}": stats.mean, f"std_{side}": stats.std}
        self.ema.update(current)

    def _distance(self, feat: Tensor, valid: Tensor, target_side: str) -> Tensor:
        if self.uses_gram:
            gram = losses.batch_gram(feat, valid)
            return losses.gram_style_loss(gram, self.ema[f"gram_{target_side}"])
        target = ChannelStats(self.ema[f"mean_{target_side}"], self.ema[f"std_{target_side}"])
        return losses.style_loss(losses.channel_stats(feat, valid), target)
