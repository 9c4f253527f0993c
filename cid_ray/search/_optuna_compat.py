"""Optuna's private API, all uses of it in one place. Tested with Optuna TESTED.

Public replacements do not exist for these: asking the pruner on a view of a storage, trial ids
(storages are addressed by id, `FrozenTrial` shows the number only), and whether a distribution
contains a value.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

TESTED = ">=4.4,<6"


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """The id under which the storage knows a trial."""
    return trial._trial_id


def storage_of(study: optuna.Study) -> Any:
    """The storage of a study."""
    return study._storage


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is one that the distribution can suggest."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
