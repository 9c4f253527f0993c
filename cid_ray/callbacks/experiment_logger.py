"""A search in an experiment tracker (TensorBoard, MLflow, W&B), through Ray's own callback for it.

Tune's trials carry a payload and records as JSON, so Ray's callback is called by hand: a run of the
search is a trial under its own name, and what was measured is a result at `images_seen`, which
continues after a resume. `records.jsonl` is the source of truth: after a crash or an outage missing
points are back-filled, and none is logged twice.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cid_ray.callbacks.base import Callback
from cid_ray.results.records import Record
from cid_ray.search.trial_spec import TrialSpec

SCALARS = ("step", "seconds", "images_per_s", "latency_ms")
SCORES = ("val/miou", "test/miou", "best/val/miou", "best/test/miou")
INTERRUPTED = "interrupted"
TEST_SCORES = ("test/", "best/")


class LoggedTrial:
    """What Ray's callbacks read of a Tune trial."""

    def __init__(self, name: str, search_id: str, params: dict[str, Any], folder: Path, group: str):
        self.name = name
        self.config = params
        self.evaluated_params = dict(params)
        self.trial_id = f"{search_id}-{name}"
        self.local_path = str(folder)
        self.experiment_dir_name = group

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


@dataclass
class LoggedRun:
    """What a tracker already has of a run."""

    points: set[tuple[str, int]] = field(default_factory=set)  # (metric, images seen)
    finished: bool = False
    last_images: int = -1

    def add(self, points: Iterable[tuple[str, int]]) -> None:
        for point in points:
            self.points.add(point)
            self.last_images = max(self.last_images, point[1])


@dataclass
class SearchHistory:
    """The search so far: its id, its runs, and the records of each."""

    search_id: str
    runs: Mapping[str, TrialSpec]
    records: Mapping[str, list[Record]]


