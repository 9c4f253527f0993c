"""What a run holds (data, networks, optimizer, step) and its verbs: one step, evaluate, save, restore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cid_ray import checkpoints, places
from cid_ray.config import Config, InputError
from cid_ray.core import dropout, evaluate, norm
from cid_ray.core.method import LossTerms, Method, feeds_pool
from cid_ray.core.micro import InParts
from cid_ray.core.model import Segmenter, dilate_pointwise, make_teacher
from cid_ray.data.batches import Batch, Plan, Reader
from cid_ray.data.splits import make_split
from cid_ray.data.table import open_table
from cid_ray.places import Name
from cid_ray.results.record import Row
from cid_ray.run import build, state
from cid_ray.run.device import Device
from cid_ray.run.health import Health

KEPT = ("step", "seconds", "best", "last_val", "last_rung")  # plain values of a run in its checkpoint
Scores = dict[str, dict[str, Any]]  # network -> what core.evaluate.scores returns


@dataclass
class Job:
    """One run to be done: what, where, and as which of how many workers."""

    config: Config
    root: Name  # the folder of the command: checkpoints/NAME and samples/NAME lie in it
    name: str = "train"
    rank: int = 0
    world: int = 1
    threads: int | None = None
    use_ray_data: bool = False
    test: bool = True  # score the held-out split at the end
    reader: Reader | None = None  # decoded images kept from an earlier run of this process

    @property
    def last(self) -> Name:
        return places.join(checkpoints.folder_of(self.config, self.root, self.name), "last.pt")

    @property
    def best(self) -> Name:
        return places.join(checkpoints.folder_of(self.config, self.root, self.name), "best.pt")


class Run:
    """Built once, restored from the job's last checkpoint when there is one."""

    def __init__(self, job: Job):
        cfg = self.config = job.config
        self.job = job
        self.device = Device.choose(cfg.train, job.threads)
        self.table = job.reader.table if job.reader else open_table(cfg.data.table)
        self.reader = job.reader or Reader(self.table, cfg.data.image_size, cfg.data.cache_mb)
        self.split = make_split(self.table, cfg.data)
        build.check(cfg, self.table, self.split)
        torch.manual_seed(cfg.train.seed)
        student: nn.Module = Segmenter(cfg.model, self.table.num_classes)
        if self.device.torch.type == "cpu":
            dilate_pointwise(student)
        if job.world > 1:
            student = norm.synchronize(student, cuda=self.device.torch.type == "cuda")
        self.rows = build.rows_of(cfg, job.rank, job.world, self.device)
        dropout.of_global_batch(student, self.rows)
        self.student = student.to(self.device.torch).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.teacher = make_teacher(self.student, cfg.train.ema_decay)
        channels = build.feat_channels(self.teacher.module, cfg, self.device)
        weights = build.class_weights(cfg, self.table, self.split)
        self.method = Method(cfg, self.table.num_classes, channels, weights).to(self.device.torch)
        self.optimizer = build.make_optimizer(cfg, self.student)
        self.schedule = torch.optim.lr_scheduler.PolynomialLR(self.optimizer, cfg.train.steps, cfg.optim.poly_power)
        self.step, self.seconds = 0, 0.0
        self.last_val: Scores = {}
        self.last_rung: Row = {}
        self.best: dict[str, Any] = {}
        self.plan = Plan.of(cfg.data, self.split, cfg.train.seed, feeds_pool(cfg.method))
        self.health = Health(cfg, len(self.split.pool), self.ids_at)
        if job.rank == 0:
            state.clear_partial(job.last)
        if places.exists(job.last):
            self.restore()
        self.check_together()
        self.forward = build.callable_student(self.student, cfg, job.world, self.device, self.rows)
        self.predict = build.callable_teacher(self.teacher, cfg, job.world, self.device, self.rows)

    # ---- one step ----

    def train_step(self, batch: Batch) -> LossTerms:
        """One optimizer step on this worker's share of the global batch."""
        self.health.unreadable(batch.pop("unreadable_u", np.array([], np.str_)))
        tensors = {name: self.to_device(value) for name, value in batch.items()}
        self.rows.step = self.step
        careful = self.config.train.on_nan == "skip"
        before = [(b, b.clone()) for b in (*self.student.buffers(), *self.method.buffers())] if careful else []
        with self.device.autocast():
            terms: LossTerms = self.method(
                self.forward, self.predict, tensors, self.step, self.job.rank, self.job.world
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        if isinstance(self.forward, InParts):
            self.forward.backward()
        weights = list(self.student.parameters())
        # gradients are those of all workers: each finds the same norm
        grad_norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        if careful and not torch.isfinite(grad_norm):  # waits for the device
            for buffer, value in before:
                buffer.copy_(value)
            self.health.skip(self.step)
        else:
            self.health.note(grad_norm, self.step)
            if self.config.optim.clip_norm:
                nn.utils.clip_grads_with_norm_(weights, self.config.optim.clip_norm, grad_norm)
            self.optimizer.step()
            self.teacher.update(self.student, step=self.step)
        self.schedule.step()
        self.step += 1
        return terms

    def ids_at(self, step: int) -> str:
        """The images of a step, over all workers, in words."""
        told = []
        for name, stream in (("labeled", self.plan.labeled), ("pool", self.plan.pool)):
            if stream:
                rows = np.array([stream.row(place) for place in stream.places(step, 0, 1)])
                told.append(f"{name} images {', '.join(self.table.ids(rows))}")
        return "; ".join(told)

    def to_device(self, value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.require(value, requirements=["C", "W"]))  # Ray Data's cannot be written to
        if self.device.torch.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device.torch, non_blocking=True)

    # ---- evaluate ----

    def evaluate(self, split: str) -> Scores:
        """Teacher and student on the split's val or test: every image once, over all workers."""
        found = {}
        rows = self.held_out_rows(split)[self.job.rank :: self.job.world]
        for name, net in (("teacher", self.teacher.module), ("student", self.student)):
            net.eval()
            with self.device.autocast():
                matrix = evaluate.confusion_of(
                    net, self.held_out(rows), self.table.num_classes, self.config.train.window
                )
            found[name] = evaluate.scores(self.sum_over_workers(matrix), self.table.classes)
        self.student.train()
        return found

    def held_out_rows(self, split: str) -> np.ndarray:
        return {"val": self.split.val, "test": self.split.test}[split]

    def held_out(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Images u8[3,H,W] at `image_size` with their masks u8 at the mask's own size."""
        for row in rows.tolist():
            image, _ = self.reader(row, mask=False)
            mask = self.table.mask(row)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            yield pixels.to(self.device.torch), torch.from_numpy(mask).to(self.device.torch)

    def sum_over_workers(self, matrix: np.ndarray) -> np.ndarray:
        if self.job.world == 1:
            return matrix
        total = torch.from_numpy(matrix).to(self.device.torch)
        torch.distributed.all_reduce(total)
        return total.cpu().numpy()

    def mean_over_workers(self, losses: dict[str, float]) -> dict[str, float]:
        if self.job.world == 1:
            return losses
        total = torch.tensor(list(losses.values()), device=self.device.torch)
        torch.distributed.all_reduce(total)
        return dict(zip(losses, (total / self.job.world).tolist(), strict=True))

    def agree(self) -> None:
        """At a rung: what any worker could not read is known to all."""
        if self.job.world > 1:
            all_found: list[Any] = [None] * self.job.world
            torch.distributed.all_gather_object(all_found, self.health.found.unreadable)
            for found in all_found:
                self.health.merge(found)

    def remember(self, val: Scores) -> None:
        """What val says of this rung; the best one is that of the highest mIoU of the teacher."""
        self.last_val = val
        if not self.best or (val["teacher"]["miou"] or 0) > (self.best["val"]["teacher"]["miou"] or 0):
            self.best = {"step": self.step, "val": val}

    # ---- save and restore ----

    def modules(self) -> dict[str, Any]:
        return {
            "student": self.student,
            "teacher": self.teacher.module,
            "method": self.method,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def save(self) -> None:
        """The state, and beside it the weights of the best rung when that is this one."""
        if self.job.rank == 0:
            own = {name: getattr(self, name) for name in KEPT} | {"health": self.health.plain()}
            state.save(
                self.job.last, self.modules(), self.config, self.table.classes, keep=self.config.train.keep,
                **own, identity=self.identity(),
            )  # fmt: skip
            self.save_best()

    def save_best(self) -> None:
        if self.best.get("step") == self.step:
            nets = {"student": self.student, "teacher": self.teacher.module}
            state.save(self.job.best, nets, self.config, self.table.classes, step=self.step)

    def restore(self) -> None:
        content, told = state.load_newest(self.job.last)
        theirs = content["extra"].pop("identity")
        for key, value in self.identity().items():
            if theirs[key] != value:
                raise InputError(
                    f"{self.job.last} belongs to another run: its {key} is {theirs[key]}, this one's {value}; "
                    f"resume with the same config and data, or choose another --out"
                )
        extra = state.restore(content, self.modules())
        for name in KEPT:
            setattr(self, name, extra[name])
        self.health.restore(extra["health"], self.step)
        self.health.found.warnings += told
        if self.job.rank == 0:
            self.save_best()  # a kill may have come between the two files

    def check_together(self) -> None:
        """InputError when workers go on from different steps: their gradients would not belong together."""
        if self.job.world == 1:
            return
        steps: list[Any] = [None] * self.job.world
        torch.distributed.all_gather_object(steps, self.step)
        if len(set(steps)) > 1:
            raise InputError(
                f"the workers go on from different steps, {', '.join(map(str, steps))}: they do not see the same "
                f"checkpoints in {self.job.last}; --out must be a folder that all nodes share, or s3://..."
            )

    def identity(self) -> dict[str, str]:
        return build.identity(self.config, self.table, self.split)

    # ---- what rows say ----

    @property
    def images_per_step(self) -> int:
        data = self.config.data
        return data.batch_size + (data.batch_size_u if feeds_pool(self.config.method) else 0)

    @property
    def colors(self) -> dict[str, list[int]]:
        return dict(zip(self.table.classes, self.table.colors, strict=True))

    def place(self) -> Row:
        return {"step": self.step, "images_seen": self.step * self.images_per_step}

    def header(self) -> Row:
        cfg = self.config
        return {
            "run": self.job.name,
            "method": cfg.method,
            "ratio": cfg.data.ratio,
            "ratio_name": self.split.name,
            "label_count": self.split.budget,
            "val_count": len(self.split.val),
            "pool_count": len(self.split.pool),
            "draw": cfg.data.draw,
            "label_from": cfg.data.label_from,
            "seed": cfg.train.seed,
            "steps": cfg.train.steps,
            "workers": self.job.world,
            "device": str(self.device),
            **self.identity(),
        }
