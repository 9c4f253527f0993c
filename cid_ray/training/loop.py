"""The training loop: the same for one process, for Ray Train's workers, and for a Tune trial.

`train` is a generator of records. Its caller decides what a record is for: a file, Ray
Train, a study. Closing the generator stops the run, which is all that pruning needs. A run with a
checkpoint resumes from it; a finished run only computes its final scores again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from cid_ray.config import images_seen
from cid_ray.core.method import LossTerms
from cid_ray.data.loader import Batch, local_batches
from cid_ray.data.ray_data import ray_batches
from cid_ray.results.provenance import provenance
from cid_ray.results.records import Record
from cid_ray.training.collectives import mean_values
from cid_ray.training.final_scores import final_scores, latency_ms, score_fields
from cid_ray.training.footprint import memory_fields
from cid_ray.training.gradient_probe import gradient_fields
from cid_ray.training.pool_signals import pool_signals
from cid_ray.training.preemption import Preempted, PreemptionWatch
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.samples import save_samples
from cid_ray.training.trainer import Trainer


def train(spec: RunSpec) -> Iterator[Record]:
    """The records of one worker: `progress` between rungs, `rung` at every rung, one `final`.

    A resumed run yields its last rung's record again: a kill may have come before it was stored.

    Raises:
        Preempted: one of `spec.nodes` will be taken.
    """
    with PreemptionWatch(spec.nodes) as watch:
        if watch.notice:
            raise Preempted(watch.notice)
        yield from _train(Trainer(spec), watch)


def _train(trainer: Trainer, watch: PreemptionWatch) -> Iterator[Record]:
    header = {**record_header(trainer), **provenance()}
    if trainer.last_rung:
        yield {**header, **trainer.last_rung}
    batches = make_batches(trainer)
    clock = Clock(trainer)
    rung_steps = trainer.config.train.rung_steps
    for batch in batches:
        terms = trainer.train_step(batch)
        if trainer.step in rung_steps:
            finish_rung(trainer, batch, terms, clock)
            yield {**header, **trainer.last_rung}
            continue
        notice = watch.notice
        if clock.checkpoint_due() or notice:
            trainer.health.check_finite()  # never replace a good checkpoint by NaN weights
            trainer.seconds = clock.read()["seconds"]
            trainer.save()
        if notice:
            raise Preempted(notice, trainer.step)
        if clock.progress_due():
            yield progress_record(trainer, terms, clock)
    yield {**header, **final_record(trainer, clock)}


def make_batches(trainer: Trainer) -> Iterator[Batch]:
    """The batches of the steps that are left. Ray Data feeds the pool if the spec says so."""
    spec, config = trainer.spec, trainer.config
    for part in trainer.rounds:
        start = max(trainer.step, part.start)
        if start >= part.stop:
            continue
        source = (trainer.reader, trainer.plan_at(start), config.data, start, part.stop)
        if spec.use_ray_data:
            cpus = config.distributed.data_cpus / spec.world_size
            yield from ray_batches(*source, spec.rank, spec.world_size, cpus)
        else:
            yield from local_batches(*source, spec.rank, spec.world_size)


class Clock:
    """Seconds of a run over all its processes, and the images per second of this one."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.seconds_before = trainer.seconds
        self.images_before = images_seen(trainer.config, trainer.step)
        self.started = time.monotonic()
        self.last_read = self.started
        self.last_saved = self.started

    def checkpoint_due(self) -> bool:
        """Whether `train.checkpoint_steps` or `checkpoint_minutes` asks for a checkpoint now."""
        train = self.trainer.config.train
        now = time.monotonic()
        due = bool(train.checkpoint_steps and self.trainer.step % train.checkpoint_steps == 0)
        if train.checkpoint_minutes and now - self.last_saved > 60 * train.checkpoint_minutes:
            due = True
        if due:
            self.last_saved = now
        return due

    def progress_due(self) -> bool:
        return time.monotonic() - self.last_read > self.trainer.config.train.progress_s

    def read(self) -> Record:
        self.last_read = time.monotonic()
        elapsed = max(1e-9, self.last_read - self.started)
        images = images_seen(self.trainer.config, self.trainer.step) - self.images_before
        return {
            "seconds": round(self.seconds_before + elapsed, 3),
            "images_per_s": round(images / elapsed, 2),
        }


