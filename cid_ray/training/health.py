"""Faults of a run: unreadable images, losses of NaN or inf, pseudo-labels that never pass.

Each becomes a warning in the next record. Beyond its limit (`data.max_bad_frac`, `train.on_nan`) it
ends the run. The state is part of the checkpoint, so a resumed run warns of nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cid_ray.config import Config, InputError

MAX_NAMED = 10  # images in a message, and steps or images that get a warning of their own
MAX_CONSECUTIVE_SKIPS = 10  # steps that may be skipped one after the other


@dataclass
class HealthState:
    """What a checkpoint keeps."""

    warnings: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # image id -> reason
    skipped: list[int] = field(default_factory=list)  # steps, counted from 0
    reported: int = 0  # warnings that are in a record already


class Health:
    """Counts the faults of a run.

    Args:
        config: sets the limits.
        pool_size: images in the pool.
        ids_at: names the images of a step, for messages.
    """

    def __init__(self, config: Config, pool_size: int, ids_at: Callable[[int], str]):
        self.config = config
        self.pool_size = pool_size
        self.ids_at = ids_at
        self.state = HealthState()
        self.last_pseudo_step = 0  # the last step at which a pseudo-label passed, or none was due
        self.steps_without_pseudo = int(config.loss.pseudo_burn_in * config.train.steps)
        if config.method == "self_training":
            self.steps_without_pseudo = config.first_round_steps
        # First step whose gradient is NaN or inf, -1 for none; i64 on the device, to read it
        # rarely.
        self.first_bad_step: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.state)

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        self.state = HealthState(**state)
        self.last_pseudo_step = step

    def new_warnings(self) -> str | None:
        """The warnings that no record holds yet."""
        warnings = self.state.warnings
        new = warnings[self.state.reported :]
        self.state.reported = len(warnings)
        return "; ".join(new) or None

    def record_fields(self) -> dict[str, Any]:
        """The fields of a rung's record."""
        state = self.state
        return {
            "unreadable": len(state.unreadable),
            "unreadable_ids": sorted(state.unreadable)[:MAX_NAMED],
            "skipped_steps": len(state.skipped),
            "warning": self.new_warnings(),
        }

    # ---- unreadable images of the pool ----

    def note_unreadable(self, lines: np.ndarray) -> None:
        """Count a batch's `unreadable_u` str[B], as `data.loader` describes it.

        Raises:
            InputError: more than `data.max_bad_frac` of the pool cannot be read.
        """
        for line in "\n".join(map(str, lines)).split("\n"):
            if line:
                image_id, _, reason = line.partition(": ")
                self.merge_unreadable({image_id: reason})

    def merge_unreadable(self, unreadable: Mapping[str, str]) -> None:
        """Count images, of this worker or of another one."""
        known = self.state.unreadable
        max_fraction = self.config.data.max_bad_frac
        for image_id, reason in unreadable.items():
            if image_id in known:
                continue
            known[image_id] = reason
            if len(known) <= MAX_NAMED:
                self.state.warnings.append(
                    f"pool image {image_id} cannot be read ({reason}); the next one takes its place"
                )
        if len(known) > max_fraction * self.pool_size:
            names = ", ".join(sorted(known)[:MAX_NAMED]) + (
                ", ..." if len(known) > MAX_NAMED else ""
            )
            raise InputError(
                f"{len(known)} of {self.pool_size} pool images cannot be read, more than "
                f"data.max_bad_frac={max_fraction:g} allows: {names}; import them again with "
                "--skip-bad, or allow more"
            )

    # ---- losses of NaN or inf ----

    def note_grad_norm(self, norm: Tensor, step: int) -> None:
        """Remember the first step with a gradient of NaN or inf, without waiting for the device.

        The gradient is the mean of all workers', so each worker knows before it writes a
        checkpoint.
        """
        if self.first_bad_step is None:
            self.first_bad_step = torch.full((), -1, device=norm.device)
        is_first = (self.first_bad_step < 0) & ~torch.isfinite(norm)
        this_step = torch.full_like(self.first_bad_step, step)
        self.first_bad_step = torch.where(is_first, this_step, self.first_bad_step)

    def check_finite(self) -> None:
        """Raise FloatingPointError when a gradient was NaN or inf; waits for the device."""
        step = -1 if self.first_bad_step is None else int(self.first_bad_step)
        if step >= 0:
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {step} ({self.ids_at(step)}); "
                "lower optim.lr, set optim.clip_norm=1, or skip such steps with train.on_nan=skip"
            )

    def skip_step(self, step: int) -> None:
        """Count a skipped step; FloatingPointError when too many in a row were skipped."""
        skipped = self.state.skipped
        skipped.append(step)
        if len(skipped) <= MAX_NAMED:
            self.state.warnings.append(
                f"step {step} was skipped: its loss or gradient is not finite ({self.ids_at(step)})"
            )
        consecutive = list(range(step - MAX_CONSECUTIVE_SKIPS + 1, step + 1))
        if skipped[-MAX_CONSECUTIVE_SKIPS:] == consecutive:
            raise FloatingPointError(
                "the loss or its gradient was not finite "
                f"{MAX_CONSECUTIVE_SKIPS} steps in a row, up to step {step}"
            )

    # ---- pseudo-labels that never pass ----

    def check_pseudo_labels(self, mask_ratio: float, step: int) -> None:
        """Warn once when no pseudo-label has passed for `train.warn_no_pseudo_steps` steps.

        Args:
            mask_ratio: fraction of unlabeled pixels above `loss.conf_thresh`, in [0, 1].
            step: training steps that are done.
        """
        loss, train = self.config.loss, self.config.train
        uses_pseudo = loss.pseudo_weight > 0 and self.config.method not in ("supervised", "pool_bn")
        # An adaptive threshold follows the confidence and has no key to lower.
        if not uses_pseudo or mask_ratio > 0 or loss.threshold != "fixed":
            self.last_pseudo_step = step
        self.last_pseudo_step = max(self.last_pseudo_step, self.steps_without_pseudo)
        text = f"no pseudo-label passed loss.conf_thresh={loss.conf_thresh}"
        warned = any(warning.startswith(text) for warning in self.state.warnings)
        if warned or step - self.last_pseudo_step < train.warn_no_pseudo_steps:
            return
        self.state.warnings.append(
            f"{text} between steps {self.last_pseudo_step} and {step}: the pool has no effect on "
            "training; lower loss.conf_thresh (0 switches it off)"
        )
