"""Repeats: the best runs of a finished ratio again, with new seeds and label draws. They measure
the noise floor.
"""

from __future__ import annotations

from optuna.trial import TrialState

from cid_ray.search import order
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import StudyKey


def new_repeat_studies(store: StudyStore) -> list[StudyKey]:
    """Studies to open now: the candidates of every ratio whose trials have all finished."""
    if not store.config.search.repeats.n:
        return []
    found = []
    for ratio in store.config.search.all_ratios:
        if _is_finished(store, ratio):
            found += [key for key in repeat_candidates(store, ratio) if key not in store.studies]
    return found


def _is_finished(store: StudyStore, ratio: str) -> bool:
    def n_running(key: StudyKey) -> int:
        return store.count(key, TrialState.RUNNING)

    keys = store.search_keys(ratio)
    return order.ratio_is_finished(keys, store.n_started, store.n_trials, n_running)


def repeat_candidates(store: StudyStore, ratio: str) -> list[StudyKey]:
    """The best trial of every baseline and the best `search.repeats.top` CID trials, as studies
    that repeat them.
    """
    found = []
    for key in store.search_keys(ratio):
        count = order.n_candidates(key.method, store.config.search.repeats)
        for trial in store.ranked(key, count):
            run = trial.user_attrs["run"]
            found.append(StudyKey(ratio, key.method, run, dict(trial.params)))
    return found
