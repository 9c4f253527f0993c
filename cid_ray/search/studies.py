"""One Optuna study per label ratio and method, in one journal: the single truth for suggestions AND pruning.

Ray forgets its scheduler's rungs on restore and tells Optuna that a pruned trial is COMPLETE. So a study is asked,
told and pruned here, with `images_seen` as the resource, and everything is rebuilt from the journal after a kill:
trials that were RUNNING are handed out again first and go on from their own last checkpoints.

An *arm* is a (ratio, method) pair. Baselines are arms with one trial and nothing to search; they come first and
ratio by ratio, then the CID arm with the fewest trials is next, so all ratios advance together.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cid_ray.config import Config, InputError, override
from cid_ray.results.record import Row
from cid_ray.search.space import Space, plugin

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Arm:
    ratio: str
    method: str

    @property
    def study_name(self) -> str:
        return f"{self.ratio} {self.method}"


@dataclass(frozen=True)
class Assignment:
    """A trial that is to be run: its config, and the name of its checkpoints, samples and rows."""

    arm: Arm
    name: str
    config: Config
    trial: Any  # optuna.Trial while it runs
    params: Mapping[str, Any]


@dataclass
class Studies:
    journal: Path
    config: Config
    space: Space
    pending: list[tuple[Arm, int]] = field(default_factory=list)  # interrupted trials, by storage id
    live: dict[str, Assignment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        search = self.config.search
        storage = JournalStorage(JournalFileBackend(str(self.journal)))
        self.studies: dict[Arm, optuna.Study] = {}
        for number, arm in enumerate(self.arms()):
            sampler, pruner = make_plugins(self.config, seed=search.seed + number)
            study = optuna.create_study(
                storage=storage,
                study_name=arm.study_name,
                direction="maximize",
                sampler=sampler,
                pruner=pruner if arm.method == "cid" else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            self.studies[arm] = study
            if arm.method == "cid":
                for point in search.start:
                    study.enqueue_trial(dict(point), skip_if_exists=True)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            self.pending += [(arm, t._trial_id) for t in running]

    def arms(self) -> list[Arm]:
        search = self.config.search
        methods = (*search.baselines, "cid")
        return [Arm(ratio, method) for method in methods for ratio in search.ratios]

    def wanted(self, arm: Arm) -> int:
        return self.config.search.trials if arm.method == "cid" else 1

    def begun(self, arm: Arm) -> int:
        return sum(t.state != TrialState.WAITING for t in self.studies[arm].get_trials(deepcopy=False))

    def next(self) -> Assignment | None:
        """The next trial to run, or None when all have been handed out."""
        if self.pending:
            arm, trial_id = self.pending.pop(0)
            return self._assign(arm, optuna.Trial(self.studies[arm], trial_id))
        open_arms = [arm for arm in self.studies if self.begun(arm) < self.wanted(arm)]
        if not open_arms:
            return None
        arm = min(open_arms, key=lambda a: (a.method == "cid", self.begun(a)))
        return self._assign(arm, self.studies[arm].ask())

    def _assign(self, arm: Arm, trial: optuna.Trial) -> Assignment:
        params = self.space.suggest(trial) if arm.method == "cid" else dict(self.space.fixed)
        name = f"{arm.ratio.replace('/', '_')}-{arm.method}-{trial.number:03d}"
        trial.set_user_attr("run", name)
        config = trial_config(self.config, arm, params)
        self.live[name] = Assignment(arm, name, config, trial, params)
        return self.live[name]

    def rung(self, name: str, row: Row) -> bool:
        """Report a rung to its study; True when the trial is to be pruned (it is then told PRUNED, with its curve)."""
        assignment = self.live[name]
        trial, value = assignment.trial, row[self.config.search.metric]
        trial.report(float("nan") if value is None else value, int(row["images_seen"]))
        if row["step"] >= row["steps"] or not trial.should_prune():
            return False
        self._end(name, TrialState.PRUNED)
        return True

    def complete(self, name: str, row: Row) -> None:
        value = row[self.config.search.metric]
        if value is None:
            self.fail(name, "val has no ground truth")
            return
        self._end(name, TrialState.COMPLETE, value)

    def fail(self, name: str, reason: str) -> None:
        if name in self.live:
            self.live[name].trial.set_user_attr("failed", reason)
            self._end(name, TrialState.FAIL)

    def _end(self, name: str, state: TrialState, value: float | None = None) -> None:
        assignment = self.live.pop(name)
        study = self.studies[assignment.arm]
        with_value = (
            (assignment.trial.number, value, state) if value is not None else (assignment.trial.number, None, state)
        )
        study.tell(*with_value)

    # ---- what the search found ----

    def states(self) -> dict[Arm, Counter[str]]:
        return {
            arm: Counter(t.state.name for t in study.get_trials(deepcopy=False)) for arm, study in self.studies.items()
        }

    def best(self, arm: Arm) -> tuple[str, dict[str, Any], float] | None:
        """Run name, settings and value of the best trial of full length."""
        done = self.studies[arm].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return None
        best = max(done, key=lambda t: t.value or 0.0)
        return best.user_attrs["run"], dict(best.params), float(best.value or 0.0)

    def ended_runs(self, arm: Arm) -> list[str]:
        done = self.studies[arm].get_trials(deepcopy=False)
        return [t.user_attrs["run"] for t in done if t.state.is_finished() and "run" in t.user_attrs]

    def importances(self, arm: Arm) -> dict[str, float]:
        """Optuna's importances over trials of full length only; empty when there are too few to say."""
        study = self.studies[arm]
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < 4:
            return {}
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError):
            return {}
        return {key: float(value) for key, value in found.items() if value == value}


def trial_config(base: Config, arm: Arm, params: Mapping[str, Any]) -> Config:
    """The base config as one arm and one set of parameters run it."""
    tree = json.loads(base.model_dump_json())
    return override(tree, {"method": arm.method, "data.ratio": arm.ratio, **params})


def make_plugins(config: Config, seed: int) -> tuple[Any, Any]:
    """The study's sampler and pruner; the first rung is the least resource a trial gets, in images seen."""
    search, data, train = config.search, config.data, config.train
    first, last = (int(share * train.steps) * (data.batch_size + data.batch_size_u) for share in (train.rungs[0], 1))
    sampler = plugin(optuna.samplers, search.sampler.name, search.sampler.args, "Sampler", seed=seed)
    pruner = plugin(
        optuna.pruners, search.pruner.name, search.pruner.args, "Pruner",
        min_resource=max(1, first), max_resource=last,
    )  # fmt: skip
    return sampler, pruner


def check_search(config: Config) -> Space:
    """Everything about a search that can be wrong before it starts."""
    search = config.search
    if not search.space and search.trials > 1:
        raise InputError("search.space is empty: there is nothing to search; see search_spaces/demo.yaml")
    space = Space.parse(search.space, search.start)
    for arm in (Arm(ratio, "cid") for ratio in search.ratios):
        space.check(json.loads(trial_config(config, arm, {}).model_dump_json()), search.seed)
    make_plugins(config, search.seed)
    return space
