"""A search told to a tracker (TensorBoard, MLflow, W&B) by Ray's own callback for it.

Tune's trials hold a task and rows as JSON, so the callback is fed by hand: a run of the search is a trial under its own
name, and what is measured is a result at `images_seen`, which goes on where it was after a resume. The record is the
truth: what the tracker lacks of it (after a kill or an outage, or because it came later) it is told at the start, and
what it has it is not told again.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cid_ray.results.record import Row
from cid_ray.search.arms import Assignment

SCALARS = ("step", "seconds", "images_per_s", "latency_ms")
SCORES = ("val/miou", "test/miou", "best/val/miou", "best/test/miou")
INTERRUPTED = "interrupted"


class Trial:
    """What Ray's callbacks look at of a Tune trial."""

    def __init__(self, name: str, search_id: str, settings: dict[str, Any], folder: Path, group: str):
        self.name, self.config, self.evaluated_params = name, settings, dict(settings)
        self.trial_id, self.local_path, self.experiment_dir_name = f"{search_id}-{name}", str(folder), group

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


@dataclass
class Kept:
    """What a tracker has of a run."""

    points: set[tuple[str, int]] = field(default_factory=set)  # what is measured, images seen
    ended: bool = False
    seen: int = -1  # the most images

    def add(self, points: Iterable[tuple[str, int]]) -> None:
        for point in points:
            self.points.add(point)
            self.seen = max(self.seen, point[1])


@dataclass
class Past:
    """The search so far: its id, its runs, and the rows of each."""

    search_id: str
    runs: Mapping[str, Assignment]
    rows: Mapping[str, list[Row]]


