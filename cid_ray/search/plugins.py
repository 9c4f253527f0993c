"""Optuna samplers and pruners by class name, built the same way on every start."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import optuna

from cid_ray.config import Config, InputError, images_seen
from cid_ray.search import _optuna_compat
from cid_ray.search.halving import HalvingPruner
from cid_ray.search.space import nearest

# These samplers derive the whole sequence from one seed; a seed per trial would repeat its first
# point.
SEED_FIXES_SEQUENCE = ("QMCSampler", "GridSampler", "BruteForceSampler")


def make_sampler(config: Config, study_index: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial.

    Its randomness is a function of (seed, study, trial number). So a search that was killed and
    resumed suggests what an undisturbed one would have suggested.
    """
    sampler = config.search.sampler
    step = 0 if sampler.name in SEED_FIXES_SEQUENCE else number
    seed = (config.search.seed * 1_000_003 + study_index * 10_007 + step) % 2**32
    if sampler.name == "CmaEsSampler":
        _optuna_compat.guard_cmaes()
    found: optuna.samplers.BaseSampler = load_plugin(
        optuna.samplers, sampler.name, sampler.args, "Sampler", seed=seed
    )
    return found


def make_pruner(config: Config, method: str) -> optuna.pruners.BasePruner:
    """The pruner of a study; its resource is `images_seen`, from the first rung to the end of
    training.
    """
    train, pruner = config.train, config.search.pruner
    study_config = config.model_copy(update={"method": method})
    first_rung = max(1, images_seen(study_config, int(train.rungs[0] * train.steps)))
    found: optuna.pruners.BasePruner = load_plugin(
        optuna.pruners,
        pruner.name,
        pruner.args,
        "Pruner",
        min_resource=first_rung,
        max_resource=images_seen(study_config, train.steps),
    )
    if pruner.name == "SuccessiveHalvingPruner":  # Optuna's own has accepted the arguments
        return HalvingPruner(**{"min_resource": first_rung, **pruner.args})
    return found


def load_plugin(
    module: Any, name: str, args: Mapping[str, Any], suffix: str, **defaults: Any
) -> Any:
    """An instance of an Optuna class by its name.

    Args:
        module: `optuna.samplers` or `optuna.pruners`.
        name: class name as in the configuration.
        args: its arguments as in the configuration.
        suffix: "Sampler" or "Pruner"; also the name of the configuration key.
        defaults: arguments that are passed when the class knows them and `args` has not set them.

    Raises:
        InputError: unknown class, unknown argument, or arguments that the class refuses.
    """
    key = f"search.{suffix.lower()}"
    names = [n for n in dir(module) if n.endswith(suffix) and not n.startswith("Base")]
    if name not in names:
        raise InputError(
            f"{key}.name is {name!r}, must be one of {', '.join(names)}{nearest(name, names)}"
        )
    cls = getattr(module, name)
    known = inspect.signature(cls).parameters
    for arg in args:
        if arg not in known:
            raise InputError(
                f"{key}.args has {arg!r}; {name} takes {', '.join(known)}{nearest(arg, known)}"
            )
    try:
        return cls(**{**{k: v for k, v in defaults.items() if k in known}, **args})
    except Exception as error:
        raise InputError(f"{key}: {name}({dict(args)}): {error}") from None