class ExperimentLogger(Callback):
    """Logs a search to one tracker. Subclasses know one of Ray's callbacks each.

    Attributes:
        package: what has to be installed for it.
        ray_callback: module and class of Ray's callback.
    """

    package: ClassVar[str]
    ray_callback: ClassVar[tuple[str, str]]

    def __init__(self, callback: Any, out: Path, history: SearchHistory):
        self.callback = callback
        self.out = out
        self.history = history
        self.trials: dict[str, LoggedTrial] = {}
        self.running: set[str] = set()
        # The last rung's metrics wait for the final scores: both are at the same `images_seen`, and
        # some trackers accept one result per step.
        self.pending_metrics: dict[str, dict[str, float]] = {}
        callback.setup()
        self.logged: dict[str, LoggedRun] = defaultdict(LoggedRun, self.logged_runs())
        for name, spec in history.runs.items():
            self.backfill(spec, history.records.get(name, []))

    def backfill(self, spec: TrialSpec, records: list[Record]) -> None:
        """Log what is missing of a finished run; an unfinished one will start again."""
        end = next((r for r in records if r["event"] == "trial"), None)
        if end is None:
            return
        if self.logged[spec.name].finished:
            for record in records:
                if record["event"] == "final":
                    self.log_test_scores(record)
            return
        self.on_trial_start(spec, True)
        for record in records:
            self.on_trial_result(record)
        self.end_run(spec.name, end["state"], end["reason"])

    # ---- events ----

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        logged = self.logged_trial(trial)
        self.continue_run(logged)
        self.callback.log_trial_start(logged)
        self.running.add(logged.name)
        if resumed:
            for record in self.history.records.get(logged.name, []):
                if record["event"] == "rung":
                    self.on_trial_result(record)

    def on_trial_result(self, record: Record) -> None:
        name = record["run"]
        event = record["event"]
        images = record.get("images_seen", 0)
        running = name in self.running
        if event == "rung" and record["step"] >= record["steps"] and running:
            self.pending_metrics[name] = metrics_of(record)
        elif event == "final" and running:
            self.log(name, images, self.pending_metrics.pop(name, {}) | metrics_of(record))
        elif event == "final":
            self.log_test_scores(record)
        elif event == "rung" or (event == "progress" and images > self.logged[name].last_images):
            self.log(name, images, metrics_of(record))

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self.end_run(trial.name, state, "")

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self.end_run(trial.name, "failed", reason)

    def on_trial_stale(self, run: str, reason: str) -> None:
        if run in self.running:
            self.end_run(run, INTERRUPTED, reason)

    def on_search_end(self) -> None:
        for name in list(self.running):
            self.end_run(name, INTERRUPTED, "")
        self.callback.on_experiment_end([])

    # ---- logging ----

    def logged_trial(self, spec: TrialSpec) -> LoggedTrial:
        """The trial of a run: the same object however often it starts."""
        config = spec.config
        params: dict[str, Any] = {
            "ratio": spec.key.ratio,
            "method": spec.key.method,
            "seed": config.train.seed,
            "draw": config.data.draw,
            **spec.params,
        }
        fresh = LoggedTrial(
            spec.name, self.history.search_id, params, self.folder(spec.name), self.out.name
        )
        return self.trials.setdefault(spec.name, fresh)

    def log(self, name: str, images: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics at `images` that the tracker does not have."""
        logged = self.logged[name]
        fresh = {key: v for key, v in metrics.items() if (key, images) not in logged.points}
        if fresh:
            logged.add((key, images) for key in fresh)
            result = {**fresh, "training_iteration": images}
            self.callback.log_trial_result(0, self.trials[name], result)

    def log_test_scores(self, record: Record) -> None:
        """The test scores of a run that has finished: the search chose it."""
        name = record["run"]
        images = record["images_seen"]
        scores = {k: v for k, v in metrics_of(record).items() if k.startswith(TEST_SCORES)}
        if name not in self.trials and name not in self.history.runs:
            return  # another machine's
        if all((key, images) in self.logged[name].points for key in scores):
            return
        trial = self.trials.get(name) or self.logged_trial(self.history.runs[name])
        trial.evaluated_params = {}  # logged when the run ended
        self.reopen_run(trial)
        self.log(name, images, scores)
        self.callback.log_trial_end(trial, failed=False)

    def end_run(self, name: str, state: str, reason: str) -> None:
        """End a run in the tracker: "complete", "pruned", "failed" or INTERRUPTED."""
        trial = self.trials[name]
        logged = self.logged[name]
        if name in self.pending_metrics:
            metrics = self.pending_metrics.pop(name)
            self.log(name, int(metrics["images_seen"]), metrics)
        if not logged.points and state != INTERRUPTED:
            # Some callbacks drop the end of a trial that has no result.
            self.log(name, 0, {"images_seen": 0.0})
        trial.evaluated_params = {} if state == INTERRUPTED else {**trial.config, "state": state}
        self.callback.log_trial_end(trial, failed=state == "failed")
        self.close_run(trial, state, reason)
        self.running.discard(name)
        logged.finished = state != INTERRUPTED

    # ---- what each callback needs ----

    @classmethod
    def callback_class(cls) -> Any:
        module, name = cls.ray_callback
        return getattr(importlib.import_module(module), name)

    @staticmethod
    def arguments(args: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Arguments of Ray's callback: those of the configuration, and what the search fills in."""
        return dict(args)

    @classmethod
    def make(cls, args: Mapping[str, Any], out: Path) -> Any:
        """Ray's callback."""
        return cls.callback_class()(**cls.arguments(args, out))

    @classmethod
    def check_arguments(cls, args: Mapping[str, Any]) -> None:
        """Raise what the tracker says of its arguments; no server is asked, no run started."""
        cls.make(args, Path("run"))

    def folder(self, name: str) -> Path:
        """Where Ray's callback writes files of a run."""
        return self.out

    def logged_runs(self) -> dict[str, LoggedRun]:
        """What the tracker has of runs that were started before."""
        return {}

    def continue_run(self, trial: LoggedTrial) -> None:
        """Called before a run starts or resumes."""

    def reopen_run(self, trial: LoggedTrial) -> None:
        """Called before test scores of a finished run are logged."""
        self.continue_run(trial)
        self.callback.log_trial_start(trial)

    def close_run(self, trial: LoggedTrial, state: str, reason: str) -> None:
        """Called after a run has ended: what Ray's callback cannot say."""


def metrics_of(record: Record) -> dict[str, float]:
    """The plain numbers of a record, without empty values; losses under `losses/`."""
    found: dict[str, Any] = {}
    for key, value in record.get("losses", {}).items():
        found[key if key == "mask_ratio" else f"losses/{key}"] = value
    for key in ("images_seen", *SCALARS):
        found[key] = record.get(key)
    for key in SCORES:
        for network in ("", "_teacher"):
            found[key + network] = record.get(key + network)
    return {key: float(value) for key, value in found.items() if value is not None}


def records_by_run(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Run name -> its rung, final and trial records."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.get("event") in ("rung", "final", "trial"):
            found.setdefault(record["run"], []).append(record)
    return found