class Tracker:
    """A listener of the search (search/watch.py). Subclasses know one callback each."""

    def __init__(self, callback: Any, out: Path, past: Past):
        self.callback, self.out, self.past = callback, out, past
        self.trials: dict[str, Trial] = {}
        self.open: set[str] = set()
        self.held: dict[str, dict[str, float]] = {}  # results of the last rung, until the final scores come
        callback.setup()
        self.kept: dict[str, Kept] = defaultdict(Kept, self.what_it_has())
        for name, assignment in past.runs.items():
            self.make_up(assignment, past.rows.get(name, []))

    def make_up(self, assignment: Assignment, rows: list[Row]) -> None:
        """Tell what is lacking of a run that has ended; one that has not will be begun again."""
        end = next((row for row in rows if row["event"] == "trial"), None)
        kept = self.kept[assignment.name]
        if end and not kept.ended:
            self.begun(assignment, True)
            for row in rows:
                self.row(row)
            self.ended(assignment.name, end["state"], end["reason"])
        elif end:
            for row in (row for row in rows if row["event"] == "final"):
                self.log_late(row)

    # ---- what a listener is told ----

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        trial = self.trial(assignment)
        self.go_on(trial)
        self.callback.log_trial_start(trial)
        self.open.add(trial.name)
        for row in self.past.rows.get(trial.name, []) if resumed else []:
            if row["event"] == "rung":
                self.row(row)

    def row(self, row: Row) -> None:
        name, event, step = row["run"], row["event"], row.get("images_seen", 0)
        if event == "rung" and row["step"] >= row["steps"] and name in self.open:
            self.held[name] = measured(row)
        elif event == "final" and name in self.open:
            self.log(name, step, self.held.pop(name, {}) | measured(row))
        elif event == "final":
            self.log_late(row)
        elif event == "rung" or (event == "progress" and step > self.kept[name].seen):
            self.log(name, step, measured(row))

    def retried(self, name: str, reason: str, again: int) -> None:
        """Begun again it goes on; one that its machine has lost is another's."""
        if not again and name in self.open:
            self.ended(name, INTERRUPTED, reason)

    def ended(self, name: str, how: str, reason: str) -> None:
        trial, kept = self.trials[name], self.kept[name]
        if name in self.held:
            held = self.held.pop(name)
            self.log(name, int(held["images_seen"]), held)
        if not kept.points and how != INTERRUPTED:  # an end without a result is not kept by all callbacks
            self.log(name, 0, {"images_seen": 0.0})
        trial.evaluated_params = {} if how == INTERRUPTED else {**trial.config, "state": how}
        self.callback.log_trial_end(trial, failed=how == "failed")
        self.close_run(trial, how, reason)
        self.open.discard(name)
        kept.ended = how != INTERRUPTED

    def looked(self) -> None:
        """What other machines do, they tell."""

    def close(self) -> None:
        for name in list(self.open):
            self.ended(name, INTERRUPTED, "")
        self.callback.on_experiment_end([])

    # ---- telling ----

    def trial(self, assignment: Assignment) -> Trial:
        """The trial of a run, the same one however often it is begun."""
        name, config = assignment.name, assignment.config
        settings: dict[str, Any] = {"ratio": assignment.arm.ratio, "method": assignment.arm.method}
        settings |= {"seed": config.train.seed, "draw": config.data.draw, **assignment.params}
        fresh = Trial(name, self.past.search_id, settings, self.folder(name), self.out.name)
        return self.trials.setdefault(name, fresh)

    def log(self, name: str, step: int, results: Mapping[str, float]) -> None:
        """Those of the results at `step` images seen that the tracker does not have."""
        kept = self.kept[name]
        fresh = {key: value for key, value in results.items() if (key, step) not in kept.points}
        if fresh:
            kept.add((key, step) for key in fresh)
            self.callback.log_trial_result(0, self.trials[name], {**fresh, "training_iteration": step})

    def log_late(self, row: Row) -> None:
        """The held-out score of a run that has ended: the search chose it."""
        name, step = row["run"], row["images_seen"]
        scores = {key: value for key, value in measured(row).items() if key.startswith(("test/", "best/"))}
        known = name in self.trials or name in self.past.runs  # else it is another machine's
        if not known or all((key, step) in self.kept[name].points for key in scores):
            return
        trial = self.trials.get(name) or self.trial(self.past.runs[name])
        trial.evaluated_params = {}  # its end has told them
        self.reopen(trial)
        self.log(name, step, scores)
        self.callback.log_trial_end(trial, failed=False)

    # ---- what each callback needs ----

    package: str  # that it needs
    ray_callback: tuple[str, str]  # module and class

    @classmethod
    def callback_class(cls) -> Any:
        module, name = cls.ray_callback
        return getattr(importlib.import_module(module), name)

    @staticmethod
    def arguments(args: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Those of the callback: what a configuration gives, and what the search fills in."""
        return dict(args)

    @classmethod
    def make(cls, args: Mapping[str, Any], out: Path) -> Any:
        return cls.callback_class()(**cls.arguments(args, out))

    @classmethod
    def try_out(cls, args: Mapping[str, Any]) -> None:
        """Raise what the tracker says at once to its arguments; no server is asked, no run begun."""
        cls.make(args, Path("run"))

    def folder(self, name: str) -> Path:
        return self.out

    def what_it_has(self) -> dict[str, Kept]:
        """Of runs that were begun before."""
        return {}

    def go_on(self, trial: Trial) -> None:
        """Before a run begins or goes on."""

    def reopen(self, trial: Trial) -> None:
        """Before a run that has ended is told its test score."""
        self.go_on(trial)
        self.callback.log_trial_start(trial)

    def close_run(self, trial: Trial, how: str, reason: str) -> None:
        """After a run has ended: what the callback itself cannot say."""


def measured(row: Row) -> dict[str, float]:
    """The plain numbers of a row that say what was measured; empty values are left out."""
    found = {("" if key == "mask_ratio" else "losses/") + key: value for key, value in row.get("losses", {}).items()}
    found |= {key: row.get(key) for key in ("images_seen", *SCALARS)}
    found |= {key + network: row.get(key + network) for key in SCORES for network in ("", "_teacher")}
    return {key: float(value) for key, value in found.items() if value is not None}


def rows_by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("event") in ("rung", "final", "trial"):
            found.setdefault(row["run"], []).append(row)
    return found
