"""What goes wrong while a run works: unreadable images, losses that are no number, pseudo-labels that never pass.

Each is told in words as soon as it is known, stands in the rows, and stops the run where its allowance ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cid_ray.config import Config, InputError

SHOWN = 10  # names in a message
IN_A_ROW = 10  # steps that may be skipped one after the other


@dataclass
class Found:
    """What a checkpoint keeps of it."""

    warnings: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # image id -> why
    skipped: list[int] = field(default_factory=list)  # steps, counted from 0
    told: int = 0  # warnings that rows have shown


class Health:
    """`ids_at` names the images of a step, for messages."""

    def __init__(self, config: Config, pool_size: int, ids_at: Callable[[int], str]):
        self.config, self.pool_size, self.ids_at = config, pool_size, ids_at
        self.found, self.silent_since = Found(), 0
        self.not_finite: Tensor | None = None  # the first step whose gradient was no number, on the device; -1: none

    def plain(self) -> dict[str, Any]:
        return asdict(self.found)

    def restore(self, kept: dict[str, Any], step: int) -> None:
        self.found, self.silent_since = Found(**kept), step

    def fresh(self) -> str | None:
        """The warnings that no row has shown yet."""
        new, self.found.told = self.found.warnings[self.found.told :], len(self.found.warnings)
        return "; ".join(new) or None

    def row(self) -> dict[str, Any]:
        """What a rung's row says."""
        found = self.found
        return {
            "unreadable": len(found.unreadable),
            "unreadable_ids": sorted(found.unreadable)[:SHOWN],
            "skipped_steps": len(found.skipped),
            "warning": self.fresh(),
        }

    # ---- unreadable images of the pool ----

    def unreadable(self, told: np.ndarray) -> None:
        """`told` str[B], as data/batches.py says; InputError beyond data.max_bad_frac."""
        for line in "\n".join(map(str, told)).split("\n"):
            if line:
                name, _, why = line.partition(": ")
                self.merge({name: why})

    def merge(self, unreadable: dict[str, str]) -> None:
        """Count images, those of other workers too."""
        bad, most = self.found.unreadable, self.config.data.max_bad_frac
        for name, why in unreadable.items():
            if name in bad:
                continue
            bad[name] = why
            if len(bad) <= SHOWN:
                self.found.warnings.append(f"pool image {name} cannot be read ({why}); the next one takes its place")
        if len(bad) > most * self.pool_size:
            names = ", ".join(sorted(bad)[:SHOWN]) + (", ..." if len(bad) > SHOWN else "")
            raise InputError(
                f"{len(bad)} of {self.pool_size} pool images cannot be read, more than data.max_bad_frac={most:g} "
                f"allows: {names}; import them again with --skip-bad, or allow more"
            )

    # ---- losses that are no number ----

    def note(self, norm: Tensor, step: int) -> None:
        """Remember the first step whose gradient has no finite norm, as after a loss that is none; no wait for the
        device. The gradient is that of all workers, so each of them knows before it writes a checkpoint."""
        if self.not_finite is None:
            self.not_finite = torch.full((), -1, device=norm.device)
        now = torch.full_like(self.not_finite, step)
        self.not_finite = torch.where((self.not_finite < 0) & ~torch.isfinite(norm), now, self.not_finite)

    def check_finite(self) -> None:
        step = -1 if self.not_finite is None else int(self.not_finite)
        if step >= 0:
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {step} ({self.ids_at(step)}); lower optim.lr, "
                "set optim.clip_norm=1, or leave such steps out with train.on_nan=skip"
            )

    def skip(self, step: int) -> None:
        """A step that is left out; FloatingPointError when it is the last of too many."""
        skipped = self.found.skipped
        skipped.append(step)
        if len(skipped) <= SHOWN:
            self.found.warnings.append(
                f"step {step} was left out: its loss or gradient is not finite ({self.ids_at(step)})"
            )
        if skipped[-IN_A_ROW:] == list(range(step - IN_A_ROW + 1, step + 1)):
            raise FloatingPointError(
                f"the loss or its gradient was not finite {IN_A_ROW} steps in a row, up to step {step}"
            )

    # ---- a pool that teaches nothing ----

    def pseudo_labels(self, mask_ratio: float, step: int) -> None:
        """A warning, once, when no pseudo-label has passed for `alarm_steps` although they should by now."""
        loss, train = self.config.loss, self.config.train
        expected = self.config.method in ("mean_teacher", "cid") and loss.pseudo_weight > 0
        if not expected or step / train.steps <= loss.pseudo_burn_in or mask_ratio > 0:
            self.silent_since = step
        text = f"no pseudo-label passed loss.conf_thresh={loss.conf_thresh}"
        told = any(warning.startswith(text) for warning in self.found.warnings)
        if told or step - self.silent_since < train.alarm_steps:
            return
        self.found.warnings.append(
            f"{text} between steps {self.silent_since} and {step}: the pool teaches nothing; lower loss.conf_thresh "
            "(0 switches it off)"
        )
