"""What a search consists of: arms, each a study with so many trials, and a trial handed out of one.

An *arm* is a (ratio, method) pair. After the trials of a ratio have ended, `search.confirm` adds arms that re-run its
candidates (every baseline's best and the best CID trials) on fresh seeds and label draws: pair i has the same seed and
the same draw in every such arm, so differences are paired.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna

from cid_ray.config import Config, InputError, override
from cid_ray.search.space import Space, plugin

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what a user needs to know, the commands say
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
DIRECTIONS: dict[bool, list[Literal["maximize", "minimize"]]] = {False: ["maximize"], True: ["maximize", "minimize"]}
SEED_IS_THE_SEQUENCE = ("QMCSampler", "GridSampler", "BruteForceSampler")


@dataclass(frozen=True)
class Arm:
    ratio: str
    method: str
    confirms: str = ""  # the run that this arm repeats
    params: Mapping[str, Any] = field(default_factory=dict, compare=False)  # its settings

    @property
    def study_name(self) -> str:
        return f"{self.ratio} {self.method}" + (f", repeats of {self.confirms}" if self.confirms else "")

    def run_name(self, number: int, pair: int = 0, again: bool = False) -> str:
        """Of trial `number`; of a repeat its pair names it, and the number too when that pair is tried `again`."""
        if self.confirms:
            return f"{self.confirms}-pair{pair}" + (f"-{number}" if again else "")
        return f"{self.ratio.replace('/', '_')}-{self.method}-{number:03d}"


@dataclass(frozen=True)
class Assignment:
    """A trial that is to be run: its config, and the name of its checkpoints, samples and rows."""

    arm: Arm
    name: str
    config: Config
    trial: Any  # optuna.Trial while it runs
    params: Mapping[str, Any]
    test: bool = False  # score it on held-out images too
    pair: int = 0  # of a repeat: its seed and draw, the same in every arm that confirms

    @property
    def task(self) -> dict[str, Any]:
        """As plain values, for the process that runs it."""
        return {"name": self.name, "config": self.config.model_dump_json(), "test": self.test}

    @property
    def marks(self) -> dict[str, Any]:
        """What its rows say beside what they measure."""
        pair = {"confirms": self.arm.confirms, "pair": self.pair} if self.arm.confirms else {}
        return {"params": dict(self.params), **pair}


def trial_config(base: Config, arm: Arm, params: Mapping[str, Any], pair: int = 0) -> Config:
    """The base config as one arm and one set of parameters run it; `pair` > 0 moves to a fresh seed and draw."""
    changes = {"method": arm.method, "data.ratio": arm.ratio, **params}
    if pair:
        changes |= {"train.seed": base.train.seed + pair, "train.samples": 0}
        if base.search.confirm.draws and not base.data.split_files:
            changes["data.draw"] = base.data.draw + pair
    return override(json.loads(base.model_dump_json()), changes)


def make_sampler(config: Config, arm: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial: its randomness is a function of (seed, arm, trial), so a kill changes no suggestion."""
    sampler = config.search.sampler
    step = 0 if sampler.name in SEED_IS_THE_SEQUENCE else number
    seed = (config.search.seed * 1_000_003 + arm * 10_007 + step) % 2**32
    found: optuna.samplers.BaseSampler = plugin(optuna.samplers, sampler.name, sampler.args, "Sampler", seed=seed)
    return found


def make_pruner(config: Config, method: str) -> optuna.pruners.BasePruner:
    """The first rung is the least resource a trial gets, in images seen."""
    data, train, pruner = config.data, config.train, config.search.pruner
    images = data.batch_size + (data.batch_size_u if method != "supervised" else 0)
    first, last = (int(share * train.steps) * images for share in (train.rungs[0], 1))
    found: optuna.pruners.BasePruner = plugin(
        optuna.pruners, pruner.name, pruner.args, "Pruner", min_resource=max(1, first), max_resource=last
    )
    return found


def wanted(config: Config, space: Space, arm: Arm) -> int:
    """How many trials an arm gets; a baseline that the space has no setting for is run once."""
    search = config.search
    if arm.confirms:
        return search.confirm.repeats
    if arm.method == "cid":
        return search.trials
    return search.baseline_trials if space.of_method(arm.method).parameters else 1


def check_search(config: Config) -> Space:
    """Everything about a search that can be wrong before it starts."""
    search = config.search
    if not search.space and search.trials > 1:
        raise InputError("search.space is empty: there is nothing to search; see search_spaces/demo.yaml")
    space = Space.parse(search.space, search.start)
    for ratio in search.ratios:
        space.check(json.loads(trial_config(config, Arm(ratio, "cid"), {}).model_dump_json()), search.seed)
    make_pruner(config, "cid")
    if search.cost and search.pruner.name != "NopPruner":
        raise InputError(
            f"search.cost={search.cost} makes two objectives, which Optuna cannot prune: search.pruner.name is "
            f"{search.pruner.name!r}, must be 'NopPruner'"
        )
    try_sampler(config, space)
    return space


def try_sampler(config: Config, space: Space) -> None:
    """Let the sampler suggest a few trials: what it lacks (a package, a kind of parameter) shows before the search."""
    name = config.search.sampler.name
    directions = DIRECTIONS[bool(config.search.cost)]
    study = optuna.create_study(directions=directions)
    for number in range(4):
        study.sampler = make_sampler(config, 0, number)
        try:
            trial = study.ask()
            space.suggest(trial)
            study.tell(trial, [float(number % 3)] * len(directions))
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"search.sampler.name is {name!r}, which cannot sample this space: {lines[0]}") from None
