"""Successive halving whose decision looks at no other trial.

Optuna's pruner gathers and sorts the scores of all trials at a rung for every decision. Here they
are kept sorted (trial_index.py), and a decision is a search in them. The decisions and what is
stored of them are Optuna's, so a study of either is continued by the other.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from cid_ray.search import _optuna_compat
from cid_ray.search.trial_index import RUNG_KEY


class HalvingPruner(optuna.pruners.SuccessiveHalvingPruner):
    """Optuna's SuccessiveHalvingPruner; in a study without an index it is the same.

    Args:
        min_resource: of the first rung, in the unit of the reports; "auto": as Optuna finds it.
        reduction_factor: one of so many trials passes a rung.
        min_early_stopping_rate: rungs that are left out at the start.
        bootstrap_count: trials that must reach a rung before one passes it.
    """

    def __init__(
        self,
        min_resource: str | int = "auto",
        reduction_factor: int = 4,
        min_early_stopping_rate: int = 0,
        bootstrap_count: int = 0,
    ):
        super().__init__(min_resource, reduction_factor, min_early_stopping_rate, bootstrap_count)
        self.min_resource = min_resource
        self.reduction_factor = reduction_factor
        self.min_early_stopping_rate = min_early_stopping_rate
        self.bootstrap_count = bootstrap_count

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        storage: Any = _optuna_compat.storage_of(study)
        index_of = getattr(storage, "index", None)
        is_usual = isinstance(self.min_resource, int)
        if index_of is None or not is_usual or study.direction != StudyDirection.MAXIMIZE:
            return super().prune(study, trial)
        step = trial.last_step
        if step is None:
            return False
        value = trial.intermediate_values[step]
        scores = index_of(_optuna_compat.study_id(study)).rungs
        rung = 0
        while RUNG_KEY.format(rung=rung) in trial.system_attrs:
            rung += 1
        while step >= self._step_of(rung):
            if math.isnan(value):
                return True
            key = RUNG_KEY.format(rung=rung)
            storage.set_trial_system_attr(_optuna_compat.trial_id(trial), key, value)
            others = scores.get(key, ())
            if len(others) < self.bootstrap_count or not self._passes(value, others):
                return True
            rung += 1
        return False

    def _step_of(self, rung: int) -> int:
        first = int(self.min_resource)
        return first * self.reduction_factor ** (self.min_early_stopping_rate + rung)

    def _passes(self, value: float, others: Sequence[float]) -> bool:
        """Whether a score is among the best of the rung; `others` are sorted."""
        better = len(others) - bisect_right(others, value)
        return better < max(1, (len(others) + 1) // self.reduction_factor)
