"""How the weights of the losses change over training.

`progress`, `burn_in` and `length` are fractions of training in [0, 1], so a schedule means the same
for any number of steps. A young teacher is confident and wrong: hence ramps and a burn-in.

Source: the ramp is that of Laine & Aila 2017 and of Tarvainen & Valpola 2017 (mean teacher).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cid_ray.config import LossConfig


def ramp_up(progress: float, length: float) -> float:
    """exp(-5 (1-t)^2) with t from 0 to 1 over the first `length` of training, then 1."""
    # Also for length 0, which would divide by zero below.
    if progress >= length:
        return 1.0
    return math.exp(-5.0 * (1 - progress / length) ** 2)


def pseudo_ramp(progress: float, burn_in: float, length: float) -> float:
    """0 during the burn-in, then `ramp_up` over `length`."""
    return 0.0 if progress < burn_in else ramp_up(progress - burn_in, length)


@dataclass(frozen=True)
class LossWeights:
    """lam_u (pseudo), lam_r (relation) and lam_s (style) at one moment of training."""

    pseudo: float
    relation: float
    style: float

    @classmethod
    def at_progress(cls, method: str, loss: LossConfig, progress: float) -> LossWeights:
        """The weights of a method: 0 for each term that the method does not have."""
        pseudo = 0.0
        relation = 0.0
        style = 0.0
        if method in ("mean_teacher", "unimatch_v2", "cid"):
            ramp = pseudo_ramp(progress, loss.pseudo_burn_in, loss.pseudo_ramp)
            pseudo = loss.pseudo_weight * ramp
        if method == "self_training":
            pseudo = loss.pseudo_weight  # its teacher is trained: no burn-in, no ramp
        if method == "cid":
            relation = loss.relation_weight * ramp_up(progress, loss.relation_ramp)
            style = loss.style_weight * ramp_up(progress, loss.style_ramp)
        return cls(pseudo, relation, style)

    @property
    def distills(self) -> bool:
        """Whether relation or style distillation is at work."""
        return self.relation > 0 or self.style > 0
