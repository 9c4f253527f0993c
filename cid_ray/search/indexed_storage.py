"""A journal's trials in memory: what a search asks of its studies costs the same at any size.

Optuna's JournalStorage looks at its file and goes through all trials of a study for every question.
In a run folder this process is the only writer of trials (the folder is locked), so what it has
written is what there is. Writes go to the journal first, and to memory once they are on the disk.
"""

from __future__ import annotations

import copy
from collections.abc import Container
from contextlib import AbstractContextManager
from typing import Any

from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from cid_ray.search import _optuna_compat
from cid_ray.search.journal_file import JournalFile
from cid_ray.search.trial_index import TrialIndex


class IndexedStorage:
    """A storage that answers from memory what is asked of trials, and passes on the rest.

    Args:
        storage: of the run folder's journal; nobody else may write trials to it.
        journal: its file.
    """

    def __init__(self, storage: JournalStorage, journal: JournalFile):
        self.storage = storage
        self.journal = journal
        self._indexes: dict[int, TrialIndex] = {}
        self._places: dict[int, tuple[TrialIndex, int]] = {}  # trial id -> its study and number
        self._study_ids: dict[str, int] = {}
        self._directions: dict[int, Any] = {}

    def index(self, study_id: int) -> TrialIndex:
        """The trials of a study."""
        if study_id not in self._indexes:
            trials = self.storage.get_all_trials(study_id, deepcopy=False)
            index = self._indexes[study_id] = TrialIndex(trials)
            for trial in trials:
                self._places[_optuna_compat.trial_id(trial)] = index, trial.number
        return self._indexes[study_id]

    def one_step(self) -> AbstractContextManager[None]:
        """What the block writes is on the disk when it ends (journal_file.py)."""
        return self.journal.one_step()

    # ---- what is asked ----

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name not in self._study_ids:
            self._study_ids[study_name] = self.storage.get_study_id_from_name(study_name)
        return self._study_ids[study_name]

    def get_study_directions(self, study_id: int) -> Any:
        if study_id not in self._directions:
            self._directions[study_id] = self.storage.get_study_directions(study_id)
        return self._directions[study_id]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._places:
            return self.storage.get_trial(trial_id)  # of a study that nobody has asked for
        index, number = self._places[trial_id]
        return index.trials[number]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = self.index(study_id).in_states(states)
        return copy.deepcopy(found) if deepcopy else found

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        states = (state,) if isinstance(state, TrialState) else state
        return self.index(study_id).count(states)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        trials = self.index(study_id).trials
        if trial_number >= len(trials):
            raise KeyError(f"study {study_id} has no trial {trial_number}")
        return _optuna_compat.trial_id(trials[trial_number])

    # ---- what is written ----

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        index = self.index(study_id)
        trial_id = self.storage.create_new_trial(study_id, template_trial)
        trial = self.storage.get_trial(trial_id)
        index.put(trial)
        self._places[trial_id] = index, trial.number
        return trial_id

    def set_trial_param(self, trial_id: int, *args: Any) -> None:
        self.storage.set_trial_param(trial_id, *args)
        self._update(trial_id)

    def set_trial_state_values(self, trial_id: int, *args: Any, **kwargs: Any) -> bool:
        is_set = self.storage.set_trial_state_values(trial_id, *args, **kwargs)
        self._update(trial_id)
        return is_set

    def set_trial_intermediate_value(self, trial_id: int, *args: Any) -> None:
        self.storage.set_trial_intermediate_value(trial_id, *args)
        self._update(trial_id)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial_id, key, value)
        self._update(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.storage.set_trial_system_attr(trial_id, key, value)
        self._update(trial_id)

    def _update(self, trial_id: int) -> None:
        if trial_id in self._places:
            self._places[trial_id][0].put(self.storage.get_trial(trial_id))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)
