"""What `search_efficiency` compares: our search, Ray's stock pair and random search.

They are called as Tune calls them. A contender starts trials and receives their rungs.
`fractions` are the fractions of training at which it receives one. `start` gives a handle, a label
ratio and a point of the space, or None when all its trials have started. `report` says whether the
trial has to stop; at the last rung it ends the trial.
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
from cid_ray.results.records import Record
from cid_ray.search.pruning import pruned_at_rung
from cid_ray.search.space import Space
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage.run_dir import RunDir

TENTHS = tuple(k / 10 for k in range(1, 11))
Start = tuple[Any, str, Mapping[str, Any]]  # handle, label ratio, point
GENTLE: dict[str, Any] = {"grace_period": 2, "reduction_factor": 2}


class Contender(Protocol):
    fractions: tuple[float, ...]

    def start(self) -> Start | None: ...

    def report(self, handle: Any, rung: int, images: int, value: float) -> bool: ...


class Ours:
    """cid_ray's studies in a journal, with the calls that `Search` makes; no records."""

    def __init__(self, base: Config, seed: int, changes: Mapping[str, Any] | None = None):
        fixed = {
            "search.seed": seed,
            "search.baselines": [],
            "search.repeats.n": 0,
            "search.trials": 1_000_000,
        }
        config = build_config(base.model_dump(mode="json"), {**fixed, **(changes or {})})
        self.fractions = config.train.rungs
        self.metric = config.search.metric
        self.folder = tempfile.TemporaryDirectory()
        space = Space.parse(config.search.space)
        self.store = StudyStore(RunDir(self.folder.name), config, space)
        self.queue = TrialQueue(self.store)

    def start(self) -> Start | None:
        trial = self.queue.next_trial()
        return (trial.name, trial.key.ratio, trial.params) if trial else None

    def report(self, handle: str, rung: int, images: int, value: float) -> bool:
        trial = self.queue.running[handle]
        steps = len(self.fractions)
        record = {"step": rung, "steps": steps, "images_seen": images, self.metric: value}
        if self.prunes(trial, record):
            self.store.finish(trial, TrialState.PRUNED)
        elif rung == steps:
            self.store.finish(trial, TrialState.COMPLETE, [value])
        else:
            return False
        del self.queue.running[handle]
        return rung < steps

    def prunes(self, trial: TrialSpec, record: Record) -> bool:
        return pruned_at_rung(self.store, trial, record)


class Stock:
    """Ray's OptunaSearch and ASHAScheduler with their defaults, in the order of Tune's calls."""

    def __init__(self, space: Space, ratio: str, seed: int, **changes: Any):
        self.fractions = TENTHS
        self.ratio = ratio
        self.numbers = itertools.count()
        self.searcher = OptunaSearch(space.suggest, seed=seed, metric="miou", mode="max")
        self.queue = ASHAScheduler(max_t=len(TENTHS), metric="miou", mode="max", **changes)

    def start(self) -> Start:
        trial = SimpleNamespace(trial_id=f"{next(self.numbers):05d}")
        point = self.searcher.suggest(trial.trial_id)
        self.queue.on_trial_add(None, trial)
        return trial, self.ratio, point

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

    def __init__(self, space: Space, ratio: str, seed: int):
        self.fractions: tuple[float, ...] = (1.0,)
        self.ratio = ratio
        self.space = space
        self.study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))

    def start(self) -> Start:
        return None, self.ratio, self.space.suggest(self.study.ask())

    def report(self, handle: None, rung: int, images: int, value: float) -> bool:
        return True


def contenders(base: Config) -> dict[str, Callable[[int], Contender]]:
    """Name -> makes a contender from a seed.

    "ours" has rungs, sampler and pruner of camvid.yaml; "default" are those of the schema.
    """
    own = (Space.parse(base.search.space), base.search.ratios[0])
    default = {
        "train.rungs": TrainConfig().rungs,
        "search.sampler": SearchConfig().sampler.model_dump(),
        "search.pruner": SearchConfig().pruner.model_dump(),
    }
    no_pruning = {"search.pruner": {"name": "NopPruner"}}
    return {
        "ours": partial(Ours, base),
        "ours, default sampler and pruner": partial(Ours, base, changes=default),
        "ours, no pruning": partial(Ours, base, changes=no_pruning),
        "stock": partial(Stock, *own),
        "stock, grace period 2 of 10": partial(Stock, *own, grace_period=2),
        "stock, grace period 2, factor 2": partial(Stock, *own, **GENTLE),
        "random": partial(Random, *own),
    }
