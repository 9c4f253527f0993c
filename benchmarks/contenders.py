"""What `search_efficiency` compares: our search, Ray's stock pair and random search.

They are called as Tune calls them. A contender starts trials and receives their rungs. `fractions`
are the fractions of training at which it receives one. `start` gives a handle and a point of the
space. `report` says whether the trial has to stop; at the last rung it ends the trial.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from cid_ray.config import Config, SearchConfig, TrainConfig, build_config
from cid_ray.search.pruning import pruned_at_rung
from cid_ray.search.space import Space
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.storage.run_dir import RunDir

TENTHS = tuple(k / 10 for k in range(1, 11))


class Contender(Protocol):
    fractions: tuple[float, ...]

    def start(self) -> tuple[Any, Mapping[str, Any]]: ...

    def report(self, handle: Any, rung: int, images: int, value: float) -> bool: ...


class Ours:
    """cid_ray's studies in a journal, with the calls that `Search` makes; no records."""

    def __init__(self, base: Config, seed: int, changes: Mapping[str, Any] | None = None):
        fixed = {"search.seed": seed, "search.baselines": [], "search.trials": 1_000_000}
        config = build_config(base.model_dump(mode="json"), {**fixed, **(changes or {})})
        self.fractions = config.train.rungs
        self.metric = config.search.metric
        self.folder = tempfile.TemporaryDirectory()
        space = Space.parse(config.search.space)
        self.store = StudyStore(RunDir(self.folder.name), config, space)
        self.queue = TrialQueue(self.store)

    def start(self) -> tuple[str, Mapping[str, Any]]:
        trial = self.queue.next_trial()
        assert trial is not None
        return trial.name, trial.params

    def report(self, handle: str, rung: int, images: int, value: float) -> bool:
        trial = self.queue.running[handle]
        steps = len(self.fractions)
        record = {"step": rung, "steps": steps, "images_seen": images, self.metric: value}
        if pruned_at_rung(self.store, trial, record):
            self.store.finish(trial, TrialState.PRUNED)
        elif rung == steps:
            self.store.finish(trial, TrialState.COMPLETE, [value])
        else:
            return False
        del self.queue.running[handle]
        return rung < steps


class Stock:
    """Ray's OptunaSearch and ASHAScheduler with their defaults, in the order of Tune's calls."""

    def __init__(self, space: Space, seed: int, **changes: Any):
        self.fractions = TENTHS
        self.numbers = itertools.count()
        self.searcher = OptunaSearch(space.suggest, seed=seed, metric="miou", mode="max")
        self.queue = ASHAScheduler(max_t=len(TENTHS), metric="miou", mode="max", **changes)

    def start(self) -> tuple[Any, Mapping[str, Any]]:
        trial = SimpleNamespace(trial_id=f"{next(self.numbers):05d}")
        point = self.searcher.suggest(trial.trial_id)
        self.queue.on_trial_add(None, trial)
        return trial, point

    def report(self, handle: Any, rung: int, images: int, value: float) -> bool:
        result = {"training_iteration": rung, "miou": value}
        if self.queue.on_trial_result(None, handle, result) != TrialScheduler.STOP:
            self.searcher.on_trial_result(handle.trial_id, result)
            return False
        self.queue.on_trial_complete(None, handle, result)
        # Ray tells Optuna COMPLETE for a trial that its scheduler stopped.
        self.searcher.on_trial_complete(handle.trial_id, result=result)
        return True


class Random:
    """Random search without pruning."""

    def __init__(self, space: Space, seed: int):
        self.fractions: tuple[float, ...] = (1.0,)
        self.space = space
        self.study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))

    def start(self) -> tuple[None, Mapping[str, Any]]:
        return None, self.space.suggest(self.study.ask())

    def report(self, handle: None, rung: int, images: int, value: float) -> bool:
        return True


def contenders(base: Config) -> dict[str, Callable[[int], Contender]]:
    """Name -> makes a contender from a seed.

    "ours" has rungs, sampler and pruner of camvid.yaml; "default" are those of the schema.
    """
    space = Space.parse(base.search.space)
    default = {
        "train.rungs": TrainConfig().rungs,
        "search.sampler": SearchConfig().sampler.model_dump(),
        "search.pruner": SearchConfig().pruner.model_dump(),
    }
    no_pruning = {"search.pruner": {"name": "NopPruner"}}
    gentle = {"grace_period": 2, "reduction_factor": 2}
    return {
        "ours": partial(Ours, base),
        "ours, default sampler and pruner": partial(Ours, base, changes=default),
        "ours, no pruning": partial(Ours, base, changes=no_pruning),
        "stock": partial(Stock, space),
        "stock, grace period 2 of 10": partial(Stock, space, grace_period=2),
        "stock, grace period 2, factor 2": partial(Stock, space, **gentle),
        "random": partial(Random, space),
    }
