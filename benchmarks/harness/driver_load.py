"""A search of thousands of concurrent trials in one process: only training is made up.

Studies, journal, pruner, sampler, records and callbacks are the real ones. A trial is a list of
records with their times on a virtual clock: learning curves with noise and crossings, records of
the size that 19 classes give them, and progress between rungs. Trials differ in speed by a factor
of two.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.chaos import curve, simulated_config, simulated_record
from cid_ray.config import Config
from cid_ray.results.provenance import provenance
from cid_ray.results.records import Record
from cid_ray.search.controller import Decision, Search
from cid_ray.search.trial_spec import TrialSpec

CLASSES = [f"class {number}" for number in range(19)]
COLORS = {name: [128, 64, 128] for name in CLASSES}
NOISE = 1.0  # points of mIoU, of one evaluation
RATIOS = ("1/16", "1/8")


def load_config(trials: int, **changes: Any) -> Config:
    """The search of the chaos test with the sampler of a search space, `trials` in all."""
    search: dict[str, Any] = {"search.ratios": list(RATIOS), "search.repeats.n": 0}
    per_ratio = max(1, trials // len(RATIOS) - len(simulated_config().search.baselines))
    return simulated_config(trials=per_ratio, **{**search, **changes})


def full_record(config: Config, name: str, step: int, chance: random.Random) -> Record:
    """A rung as a trial sends it, with the scores of each class."""
    value = min(99.0, max(1.0, curve(config, step) + chance.gauss(0, NOISE)))
    iou = {label: round(value + chance.uniform(-5, 5), 3) for label in CLASSES}
    return {
        **simulated_record(config, name, step),
        "val/miou": value,
        "val/miou_teacher": value,
        "val/iou": iou,
        "val/iou_teacher": iou,
        "colors": COLORS,
        "versions": provenance()["versions"],
    }


def progress_of(record: Record) -> Record:
    """A progress record of the same moment."""
    fields = ("run", "ratio", "method", "trial_number", "repeats_of", "repeat_index", "step")
    more = ("images_seen", "seconds", "images_per_s", "losses", "warning")
    return {"event": "progress", **{name: record[name] for name in (*fields, *more)}}


def timed_records(
    config: Config, name: str, seconds: float, interval: float
) -> Iterator[tuple[float, Record]]:
    """The records of a trial with the seconds since its start.

    Args:
        config: the trial's configuration.
        name: its run name.
        seconds: of a training to the end.
        interval: seconds between two progress records.
    """
    chance = random.Random(f"{name} {config.train.seed}")
    seconds *= chance.uniform(0.7, 1.4)
    now = 0.0
    for step in config.train.rung_steps:
        record = full_record(config, name, step, chance)
        rung_time = seconds * step / config.train.steps
        while now + interval < rung_time:
            now += interval
            yield now, progress_of(record)
        now = rung_time
        yield now, {"event": "rung", **record}
    yield now, {"event": "final", **record}


@dataclass
class Load:
    """Runs a search: `concurrent` trials at a time on a virtual clock.

    Attributes:
        search: opened, with its callbacks.
        concurrent: trials at the same time.
        trial_seconds: of a training to the end, on the virtual clock.
        interval_of: seconds between two progress records of a trial.
        finished: trials that have ended.
        clock: virtual seconds.
    """

    search: Search
    concurrent: int
    trial_seconds: float
    interval_of: Callable[[TrialSpec], float]
    finished: int = 0
    clock: float = 0.0
    _events: list[Any] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def run(self, until: int | None = None) -> None:
        """Run until so many trials have ended, or all of them."""
        self._fill()
        while self._events and (until is None or self.finished < until):
            self.clock, _, start, record, rest = heapq.heappop(self._events)
            if self.search.report(record) is Decision.STOP:
                self.finished += 1
                self._fill()
            else:
                self._push(start, rest)

    def _fill(self) -> None:
        while len(self._events) < self.concurrent:
            trial = self.search.next_trial()
            if trial is None:
                return
            interval = self.interval_of(trial)
            records = timed_records(trial.config, trial.name, self.trial_seconds, interval)
            trial.payload  # noqa: B018  # as Tune gets it
            self._push(self.clock, records)

    def _push(self, start: float, records: Iterator[tuple[float, Record]]) -> None:
        seconds, record = next(records)
        event = (start + seconds, next(self._order), start, record, records)
        heapq.heappush(self._events, event)
