"""What a search is made of: studies, one per label ratio and method, and the trials taken from
them.

After all trials of a ratio have finished, `search.repeats` adds studies that run its candidates
again (the best trial of every baseline and the best CID trials) with new seeds and label draws.
Repeat i has the same seed and the same draw in every such study, so differences between candidates
are paired.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from cid_ray.config import Config, build_config
from cid_ray.search.space import Space

# The commands say what a user needs to know; Optuna's log lines would interleave with theirs.
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

PROGRESS_PER_S = 25.0  # progress records of all trials of a search together, at most


@dataclass(frozen=True)
class StudyKey:
    """Names one study of a search.

    Attributes:
        ratio: label ratio, e.g. "1/16".
        method: a name of `config.schema.Method`.
        repeats_of: the run that this study repeats; empty for a study that searches.
        params: hyperparameters of the repeated run; not part of the key's identity.
    """

    ratio: str
    method: str
    repeats_of: str = ""
    params: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def study_name(self) -> str:
        """Name of the Optuna study."""
        suffix = f", repeats of {self.repeats_of}" if self.repeats_of else ""
        return f"{self.ratio} {self.method}{suffix}"

    def run_name(self, number: int, repeat_index: int = 0, retried: bool = False) -> str:
        """Name of a trial's checkpoints, samples and records.

        A repeat is named after its index. A second trial for the same index (its first one went
        stale) needs its number in the name too.
        """
        if not self.repeats_of:
            return f"{self.ratio.replace('/', '_')}-{self.method}-{number:03d}"
        name = f"{self.repeats_of}-repeat{repeat_index}"
        return f"{name}-{number}" if retried else name


@dataclass(frozen=True)
class TrialSpec:
    """One trial to run: its full configuration and the name of its checkpoints, samples and
    records.

    Attributes:
        key: the study it belongs to.
        name: its run name.
        config: the complete configuration, hyperparameters applied.
        trial: the live `optuna.Trial`, or a `FrozenTrial` once it has finished.
        params: hyperparameters by dotted key, fixed values of the space included.
        score_test: whether to score the held-out images at the end.
        repeat_index: from 1 for a repeat (its seed and label draw), 0 otherwise.
    """

    key: StudyKey
    name: str
    config: Config
    trial: Any
    params: Mapping[str, Any]
    score_test: bool = False
    repeat_index: int = 0

    @property
    def number(self) -> int:
        """Optuna's number of the trial within its study."""
        return int(self.trial.number)

    @property
    def payload(self) -> dict[str, Any]:
        """Plain values for the process that runs the trial."""
        return {
            "name": self.name,
            "config": self.config.model_dump_json(),
            "score_test": self.score_test,
        }

    @property
    def identity_fields(self) -> dict[str, Any]:
        """Which trial a record is about."""
        return identity_fields(self.key, self.name, self.number, self.repeat_index)


def identity_fields(key: StudyKey, run: str, number: int, repeat_index: int) -> dict[str, Any]:
    """The fields of every record that say which trial it is about, so nobody parses run names."""
    return {
        "run": run,
        "ratio": key.ratio,
        "method": key.method,
        "trial_number": number,
        "repeats_of": key.repeats_of,
        "repeat_index": repeat_index,
    }


def search_studies(config: Config) -> list[StudyKey]:
    """The studies that search, baselines first, in the order in which they are opened."""
    search = config.search
    keys = [
        StudyKey(ratio, method) for method in (*search.baselines, "cid") for ratio in search.ratios
    ]
    curve = [StudyKey(ratio, "supervised") for ratio in search.all_ratios]
    return list(dict.fromkeys([*keys, *(key for key in curve if key.ratio not in search.ratios)]))


def trial_config(
    base: Config, key: StudyKey, params: Mapping[str, Any], repeat_index: int = 0
) -> Config:
    """The base configuration with one study's method and ratio and one trial's hyperparameters.

    A repeat (`repeat_index` > 0) gets a new seed and, with `search.repeats.fresh_draws`, a new
    label draw.
    """
    changes = {"method": key.method, "data.ratio": key.ratio, **params}
    if repeat_index:
        changes |= {
            "train.seed": base.train.seed + repeat_index,
            # Sample images of repeats are never shown.
            "train.num_sample_images": 0,
        }
        if base.search.repeats.fresh_draws and not base.data.split_files:
            changes["data.draw"] = base.data.draw + repeat_index
    return build_config(json.loads(base.model_dump_json()), changes)


def progress_interval(interval_s: float, max_concurrent: int) -> float:
    """Seconds between two progress records of a trial.

    All trials together send at most PROGRESS_PER_S, so the driver has the same work with 50
    concurrent trials and with 2,000. Rungs and ends are results: they are never left out.

    Args:
        interval_s: `train.progress_s`, the least.
        max_concurrent: trials that run at the same time.
    """
    return max(interval_s, max_concurrent / PROGRESS_PER_S)


def with_progress_interval(config: Config, max_concurrent: int) -> Config:
    """A trial's configuration with the interval of its progress records; it changes no result."""
    interval = progress_interval(config.train.progress_s, max_concurrent)
    train = config.train.model_copy(update={"progress_s": interval})
    return config.model_copy(update={"train": train})


def n_trials(config: Config, space: Space, key: StudyKey) -> int:
    """How many trials a study gets. A baseline without a hyperparameter in the space runs once."""
    if key.repeats_of:
        return config.search.repeats.n
    if key.method == "cid":
        return config.search.trials
    return config.search.tries_per_baseline if space.of_method(key.method).parameters else 1
