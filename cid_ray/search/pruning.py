"""Crash-safe pruning: the decision and the pruner's state are written in one journal record.

Optuna's halving pruners write to the storage that a trial has passed a rung BEFORE they say whether
it continues. A kill between the two loses a "no": when asked again, the pruner sees the rung as
passed. Here a pruner works on a storage that buffers its writes. Decision and writes become one
record of the journal, and the writes are applied after it. Asked again after a kill, the recorded
decision is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cid_ray.results.records import Record
from cid_ray.search import _optuna_compat, trial_states
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import TrialSpec

DECISION_KEY = "cid_ray:decision:{step}"
TrialFilter = Callable[
    [list[FrozenTrial]], list[FrozenTrial]
]  # all trials of a study -> those that count


class BufferedStorage:
    """A storage view: reads only the trials that count, buffers what is written to trials, passes
    on the rest.
    """

    def __init__(self, storage: Any, effective: TrialFilter):
        self.storage = storage
        self.effective = effective
        self.writes: dict[str, Any] = {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = self.effective(self.storage.get_all_trials(study_id, deepcopy))
        return [trial for trial in found if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.writes[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def should_prune(
    study: optuna.Study, trial_id: int, step: int, effective: TrialFilter = list
) -> bool:
    """The pruner's decision on a trial that has reported at `step`: the same however often it is
    asked.
    """
    storage = _optuna_compat.storage_of(study)
    key = DECISION_KEY.format(step=step)
    decision = storage.get_trial(trial_id).system_attrs.get(key)
    if decision is None:
        buffer: Any = BufferedStorage(storage, effective)
        view = optuna.Study(study.study_name, buffer, sampler=study.sampler, pruner=study.pruner)
        prune = bool(study.pruner.prune(view, storage.get_trial(trial_id)))
        decision = {"prune": prune, "writes": buffer.writes}
        storage.set_trial_system_attr(trial_id, key, decision)
    present = storage.get_trial(trial_id).system_attrs
    for name, value in decision["writes"].items():
        if name not in present:
            storage.set_trial_system_attr(trial_id, name, value)
    return bool(decision["prune"])


def pruned_at_rung(store: StudyStore, trial: TrialSpec, record: Record) -> bool:
    """Report a rung to the trial's study; True when the pruner ends the trial.

    Args:
        store: the studies.
        trial: runs now.
        record: of the event `rung`.
    """
    search = store.config.search
    if search.second_objective:
        return False  # Optuna keeps no intermediate values of trials with two objectives
    trial_id = _optuna_compat.trial_id(trial.trial)
    step = int(record["images_seen"])
    value = record[search.metric]
    with store.one_step():
        # A resumed trial yields the rung of its checkpoint again; Optuna warns about a second
        # report.
        if step not in store.storage.get_trial(trial_id).intermediate_values:
            trial.trial.report(float("nan") if value is None else value, step)
        if record["step"] >= record["steps"]:
            return False
        effective = trial_states.effective_trials if store.shared else list
        return should_prune(store.studies[trial.key], trial_id, step, effective)
