"""Optuna's private API, all uses of it in one place. Tested with Optuna TESTED.

Public replacements do not exist for these: asking the pruner on a view of a storage, trial ids
(storages are addressed by id, `FrozenTrial` shows the number only), whether a distribution contains
a value, and whether a trial contradicts itself.
"""

from __future__ import annotations

import inspect
import io
import pickle
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from cid_ray.config import InputError

TESTED = ">=4.4,<6"
# What the numpy arrays of an optimizer are made of, in numpy 1 and 2.
NUMPY_PARTS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
}


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """The id under which the storage knows a trial."""
    return trial._trial_id


def study_id(study: optuna.Study) -> int:
    """The id under which the storage knows a study."""
    return study._study_id


def validate(trial: FrozenTrial) -> None:
    """Raise ValueError when state, values, dates, parameters and distributions do not fit."""
    trial._validate()


def storage_of(study: optuna.Study) -> Any:
    """The storage of a study."""
    return study._storage


def ped_anova(top_fraction: float) -> optuna.importance.PedAnovaImportanceEvaluator:
    """PED-ANOVA of the best fraction of the trials; Optuna has renamed its argument."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator
    names = inspect.signature(evaluator).parameters
    name = "target_quantile" if "target_quantile" in names else "baseline_quantile"
    arguments: dict[str, Any] = {name: top_fraction}
    return evaluator(**arguments)


def guard_cmaes() -> None:
    """Let CmaEsSampler read its state from a study without running code.

    It stores its optimizer as a pickle in the trials' attributes. A changed journal could run any
    code on the next `--resume`. Only the parts of such an optimizer are built now.

    Why private: the sampler has no option for another form of its state.
    """
    from optuna.samplers import _cmaes

    _cmaes.pickle = SimpleNamespace(  # type: ignore[assignment]
        dumps=pickle.dumps, loads=_load_optimizer, UnpicklingError=pickle.UnpicklingError
    )


class _OptimizerUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "cmaes" and name in ("CMA", "SepCMA", "CMAwM"):
            return super().find_class(module, name)
        if (module, name) in NUMPY_PARTS:
            return super().find_class(module, name)
        raise InputError(
            f"the stored state of CmaEsSampler names {module}.{name}, which is no part of it: the "
            "studies were changed by somebody else; start a new search"
        )


def _load_optimizer(data: bytes) -> Any:
    return _OptimizerUnpickler(io.BytesIO(data)).load()


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is one that the distribution can suggest."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