# ---- records ----


def finish_rung(trainer: Trainer, batch: Batch, terms: LossTerms, clock: Clock) -> None:
    """Evaluate on val, make `trainer.last_rung`, and save the checkpoint that holds it."""
    trainer.health.check_finite()
    losses = mean_values(terms.to_floats(), trainer.device.torch)
    trainer.health.check_pseudo_labels(losses["mask_ratio"], trainer.step)
    position = {**progress_fields(trainer), **clock.read()}
    trainer.sync_unreadable()
    gradients = gradient_fields(trainer, batch)
    val = trainer.evaluate("val")
    trainer.update_best(val)
    trainer.seconds = clock.read()["seconds"]
    trainer.last_rung = {
        "event": "rung",
        **position,
        "losses": _finite(losses),
        "gradients": gradients,
        **score_fields("val", val),
        "pool_signals": pool_signals(trainer),
        "samples": save_samples(trainer, "val"),
        "colors": trainer.colors,
        **trainer.health.record_fields(),
        "memory": memory_fields(),
    }
    trainer.save()


def progress_record(trainer: Trainer, terms: LossTerms, clock: Clock) -> Record:
    """A record between rungs, with the losses of this worker alone.

    Each worker's clock decides when one is due, so a mean over the workers would wait for ever.
    """
    trainer.health.check_finite()
    losses = terms.to_floats()
    trainer.health.check_pseudo_labels(losses["mask_ratio"], trainer.step)
    return {
        "event": "progress",
        **run_fields(trainer),
        **progress_fields(trainer),
        **clock.read(),
        "losses": _finite(losses),
        "warning": trainer.health.new_warnings(),
    }


def final_record(trainer: Trainer, clock: Clock) -> Record:
    position = {**progress_fields(trainer), **clock.read()}
    if trainer.spec.score_test:
        scores = final_scores(trainer)
    else:
        scores = score_fields("val", trainer.last_val)
    if trainer.config.search.second_objective == "latency_ms":
        scores["latency_ms"] = latency_ms(trainer)
    return {
        "event": "final",
        **position,
        **scores,
        "warnings": trainer.health.state.warnings,
    }


def run_fields(trainer: Trainer) -> Record:
    """The fields of every record. A search replaces the last three by those of its trial."""
    return {
        "run": trainer.spec.name,
        "ratio": trainer.config.data.ratio,
        "method": trainer.config.method,
        "trial_number": 0,
        "repeats_of": "",
        "repeat_index": 0,
    }


def record_header(trainer: Trainer) -> Record:
    """The fields of the records of rungs and of the end: which run this is."""
    config, split = trainer.config, trainer.split
    return {
        **run_fields(trainer),
        "ratio_name": split.ratio_name,
        "label_count": split.label_budget,
        "val_count": len(split.val),
        "pool_count": len(split.pool),
        "draw": config.data.draw,
        "label_from": config.data.label_from,
        "seed": config.train.seed,
        "steps": config.train.steps,
        "workers": trainer.spec.world_size,
        "device": str(trainer.device),
        **trainer.identity(),
    }


def progress_fields(trainer: Trainer) -> Record:
    return {"step": trainer.step, "images_seen": images_seen(trainer.config, trainer.step)}


def _finite(losses: dict[str, float]) -> dict[str, float | None]:
    """Losses for a record: JSON has no NaN. A skipped step has such losses."""
    return {name: value if math.isfinite(value) else None for name, value in losses.items()}
