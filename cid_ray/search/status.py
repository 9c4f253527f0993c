"""Where a search is, as numbers: for every ratio and method what has finished, what runs, the best
so far and the ETA.

Finished trials are counted in the studies: those of earlier processes and of other machines too.
Running trials are those of this process, as its events tell.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from cid_ray.callbacks.base import Callback
from cid_ray.results.progress import remaining_seconds, run_remaining_seconds
from cid_ray.results.records import Record
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.search.trial_states import STATE_NAMES

RatioMethod = tuple[str, str]
LISTED_RUNNING = 10  # running trials of a ratio and method that a status lists


@dataclass(frozen=True)
class RunningTrial:
    """A trial that runs: its step, its mIoU at its last rung, the seconds it still needs."""

    name: str
    steps: int
    step: int = 0
    value: float | None = None
    eta: float | None = None


@dataclass(frozen=True)
class StudyStatus:
    """One ratio and method. Values are of `search.metric`, over completed trials."""

    ratio: str  # with its label count: "1/16 (23)"
    method: str
    n_trials: int
    finished: Mapping[str, int]  # complete, pruned, failed -> trials
    running: tuple[RunningTrial, ...]  # the newest LISTED_RUNNING of them
    n_running: int
    best: float | None
    over_supervised: float | None
    eta: float | None  # seconds; None: nothing to estimate from, or nothing left
    repeats: tuple[int, int]  # of its best runs: finished, planned


@dataclass
class StudyProgress:
    """What StudyStatus is computed from."""

    n_trials: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    repeats: int = 0
    repeats_planned: int = 0
    since: float | None = None  # when its first trial in this process started
    finished_before: int = 0  # trials that had finished then


class SearchStatus(Callback):
    """Keeps the status up to date from the search's events.

    Args:
        store: the studies.
        ratio_names: ratio -> ratio with its label count, e.g. "1/16" -> "1/16 (23)".
        clock: seconds; injected by tests.
    """

    def __init__(
        self,
        store: StudyStore,
        ratio_names: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.store = store
        self.ratio_names = ratio_names
        self.clock = clock
        self.metric = store.config.search.metric
        self.progress: dict[RatioMethod, StudyProgress] = {}
        self.running: dict[str, RatioMethod] = {}  # run name -> its study
        self.trials: dict[RatioMethod, dict[str, RunningTrial]] = {}  # those that run
        repeats = store.config.search.repeats
        for key in store.search_keys():
            n_trials = store.n_trials(key)
            candidates = min(repeats.top, n_trials) if key.method == "cid" else 1
            planned = repeats.n * candidates
            self.progress[key.ratio, key.method] = StudyProgress(n_trials, repeats_planned=planned)
        self.on_refresh()

    # ---- events ----

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        study = (trial.key.ratio, trial.key.method)
        progress = self.progress[study]
        if progress.since is None:
            progress.since = self.clock()
            progress.finished_before = progress.finished.total()
        self.running[trial.name] = study
        running = RunningTrial(trial.name, trial.config.train.steps)
        self.trials.setdefault(study, {})[trial.name] = running

    def on_trial_result(self, record: Record) -> None:
        if record["run"] not in self.running or record["event"] not in ("progress", "rung"):
            return
        trials = self.trials[self.running[record["run"]]]
        trial = trials[record["run"]]
        value = record.get(self.metric)
        trials[record["run"]] = replace(
            trial,
            step=record["step"],
            value=trial.value if value is None else value,
            eta=run_remaining_seconds({**record, "steps": trial.steps}),
        )

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self._ended(trial.name)
        self.on_refresh()

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self._ended(trial.name)
        self.on_refresh()

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self._ended(trial.name)

    def on_trial_stale(self, run: str, reason: str) -> None:
        self._ended(run)

    def _ended(self, run: str) -> None:
        study = self.running.pop(run, None)
        if study is not None:
            del self.trials[study][run]

    def on_refresh(self) -> None:
        for progress in self.progress.values():
            progress.repeats = 0
        for key in self.store.studies:
            progress = self.progress[key.ratio, key.method]
            counts = self.store.state_counts(key)
            finished = Counter({name: counts[state] for state, name in STATE_NAMES.items()})
            if key.repeats_of:
                progress.repeats += finished.total()
            else:
                progress.finished = +finished
                progress.best = self.store.best_value(key)

    # ---- status ----

    def studies(self) -> list[StudyStatus]:
        """Every ratio and method, in the order of the ratios."""
        ratios = list(self.ratio_names)
        return [self._status(s) for s in sorted(self.progress, key=lambda s: ratios.index(s[0]))]

    def _status(self, study: RatioMethod) -> StudyStatus:
        ratio, method = study
        progress = self.progress[study]
        supervised = self.progress.get((ratio, "supervised"))
        base = supervised.best if supervised and method != "supervised" else None
        over = None if base is None or progress.best is None else progress.best - base
        running = self.trials.get(study, {})
        eta = None
        left = progress.n_trials - progress.finished.total()
        if progress.since is not None and left:
            eta = remaining_seconds(
                self.clock() - progress.since,
                progress.finished.total() - progress.finished_before,
                progress.n_trials - progress.finished_before,
            )
        return StudyStatus(
            ratio=self.ratio_names[ratio],
            method=method,
            n_trials=progress.n_trials,
            finished=dict(progress.finished),
            running=tuple(reversed(list(islice(reversed(running.values()), LISTED_RUNNING)))),
            n_running=len(running),
            best=progress.best,
            over_supervised=over,
            eta=eta,
            repeats=(progress.repeats, progress.repeats_planned),
        )
