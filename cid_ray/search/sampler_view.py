"""What the sampler sees of a large study.

TPESampler goes through all trials of a study for every suggestion, and through the finished ones
once more for each conditional hyperparameter. At 5,000 trials that takes longer than all else that
the driver does for a trial. But its model of good trials is made of at most 25 of them, and in its
model of the others the newest count most. So in a large study it sees:

- the SEEN_BEST best complete and pruned trials: its model of good trials is unchanged;
- of the other finished trials the SEEN_FINISHED newest;
- of the running ones, which keep it from suggesting the same again, the SEEN_RUNNING newest.

A study with fewer trials is seen as it is, so its suggestions are Optuna's own. Other samplers see
all trials: theirs is a population, a grid or a sequence. So does TPESampler with two objectives.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cid_ray.search import _optuna_compat
from cid_ray.search.indexed_storage import IndexedStorage
from cid_ray.search.trial_index import TrialIndex

SEEN_BEST = 25  # as many as TPESampler's model of good trials can hold
SEEN_FINISHED = 200
SEEN_RUNNING = 50
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class SamplerView:
    """A storage view that shows a sampler part of the finished and running trials.

    Args:
        storage: of the study.
        finished: how many of the newest finished trials are shown.
    """

    def __init__(self, storage: IndexedStorage, finished: int = SEEN_FINISHED):
        self.storage = storage
        self.finished = finished

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states is not None and TrialState.WAITING in states:  # `ask` looks for enqueued trials
            return self.storage.get_all_trials(study_id, deepcopy, states)
        seen = seen_trials(self.storage.index(study_id), self.finished)
        return [trial for trial in seen if states is None or trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def seen_trials(index: TrialIndex, finished: int = SEEN_FINISHED) -> list[FrozenTrial]:
    """The trials that a sampler sees, in the order of their numbers."""
    numbers = set(index.numbers[TrialState.RUNNING][-SEEN_RUNNING:])
    newest = [number for state in FINISHED for number in index.numbers[state][-finished:]]
    numbers.update(sorted(newest)[-finished:])
    for state in FINISHED:
        numbers.update(trial.number for trial in index.best(state, SEEN_BEST))
    return [index.trials[number] for number in sorted(numbers)]


def study_for_sampler(
    study: optuna.Study, sampler: optuna.samplers.BaseSampler, n_startup: int = 0
) -> optuna.Study:
    """The study as a sampler sees it.

    Args:
        study: of a search.
        sampler: of its next trial.
        n_startup: finished trials that the sampler waits for.
    """
    storage: Any = _optuna_compat.storage_of(study)
    is_tpe = isinstance(sampler, optuna.samplers.TPESampler)
    if is_tpe and isinstance(storage, IndexedStorage) and len(study.directions) == 1:
        storage = SamplerView(storage, max(SEEN_FINISHED, n_startup))
    return optuna.Study(study.study_name, storage, sampler=sampler, pruner=study.pruner)
