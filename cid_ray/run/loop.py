"""The training loop, the same for one process, for Ray Train's workers and for a Tune trial.

`train` is a generator: it yields a row at every rung and at the end, and short progress rows in between, and whoever
iterates it decides what a row is for (a file, Ray Train, Tune). Closing it stops the run: that is all pruning needs.
A run that finds its own last checkpoint goes on from there; one that finds it complete only tests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from cid_ray.data.batches import Batch, local_batches
from cid_ray.data.pool import ray_batches
from cid_ray.results.record import Row, provenance
from cid_ray.run.final import closing_scores, latency_ms, scores_row
from cid_ray.run.pictures import keep_pictures
from cid_ray.run.run import Job, Run

PROGRESS_SECONDS = 2.0


def train(job: Job) -> Iterator[Row]:
    """Rows of one run: `progress` every few seconds, `rung` at every rung, one `final`.

    A run that goes on from its checkpoint yields that rung's row once more: a kill may have come before anyone saw it.
    """
    run = Run(job)
    head = {**run.header(), **provenance()}
    if run.last_rung:
        yield {**head, **run.last_rung}
    batches = feed(run)
    clock = Clock(run)
    for batch in batches:
        terms = run.train_step(batch)
        at_rung = run.step in run.config.train.rung_steps
        if not at_rung and clock.checkpoint_due():
            run.health.check_finite()
            run.seconds = clock.read()["seconds"]
            run.save()
        if not at_rung and not clock.due():
            continue
        run.health.check_finite()
        losses = run.mean_over_workers(terms.floats()) if at_rung else terms.floats()
        run.health.pseudo_labels(losses["mask_ratio"], run.step)
        shown = {name: value if math.isfinite(value) else None for name, value in losses.items()}  # a step left out
        cost = {**run.place(), **clock.read()}
        if not at_rung:
            yield {"event": "progress", "run": job.name, **cost, "losses": shown, "warning": run.health.fresh()}
            continue
        run.agree()
        val = run.evaluate("val")
        run.remember(val)
        run.seconds = clock.read()["seconds"]
        pictures = {"samples": keep_pictures(run, "val"), "colors": run.colors}
        run.last_rung = {
            "event": "rung",
            **cost,
            "losses": shown,
            **scores_row("val", val),
            **pictures,
            **run.health.row(),
        }
        run.save()
        yield {**head, **run.last_rung}
    cost = {**run.place(), **clock.read()}
    scores = closing_scores(run) if job.test else scores_row("val", run.last_val)
    if run.config.search.cost == "latency_ms":
        scores["latency_ms"] = latency_ms(run)
    yield {"event": "final", **head, **cost, **scores, "warnings": run.health.found.warnings}


def feed(run: Run) -> Iterator[Batch]:
    """The batches of the steps that are left: by this process's threads, the pool by Ray Data where that is asked."""
    job, data, steps = run.job, run.config.data, run.config.train.steps
    if job.use_ray_data:
        cpus = run.config.scale.data_cpus / job.world
        return ray_batches(run.reader, run.plan, data, run.step, steps, job.rank, job.world, cpus)
    return local_batches(run.reader, run.plan, data, run.step, steps, job.rank, job.world)


class Clock:
    """Seconds of this run over all its restarts, and its speed since this one."""

    def __init__(self, run: Run):
        self.run, self.before, self.first_step = run, run.seconds, run.step
        self.started = self.shown = self.saved = time.monotonic()

    def checkpoint_due(self) -> bool:
        """Between rungs, as `train.checkpoint_steps` and `train.checkpoint_minutes` ask."""
        train, now = self.run.config.train, time.monotonic()
        minutes = train.checkpoint_minutes
        due = bool(train.checkpoint_steps and self.run.step % train.checkpoint_steps == 0)
        due = due or bool(minutes and now - self.saved > 60 * minutes)
        if due:
            self.saved = now
        return due

    def due(self) -> bool:
        return time.monotonic() - self.shown > PROGRESS_SECONDS

    def read(self) -> Row:
        self.shown = time.monotonic()
        spent = max(1e-9, self.shown - self.started)
        images = (self.run.step - self.first_step) * self.run.images_per_step
        return {"seconds": round(self.before + spent, 3), "images_per_s": round(images / spent, 2)}
