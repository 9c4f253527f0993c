"""The trials of a search that is only simulated, in the order of the real one (search/order.py).

What differs from `search.trial_queue`: no hyperparameters are suggested, and a trial's seconds and
where it is pruned are drawn from a recorded run. A trial's cost depends on the seed and its name
alone, so clusters of different sizes are compared on the same trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from cid_ray.config import Config
from cid_ray.planning.trial_costs import TrialCosts
from cid_ray.search import order
from cid_ray.search.trial_spec import StudyKey


@dataclass(eq=False)
class SimulatedTrial:
    """One trial, or the test of a winner.

    Attributes:
        kind: in words, for the critical path.
        ends: seconds of work at which each of its parts is over.
        complete: it is trained to its end, so it may be repeated.
        key: its study; None for the test of a winner.
        saved: seconds of work that its last checkpoint holds.
        attempts: how often its process or node was lost.
        ready_s: when it could have started on an unlimited cluster.
        ready_after: the trial whose end made it ready; None: the search's start.
        started_after: what it waited for before its last start: a trial on the same slot or
            `ready_after`; None: its node's start.
        started_s: when it started last.
        ended_s: when it ended.
    """

    kind: str
    ends: tuple[float, ...]
    complete: bool = True
    key: StudyKey | None = None
    saved: float = 0.0
    attempts: int = 0
    ready_s: float = 0.0
    ready_after: SimulatedTrial | None = None
    started_after: SimulatedTrial | None = None
    started_s: float = 0.0
    ended_s: float = 0.0


@dataclass
class SimulatedSearch:
    """Hands out trials. Time is given by the caller.

    Attributes:
        config: of the search.
        n_trials: study -> trials that it gets; of the studies that search.
        costs: the recorded trials to draw from.
        seed: of all that is drawn.
    """

    config: Config
    n_trials: Mapping[StudyKey, int]
    costs: TrialCosts
    seed: int
    started: Counter[StudyKey] = field(default_factory=Counter)
    running: Counter[StudyKey] = field(default_factory=Counter)
    completed: Counter[StudyKey] = field(default_factory=Counter)
    resume_queue: list[SimulatedTrial] = field(default_factory=list)
    is_testing: bool = False  # all trials have ended
    n_lost: int = 0  # trials whose process died more often than `search.retries` allows
    _counts: dict[StudyKey, int] = field(default_factory=dict)
    _opened: dict[StudyKey, tuple[float, SimulatedTrial]] = field(default_factory=dict)
    _tests: list[SimulatedTrial] = field(default_factory=list)
    _n_tests_open: int = 0

    def __post_init__(self) -> None:
        self._counts = dict(self.n_trials)

    def n_of(self, key: StudyKey) -> int:
        return self._counts[key]

    def n_started(self, key: StudyKey) -> int:
        return self.started[key]

    def n_ready(self) -> int:
        """Trials that could start now."""
        left = sum(self._counts[key] - self.started[key] for key in self._counts)
        return left + len(self.resume_queue) + len(self._tests)

    def is_done(self) -> bool:
        trials_left = self.n_ready() or any(self.running.values())
        return self.is_testing and not trials_left and not self._n_tests_open

    def next_trial(self) -> SimulatedTrial | None:
        """The trial that starts now; None when none is ready."""
        if self.resume_queue:
            trial = self.resume_queue.pop(0)
        elif self._tests:
            trial = self._tests.pop(0)
        else:
            search = self.config.search
            key = order.next_study(self._counts, self.n_started, self.n_of, search)
            if key is None:
                return None
            trial = self._make_trial(key)
            self.started[key] += 1
        if trial.key:
            self.running[trial.key] += 1
        return trial

    def _make_trial(self, key: StudyKey) -> SimulatedTrial:
        # A string as seed is hashed the same way in every process.
        rng = Random(f"{self.seed} {key.study_name} {self.started[key]}")
        repeated = bool(key.repeats_of)
        cost = self.costs.draw(key.ratio, key.method, repeated, rng)
        ends = cost.ends
        if cost.complete and order.is_tested_at_its_end(key, self.n_of):
            ends = (*ends[:-1], ends[-1] + (self.costs.test_s or 0.0))
        ready_s, after = self._opened.get(key, (0.0, None))
        kind = f"repeats of {key.method}" if repeated else key.method
        return SimulatedTrial(kind, ends, cost.complete, key, ready_s=ready_s, ready_after=after)

    # ---- ends ----

    def finish(self, trial: SimulatedTrial, now: float) -> bool:
        """A trial has ended. True when others become ready: repeats, or the tests of winners."""
        trial.ended_s = now
        if trial.key is None:
            self._n_tests_open -= 1
            return False
        self.running[trial.key] -= 1
        self.completed[trial.key] += trial.complete
        opened = not trial.key.repeats_of and self._open_repeats(trial.key.ratio, trial, now)
        if not self.n_ready() and not any(self.running.values()):
            opened = self._add_tests(trial, now)
        return opened

    def retry(self, trial: SimulatedTrial, now: float) -> bool:
        """Queue a trial whose process or node was lost; False when no retry is left."""
        trial.attempts += 1
        if trial.key is not None and trial.attempts > self.config.search.retries:
            self.n_lost += 1
            trial.complete = False
            return False
        if trial.key is not None:
            self.running[trial.key] -= 1
        trial.ready_s, trial.ready_after = now, trial.started_after
        self.resume_queue.append(trial)
        return True

    def _open_repeats(self, ratio: str, trial: SimulatedTrial, now: float) -> bool:
        repeats = self.config.search.repeats
        keys = [key for key in self.n_trials if key.ratio == ratio]

        def n_running(key: StudyKey) -> int:
            return self.running[key]

        if not repeats.n or not order.ratio_is_finished(keys, self.n_started, self.n_of, n_running):
            return False
        for key in keys:
            count = min(order.n_candidates(key.method, repeats), self.completed[key])
            for number in range(count):
                study = StudyKey(ratio, key.method, f"{ratio}-{key.method}-{number}")
                self._counts[study] = repeats.n
                self._opened[study] = now, trial
        return True

    def _add_tests(self, last: SimulatedTrial, now: float) -> bool:
        """The winner of every study with several trials is scored on test after the search."""
        self.is_testing = True
        for key in self.n_trials:
            if self.completed[key] and not order.is_tested_at_its_end(key, self.n_of):
                test = SimulatedTrial("test of winners", (self.costs.test_s or 0.0,))
                test.ready_s, test.ready_after = now, last
                self._tests.append(test)
        self._n_tests_open = len(self._tests)
        return True
