"""Which trial runs next (order.py has the rules as pure functions).

Interrupted trials come first; each resumes from its own last checkpoint. Then baselines, then CID,
then repeats; within each the study with the fewest started trials, so all ratios advance together.
With `search.warm_start_ratios` a method runs ratio by ratio, fewest labels first. Each ratio starts
with the best hyperparameters of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from cid_ray.search import _optuna_compat, order, trial_states
from cid_ray.search.plugins import make_sampler
from cid_ray.search.repeats import new_repeat_studies
from cid_ray.search.sampler_view import study_for_sampler
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import (
    StudyKey,
    TrialSpec,
    search_studies,
    trial_config,
    with_progress_interval,
)


@dataclass(frozen=True)
class InterruptedTrial:
    """A trial that was RUNNING when its process ended."""

    key: StudyKey
    trial_id: int


class TrialQueue:
    """Hands out the trials of a search.

    Attributes:
        running: run name -> trial that runs in this process's search.
        resume_queue: interrupted trials, to be handed out first.
        max_concurrent: trials that run at the same time; more send progress less often.
    """

    def __init__(self, store: StudyStore):
        self.store = store
        self.max_concurrent = 1
        self.running: dict[str, TrialSpec] = {}
        self.resume_queue: list[InterruptedTrial] = []
        for key in search_studies(store.config):
            self._open(key)
        self._open_repeats()

    def _open(self, key: StudyKey) -> None:
        self.store.open_study(key)
        for trial in self.store.trials(key, TrialState.RUNNING):
            if self.store.is_own(trial):
                self.resume_queue.append(InterruptedTrial(key, _optuna_compat.trial_id(trial)))

    def _open_repeats(self) -> None:
        for key in new_repeat_studies(self.store):
            self._open(key)

    def trial_ids(self) -> list[int]:
        """Storage ids of the trials that this machine runs or is about to resume."""
        running = [_optuna_compat.trial_id(spec.trial) for spec in list(self.running.values())]
        return running + [interrupted.trial_id for interrupted in list(self.resume_queue)]

    # ---- the next trial ----

    def next_trial(self) -> TrialSpec | None:
        """The next trial to run; None when there is none now, and for good unless some are
        `running`.
        """
        while True:
            self._open_repeats()
            if self.resume_queue:
                interrupted = self.resume_queue.pop(0)
                frozen = self.store.storage.get_trial(interrupted.trial_id)
                if frozen.state != TrialState.RUNNING:
                    continue  # another machine took it while it waited
                study = self._study_with_sampler(interrupted.key, frozen.number)
                return self._start(interrupted.key, optuna.Trial(study, interrupted.trial_id))
            key = self._next_study()
            if key is None:
                return None
            if not self.store.n_started(key):
                self._warm_start_ratio(key)
            waiting = self.store.trials(key, TrialState.WAITING)
            number = waiting[0].number if waiting else self.store.count(key)
            trial = self._study_with_sampler(key, number).ask()
            if not self.store.shared or self.store.claim(key, trial):
                return self._start(key, trial)

    def _next_study(self) -> StudyKey | None:
        store = self.store
        search = store.config.search
        return order.next_study(store.studies, store.n_started, store.n_trials, search)

    def _warm_start_ratio(self, key: StudyKey) -> None:
        """Enqueue the best hyperparameters of the ratio with the next fewer labels as the study's
        first trial.
        """
        if not self.store.config.search.warm_start_ratios or key.repeats_of:
            return
        search = self.store.config.search
        index = order.ratio_index(key.ratio, search) - 1
        for other in self.store.search_keys():
            if other.method == key.method and order.ratio_index(other.ratio, search) == index:
                for best in self.store.ranked(other, 1):
                    if best.params:  # else there is nothing to tune
                        attrs = {trial_states.WARM_STARTED_FROM: best.user_attrs["run"]}
                        study = self.store.studies[key]
                        study.enqueue_trial(best.params, attrs, skip_if_exists=True)

    def _study_with_sampler(self, key: StudyKey, number: int) -> optuna.Study:
        """The study with the sampler for one trial number."""
        # Two machines must not suggest the same hyperparameters, so the owner is part of the seed.
        salt = int(self.store.owner[:8], 16) if self.store.shared else 0
        index = self.store.study_index(key)
        sampler = make_sampler(self.store.config, index, number + salt)
        self.store.studies[key].sampler = sampler  # hears of the end of a trial
        n_startup = int(self.store.config.search.sampler.args.get("n_startup_trials", 0))
        return study_for_sampler(self.store.studies[key], sampler, n_startup)

    def _start(self, key: StudyKey, trial: optuna.Trial) -> TrialSpec:
        """A trial becomes `running`, with the hyperparameters that the sampler suggests for it."""
        store = self.store
        repeat_index = store.repeat_index(key, trial)
        if key.repeats_of:
            params = {**store.space.fixed, **key.params}
        elif store.n_trials(key) > 1 or key.method == "cid":
            params = store.space.of_method(key.method).suggest(trial)
        else:
            params = dict(store.space.fixed)
        name = key.run_name(trial.number, repeat_index, trial_states.RETRY_OF in trial.user_attrs)
        config = trial_config(store.config, key, params, repeat_index)
        config = with_progress_interval(config, self.max_concurrent)
        score_test = order.is_tested_at_its_end(key, store.n_trials)
        if trial.user_attrs.get("run") != name:
            trial.set_user_attr("run", name)
        spec = TrialSpec(key, name, config, trial, params, score_test, repeat_index)
        self.running[name] = spec
        return spec

    # ---- retries ----

    def retry(self, run: str, reason: str) -> int:
        """Queue a running trial whose process died or whose node was taken. Returns the number of
        the retry, counting both; 0: no retry is left.
        """
        spec = self.running[run]
        search = self.store.config.search
        kinds = (trial_states.RETRIES, trial_states.PREEMPTIONS)
        counts = {kind: int(spec.trial.user_attrs.get(kind, 0)) for kind in kinds}
        kind, limit = trial_states.RETRIES, search.retries
        if reason.startswith(trial_states.PREEMPTED):
            kind, limit = trial_states.PREEMPTIONS, search.max_preemption_failures
        if counts[kind] >= limit:
            return 0
        spec.trial.set_user_attr(kind, counts[kind] + 1)
        del self.running[run]
        self.resume_queue.append(InterruptedTrial(spec.key, _optuna_compat.trial_id(spec.trial)))
        return sum(counts.values()) + 1
