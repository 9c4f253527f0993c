"""A pruning decision that a kill cannot tear: made once, written in one record together with the pruner's notes.

Optuna's halving pruners note in the storage that a trial has passed a rung BEFORE they say whether it goes on. A kill
between the two loses a "no" for ever: asked again, they see the rung as passed. Here a pruner works on a storage that
holds its notes back; decision and notes are then one line of the journal, and the notes are copied out after it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

KEY = "cid_ray:decision:{step}"
Counted = Callable[[list[FrozenTrial]], list[FrozenTrial]]  # of all trials of a study those that count


class HeldBack:
    """A storage that keeps what is written to trials to itself, and has those that count; else it is the real one."""

    def __init__(self, storage: Any, counted: Counted):
        self.storage, self.counted, self.notes = storage, counted, dict[str, Any]()

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = self.counted(self.storage.get_all_trials(study_id, deepcopy))
        return [trial for trial in found if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.notes[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def should_prune(study: optuna.Study, trial_id: int, step: int, counted: Counted = list) -> bool:
    """The pruner's decision on a trial that has reported `step`: the same however often it is asked."""
    storage = study._storage
    key = KEY.format(step=step)
    decision = storage.get_trial(trial_id).system_attrs.get(key)
    if decision is None:
        held = HeldBack(storage, counted)
        view = optuna.Study(study.study_name, held, sampler=study.sampler, pruner=study.pruner)  # type: ignore[arg-type]
        prune = bool(study.pruner.prune(view, storage.get_trial(trial_id)))
        decision = {"prune": prune, "notes": held.notes}
        storage.set_trial_system_attr(trial_id, key, decision)
    present = storage.get_trial(trial_id).system_attrs
    for name, value in decision["notes"].items():
        if name not in present:
            storage.set_trial_system_attr(trial_id, name, value)
    return bool(decision["prune"])
