"""Who searches in search_efficiency.py: ours, Ray's stock pair and random search, each called as Tune calls it.

A contender begins trials and is told their rungs; `shares` are the rungs that it sees. `begin` gives a handle and a
point of the space; `report` says whether the trial is to stop, and at the last rung ends it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from cid_ray.config import Config, Search, Train, override
from cid_ray.home import Home
from cid_ray.search.space import Space
from cid_ray.search.studies import Studies

TENTHS = tuple(k / 10 for k in range(1, 11))


class Contender(Protocol):
    shares: tuple[float, ...]

    def begin(self) -> tuple[Any, Mapping[str, Any]]: ...

    def report(self, handle: Any, rung: int, images: int, value: float) -> bool: ...


class Ours:
    """cid_ray's Studies on a journal, told what StudyScheduler tells them."""

    def __init__(self, base: Config, seed: int, **changes: Any):
        fixed = {"search.seed": seed, "search.baselines": [], "search.trials": 1_000_000}
        config = override(base.model_dump(mode="json"), {**fixed, **changes})
        self.shares, self.metric = config.train.rungs, config.search.metric
        self.folder = tempfile.TemporaryDirectory()
        self.studies = Studies(Home(self.folder.name), config, Space.parse(config.search.space))

    def begin(self) -> tuple[str, Mapping[str, Any]]:
        assignment = self.studies.next()
        assert assignment is not None
        return assignment.name, assignment.params

    def report(self, handle: str, rung: int, images: int, value: float) -> bool:
        row = {"step": rung, "steps": len(self.shares), "images_seen": images, self.metric: value}
        stop = self.studies.rung(handle, row)
        if rung == len(self.shares):
            self.studies.complete(handle, row)
        return stop


class Stock:
    """Ray's OptunaSearch and ASHAScheduler with their defaults, called in the order of Tune's controller."""

    def __init__(self, space: Space, seed: int, **changes: Any):
        self.shares, self.begun = TENTHS, itertools.count()
        aim = {"metric": "miou", "mode": "max"}
        self.searcher = OptunaSearch(space.suggest, seed=seed, **aim)
        self.scheduler = ASHAScheduler(max_t=len(TENTHS), **changes, **aim)

    def begin(self) -> tuple[Any, Mapping[str, Any]]:
        trial = SimpleNamespace(trial_id=f"{next(self.begun):05d}")
        point = self.searcher.suggest(trial.trial_id)
        self.scheduler.on_trial_add(None, trial)
        return trial, point

    def report(self, handle: Any, rung: int, images: int, value: float) -> bool:
        result = {"training_iteration": rung, "miou": value}
        if self.scheduler.on_trial_result(None, handle, result) != TrialScheduler.STOP:
            self.searcher.on_trial_result(handle.trial_id, result)
            return False
        self.scheduler.on_trial_complete(None, handle, result)
        self.searcher.on_trial_complete(handle.trial_id, result=result)  # Optuna is told COMPLETE
        return True


class Random:
    """Random search without pruning."""

    shares = (1.0,)

    def __init__(self, space: Space, seed: int):
        self.space, self.study = space, optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))

    def begin(self) -> tuple[None, Mapping[str, Any]]:
        return None, self.space.suggest(self.study.ask())

    def report(self, handle: None, rung: int, images: int, value: float) -> bool:
        return True


def contenders(base: Config) -> dict[str, Callable[[int], Contender]]:
    """As shipped: rungs, sampler and pruner of camvid.yaml; "default" are those of cid_ray.sections."""
    space, no_pruner = Space.parse(base.search.space), {"search.pruner": {"name": "NopPruner"}}
    default = {
        "train.rungs": Train().rungs,
        "search.sampler": Search().sampler.model_dump(),
        "search.pruner": Search().pruner.model_dump(),
    }
    return {
        "ours": partial(Ours, base),
        "ours, default sampler and pruner": partial(Ours, base, **default),
        "ours, no pruning": partial(Ours, base, **no_pruner),
        "stock": partial(Stock, space),
        "stock, grace period 2 of 10": partial(Stock, space, grace_period=2),
        "stock, grace period 2, factor 2": partial(Stock, space, grace_period=2, reduction_factor=2),
        "random": partial(Random, space),
    }
