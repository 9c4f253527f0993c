"""A pruning decision that a kill cannot tear: made once, written in one record together with the pruner's notes.

Optuna's halving pruners note in the storage that a trial has passed a rung BEFORE they say whether it goes on. A kill
between the two loses a "no" for ever: asked again, they see the rung as passed. Here a pruner works on a storage that
holds its notes back; decision and notes are then one line of the journal, and the notes are copied out after it.
"""

from __future__ import annotations

from typing import Any

import optuna

KEY = "cid_ray:decision:{step}"


class HeldBack:
    """A storage that keeps what is written to trials to itself; everything else is the real one's."""

    def __init__(self, storage: Any):
        self.storage, self.notes = storage, dict[str, Any]()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.notes[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def should_prune(study: optuna.Study, trial_id: int, step: int) -> bool:
    """The pruner's decision on a trial that has reported `step`: the same however often it is asked."""
    storage = study._storage
    key = KEY.format(step=step)
    decision = storage.get_trial(trial_id).system_attrs.get(key)
    if decision is None:
        held = HeldBack(storage)
        view = optuna.Study(study.study_name, held, sampler=study.sampler, pruner=study.pruner)  # type: ignore[arg-type]
        prune = bool(study.pruner.prune(view, storage.get_trial(trial_id)))
        decision = {"prune": prune, "notes": held.notes}
        storage.set_trial_system_attr(trial_id, key, decision)
    present = storage.get_trial(trial_id).system_attrs
    for name, value in decision["notes"].items():
        if name not in present:
            storage.set_trial_system_attr(trial_id, name, value)
    return bool(decision["prune"])
