"""The trainer of a run: data, networks, optimizer; train a step, evaluate, save, restore.

A `Trainer` is one worker's part of a run. With several workers each holds the same weights and a
shard of every global batch. Sums over the workers make losses, gradients and scores equal to those
of one process. Everything that the next step depends on is in the checkpoint, so a resumed run
repeats the uninterrupted one.

    B images of this worker's shard, H,W pixels, K classes; a row is an index of the data table
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from cid_ray.config import InputError, Round, round_at, rounds_of
from cid_ray.core.grad_cache import MicroBatched
from cid_ray.core.method import LossTerms
from cid_ray.core.model import make_teacher
from cid_ray.data.cache import CachedReader
from cid_ray.data.loader import Batch
from cid_ray.data.sampling import SamplingPlan
from cid_ray.data.sources import open_table
from cid_ray.data.splits import make_split
from cid_ray.results.records import Record
from cid_ray.training import builders, checkpoint, collectives, scoring
from cid_ray.training.device import Device
from cid_ray.training.health import Health
from cid_ray.training.optimizer import make_optimizer
from cid_ray.training.preflight import check_split
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.saved_state import STATE_FIELDS, check_saved_state
from cid_ray.training.scoring import Scores


class Trainer:
    """Builds a run, and restores it when the spec's last checkpoint exists.

    Raises:
        InputError: config, data and checkpoint do not fit together.
    """

    def __init__(self, spec: RunSpec):
        config = self.config = spec.config
        self.spec = spec
        self.device = Device.choose(config.train, spec.num_threads)
        self.reader = spec.reader or CachedReader(
            open_table(config.data.table), config.data.image_size, config.data.cache_mb
        )
        self.table = self.reader.table
        self.split = make_split(self.table, config.data)
        check_split(config, self.table, self.split)
        self.student, self.batch_index = builders.make_student(
            config, self.table, spec.world_size, self.device
        )
        self.rounds = rounds_of(config)
        self.initial = deepcopy(self.student.state_dict()) if len(self.rounds) > 1 else {}
        self.labeler: nn.Module | None = None  # of the second round
        self._start_round(self.rounds[0])
        self.plan = SamplingPlan.create(
            config.data, self.split, config.train.seed, config.uses_unlabeled
        )
        self.health = Health(config, len(self.split.pool), self.ids_at)
        self.step = 0
        self.seconds = 0.0  # of training, over all processes that worked on this run
        self.last_val: Scores = {}
        self.last_rung: Record = {}
        self.best: dict[str, Any] = {}
        if spec.rank == 0:
            checkpoint.remove_partial_files(spec.last_checkpoint)
        if checkpoint.any_exists(spec.last_checkpoint):
            self.restore()
        collectives.check_same_step(self.step, spec.last_checkpoint)
        # Last: DDP copies rank 0's weights to all workers, which must be the restored ones.
        self.wrapped_student = builders.wrap_student(self.student, config, spec.world_size)
        self._wrap_networks()

    def _start_round(self, new: Round) -> None:
        """Train from the start: initial weights, a new teacher, optimizer and schedule.

        The teacher of the round before stays as it is and labels the pool.
        """
        config = new.config
        self.round = new
        if new.start > 0:
            self.labeler = self.teacher.module
            self.student.load_state_dict(self.initial)
            self.initial = {}  # there is no third round
        builders.set_batch(self.batch_index, config, self.spec.rank, self.spec.world_size)
        self.teacher: ModelEmaV3 = make_teacher(self.student, config.train.ema_decay)
        net = self.teacher.module
        self.method = builders.make_method(config, self.table, self.split, net, self.device)
        self.optimizer = make_optimizer(config, self.student)
        self.schedule = torch.optim.lr_scheduler.PolynomialLR(
            self.optimizer, config.train.steps, config.optim.poly_power
        )

    def _wrap_networks(self) -> None:
        """The networks as a step of this round calls them."""
        options = (self.round.config, self.spec.world_size, self.device, self.batch_index)
        self.forward = builders.micro_batched(self.wrapped_student, *options)
        self.predict = builders.micro_batched(self.labeler or self.teacher, *options)

    # ---- one step ----

    def train_step(self, batch: Batch) -> LossTerms:
        """One optimizer step on this worker's shard of the global batch (see `data.loader`)."""
        self.health.note_unreadable(batch.pop("unreadable_u", np.array([], np.str_)))
        tensors = {name: self.device.tensor(value) for name, value in batch.items()}
        current = round_at(self.rounds, self.step)
        if current is not self.round:
            self._start_round(current)
            self._wrap_networks()
        step = self.batch_index.step = self.step - self.round.start
        skip_nan = self.config.train.on_nan == "skip"
        # The forward pass moves running statistics; a skipped step must leave them as they were.
        saved_buffers = self.copy_buffers() if skip_nan else []
        with self.device.autocast():
            terms: LossTerms = self.method(
                self.forward,
                self.predict,
                tensors,
                step,
                self.spec.rank,
                self.spec.world_size,
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        if isinstance(self.forward, MicroBatched):
            self.forward.backward()
        weights = list(self.student.parameters())
        # DDP has averaged the gradients, so each worker finds the same norm and takes the same
        # branch.
        grad_norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        if skip_nan and not torch.isfinite(grad_norm):  # waits for the device
            for buffer, value in saved_buffers:
                buffer.copy_(value)
            self.health.skip_step(self.step)
        else:
            self.health.note_grad_norm(grad_norm, self.step)
            if self.config.optim.clip_norm:
                nn.utils.clip_grads_with_norm_(weights, self.config.optim.clip_norm, grad_norm)
            self.optimizer.step()
            self.teacher.update(self.student, step=step)
        self.schedule.step()
        self.step += 1
        return terms

    def copy_buffers(self) -> list[tuple[Tensor, Tensor]]:
        buffers = (*self.student.buffers(), *self.method.buffers())
        return [(buffer, buffer.clone()) for buffer in buffers]

    def plan_at(self, step: int) -> SamplingPlan:
        """The sampling plan of a step's round, which may use no pool."""
        uses_pool = round_at(self.rounds, step).config.uses_unlabeled
        return self.plan if uses_pool else SamplingPlan(self.plan.labeled, None)

    def ids_at(self, step: int) -> str:
        """The images of a step, over all workers, for a message."""
        parts = []
        plan = self.plan_at(step)
        for name, order in (("labeled", plan.labeled), ("pool", plan.pool)):
            if order:
                rows = np.array(
                    [order.row_at(position) for position in order.positions(step, 0, 1)]
                )
                parts.append(f"{name} images {', '.join(self.table.ids(rows))}")
        return "; ".join(parts)

    # ---- evaluate ----

    def evaluate(self, split: str) -> Scores:
        """Scores of teacher and student on val or test."""
        return scoring.evaluate(self, split)[0]

    def eval_rows(self, split: str) -> np.ndarray:
        return {"val": self.split.val, "test": self.split.test}[split]

    def eval_images(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Images u8[C,H,W] at `data.image_size`, and their masks u8 at the mask's own size."""
        for row in rows.tolist():
            image, _ = self.reader(row, mask=False)
            mask = torch.from_numpy(self.table.mask(row))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            yield pixels.to(self.device.torch), mask.to(self.device.torch)

    def sync_unreadable(self) -> None:
        """Let every worker know the images that any worker could not read."""
        for unreadable in collectives.gather_objects(self.health.state.unreadable):
            self.health.merge_unreadable(unreadable)

    def update_best(self, val: Scores) -> None:
        """Keep the val scores of this rung; the best rung has the highest mIoU of the teacher."""
        self.last_val = val
        if not self.best or _teacher_miou(val) > _teacher_miou(self.best["val"]):
            self.best = {"step": self.step, "val": val}

    # ---- save and restore ----

    def modules(self) -> dict[str, Any]:
        """What has a `state_dict` that the next step depends on."""
        modules = {
            "student": self.student,
            "teacher": self.teacher.module,
            "method": self.method,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }
        return modules if self.labeler is None else {**modules, "labeler": self.labeler}

    def save(self) -> None:
        """Write the last checkpoint and, when this rung is the best, the best weights."""
        if self.spec.rank == 0:
            checkpoint.save_checkpoint(
                self.spec.last_checkpoint,
                self.modules(),
                self.config,
                self.table.model_data,
                keep=self.config.train.num_to_keep,
                **{name: getattr(self, name) for name in STATE_FIELDS},
                health=self.health.state_dict(),
                identity=self.identity(),
            )
            self._save_best()

    def _save_best(self) -> None:
        if self.best.get("step") == self.step:
            networks = {"student": self.student, "teacher": self.teacher.module}
            checkpoint.save_checkpoint(
                self.spec.best_checkpoint,
                networks,
                self.config,
                self.table.model_data,
                step=self.step,
            )

    def restore(self) -> None:
        """Continue from the newest checkpoint that can be read.

        Raises:
            InputError: it belongs to another config, split or data set.
        """
        name = self.spec.last_checkpoint
        content, warnings = checkpoint.load_newest_checkpoint(name)
        with checkpoint.content_errors(name):
            check_saved_state(content["extra"], self.config.train.steps)
            saved_identity = content["extra"].pop("identity")
            for key, value in self.identity().items():
                saved = saved_identity.get(key)
                if saved != value:
                    raise InputError(
                        f"{name} belongs to another run: its {key} is {saved}, this "
                        f"run's {key} is {value}; resume with the same config and data, or choose "
                        "another --out"
                    )
            # The networks are those of the last step that is done.
            saved_round = round_at(self.rounds, max(0, content["extra"]["step"] - 1))
            if saved_round is not self.round:
                self._start_round(saved_round)
            extra = checkpoint.restore_state(content, self.modules())
            for field in STATE_FIELDS:
                setattr(self, field, extra[field])
            self.health.load_state_dict(extra["health"], self.step)
        self.health.state.warnings += warnings
        if self.spec.rank == 0:
            self._save_best()  # a kill may have come between the two files

    def identity(self) -> dict[str, str]:
        return builders.run_identity(self.config, self.table, self.split)

    @property
    def colors(self) -> dict[str, list[int]]:
        """Class name -> RGB."""
        return dict(zip(self.table.classes, self.table.colors, strict=True))


def _teacher_miou(scores: Scores) -> float:
    return scores["teacher"]["miou"] or 0.0
