"""How much each hyperparameter of a study matters, by Optuna's PED-ANOVA.

Completed trials alone count: the score of a pruned one is that of a shorter training. A conditional
hyperparameter is judged over the trials that have it.

The better half is compared with all trials. Optuna's default, the best tenth, is one trial in ten:
it names the hyperparameter that matters most far less often (benchmarks/importance_trials.py).
Optuna's other evaluators, fANOVA and mean decrease impurity, need scikit-learn.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from cid_ray.search import _optuna_compat

TOP_FRACTION = 1 / 2
MIN_TRIALS = 4  # completed ones that have the hyperparameter
METHOD = (
    "PED-ANOVA over completed trials: how well a hyperparameter alone separates the better half "
    "from the rest, of the trials that have it"
)


def importances(
    study: optuna.Study, top_fraction: float = TOP_FRACTION
) -> tuple[dict[str, float], dict[str, int]]:
    """Fractions of importance, the largest first, and the trials behind each; empty with too few.

    Args:
        study: whose first objective is maximised.
        top_fraction: of the trials, to be separated from the rest.

    Returns:
        key -> fraction, and key -> completed trials that have the key.

    Example:
        >>> fractions, trials = importances(study)
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    keys_of: dict[tuple[int, ...], list[str]] = {}  # trials -> the hyperparameters that they have
    for key in dict.fromkeys(key for trial in complete for key in trial.params):
        having = tuple(i for i, trial in enumerate(complete) if key in trial.params)
        if len(having) >= MIN_TRIALS:
            keys_of.setdefault(having, []).append(key)
    found: dict[str, float] = {}
    trials: dict[str, int] = {}
    for having, keys in keys_of.items():
        for key, value in _ped_anova([complete[i] for i in having], keys, top_fraction).items():
            if value == value:
                found[key], trials[key] = value, len(having)
    total = sum(found.values()) or 1.0
    ordered = sorted(found, key=lambda key: -found[key])
    return {key: found[key] / total for key in ordered}, {key: trials[key] for key in ordered}


def _ped_anova(trials: list[FrozenTrial], keys: list[str], top_fraction: float) -> dict[str, float]:
    """key -> divergence of the best ones from all of these trials; {} where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few trials; the page says so in words
        study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
        study.add_trials(
            [
                create_trial(params=t.params, distributions=t.distributions, value=t.values[0])
                for t in trials
            ]
        )
        try:
            return optuna.importance.get_param_importances(
                study,
                evaluator=_optuna_compat.ped_anova(top_fraction),
                params=keys,
                normalize=False,
            )
        except (ValueError, RuntimeError):
            return {}
